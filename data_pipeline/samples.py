"""Training samples as a pure function of (shard contents, blend, seed, split, index)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
import numpy as np

from .content import document_hashes, shard_identity
from .errors import InputError
from .shards import Shard

SPLITS = ("train", "validation", "test")


class _Source:
    def __init__(self, prefix, length, seed, split, fractions):
        self.shard = Shard(prefix)
        hashes = document_hashes(self.shard)
        self.identity = shard_identity(self.shard, hashes)
        ends = np.cumsum(fractions) / sum(fractions)
        u = (hashes >> np.uint64(11)).astype(np.float64) / 2**53
        which = np.searchsorted(ends[:-1], u, side="right")
        offsets = self.shard.document_offsets
        lengths = np.diff(offsets)
        self.docs = np.flatnonzero((which == SPLITS.index(split)) & (lengths > 0))
        self.starts = offsets[:-1]
        self.lengths = lengths
        self.length = length
        self.total = int(lengths[self.docs].sum())
        self.per_epoch = (self.total - 1) // length
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._make)

    def _make(self, epoch):
        key = hashlib.sha256(f"{self.seed}:{self.identity}:{epoch}".encode()).digest()
        rng = np.random.Generator(np.random.Philox(int.from_bytes(key[:16], "little")))
        docs = rng.permutation(self.docs)
        ends = np.cumsum(self.lengths[docs])
        return docs, ends, rng.permutation(self.per_epoch)

    def read(self, index, tokens, ids, positions):
        epoch, j = divmod(int(index), self.per_epoch)
        docs, ends, order = self._epoch(epoch)
        begin = int(order[j]) * self.length
        need = self.length + 1
        d = int(np.searchsorted(ends, begin, side="right"))
        filled = 0
        number = 0
        while filled < need:
            first = int(ends[d - 1]) if d else 0
            inside = begin + filled - first
            take = min(need - filled, int(self.lengths[docs[d]]) - inside)
            start = int(self.starts[docs[d]]) + inside
            tokens[filled : filled + take] = self.shard.tokens[start : start + take]
            ids[filled : filled + take] = number
            positions[filled : filled + take] = np.arange(take)
            filled += take
            d += 1
            number += 1


class PackedSamples:
    def __init__(self, blend, sequence_length, seed, split="train", split_fractions=(0.98, 0.01, 0.01), document_mask=False):
        self.length = sequence_length
        self.sources = [_Source(p, sequence_length, seed, split, split_fractions) for p, _ in blend]
        self.document_mask = document_mask
        digest = hashlib.sha256(repr((sequence_length, seed, split, tuple(split_fractions), [w for _, w in blend])).encode())
        for s in self.sources:
            if s.per_epoch < 1:
                raise InputError(f"{s.shard.prefix}: split {split} has {s.total} tokens, a sample needs {sequence_length + 1}")
            digest.update(s.identity.encode())
        self.fingerprint = digest.hexdigest()
        assert len(blend) == 1

    def gather(self, indices):
        n, S = len(indices), self.length
        t = np.zeros((n, S + 1), np.int64); ids = np.zeros((n, S + 1), np.int32); pos = np.zeros((n, S + 1), np.int64)
        for r, i in enumerate(indices):
            self.sources[0].read(i, t[r], ids[r], pos[r])
        p = pos[:, :-1] if self.document_mask else np.broadcast_to(np.arange(S), (n, S))
        return dict(tokens=t[:, :-1].copy(), labels=t[:, 1:].copy(), loss_mask=np.ones((n, S), np.float32), position_ids=np.ascontiguousarray(p), document_ids=ids[:, :-1].copy())
