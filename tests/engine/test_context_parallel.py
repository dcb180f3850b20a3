"""Rows that are split over cp: which positions, which scores, and attention against whole rows."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.distributed.pool import distributed, run_distributed
from tests.parity.layouts import place
from tests.parity.models import LATENT, run_of, tiny
from trivium.engine.model.zigzag import chunks, held, pieces, ring_steps


def test_ranks_hold_an_early_and_a_late_chunk() -> None:
    assert [chunks(rank, 3) for rank in range(3)] == [(0, 5), (1, 4), (2, 3)]
    assert held(1, 2, 16) == (range(4, 8), range(8, 12))
    every = [p for rank in range(4) for part in held(rank, 4, 48) for p in part]
    assert sorted(every) == list(range(48))


def scores(size: int, length: int, boundaries: tuple[int, ...] | None, window: int | None):
    """(query, key) of the row for every score of every step, and how many each rank has."""
    positions = [[p for part in held(rank, size, length) for p in part] for rank in range(size)]
    found, counts = [], []
    for rank in range(size):
        before = len(found)
        for step, parts in enumerate(ring_steps(rank, size, length, boundaries, window)):
            source = (rank - step) % size
            for piece in parts:
                queries, keys = range(*piece.queries), range(*piece.keys)
                for (i, q), (j, k) in itertools.product(enumerate(queries), enumerate(keys)):
                    reach = length if piece.window is None else piece.window
                    if i + piece.distance - reach < j <= i + piece.distance:
                        found.append((positions[rank][q], positions[source][k]))
        counts.append(len(found) - before)
    return found, counts


@pytest.mark.parametrize("seed", range(30))
def test_pieces_are_every_score_once(seed: int) -> None:
    draw = random.Random(seed)
    size, chunk = draw.randint(1, 4), draw.randint(1, 6)
    length = 2 * size * chunk
    inner = draw.sample(range(1, length), draw.randint(0, min(length - 1, 6)))
    boundaries = draw.choice([None, (0, *sorted(inner), length)])
    window = draw.choice([None, 1, 2, 5, 9, 40])
    found, _ = scores(size, length, boundaries, window)
    starts = boundaries or (0, length)
    document = [max(b for b in starts if b <= p) for p in range(length)]
    expected = [
        (q, k)
        for q in range(length)
        for k in range(q + 1)
        if document[q] == document[k] and (window is None or q - k < window)
    ]
    assert sorted(found) == expected


def test_ranks_have_as_many_scores() -> None:
    _, counts = scores(4, 64, None, None)
    assert len(set(counts)) == 1
    assert len(list(pieces(0, 1, 4, 64))) == 1  # one call of a kernel for each step


# S, B, N, G, D, Dv, boundaries, window
CASES = {
    "rows": (32, 2, 4, 4, 16, 16, None, None),
    "grouped": (32, 2, 4, 2, 16, 16, None, None),
    "one group": (32, 1, 4, 1, 16, 16, None, None),
    "latent": (32, 2, 4, 4, 24, 16, None, None),
    "several blocks": (544, 1, 4, 2, 8, 8, None, None),
    "window": (64, 2, 4, 2, 16, 16, None, 7),
    "window of several blocks": (544, 1, 4, 2, 8, 8, None, 150),
    "documents": (64, 1, 4, 2, 16, 16, (0, 5, 6, 41, 49, 64), None),
    "one document": (64, 1, 4, 4, 16, 16, (0, 64), None),
    "documents, window": (64, 1, 4, 4, 16, 16, (0, 3, 30, 64), 9),
}
KINDS = {"ring": "p2p", "all_to_all": "a2a"}


def attention(cp_comm_type, group, window):
    from trivium.engine.model.attention import CoreAttention

    size = None if window is None else (window - 1, 0)
    config = SimpleNamespace(softmax_scale=None, attention_dropout=0.0, window_size=size)
    groups = None if group is None else SimpleNamespace(cp=group)
    return CoreAttention(config, 1, None, "self", cp_comm_type=cp_comm_type, pg_collection=groups)


def attend(core, boundaries, inputs, weight):
    """Output and gradients of a weighted sum of it."""
    from trivium.engine.model.attention import Documents

    leaves = [x.clone().requires_grad_() for x in inputs]
    if boundaries is None:
        out = core(*leaves)
    else:
        documents = Documents.of(boundaries, "cpu")
        out = core(*(x.squeeze(1) for x in leaves), packed_seq_params=documents).unsqueeze(1)
    (out * weight).sum().backward()
    return [out.detach(), *(x.grad for x in leaves)]


def compare_with_whole_rows(case, kind, dtype_name, tolerance):
    """On a rank: its part of the output and the gradients is that of whole rows on one rank."""
    import torch
    import torch.distributed as dist

    from trivium.engine.model.context_parallel import split

    S, B, N, G, D, Dv, boundaries, window = CASES[case]
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator().manual_seed(0)
    shapes = [(S, B, N, D), (S, B, G, D), (S, B, G, Dv), (S, B, N * Dv)]
    *inputs, weight = (torch.randn(s, generator=generator).to(dtype) for s in shapes)
    whole = [x.double() for x in (*inputs, weight)]
    expected = attend(attention(None, None, window), boundaries, whole[:3], whole[3])
    group = dist.group.WORLD
    part = group.rank(), group.size()
    *mine, my_weight = (split(x, *part, dim=0) for x in (*inputs, weight))
    found = attend(attention(KINDS[kind], group, window), boundaries, mine, my_weight)
    for ours, truth in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        truth = split(truth, *part, dim=0)
        error = (ours.double() - truth).norm() / truth.norm()
        assert error < tolerance, error


@pytest.mark.parametrize("kind", KINDS)
@distributed(2)
def test_two_ranks_attend_as_one(kind):
    for case in CASES:
        compare_with_whole_rows(case, kind, "float32", 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@distributed(4)
def test_four_ranks_attend_as_one(kind):
    for case in ("grouped", "one group", "latent", "window", "documents", "documents, window"):
        compare_with_whole_rows(case, kind, "float64", 1e-13)


@pytest.mark.parametrize("kind", KINDS)
@distributed(2)
def test_bf16(kind):
    for case in ("several blocks", "documents"):
        compare_with_whole_rows(case, kind, "bfloat16", 6e-3)


@distributed(1)
def test_batches_are_cut_after_labels_are_shifted():
    import numpy as np
    import torch

    from trivium.engine.batch import Batch

    tokens = np.arange(16).reshape(2, 8)
    arrays = {
        "tokens": tokens,
        "labels": tokens + 1,
        "loss_mask": np.ones((2, 8), np.float32),
        "position_ids": np.tile(np.arange(8), (2, 1)),
        "document_ids": np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]]),
    }
    device = torch.device("cpu")
    batch = Batch.from_arrays(arrays, device, False, cp=2, cp_rank=0)
    assert batch.tokens.tolist() == [[0, 1, 6, 7], [8, 9, 14, 15]]
    assert batch.row_length == 8
    labels, weights = batch.targets(1)  # the second chunk's first label follows it in the row
    assert labels[:, :2].tolist() == [[2, 3], [10, 11]]
    assert weights.tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]
    packed = Batch.from_arrays(arrays, device, True, cp=2, cp_rank=1)
    assert packed.tokens.tolist() == [[4, 5, 6, 7, 8, 9, 10, 11]]
    assert packed.row_length == 16
    assert packed.targets(1)[1].tolist() == [[1, 1, 1, 0, 1, 1, 1, 1]]


def write(config, prompt):
    """On a rank: greedy tokens, after a training step's worth of cached angles."""
    from tests.engine.generation.letters import Letters
    from tests.parity.ranks import Run
    from trivium.engine.generation.generator import Generator, Limits
    from trivium.engine.generation.request import Request, Sampling

    run = Run(config, rough=True)
    before = run.accumulate(1)
    chunks = [chunk.module for chunk in run.chunks]
    greedy = Sampling(temperature=0)
    asked = Request(prompt=tuple(prompt), max_new_tokens=12, sampling=greedy)
    limits = Limits(max_length=len(prompt) + 12)
    [answer] = Generator(chunks, run.mesh, Letters(), 250, limits).run([asked])
    assert run.accumulate(1) == before  # training goes on as it was
    return answer.ids


@pytest.mark.parametrize(
    ("fields", "layout"),
    [({}, "cp2"), ({"mla": LATENT, "window": 9}, "cp2 a2a"), ({"num_query_groups": 2}, "cp4")],
    ids=["ring", "latent, window, all-to-all", "grouped, four ranks"],
)
def test_ranks_write_the_text_of_one(fields: dict, layout: str) -> None:
    described = run_of(tiny(num_layers=2, **fields))
    config, world_size = place(described, layout)
    alone = replace(config, parallel=replace(config.parallel, cp=1))
    prompt = list(b"the quick brown fox ")
    [expected] = run_distributed(write, 1, alone, prompt)
    assert run_distributed(write, world_size, config, prompt) == [expected] * world_size
