"""Log-likelihoods under every layout: transformers' own, token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.distributed.pool import run_distributed
from tests.engine.generation.letters import Letters
from tests.engine.hf.tiny_models import ROWS, opened, tokens

CASES = [
    ("llama", {}, 1),
    ("llama", {"tp": 2}, 2),
    ("llama", {"pp": 2}, 2),
    ("llama", {}, 2),  # dp
    ("mixtral", {"ep": 2}, 2),
]


def scored(folder, parallel):
    """[(log-probabilities, likeliest)] of the rows of `tokens` and of shorter parts of them."""
    from trivium.engine.dialogue import Dialogue
    from trivium.engine.evaluation.scoring import Text, score
    from trivium.engine.opened import Opened

    chunks, mesh, config = opened(folder, parallel)
    model = Opened(Path(folder), config, mesh, chunks, Letters(), Dialogue())
    found = score(model, [Text(ids, count) for ids, count in texts()], batch_tokens=40)
    return [(one.logprobs, one.likeliest) for one in found]


def texts():
    rows = [tuple(row) for row in tokens().tolist()]
    return [(row, len(row) - 1) for row in rows] + [(rows[0][:9], 3), (rows[1][:2], 1)]


@pytest.mark.parametrize(("name", "parallel", "ranks"), CASES)
def test_equal_to_transformers(folders, name, parallel, ranks):
    whole = torch.load(Path(folders[name], "expected.pt")).log_softmax(-1)
    for answers in run_distributed(scored, ranks, folders[name], parallel):
        assert len(answers) == ROWS + 2
        rows = [0, 1, 0, 1]
        for row, (ids, count), (logprobs, likeliest) in zip(rows, texts(), answers, strict=True):
            expected = whole[row, len(ids) - 1 - count : len(ids) - 1]
            labels = torch.tensor(ids[-count:])
            torch.testing.assert_close(
                torch.tensor(logprobs),
                expected.gather(1, labels[:, None])[:, 0],
                atol=1e-4,
                rtol=0,
            )
            assert list(likeliest) == (expected.argmax(1) == labels).tolist()
