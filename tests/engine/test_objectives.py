"""The language objective: sums and weights, however the batch is cut."""

from __future__ import annotations

import pytest
import torch

from trivium.engine.objectives.language import TokenScores, language_modelling, shift_labels


def scores(rows=4, length=6, heads=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.rand(rows, length, generator=generator)  # noqa: E731
    found = [TokenScores(draw(), draw() + 1) for _ in range(heads)]
    weights = [(draw() > 0.3).float() for _ in range(heads)]
    return found, weights


def test_cut_in_any_way_the_sums_add_up():
    found, weights = scores()
    whole = language_modelling(found, weights, 0.3, 0.01)
    parts = [
        language_modelling(
            [TokenScores(s.nll_BS[rows], s.logsumexp_BS[rows]) for s in found],
            [w[rows] for w in weights],
            0.3,
            0.01,
        )
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert sum(p.sum for p in parts) == pytest.approx(float(whole.sum), rel=1e-6)
    assert sum(int(p.weight) for p in parts) == int(whole.weight) == int(weights[0].sum())
    for name, (total, weight) in whole.metrics.items():
        assert sum(float(p.metrics[name][0]) for p in parts) == pytest.approx(float(total))
        assert sum(float(p.metrics[name][1]) for p in parts) == float(weight)


def test_heads_share_their_weight():
    found, weights = scores(heads=3)
    alone = language_modelling(found[:1], weights[:1])
    both = language_modelling(found, weights, mtp_weight=0.4)
    heads = sum((s.nll_BS * w).sum() for s, w in zip(found[1:], weights[1:], strict=True))
    assert float(both.sum - alone.sum) == pytest.approx(0.2 * float(heads), rel=1e-5)


def test_z_loss_is_the_square_of_the_log_partition():
    found, weights = scores(heads=1)
    plain = language_modelling(found, weights)
    z = language_modelling(found, weights, z_weight=0.5)
    expected = 0.5 * (found[0].logsumexp_BS.square() * weights[0]).sum()
    assert float(z.sum - plain.sum) == pytest.approx(float(expected), rel=1e-5)


def test_labels_of_deeper_heads_end_with_the_row_and_the_document():
    labels = torch.arange(10).view(2, 5)
    documents = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]])
    shifted, weights = shift_labels(labels, torch.ones(2, 5), 2, documents)
    assert shifted[1, :3].tolist() == [7, 8, 9]
    assert weights.tolist() == [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]
    same, ones = shift_labels(labels, torch.ones(2, 5), 0)
    assert torch.equal(same, labels)
    assert ones.all()
