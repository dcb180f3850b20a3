"""The benchmark of generation refuses what it cannot measure before it starts anything."""

from __future__ import annotations

import pytest

from tools import benchmark
from tools.benchmarks.generate import Asked, _prompts
from trivium.data_pipeline.errors import InputError


def test_a_model_must_be_named(tmp_path):
    for given in ([], [f"model={tmp_path}"]):
        with pytest.raises(InputError, match="give a Hugging Face folder"):
            benchmark.main(["generate", *given])
    with pytest.raises(InputError, match="batch 0: 1 or more"):
        benchmark.main(["generate", "batch=0"])


def test_prompts_have_different_lengths():
    prompts = _prompts(lambda text: list(text.encode()), Asked(batch=5, prompt_tokens=40))
    assert [len(ids) for ids in prompts] == [40, 32, 23, 14, 5]
    assert len({tuple(ids[:5]) for ids in prompts}) == 5
