"""The chunked head is the head of whole logits: every loss, and the gradient of each parameter.

Once on one rank and once under layouts, with all that touches the output layer at once: tied
embeddings, MTP heads, z-loss, padding of the vocabulary, sequence parallelism, the pipeline.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.distributed.pool import run_distributed
from tests.parity.harness import Differentiated, difference, differentiate, merge, same_on_all_ranks
from tests.parity.layouts import place
from tests.parity.models import of_depth, run_of, tiny
from trivium.engine.schema import MTPConfig, RunConfig, TrainConfig

TOLERANCE = 3e-5
ROWS_A_CHUNK = 10  # so that a micro-batch of 32 tokens and more takes several


def differentiate_in_small_chunks(config: RunConfig) -> Differentiated:
    """In a rank: as `differentiate`, with memory for `ROWS_A_CHUNK` rows of logits."""
    from trivium.kernels import linear_cross_entropy as head

    columns = config.model.padded_vocab_size // config.parallel.tp
    head.SCRATCH_BYTES = ROWS_A_CHUNK * columns * 4
    return differentiate(config)


@pytest.mark.parametrize(
    ("layout", "fields"),
    [
        ("", {"tie_embeddings": True}),
        ("tp2 sp", {"tie_embeddings": True}),
        ("tp2", {}),
        ("tp2 sp pp2 vpp2", {"mtp": MTPConfig(num_heads=1, loss_weight=0.5)}),
        ("pp2 dp2 zero", {"tie_embeddings": True}),
    ],
)
def test_equals_the_head_of_whole_logits(layout: str, fields: dict[str, Any]) -> None:
    depth = 4 if "vpp" in layout else 2
    described = run_of(
        of_depth(tiny(**fields), depth), TrainConfig(steps=20, global_batch=8, z_loss=1e-2)
    )
    whole, world_size = place(described, layout)
    chunked = replace(whole, train=replace(whole.train, head="chunked"))
    expected = run_distributed(differentiate, world_size, whole)
    found = run_distributed(differentiate_in_small_chunks, world_size, chunked)
    metrics = same_on_all_ranks([result.metrics for result in found])
    for name, value in same_on_all_ranks([result.metrics for result in expected]).items():
        assert metrics[name] == pytest.approx(value, rel=TOLERANCE), name
    apart = difference(
        merge([result.gradients for result in found], tolerance=TOLERANCE),
        merge([result.gradients for result in expected], tolerance=TOLERANCE),
    )
    wrong = {name: f"{value:.1e}" for name, value in apart.items() if not value <= TOLERANCE}
    assert not wrong
