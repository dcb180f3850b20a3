"""The choice of tokens: cuts against their definitions, draws against their probabilities."""

from __future__ import annotations

import pytest
import torch

from trivium.data_pipeline.errors import InputError
from trivium.engine.generation import sampler
from trivium.engine.generation.request import Sampling
from trivium.engine.generation.sampler import Draw, distribution, draw, penalized, scored, uniform


def by_definition(logits_V, sampling):
    """Probabilities [V], a token at a time."""
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits_V.argmax(), len(logits_V)).float()
    scaled = logits_V / sampling.temperature
    if sampling.top_k:
        least = scaled.sort(descending=True).values[min(sampling.top_k, len(scaled)) - 1]
        scaled = torch.where(scaled < least, -torch.inf, scaled)
    probs = scaled.softmax(0)
    kept, held = torch.zeros_like(probs), 0.0
    for id in probs.argsort(descending=True).tolist():
        if held < sampling.top_p and probs[id] >= sampling.min_p * probs.max():
            kept[id] = probs[id]
        held += float(probs[id])
    return kept / kept.sum()


MIXED = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(temperature=0.5, top_k=5),
    Sampling(top_p=0.3),
    Sampling(top_p=0.999, temperature=2),
    Sampling(min_p=0.2),
    Sampling(top_k=1),
    Sampling(temperature=1.5, top_k=40, top_p=0.8, min_p=0.05),
]


@pytest.mark.parametrize("few", [8, 1024], ids=["few candidates", "all"])
def test_cuts_are_what_they_say_whoever_is_in_the_batch(monkeypatch, few):
    monkeypatch.setattr(sampler, "_FEW", few)
    logits = torch.randn(len(MIXED), 100, generator=torch.Generator().manual_seed(0)) * 2
    together = distribution(logits, MIXED).dense(100)
    for row, sampling in enumerate(MIXED):
        expected = by_definition(logits[row], sampling)
        alone = distribution(logits[row : row + 1], [sampling]).dense(100)[0]
        torch.testing.assert_close(together[row], expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(alone, expected, atol=1e-6, rtol=1e-5)


def test_cuts_are_those_of_transformers():
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(1)) * 3
    for warper, sampling in (
        (processors.TopKLogitsWarper(7), Sampling(top_k=7)),
        (processors.TopPLogitsWarper(0.7), Sampling(top_p=0.7)),
        (processors.MinPLogitsWarper(0.1), Sampling(min_p=0.1)),
        (processors.TemperatureLogitsWarper(0.6), Sampling(temperature=0.6)),
    ):
        expected = warper(None, logits.clone()).softmax(-1)
        found = distribution(logits, [sampling] * 4).dense(300)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    seen = torch.tensor([[3, 9, 9], [1, 2, 3], [0, 0, 0], [299, 5, 7]])
    penalty = processors.RepetitionPenaltyLogitsProcessor(1.7)
    draws = [Draw(Sampling(repetition_penalty=1.7), 0, 0, row) for row in seen.tolist()]
    torch.testing.assert_close(penalized(logits, draws), penalty(seen, logits.clone()))


def test_penalties_count_the_answer():
    logits = torch.zeros(2, 6)
    sampling = Sampling(frequency_penalty=0.5, presence_penalty=0.25)
    draws = [Draw(sampling, 0, 0, [4, 1, 1, 2], [1, 1, 2]), Draw(Sampling(), 0, 0, [1], [1])]
    found = penalized(logits, draws)
    assert found[0].tolist() == [0, -1.25, -0.75, 0, 0, 0]
    assert found[1].tolist() == [0] * 6
    assert not logits.any()


def test_draws_have_their_probabilities_and_never_none():
    probs = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    count = 20_000
    numbers = [uniform(seed, 3, sampler.FRESH) for seed in range(count)]
    source = sampler.Distribution(probs.expand(count, -1), None)
    found = torch.bincount(draw(source, numbers), minlength=6)
    assert found[probs == 0].sum() == 0
    error = (found / count - probs).abs()[probs > 0]
    assert (error < 4 * (probs * (1 - probs) / count).sqrt()[probs > 0]).all()
    ends = draw(sampler.Distribution(probs.expand(2, -1), None), [0.0, 1 - 2**-53])
    assert ends.tolist() == [1, 4]


def test_numbers_of_seeds_positions_and_purposes_are_unrelated():
    table = torch.tensor(
        [[uniform(seed, at // 3, at % 3) for at in range(9)] for seed in range(4000)],
        dtype=torch.float64,
    )
    assert len(set(table.flatten().tolist())) == table.numel()
    related = torch.corrcoef(table.T) - torch.eye(9)
    assert related.abs().max() < 5 / 4000**0.5


def test_scores_are_of_the_model_alone():
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(2))
    first, second = scored(logits, [7, 8], [0, 3])
    expected = logits.log_softmax(1)
    assert first.logprob == pytest.approx(float(expected[0, 7]), abs=1e-6)
    assert first.top == ()
    values, ids = expected[1].topk(3)
    assert [id for id, _ in second.top] == ids.tolist()
    assert [value for _, value in second.top] == pytest.approx(values.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_p": 0}, {"min_p": 2}, {"repetition_penalty": 0}], ids=str
)
def test_settings_that_mean_nothing_are_refused(wrong):
    [name] = wrong
    with pytest.raises(InputError, match=f"{name}=.*must be"):
        Sampling(**wrong)
