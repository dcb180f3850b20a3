"""lm-evaluation-harness on the parallel model: no export, no second implementation of a task.

Every rank runs the harness on the same requests, and each request's answer is the same on all of
them; only the first reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from trivium.engine.evaluation.scoring import Text, score
from trivium.engine.generation.generator import Generator, Limits
from trivium.engine.generation.request import Request, Sampling
from trivium.engine.opened import Opened

_NEW = 256  # tokens of an answer where a task says no number


class TriviumLM(TemplateLM):
    """An opened model as the harness wants one."""

    def __init__(self, opened: Opened, batch_tokens: int = 4096, max_requests: int = 16) -> None:
        super().__init__()
        self.opened, self.batch_tokens, self.max_requests = opened, batch_tokens, max_requests
        assert opened.config.model.max_position is not None
        self.max_length = opened.config.model.max_position

    @property
    def eot_token_id(self) -> int:
        """What stands before a text that has no context."""
        return self.opened.tokenizer.eod_id

    @property
    def prefix_token_id(self) -> int:
        """The same, unless the model was trained to see another there."""
        bos = self.opened.dialogue.bos_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Of the cache of templates."""
        return self.opened.tokenizer.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of a text, begun as the tokenizer begins one."""
        del kwargs
        begin = [] if add_special_tokens is False else list(self.opened.dialogue.begin_ids)
        return begin + self.opened.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        del disable_tqdm, kwargs
        texts = []
        for _, context, continuation in requests:
            ids = [*context, *continuation][-(self.max_length + 1) :]
            texts.append(Text(tuple(ids), min(len(continuation), len(ids) - 1)))
        found = score(self.opened, texts, self.batch_tokens)
        return [(one.sum, all(one.likeliest)) for one in found]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts, each token once."""
        texts: list[Text] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            (string,) = request.args
            pairs = get_rolling_token_windows(
                token_list=self.tok_encode(string),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, pairs):
                texts.append(Text((*context, *continuation), len(continuation)))
                owners.append(owner)
        sums = [0.0] * len(requests)
        for owner, one in zip(owners, score(self.opened, texts, self.batch_tokens), strict=True):
            sums[owner] += one.sum
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, greedy unless a task says otherwise."""
        asked = []
        for number, request in enumerate(requests):
            context, given = request.args
            stop = given.get("until") or []
            stop = [stop] if isinstance(stop, str) else stop
            wants = int(given.get("max_gen_toks", given.get("max_new_tokens", _NEW)))
            wants = min(wants, self.max_length // 2)
            ids = self.tok_encode(context)[-(self.max_length - wants) :]
            samples = given.get("do_sample") or (given.get("temperature") or 0) > 0
            temperature = float(given.get("temperature") or 1.0) if samples else 0.0
            asked.append(
                Request(
                    prompt=tuple(ids or [self.prefix_token_id]),
                    max_new_tokens=wants,
                    sampling=Sampling(
                        temperature=temperature,
                        top_p=float(given.get("top_p") or 1.0),
                        top_k=int(given.get("top_k") or 0),
                    ),
                    seed=number,
                    stop=tuple(one for one in stop if one),
                    stop_ids=self.opened.dialogue.stop_ids,
                )
            )
        limits = Limits(max_requests=self.max_requests)
        return [answer.text for answer in Generator.of(self.opened, limits).run(asked)]
