"""Generation under every layout: transformers' tokens, the forward pass's log-probabilities."""

from __future__ import annotations

import random

import pytest
import torch

from tests.distributed.pool import run_distributed
from tests.engine.generation.letters import Letters
from tests.engine.hf.tiny_models import VOCAB, opened

NEW = 12


def prompts(count, longest=40):
    chance = random.Random(3)
    return [
        tuple(chance.randrange(VOCAB) for _ in range(1 + (7 * i) % longest)) for i in range(count)
    ]


@pytest.fixture(scope="module")
def expected(folders):
    """name -> greedy continuations by transformers, each prompt by itself."""
    from transformers import AutoModelForCausalLM

    found = {}
    for name, count in COUNTS.items():
        model = AutoModelForCausalLM.from_pretrained(folders[name]).eval()
        found[name] = []
        for prompt in prompts(count):
            ids = torch.tensor([prompt])
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            found[name].append(out[0, len(prompt) :].tolist())
    return found


def generator(folder, parallel, **limits):
    """A generator for a tiny model on this rank."""
    from trivium.engine.generation.generator import Generator, Limits

    chunks, mesh, _ = opened(folder, parallel)
    settings = Limits(**({"max_length": 64} | limits))
    return Generator(chunks, mesh, Letters(), VOCAB, settings)


def greedy(folder, parallel, count):
    """Answers to `count` prompts, more than there are slots, some prompts read in two steps."""
    from trivium.engine.generation.request import Request, Sampling

    requests = [
        Request(prompt=prompt, max_new_tokens=NEW, sampling=Sampling(temperature=0))
        for prompt in prompts(count)
    ]
    answers = generator(folder, parallel, max_requests=5, chunk=23).run(requests)
    return [answer.ids for answer in answers]


COUNTS = {"llama": 64, "gemma3": 8, "gemma2": 8, "deepseek-v3": 8, "mixtral": 8, "olmo2": 6}
COUNTS |= {"glm4": 4, "qwen3 yarn": 6, "mistral": 8, "glm4 moe": 6, "llama three groups": 6}
LAYOUTS = {
    "llama": [{}, {"tp": 2}, {"pp": 2}, {"tp": 2, "pp": 2}],
    "llama three groups": [{"tp": 2}],
    "gemma3": [{}, {"pp": 2}],
    "gemma2": [{}],
    "deepseek-v3": [{}, {"ep": 2}, {"tp": 2}],
    "mixtral": [{"ep": 2}, {"pp": 2}],
    "glm4": [{}],
    "glm4 moe": [{}],
    "olmo2": [{"tp": 2}],
    "qwen3 yarn": [{}],
    "mistral": [{}, {"pp": 2, "vpp": 2}],
}
SLOW = {
    ("llama", str({"tp": 2, "pp": 2})),
    ("gemma3", str({})),
    ("deepseek-v3", str({"tp": 2})),
    ("mixtral", str({"pp": 2})),
    ("mistral", str({})),
}
CASES = [
    pytest.param(
        name,
        parallel,
        id=f"{name}-{parallel}",
        marks=[pytest.mark.slow] if (name, str(parallel)) in SLOW else [],
    )
    for name, found in LAYOUTS.items()
    for parallel in found
]


def world(parallel):
    size = parallel.get("tp", 1) * parallel.get("pp", 1)
    return size * parallel.get("ep", 1)


@pytest.mark.parametrize(("name", "parallel"), CASES)
def test_greedy_tokens_are_those_of_transformers(folders, expected, name, parallel):
    results = run_distributed(greedy, world(parallel), folders[name], parallel, COUNTS[name])
    for result in results:  # every rank has all answers
        assert result == expected[name]


def test_two_replicas_share_the_requests(folders, expected):
    results = run_distributed(greedy, 2, folders["llama"], {}, COUNTS["llama"])
    assert results == [expected["llama"]] * 2


def sampled(folder, parallel, seeds, alone):
    """(ids, log-probabilities) of one prompt with each seed, and the forward pass's of the same."""
    from trivium.engine.generation.request import Request, Sampling

    made = generator(folder, parallel, max_requests=4)
    sampling = Sampling(temperature=0.8, top_k=50, top_p=0.9)
    requests = [
        Request(prompt=(5, 6, 7, 9), max_new_tokens=9, sampling=sampling, seed=seed, top_logprobs=2)
        for seed in seeds
    ]
    if alone:
        answers = [made.run([request])[0] for request in requests]
    else:
        answers = made.run(requests)
    for answer in answers:
        for token in answer.tokens:
            assert len(token.top) == 2
            assert token.top[0][1] >= max(token.logprob, token.top[1][1])
    return [(answer.ids, answer.logprobs) for answer in answers]


