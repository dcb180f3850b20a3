"""Token shards in Megatron's format: ``<prefix>.bin`` holds token ids, ``<prefix>.idx`` where.

The index, little-endian (byte-identical to megatron-core's IndexedDatasetBuilder):

    magic "MMIDIDX\\0\\0" | version u64 = 1 | dtype code u8 | sequences S u64 | boundaries B u64
    sequence lengths int32[S] | byte offsets int64[S] | document boundaries int64[B] | modes int8[S]

A document is a run of sequences, and B = documents + 1. Only multimodal shards have modes.
"""

from __future__ import annotations

import hashlib
import os
import struct
from array import array
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import InputError
from .files import storage_errors, sync_file, sync_path

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES: dict[int, np.dtype[Any]] = {
    code: np.dtype(name)
    for code, name in enumerate(
        ("uint8", "int8", "int16", "int32", "int64", "float64", "float32", "uint16"), 1
    )
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_CHECKING = 1 << 14  # entries of an index at a time
_COUNTING = 1 << 20  # tokens at a time; bincount widens them to int64

Tokens = NDArray[np.integer[Any]]


def token_dtype(vocab_size: int | None) -> np.dtype[Any]:
    """The dtype megatron-core stores such a vocabulary in: uint16 below 65,500 ids, else int32."""
    small = vocab_size is not None and vocab_size < 65500
    return np.dtype(np.uint16 if small else np.int32)


def bin_path(prefix: str | os.PathLike[str]) -> Path:
    """``<prefix>.bin``: the token ids."""
    return Path(f"{os.fspath(prefix)}.bin")


def idx_path(prefix: str | os.PathLike[str]) -> Path:
    """``<prefix>.idx``: the index."""
    return Path(f"{os.fspath(prefix)}.idx")


class ShardWriter:
    """Stream documents into a new shard, which exists from ``finish`` on and not before.

    As a context manager it finishes on a clean exit and leaves nothing on an exception. ``counts``
    is the number of times each token id was written (with ``vocab_size`` given).
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        vocab_size: int | None = None,
        *,
        dtype: DTypeLike | None = None,
        eod_id: int | None = None,
    ) -> None:
        self.prefix = Path(prefix)
        self.vocab_size = vocab_size
        self.dtype = np.dtype(dtype) if dtype is not None else token_dtype(vocab_size)
        self.eod_id = eod_id
        self.num_tokens = 0
        self.counts: NDArray[np.int64] = np.zeros(vocab_size or 0, np.int64)
        self._lengths = array("i")
        self._boundaries = array("q", [0])
        self._bin = bin_path(prefix).with_name(bin_path(prefix).name + ".tmp")
        self._idx = idx_path(prefix).with_name(idx_path(prefix).name + ".tmp")
        with storage_errors(self._bin):
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            self._stream = open(self._bin, "wb", buffering=1 << 20)  # noqa: SIM115

    @property
    def num_documents(self) -> int:
        return len(self._boundaries) - 1

    def add_document(
        self, ids: Sequence[int] | Tokens, lengths: Sequence[int] | None = None
    ) -> None:
        """Append one document; ``lengths`` cuts it into several sequences. No id is changed.

        With ``eod_id`` set, that token follows the ids (in the last sequence).
        """
        tokens = np.asarray(ids)
        if tokens.size == 0:
            tokens = tokens.astype(np.int64)
        if self.eod_id is not None:
            tokens = np.append(tokens, self.eod_id)
            lengths = None if lengths is None else [*lengths[:-1], lengths[-1] + 1]
        self._write(tokens)
        self._lengths.extend([tokens.size] if lengths is None else lengths)
        self._boundaries.append(len(self._lengths))

    def add_documents(self, tokens: Tokens, lengths: NDArray[np.integer[Any]]) -> None:
        """Append many one-sequence documents at once: ``tokens`` end to end, as they are."""
        self._write(tokens)
        first = len(self._lengths)
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())
        ends = np.arange(first + 1, len(self._lengths) + 1, dtype=np.int64)
        self._boundaries.frombytes(ends.tobytes())

    def _write(self, tokens: Tokens) -> None:
        if self.vocab_size is not None and tokens.size:
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.vocab_size:
                self.abort()
                raise InputError(
                    f"{self.prefix}: token id {low if low < 0 else high} in document "
                    f"{self.num_documents} is outside the vocabulary of {self.vocab_size}: "
                    f"encode with the tokenizer whose vocab_size this is"
                )
            for start in range(0, tokens.size, _COUNTING):
                self.counts += np.bincount(
                    tokens[start : start + _COUNTING], minlength=self.vocab_size
                )
        try:
            with storage_errors(self._bin):
                self._stream.write(np.ascontiguousarray(tokens, self.dtype).data)
        except BaseException:
            self.abort()
            raise
        self.num_tokens += int(tokens.size)

    def finish(self) -> Shard:
        """Put the shard in place and open it. The index goes last: it makes the pair complete."""
        lengths = np.frombuffer(self._lengths, np.int32)
        boundaries = np.frombuffer(self._boundaries, np.int64)
        try:
            with storage_errors(self._bin):
                sync_file(self._stream)
                self._stream.close()
                write_index(self._idx, self.dtype, [lengths], [boundaries])
                idx_path(self.prefix).unlink(missing_ok=True)
                os.replace(self._bin, bin_path(self.prefix))
                os.replace(self._idx, idx_path(self.prefix))
                sync_path(self.prefix.parent)
        except BaseException:
            self.abort()
            raise
        return Shard(self.prefix)

    def abort(self) -> None:
        """Drop what was written. A shard already in place under this prefix stays."""
        with suppress(OSError):  # the disk was full: closing flushes once more
            self._stream.close()
        self._bin.unlink(missing_ok=True)
        self._idx.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.abort()
        elif not self._stream.closed:
            self.finish()


def write_index(
    path: Path,
    dtype: np.dtype[Any],
    lengths: Sequence[NDArray[np.int32]],
    boundaries: Sequence[NDArray[np.int64]],
) -> None:
    """An index of sequences laid end to end. Both arrays come in pieces, none of which is copied.

    lengths: of the sequences. boundaries: as the file has them, its first 0 included.
    """
    count, documents = sum(map(len, lengths)), sum(map(len, boundaries))
    with open(path, "wb") as stream:
        stream.write(_HEADER.pack(_MAGIC, 1, _CODES[dtype], count, documents))
        for piece in lengths:
            stream.write(np.ascontiguousarray(piece, "<i4").data)
        at = 0
        for piece in lengths:
            ends = at + np.cumsum(piece, dtype=np.int64) * dtype.itemsize
            begins = ends - piece.astype(np.int64) * dtype.itemsize
            stream.write(np.ascontiguousarray(begins, "<i8").data)
            at = int(ends[-1]) if len(ends) else at
        for ends in boundaries:
            stream.write(np.ascontiguousarray(ends, "<i8").data)
        sync_file(stream)


class Shard:
    """A shard opened for reading: checked at once, mapped into memory, read where touched.

    Arrays taken from it keep the mapping alive by themselves. Raises InputError where files are
    missing, cut short, or disagree.
    """

    index: NDArray[np.uint8]  # the whole .idx
    sequence_lengths: NDArray[np.int32]
    pointers: NDArray[np.int64]
    document_indices: NDArray[np.int64]
    tokens: Tokens

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        self.prefix = Path(prefix)
        for path in (idx_path(prefix), bin_path(prefix)):
            if not path.is_file():
                raise InputError(
                    f"{path}: no such file: a shard is a pair .idx and .bin; give their common "
                    f"prefix, or make them with tools/prepare_corpus.py"
                )
        self.index = self._open_index(idx_path(prefix))
        self.num_tokens = int(self.sequence_lengths.sum(dtype=np.int64))
        self._check_index(idx_path(prefix))
        self.tokens = self._open_tokens(bin_path(prefix))

    def _open_index(self, path: Path) -> NDArray[np.uint8]:
        actual = path.stat().st_size
        if actual < _HEADER.size:
            raise _damaged(path, f"is {actual} bytes, shorter than its {_HEADER.size}-byte header")
        index = np.asarray(np.memmap(path, np.uint8, mode="r"))
        magic, version, code, sequences, boundaries = _HEADER.unpack(index[: _HEADER.size].data)
        if magic != _MAGIC:
            raise _damaged(path, "does not start like a Megatron index")
        if version != 1 or code not in _DTYPES:
            raise _damaged(path, f"has version {version} and dtype code {code} (known: 1; 1 to 8)")
        expected = _HEADER.size + 12 * sequences + 8 * boundaries
        if actual not in (expected, expected + sequences):  # with a mode per sequence: multimodal
            raise _damaged(
                path, f"is {actual} bytes where its header says {expected} ({sequences} sequences)"
            )
        self.dtype = _DTYPES[code]
        if self.dtype.kind not in "iu":
            raise _damaged(path, f"holds {self.dtype.name} values, not token ids")
        at = _HEADER.size
        # The header is 34 bytes, so these are unaligned views, which numpy reads piece by piece;
        # the lengths are copied, as they are read several times over.
        self.sequence_lengths = np.frombuffer(index, "<i4", sequences, at).astype(np.int32)
        self.pointers = np.frombuffer(index, "<i8", sequences, at + 4 * sequences)
        self.document_indices = np.frombuffer(index, "<i8", boundaries, at + 12 * sequences)
        return index

    def _check_index(self, path: Path) -> None:
        ends = self.document_indices
        sequences = len(self.sequence_lengths)
        self._one_each = len(ends) == sequences + 1  # a sequence to each document: nearly always
        for first in range(0, len(ends), _CHECKING) if self._one_each else ():
            piece = ends[first : first + _CHECKING]
            if not (piece == np.arange(first, first + len(piece))).all():
                self._one_each = False
                break
        if not self._one_each and (
            len(ends) == 0 or ends[0] != 0 or ends[-1] != sequences or (np.diff(ends) < 0).any()
        ):
            raise _damaged(path, f"has document boundaries that do not span {sequences} sequences")
        if sequences and int(self.sequence_lengths.min()) < 0:
            raise _damaged(path, "has a sequence of negative length")

    def _open_tokens(self, path: Path) -> Tokens:
        actual, expected = path.stat().st_size, self.num_tokens * self.dtype.itemsize
        if actual != expected:
            raise _damaged(
                path,
                f"is {actual} bytes where its index says {expected} "
                f"({self.num_tokens} {self.dtype.name} tokens)",
            )
        if not actual:
            return np.empty(0, self.dtype)
        return np.asarray(np.memmap(path, self.dtype, mode="r"))

    @property
    def num_documents(self) -> int:
        return len(self.document_indices) - 1

    @property
    def layout(self) -> bytes:
        """sha256 of the header, the lengths, and, where a document is not one sequence, boundaries.

        The rest of an index follows from these (`document_offsets` sees to that), but for modes.
        """
        lengths_end = _HEADER.size + 4 * len(self.sequence_lengths)
        digest = hashlib.sha256(self.index[:lengths_end].data)
        if not self._one_each:
            digest.update(np.ascontiguousarray(self.document_indices, "<i8").data)
        return digest.digest()

    @cached_property
    def document_offsets(self) -> NDArray[np.int64]:
        """int64 [documents + 1]: where each document starts in ``tokens``, and where the last ends.

        Raises InputError where the byte offsets are not those of sequences laid end to end.
        """
        count = len(self.sequence_lengths)
        offsets = np.empty(count + 1, np.int64)
        offsets[0] = 0
        for first in range(0, count, _CHECKING):  # what is read unaligned stays in the cache
            last = min(first + _CHECKING, count)
            ends = offsets[first + 1 : last + 1]
            ends[:] = self.sequence_lengths[first:last]
            ends[0] += offsets[first]
            np.cumsum(ends, out=ends)
            wrong = self.pointers[first:last] != offsets[first:last] * self.dtype.itemsize
            if wrong.any():
                at = first + int(wrong.argmax())
                raise _damaged(
                    idx_path(self.prefix),
                    f"puts sequence {at} at byte {self.pointers[at]} "
                    f"where the lengths before it add to {offsets[at] * self.dtype.itemsize}",
                )
        return offsets if self._one_each else offsets[self.document_indices]

    @property
    def document_lengths(self) -> NDArray[np.integer[Any]]:
        """int32 [documents] where each is one sequence, else int64: how many tokens each has."""
        if self._one_each:
            return self.sequence_lengths
        return np.diff(self.document_offsets)

    def document(self, number: int) -> Tokens:
        """The tokens of one document: a view."""
        return self.tokens[self.document_offsets[number] : self.document_offsets[number + 1]]

    def token_counts(self, at_most: int | None = None) -> NDArray[np.int64]:
        """How often each id occurs: one pass, or over ``at_most`` tokens (to within a piece of a
        million) in pieces spread evenly over the shard."""
        counts = np.zeros(0, np.int64)
        every = 1 if at_most is None else max(1, -(-self.num_tokens // max(at_most, 1)))
        for start in range(0, self.num_tokens, every * _COUNTING):
            piece = np.bincount(self.tokens[start : start + _COUNTING], minlength=len(counts))
            piece[: len(counts)] += counts
            counts = piece
        return counts

    def __len__(self) -> int:
        return self.num_documents

    def __reduce__(self) -> tuple[Any, ...]:
        return Shard, (self.prefix,)


def unigram_entropy(counts: NDArray[np.integer[Any]] | NDArray[np.floating[Any]]) -> float:
    """Nats per token of the distribution behind ``counts``: the loss of a model that knows only
    how frequent each token is."""
    share = counts[counts > 0] / counts.sum() if counts.size else np.ones(1)
    return float(-(share * np.log(share)).sum())


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}: the shard is damaged or half copied; copy or make it again")
