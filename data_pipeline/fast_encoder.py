"""Encoders that are faster than a tokenizer's own library, each tried before it is trusted.

Two of them: the package gigatoken, and a table of words in front of the tokenizer's own library
(word_encoder.py). Neither is taken on its word. Hard texts and the first documents of a run are
encoded both ways; whatever gives one other id, or any exception, is not used in that run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import chain, pairwise
from typing import Any, Literal, get_args

import numpy as np
import orjson
from numpy.typing import NDArray

from .errors import InputError
from .hard_texts import hard_texts
from .tokenizer import JsonTokenizer, SentencePieceTokenizer, Tokenizer

logger = logging.getLogger(__name__)

Fast = Literal["auto", "off", "on"]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
# (UTF-8, starts, ends) of texts to (ids end to end, number of ids of each text)
Engine = Callable[[Bytes, Ints, Ints], tuple[NDArray[Any], Ints]]

_TRIED = 1 << 18  # bytes of a run's own documents that are encoded both ways


@dataclass(frozen=True)
class Choice:
    """Which encoder a run uses; small, and the same in every process that is given it."""

    kind: Literal["reference", "words", "gigatoken"] = "reference"
    fine: bool = False  # these two as in WordEncoder
    drop_space: bool = False

    def __str__(self) -> str:
        if self.kind == "gigatoken":
            return f"gigatoken {metadata.version('gigatoken')}"
        return "its own library" if self.kind == "reference" else "a table of words"

    def build(self, tokenizer: Tokenizer) -> Engine:
        """The encoder. Raises whatever a library raises that cannot do this tokenizer."""
        if self.kind == "gigatoken":
            return _Gigatoken(tokenizer)
        if self.kind == "words":
            from .word_encoder import WordEncoder

            added = tokenizer.added() if isinstance(tokenizer, JsonTokenizer) else []
            return WordEncoder(tokenizer.encode_batch, self.fine, self.drop_space, added)
        return Reference(tokenizer)


class Reference:
    """The tokenizer's own library, over a buffer of UTF-8."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, data: Bytes, starts: Ints, ends: Ints) -> tuple[NDArray[np.int32], Ints]:
        """Ids end to end, and their number for each ``data[starts[i]:ends[i]]``."""
        buffer = data.data
        texts = [
            str(buffer[start:end], "utf-8")
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        encoded = self._tokenizer.encode_batch(texts)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.array(list(chain.from_iterable(encoded)), np.int32), lengths


class _Gigatoken:
    """The package gigatoken, on the calling thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        if isinstance(tokenizer, JsonTokenizer):
            model = tokenizer.json()
        elif isinstance(tokenizer, SentencePieceTokenizer):
            from gigatoken._load.sentencepiece import sentencepiece_to_tokenizer_json

            model = json.loads(sentencepiece_to_tokenizer_json(tokenizer.content))
        else:
            raise TypeError(f"{type(tokenizer).__name__} is neither JSON nor SentencePiece")
        # Control tokens are no more than text to us.
        model["added_tokens"] = [t for t in model["added_tokens"] if not t.get("special")]
        self._model = load_hf_json(orjson.dumps(model).decode())

    def __call__(self, data: Bytes, starts: Ints, ends: Ints) -> tuple[NDArray[np.uint32], Ints]:
        buffer = data.data
        # One by one: as fast as a batch, which wants the package awkward (half a second to import).
        encoded = [
            self._model.encode(bytes(buffer[start:end]))
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.concatenate([np.empty(0, np.uint32), *encoded]), lengths


def choose(
    tokenizer: Tokenizer, fast: Fast, documents: Sequence[str] = ()
) -> tuple[Choice, Engine]:
    """The first encoder that gives the same ids as the tokenizer itself, and a line in the log.

    Tried on hard texts and the first of ``documents``. ``off`` is the tokenizer itself; ``on`` is
    an InputError where no other will do.
    """
    if fast not in get_args(Fast):
        raise InputError(f"fast {fast!r}: one of {', '.join(get_args(Fast))}")
    if fast == "off":
        return Choice(), Reference(tokenizer)
    texts = [*hard_texts(tokenizer_tokens(tokenizer)), *_first(documents)]
    expected: list[list[int]] | None = None
    failed = []
    for choice in _candidates(tokenizer):
        try:
            engine = choice.build(tokenizer)
        except ImportError:
            continue  # an optional package that is not here
        except BaseException as error:  # a panic of a Rust library is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            failed.append(f"{choice.kind} cannot load it ({_one_line(error)})")
            continue
        if expected is None:
            expected = tokenizer.encode_batch(texts)
        wrong = first_difference(engine, texts, expected)
        if wrong is None:
            logger.info("%s: encoding with %s", tokenizer.name, choice)
            return choice, engine
        failed.append(f"{choice} differs on {wrong}")
    reasons = "; ".join(failed) or "no fast encoder of this machine reads it (gigatoken, numba)"
    if fast == "on":
        raise InputError(f"{tokenizer.name}: no fast encoder: {reasons}: set fast to auto or off")
    level = logging.WARNING if failed else logging.INFO  # not installed is no fault
    logger.log(level, "%s: encoding without a fast encoder: %s", tokenizer.name, reasons)
    return Choice(), Reference(tokenizer)


def first_difference(
    engine: Engine, texts: Sequence[str], expected: Sequence[Sequence[int]]
) -> str | None:
    """What ``engine`` gets wrong first, in a few words, or None. Every text is given twice, as an
    encoder that remembers texts may be right the first time only."""
    data, starts, ends = as_buffer(texts)
    wanted = np.array(list(chain.from_iterable(expected)), np.int64)
    for _ in range(2):
        try:
            ids, lengths = engine(data, starts, ends)
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            return f"a try ({_one_line(error)})"
        if lengths.tolist() == list(map(len, expected)) and np.array_equal(ids, wanted):
            continue
        bounds = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        for text, one, (start, end) in zip(texts, expected, pairwise(bounds), strict=False):
            if ids[start:end].tolist() != list(one):
                return repr(text if len(text) < 40 else text[:40] + "...")
        return "the number of texts"
    return None


def as_buffer(texts: Sequence[str]) -> tuple[Bytes, Ints, Ints]:
    """Texts as UTF-8 end to end, and where each starts and ends."""
    encoded = [text.encode() for text in texts]
    bounds = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=bounds[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), bounds[:-1], bounds[1:]


def tokenizer_tokens(tokenizer: Tokenizer) -> Iterator[str]:
    """The text of every token, where the tokenizer lists them."""
    if isinstance(tokenizer, (JsonTokenizer, SentencePieceTokenizer)):
        yield from tokenizer.token_texts()


def _candidates(tokenizer: Tokenizer) -> Iterator[Choice]:
    if not isinstance(tokenizer, (JsonTokenizer, SentencePieceTokenizer)):
        return
    yield Choice("gigatoken")
    if not tokenizer.is_bpe:
        return  # a unigram's sums are rounded over the whole text: words alone may tie otherwise
    if isinstance(tokenizer, JsonTokenizer):
        yield Choice("words", fine=True)
    yield Choice("words")
    yield Choice("words", drop_space=True)


def _first(documents: Sequence[str]) -> Iterator[str]:
    left = _TRIED
    for document in documents:
        if left <= 0:
            return
        yield document[:left]
        left -= len(document.encode())


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
