"""Fixed-length training samples out of shards: sample i is a pure function of data, blend and seed.

Nothing else enters: not how many samples will be asked for, nor the batch size, ranks, restarts,
or file names. Four steps, each of them closed form or one cached sort, make any i cheap:

1. split: a document belongs to train, validation or test by the hash of its content, so that equal
   documents are on the same side, whatever shard they are in and whatever the seed is.
2. blend: sample i is sample m of one source (blend.py).
3. epoch: a source's documents, shuffled anew for every epoch e and laid end to end for e = 0, 1,
   2, ..., are one endless stream of T tokens an epoch. The sample slots that start in epoch e, at
   multiples of S, are shuffled among themselves, and m is one of them. Every token is an input
   exactly once an epoch; the slot at the seam reads on into the next epoch.
4. gather: tokens [slot S, slot S + S] are copied out of the mapped shards (gather.py).

Shuffles (permutation.py) depend on no library's random generator, so on no version of one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import gather
from .blend import Blend
from .content import document_hashes, shard_identity
from .errors import InputError
from .permutation import shuffled
from .shards import Shard, unigram_entropy
from .splits import SPLITS, split_of

Ints = NDArray[np.int64]

_COUNTED = 1 << 24  # tokens of each shard, for the unigram entropy
_LARGE = 1 << 17  # bytes of an array that an allocator may ask the system for
_ORDER_VERSION = 1  # part of every fingerprint: raise it when the order of samples changes


class PackedSamples:
    """Packed samples of one split of a blend of shards; random access at any i >= 0.

    ``blend`` is (prefix or folder of a prepared corpus, weight) pairs; weights count samples.
    ``document_mask`` makes positions restart in each document and takes the loss off labels that
    belong to the next document; it does not change which tokens are in sample i.
    """

    def __init__(
        self,
        blend: Sequence[tuple[str | os.PathLike[str], float]],
        sequence_length: int,
        seed: int,
        split: str = "train",
        split_fractions: tuple[float, float, float] = (0.98, 0.01, 0.01),
        *,
        document_mask: bool = False,
    ) -> None:
        if sequence_length < 1:
            raise InputError(f"sequence_length {sequence_length}: at least 1")
        if split not in SPLITS:
            raise InputError(f"split {split!r}: one of {', '.join(SPLITS)}")
        self.sequence_length = sequence_length
        self.seed = seed
        self.split = split
        self.split_fractions = _checked_fractions(split_fractions)
        self.document_mask = document_mask
        for path, weight in blend:
            if not weight > 0:
                raise InputError(f"{path}: weight {weight}: a weight is positive; or leave it out")
        opened = [
            (_Source(prefix, sequence_length, split, self.split_fractions), share)
            for path, weight in blend
            for prefix, share in resolve_blend(path, weight)
        ]
        # By content: the order in which a configuration names its shards decides nothing.
        opened.sort(key=lambda pair: (pair[0].identity, pair[1]))
        self._blend = Blend([weight for _, weight in opened])
        self._sources: list[_Source] = []
        for source, _ in opened:
            # The same data named twice is shuffled differently each time.
            copy = sum(source.identity == other.identity for other in self._sources)
            source.key = (seed, source.identity, copy, split)
            self._sources.append(source)

    @property
    def weights(self) -> tuple[float, ...]:
        return self._blend.weights

    @property
    def document_count(self) -> int:
        """Documents of this split, over all sources, empty ones left out."""
        return sum(len(source.lengths) for source in self._sources)

    @property
    def token_count(self) -> int:
        """Tokens of this split, over all sources."""
        return sum(source.num_tokens for source in self._sources)

    @property
    def num_samples_per_epoch(self) -> int:
        """Samples in one pass over every source: the sum over sources of tokens // S."""
        return sum(source.num_tokens // self.sequence_length for source in self._sources)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of all that decides the order: content, blend, S, seed, split."""
        decides = {
            "version": _ORDER_VERSION,
            "sources": [source.identity for source in self._sources],
            "weights": [weight.hex() for weight in self.weights],
            "sequence_length": self.sequence_length,
            "seed": self.seed,
            "split": self.split,
            "split_fractions": [fraction.hex() for fraction in self.split_fractions],
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @cached_property
    def unigram_entropy(self) -> float:
        """Nats per token of the blended token distribution, counted over a part of each shard."""
        counts = [source.shard.token_counts(at_most=_COUNTED) for source in self._sources]
        blended = np.zeros(max(len(c) for c in counts))
        for weight, count in zip(self.weights, counts, strict=True):
            blended[: len(count)] += weight * count / count.sum()
        return unigram_entropy(blended)

    def gather(self, indices: NDArray[np.integer[Any]] | Sequence[int]) -> dict[str, Any]:
        """Samples ``indices`` [n] as arrays, with S = sequence_length.

        tokens, labels: int64 [n, S]; labels are the tokens one further.
        loss_mask: float32 [n, S]; 0 where ``document_mask`` is set and a label starts a document.
        position_ids: int64 [n, S]; restart at each document where ``document_mask`` is set.
        document_ids: int32 [n, S]; 0, 1, ... along a row: which document of the row a token is in.
        """
        wanted = np.asarray(indices, np.int64).reshape(-1)
        if wanted.size and (least := min(wanted.tolist())) < 0:
            raise InputError(f"sample {least}: samples are numbered from 0")
        n, S = len(wanted), self.sequence_length
        rows = _Rows.empty(n, S)
        if len(self._sources) == 1:
            self._sources[0].read(wanted, np.arange(n), self.document_mask, rows)
        else:
            which, within = self._blend.locate(wanted)
            for number in set(which.tolist()):
                at = np.flatnonzero(which == number)
                self._sources[number].read(within[at], at, self.document_mask, rows)
        return {
            "tokens": rows.window[:, :S],
            "labels": rows.window[:, 1:],
            "loss_mask": rows.loss_mask,
            "position_ids": rows.positions,
            "document_ids": rows.document_ids,
        }


def resolve_blend(path: str | os.PathLike[str], weight: float = 1.0) -> list[tuple[Path, float]]:
    """The shards that ``path`` means, each with its share of ``weight``.

    A prefix is a shard; a folder is the corpus prepared in it, of one or several shards.
    """
    if Path(path).is_dir():
        from .manifest import Manifest

        return [(prefix, weight * share) for prefix, share in Manifest.load(path).blend]
    return [(Path(path), weight)]


class _Rows(NamedTuple):
    """A batch, as `gather.fill_rows` fills it."""

    window: Ints
    document_ids: NDArray[np.int32]
    positions: Ints
    loss_mask: NDArray[np.float32]

    @classmethod
    def empty(cls, n: int, S: int) -> _Rows:
        """A batch to fill.

        A large one is one block: the allocator keeps that for the next batch, where it would give
        four pieces back to the system, and the next four were faulted in anew.
        """
        wide, narrow = 8 * n * S, 4 * n * S
        if wide < _LARGE:
            return cls(
                np.empty((n, S + 1), np.int64),
                np.empty((n, S), np.int32),
                np.empty((n, S), np.int64),
                np.empty((n, S), np.float32),
            )
        block = np.empty(8 * n + 2 * wide + 2 * narrow, np.uint8)
        at = 8 * n + wide  # behind the window
        return cls(
            np.ndarray((n, S + 1), np.int64, block),
            np.ndarray((n, S), np.int32, block, at + wide),
            np.ndarray((n, S), np.int64, block, at),
            np.ndarray((n, S), np.float32, block, at + wide + narrow),
        )


@dataclass(frozen=True)
class _Epoch:
    """One epoch of a source: its shuffled documents, and which slot each of its samples reads."""

    documents: NDArray[Any]  # [D] numbers of documents, in reading order
    ends: Ints  # [D] tokens up to the end of each, in that order
    first_slot: int
    lead: int  # tokens of it before its first slot
    slots: NDArray[Any]  # [samples] the slot, less first_slot, that each sample of it reads
    seam: int  # the sample that reads the last slot, and on into the next epoch


class _Source:
    """The documents of one split of one shard, as an endless stream of slots of S tokens."""

    def __init__(
        self,
        prefix: Path,
        sequence_length: int,
        split: str,
        fractions: tuple[float, float, float],
    ) -> None:
        self.key: tuple[int | str, ...] = ()
        self.shard = Shard(prefix)
        self.sequence_length = sequence_length
        hashes = document_hashes(self.shard)
        self.identity = shard_identity(self.shard, hashes)
        self.starts: Ints = self.shard.document_offsets[:-1]
        self.lengths: NDArray[np.integer[Any]] = self.shard.document_lengths
        some = fractions[SPLITS.index(split)] < 1
        if some or not self.lengths.all():
            mine = self.lengths > 0
            if some:
                mine &= split_of(hashes, fractions) == SPLITS.index(split)
            self.starts, self.lengths = self.starts[mine], self.lengths[mine]
        self.num_tokens = int(self.lengths.sum(dtype=np.int64))
        self._cache: dict[int, _Epoch] = {}
        self._lock = Lock()
        if self.num_tokens <= sequence_length:
            raise InputError(
                f"{prefix}: its {split} split holds {self.num_tokens} tokens in "
                f"{len(self.lengths)} of {self.shard.num_documents} documents, fewer than one "
                f"sample of {sequence_length} + 1: give more documents (a text file is one unless "
                f"split into paragraphs), a larger {split} fraction than "
                f"{fractions[SPLITS.index(split)]:g}, or a smaller sequence_length"
            )

    def read(self, numbers: Ints, at: Ints, masked: bool, rows: _Rows) -> None:
        """Samples ``numbers`` of this source into ``rows`` at ``at``."""
        # samples keep to the epoch of their number: it has as many slots
        epochs = [number * self.sequence_length // self.num_tokens for number in numbers.tolist()]
        present = set(epochs)
        for epoch in present:
            if len(present) == 1:
                self._read(epoch, numbers, at, masked, rows)
            else:
                mine = np.array(epochs) == epoch
                self._read(epoch, numbers[mine], at[mine], masked, rows)

    def _read(self, number: int, numbers: Ints, at: Ints, masked: bool, rows: _Rows) -> None:
        """The samples that start in epoch ``number``."""
        epoch = self._epoch(number)
        following = self._epoch(number + 1) if epoch.seam in numbers.tolist() else epoch
        gather.fill_rows(
            self.shard.tokens, self.starts, epoch.documents, epoch.ends,
            following.documents, following.ends, epoch.slots, epoch.first_slot, epoch.lead,
            numbers, at, masked, *rows,
        )  # fmt: skip

    def _first_slot(self, epoch: int) -> int:
        return -(-epoch * self.num_tokens // self.sequence_length)

    def _epoch(self, number: int) -> _Epoch:
        with self._lock:
            if number not in self._cache:
                while len(self._cache) >= 2:
                    del self._cache[next(iter(self._cache))]
                self._cache[number] = self._shuffle(number)
            return self._cache[number]

    def _shuffle(self, number: int) -> _Epoch:
        documents = shuffled(len(self.lengths), *self.key, "documents", number)
        first = self._first_slot(number)
        count = self._first_slot(number + 1) - first
        slots = shuffled(count, *self.key, "slots", number)
        return _Epoch(
            documents=documents,
            ends=gather.stream_ends(self.lengths, documents),
            first_slot=first,
            lead=first * self.sequence_length - number * self.num_tokens,
            slots=slots,
            seam=first + int(slots.argmax()),
        )


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"split_fractions {tuple(fractions)}: three shares (train, validation, test), none "
            f"negative, that add to 1"
        )
    train, validation, test = (float(fraction) for fraction in fractions)
    return train, validation, test
