"""Speculation changes how many passes a text takes, and nothing else about it."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch

from tests.distributed.pool import run_distributed
from tests.engine.generation.letters import Letters

VOCAB, NEW = 250, 14


def built(parallel, vocab, heads, seed=7):
    """(chunks, mesh) of a random model with MTP heads on this rank."""
    import torch.distributed as dist

    from trivium.engine.config import fill
    from trivium.engine.layout import ParallelLayout
    from trivium.engine.mesh import create_mesh, destroy_mesh
    from trivium.engine.model.gpt import build
    from trivium.engine.schema import (
        DataConfig,
        ModelConfig,
        MTPConfig,
        ParallelConfig,
        RunConfig,
    )

    destroy_mesh()
    model = ModelConfig(
        num_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        num_query_groups=2,
        vocab_size=vocab,
        max_position=64,
        init_std=0.1,
        mtp=MTPConfig(num_heads=heads),
    )
    config = fill(RunConfig(seed=seed, model=model, data=DataConfig(corpus=("x",))))
    config = replace(config, parallel=ParallelConfig(**parallel, sp=False))
    mesh = create_mesh(ParallelLayout.of(config.parallel, dist.get_world_size()), 1)
    return build(config, mesh), mesh, config


def generator(parts, vocab, proposer, **limits):
    from trivium.engine.generation.generator import Generator, Limits

    chunks, mesh, _ = parts
    settings = Limits(**({"max_length": 64, "max_requests": 4, "chunk": 11} | limits))
    return Generator(chunks, mesh, Letters(), vocab, settings, proposer)


def requests(count, **sampling):
    from trivium.engine.generation.request import Request, Sampling

    chance = random.Random(5)
    return [
        Request(
            prompt=tuple(chance.randrange(VOCAB) for _ in range(1 + 5 * i)),
            max_new_tokens=NEW,
            sampling=Sampling(**sampling),
            seed=i,
        )
        for i in range(count)
    ]


def draft_of(parts):
    """The model as its own draft: every proposal is right."""
    from pathlib import Path

    from trivium.engine.dialogue import Dialogue
    from trivium.engine.opened import Opened

    chunks, mesh, config = parts
    return Opened(Path("itself"), config, mesh, chunks, Letters(), Dialogue())


def greedy(parallel, heads, depth):
    """Answers without and with speculation, and the passes that each took."""
    from trivium.engine.generation.speculation import MTPProposer

    parts = built(parallel, VOCAB, heads)
    asked = requests(6, temperature=0)
    plain = generator(parts, VOCAB, None).run(asked)
    fast = generator(parts, VOCAB, MTPProposer(depth, heads)).run(asked)
    found = [(a.ids, a.text, a.finish) for a in plain] == [(a.ids, a.text, a.finish) for a in fast]
    close = all(
        one == pytest.approx(two, abs=1e-5)
        for a, b in zip(plain, fast, strict=True)
        for one, two in zip(a.logprobs, b.logprobs, strict=True)
    )
    return found, close, sum(a.trunk_steps for a in plain), sum(a.trunk_steps for a in fast)


@pytest.mark.parametrize(
    ("parallel", "heads", "depth"),
    [
        ({}, 1, 1),
        ({}, 2, 2),
        ({}, 2, 4),
        ({}, 1, 3),
        ({"tp": 2}, 2, 2),
        ({"pp": 2}, 2, 3),
        (None, 2, 2),
    ],
    ids=str,
)
def test_greedy_text_is_the_same(parallel, heads, depth):
    """parallel None: two replicas."""
    world = 2 if parallel is None else parallel.get("tp", 1) * parallel.get("pp", 1)
    parallel = parallel or {}
    results = run_distributed(greedy, world, parallel, heads, depth)
    for same, close, _, _ in results:
        assert same
        assert close


def own_draft(parallel, depth, sampling):
    from trivium.engine.generation.speculation import DraftProposer

    parts = built(parallel, VOCAB, 0)
    asked = requests(6, **sampling)
    plain = generator(parts, VOCAB, None).run(asked)
    # the draft's modules would be made ready twice
    other = built_again(parts)
    fast = generator(parts, VOCAB, DraftProposer(depth, draft_of(other))).run(asked)
    return [a.ids for a in plain], [a.ids for a in fast], [a.trunk_steps for a in fast]


def built_again(parts):
    """Another copy of the same model, on the same mesh."""
    from trivium.engine.model.gpt import build

    _, mesh, config = parts
    return build(config, mesh), mesh, config


@pytest.mark.parametrize("parallel", [{}, {"pp": 2}], ids=str)
def test_a_draft_that_is_always_right(parallel):
    world = parallel.get("pp", 1)
    results = run_distributed(own_draft, world, parallel, 3, {"temperature": 0})
    plain, fast, steps = results[0]
    assert plain == fast
    if world == 1:
        assert steps == [1 + -(-(NEW - 1) // 4)] * 6  # the prompt gives one, then four a pass


def proposals(heads, depth):
    """What the heads propose from their caches, and what a pass over everything would."""
    from trivium.engine.generation.speculation import MTPProposer

    parts = built({}, VOCAB, heads)
    seen = []

    class Watched(MTPProposer):
        def propose(self, sequences, share):
            super().propose(sequences, share)
            seen.extend((list(one.tokens), list(one.proposals)) for one in sequences)

    generator(parts, VOCAB, Watched(depth, heads)).run(requests(4, temperature=0))
    [chunk] = parts[0]
    chunk.eval()
    for tokens, found in seen:
        known = list(tokens)
        for head in range(heads):
            # the head's row i has token i + head + 1; roll_tensor zeroes what lies behind the end
            row = len(tokens) - 2
            padded = torch.tensor([[*known, *[0] * heads]])
            positions = torch.arange(padded.shape[1]).unsqueeze(0)
            with torch.no_grad():
                output = chunk(input_ids=padded, position_ids=positions, attention_mask=None)
                best = int(output.logits(head + 1)[row, 0, :VOCAB].argmax())
            assert best == found[head], (head, len(tokens))
            known.append(best)
    return len(seen)


@pytest.mark.parametrize("heads", [1, 2])
def test_cached_heads_propose_what_whole_rows_would(heads):
    assert run_distributed(proposals, 1, heads, heads)[0] > 20


SMALL = 12
CUTS = {"temperature": 1.3, "top_p": 0.95}


def drawn(depth, count, kind):
    """Counts of the first three tokens behind a prompt, and their exact probabilities."""
    from trivium.engine.generation.request import Request, Sampling
    from trivium.engine.generation.sampler import distribution
    from trivium.engine.generation.speculation import DraftProposer, MTPProposer

    parts = built({}, SMALL, 2)
    if kind == "mtp":
        proposer = MTPProposer(depth, 2)
    else:
        proposer = DraftProposer(depth, replace(draft_of(built({}, SMALL, 0, seed=8))))
        parts = built_again((None, draft_of_mesh(proposer), parts[2]))
    sampling = Sampling(**CUTS)
    asked = [
        Request(prompt=(1, 2, 3), max_new_tokens=3, sampling=sampling, seed=seed)
        for seed in range(count)
    ]
    answers = generator(parts, SMALL, proposer, max_requests=96).run(asked)
    counts = torch.zeros(SMALL, SMALL, SMALL)
    for answer in answers:
        counts[tuple(answer.ids)] += 1
    [chunk] = parts[0]
    chunk.eval()
    prefixes = torch.tensor(list(itertools.product(range(SMALL), repeat=2)))
    rows = torch.cat([torch.tensor([[1, 2, 3]]).expand(len(prefixes), -1), prefixes], 1)
    positions = torch.arange(5).expand_as(rows)
    with torch.no_grad():
        output = chunk(input_ids=rows, position_ids=positions, attention_mask=None)
        logits = output.logits()[..., :SMALL]

    def probabilities(row):
        found = distribution(logits[row].float(), [sampling] * len(prefixes))
        return found.dense(SMALL).view(SMALL, SMALL, SMALL)

    first = probabilities(2)[0, 0]
    joint = first[:, None, None] * probabilities(3)[:, :1].transpose(1, 2) * probabilities(4)
    steps = sum(answer.trunk_steps for answer in answers)
    return counts.tolist(), joint.double().tolist(), steps


def draft_of_mesh(proposer):
    return proposer.draft.mesh


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("mtp", 2000),
        pytest.param("mtp", 7000, marks=pytest.mark.slow),
        pytest.param("draft", 7000, marks=pytest.mark.slow),
    ],
)
def test_samples_have_the_distribution_of_the_trunk(kind, number):
    """A G-test of answers of three tokens; it fails one time in 10,000 by chance, and the seeds are
    fixed. A draw from p instead of (p - q)+ behind a refusal fails it with p below 1e-12."""
    from scipy.stats import chi2

    counts, joint, steps = run_distributed(drawn, 1, 2, number, kind)[0]
    counts, expected = torch.tensor(counts).double(), torch.tensor(joint) * number
    assert counts.sum() == number
    assert steps < 2.9 * number  # proposals do come true
    for dims in ((1, 2), (0, 2), (0, 1), (2,)):
        seen, wanted = counts.sum(dims).flatten(), expected.sum(dims).flatten()
        assert seen[wanted == 0].sum() == 0
        small = wanted < 5  # together one cell
        cells = [(seen[small].sum(), wanted[small].sum())] if small.any() else []
        cells += zip(seen[~small], wanted[~small], strict=True)
        g = sum(2 * float(s * torch.log(s / w)) for s, w in cells if s > 0)
        assert chi2.sf(g, len(cells) - 1) > 1e-4, (dims, g, len(cells))
