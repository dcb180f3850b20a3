"""Documents to token ids: the encoder that a process calls on batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .content import Hashes, hash_documents
from .errors import InputError
from .fast_encoder import Choice, Engine, Fast, as_buffer, choose
from .long_documents import LONGEST, pieces
from .shards import Tokens, token_dtype
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .stages.stage import Texts

_AT_ONCE = 1 << 20  # bytes that go through an encoder in one call

Ints = NDArray[np.int64]


class Encoded(NamedTuple):
    """A batch of documents: token ids end to end, their number and hash for each document."""

    tokens: Tokens
    lengths: NDArray[np.int32]
    hashes: Hashes
    empty: int  # documents that gave no token, and are left out


class Encoder:
    """Batches of documents to ids, on the calling thread; the ids are the tokenizer's own.

    ``fast``: ``auto`` takes the fastest encoder that gives the tokenizer's ids on hard texts and
    the first documents (fast_encoder.py), else the tokenizer's library, and the log says why;
    ``off`` is that library; ``on`` makes it an InputError that no fast one will do. Decided once,
    at the first batch or in ``settle``, and kept when it is pickled: settle before handing it to
    workers, and all encode alike.

    Documents of more than a megabyte are encoded in pieces, cut where it makes no difference, so
    that beside text and ids a few tens of bytes for each byte of a piece are held, however long a
    document is.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        append_eod: bool = True,
        fast: Fast = "auto",
        choice: Choice | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.append_eod = append_eod
        self.fast = fast
        self._choice = choice  # what another process has settled
        self._engine: Engine | None = None

    def settle(self, documents: Sequence[str] = ()) -> Choice:
        """Decide now, trying the first quarter megabyte of ``documents``."""
        if self._choice is None:
            self._choice, self._engine = choose(self.tokenizer, self.fast, documents)
        return self._choice

    def __call__(self, texts: Sequence[str] | Texts) -> Encoded:
        """Encode a batch, each document ended by the end-of-document token if so wished."""
        if isinstance(texts, Sequence):
            data, starts, ends = as_buffer(texts)
        else:
            data, starts, ends = texts.data, texts.offsets[:-1], texts.offsets[1:]
        ids, lengths = self._encode(data, starts, ends)
        there = lengths > 0
        empty = len(lengths) - int(there.sum())
        if empty:
            lengths = lengths[there]
        if self.append_eod:
            ids, lengths = _with_ends(ids, lengths, self.tokenizer.eod_id)
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if lengths.size and int(lengths.max()) > np.iinfo(np.int32).max:
            raise InputError(
                f"a document of {int(lengths.max())} tokens: a shard's index holds at most "
                f"{np.iinfo(np.int32).max} for each: split it"
            )
        return Encoded(ids, lengths.astype(np.int32), hash_documents(ids, offsets), empty)

    def _encode(self, data: NDArray[np.uint8], starts: Ints, ends: Ints) -> tuple[Tokens, Ints]:
        """Ids of all texts end to end, as they are stored, and their number for each text."""
        if self._choice is None:
            self.settle(_some_texts(data, starts, ends))
        if self._engine is None:
            assert self._choice is not None
            self._engine = self._choice.build(self.tokenizer)
        number, starts, ends = self._pieces(data, starts, ends)
        dtype = token_dtype(self.tokenizer.vocab_size)
        found: list[Tokens] = [np.empty(0, dtype)]
        lengths = np.zeros(len(starts), np.int64)
        group = np.cumsum(ends - starts) // _AT_ONCE
        bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(starts)]
        for first, last in pairwise(bounds):
            if first < last:
                ids, lengths[first:last] = self._engine(data, starts[first:last], ends[first:last])
                found.append(ids.astype(dtype))
        ids = found[-1] if len(found) == 2 else np.concatenate(found)
        if number is None:
            return ids, lengths
        return ids, np.add.reduceat(lengths, number)

    def _pieces(
        self, data: NDArray[np.uint8], starts: Ints, ends: Ints
    ) -> tuple[Ints | None, Ints, Ints]:
        """Starts and ends of what is encoded at once, and the first of each text's, if not 0, 1, 2,
        ..."""
        if not starts.size or int((ends - starts).max()) <= LONGEST:
            return None, starts, ends
        number, cut = list[int](), list[tuple[int, int]]()
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            number.append(len(cut))
            if end - start <= LONGEST:
                cut.append((start, end))
            else:
                cut.extend(pieces(data, start, end, self.tokenizer.encode_batch))
        both = np.array(cut, np.int64)
        return np.array(number), both[:, 0], both[:, 1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_engine": None}


def _with_ends(ids: Tokens, lengths: Ints, end: int) -> tuple[Tokens, Ints]:
    """``ids`` with ``end`` behind each document."""
    places = np.cumsum(lengths + 1) - 1
    out = np.empty(len(ids) + len(lengths), ids.dtype)
    others = np.ones(len(out), np.bool_)
    others[places] = False
    out[others] = ids
    out[places] = end
    return out, lengths + 1


def _some_texts(data: NDArray[np.uint8], starts: Ints, ends: Ints) -> list[str]:
    texts, left = list[str](), LONGEST
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if left <= 0:
            break
        texts.append(str(data[start : min(end, start + left)].data, "utf-8", "ignore"))
        left -= end - start
    return texts