def forward_logprobs(folder, prompt, ids):
    """Of `ids` behind `prompt`, by one pass without a cache."""
    chunks, _, _ = opened(folder, {})
    tokens = torch.tensor([[*prompt, *ids]])
    positions = torch.arange(tokens.shape[1]).unsqueeze(0)
    with torch.no_grad():
        output = chunks[0](input_ids=tokens, position_ids=positions, attention_mask=None)
    logits = output.logits()[:, 0, :VOCAB].float()
    scores = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return scores.gather(1, torch.tensor(ids).unsqueeze(1))[:, 0].tolist()


def test_draws_belong_to_the_request_and_logprobs_to_the_model(folders):
    seeds = [1, 2, 3, 4, 5, 6, 1]
    [together] = run_distributed(sampled, 1, folders["llama"], {}, seeds, False)
    [alone] = run_distributed(sampled, 1, folders["llama"], {}, seeds, True)
    [split, _] = run_distributed(sampled, 2, folders["llama"], {"tp": 2}, seeds, False)
    assert together[0] == together[-1]
    assert len({tuple(ids) for ids, _ in together}) > 3
    assert [ids for ids, _ in together] == [ids for ids, _ in alone] == [ids for ids, _ in split]
    for ids, logprobs in together[:3]:
        [reference] = run_distributed(forward_logprobs, 1, folders["llama"], (5, 6, 7, 9), ids)
        assert logprobs == pytest.approx(reference, abs=1e-5)


def stops(folder):
    from trivium.engine.generation.request import Request, Sampling

    made = generator(folder, {})
    [plain] = made.run(
        [Request(prompt=(5, 6), max_new_tokens=20, sampling=Sampling(temperature=0))]
    )
    where = plain.text[7:9]  # a stop string in the middle of the answer, over two tokens
    at = plain.text.find(where)
    requests = [
        Request(
            prompt=(5, 6), max_new_tokens=20, sampling=Sampling(temperature=0), stop=(where, "no")
        ),
        Request(
            prompt=(5, 6),
            max_new_tokens=20,
            sampling=Sampling(temperature=0),
            stop_ids=frozenset({plain.ids[5]}),
        ),
    ]
    by_text, by_id = made.run(requests)
    first = plain.ids.index(plain.ids[5])
    assert (plain.finish, by_text.finish, by_id.finish) == ("length", "stop", "stop")
    assert by_text.text == plain.text[:at]
    assert by_id.ids == plain.ids[:first]
    assert by_id.text == plain.text[:first]
    return True


def test_stop_strings_and_ids(folders):
    assert run_distributed(stops, 1, folders["llama"]) == [True]


def served(folder):
    """Requests that come and are given up while others are written."""
    from trivium.data_pipeline.errors import InputError
    from trivium.engine.generation.request import Request, Sampling

    def request(**more):
        given = {"prompt": (5, 6), "max_new_tokens": 6, "sampling": Sampling(temperature=0)}
        return Request(**(given | more))

    with generator(folder, {}, max_requests=2) as made:
        refused = []
        for bad in (
            {"prompt": ()},
            {"max_new_tokens": 0},
            {"max_new_tokens": 63},
            {"prompt": (-1,)},
        ):
            with pytest.raises(InputError) as error:
                made.submit(request(**bad))
            refused.append(str(error.value))
        numbers = [made.submit(request()) for _ in range(4)]
        texts, ends = {}, {}
        for step in range(60):
            if step == 2:
                made.cancel(numbers[1])
            if step == 4:
                numbers.append(made.submit(request(prompt=(9,) * 30)))
            for event in made.step():
                texts.setdefault(event.request, []).extend(t.id for t in event.tokens)
                ends[event.request] = event.finish
        assert not made.busy
    lengths = [len(texts.get(number, [])) for number in numbers]
    assert lengths[0] == lengths[2] == lengths[3] == lengths[4] == 6
    assert [ends[number] for number in numbers] == ["length", "cancelled", *["length"] * 3]
    return refused


def test_requests_come_and_go(folders):
    [refused] = run_distributed(served, 1, folders["llama"])
    assert "the model takes 64 together" in refused[2]
