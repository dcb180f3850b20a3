"""Permutations that depend on a key alone, and on no library's random generator.

The numbers 0, 1, ..., n - 1 in the order of splitmix64(start + (i + 1) * odd), which is a bijection
of i on 64 bits: there are no ties, and any way of sorting gives the same.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def shuffled(count: int, *key: int | str) -> NDArray[np.uint32] | NDArray[np.int64]:
    """A permutation of ``count`` numbers that depends on ``key`` alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    start = np.uint64(int.from_bytes(digest, "little"))
    out: NDArray[Any] = np.empty(count, np.uint32 if count < 2**32 else np.int64)
    if count:
        sort_into(out, start)
    return out


def sort_in_numpy(out: NDArray[Any], start: np.uint64) -> None:
    """0, 1, ..., len(out) - 1 in the order of their keys into ``out``: the reference."""
    out[:] = np.argsort(keys(len(out), start))


def keys(count: int, start: np.uint64) -> NDArray[np.uint64]:
    """The keys of 0, 1, ..., count - 1: no two are equal."""
    x = np.arange(1, count + 1, dtype=np.uint64)
    x *= _ODD
    x += start
    x ^= x >> np.uint64(30)
    x *= _MIX_1
    x ^= x >> np.uint64(27)
    x *= _MIX_2
    x ^= x >> np.uint64(31)
    return x


def _key(i: int, start: np.uint64) -> np.uint64:
    x = (np.uint64(i) + np.uint64(1)) * _ODD + start
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def _sort(out: NDArray[Any], start: np.uint64) -> None:
    """The same by their first bits, then by the next ones, then by insertion.

    Keys are as good as uniform: after two rounds a bucket holds one or two of them. What is sorted
    is the first bits of a key with its number in place of the last ones; numbers whose keys
    agree in those bits are put right by their whole keys at the end.
    """
    count = len(out)
    taken = 0  # bits of a number
    while (count - 1) >> taken > 0:
        taken += 1
    low = (np.uint64(1) << np.uint64(taken)) - np.uint64(1)
    bits = 2
    while count >> bits > 0 and bits < 28:
        bits += 1
    coarse = min(bits - 1, 9)
    fine = bits - coarse
    shift, left, right = np.uint64(64 - coarse), np.uint64(coarse), np.uint64(64 - fine)
    firsts: NDArray[Any] = np.zeros((1 << coarse) + 1, np.int64)
    for i in range(count):
        firsts[np.int64(_key(i, start) >> shift) + 1] += 1
    largest = firsts.max()
    firsts = np.cumsum(firsts)
    packed = np.empty(count, np.uint64)
    places = firsts.copy()
    for i in range(count):
        key = _key(i, start)
        bucket = np.int64(key >> shift)
        packed[places[bucket]] = (key & ~low) | np.uint64(i)
        places[bucket] += 1
    part = np.empty(largest, np.uint64)
    counts = np.empty((1 << fine) + 1, np.int64)
    for piece in range(1 << coarse):
        first, last = firsts[piece], firsts[piece + 1]
        counts[:] = 0
        for j in range(first, last):
            counts[np.int64((packed[j] << left) >> right) + 1] += 1
        for j in range(1 << fine):
            counts[j + 1] += counts[j]
        for j in range(first, last):
            small = np.int64((packed[j] << left) >> right)
            part[counts[small]] = packed[j]
            counts[small] += 1
        for j in range(1, last - first):
            k, key = int(j), part[j]
            while k > 0 and part[k - 1] > key:
                part[k] = part[k - 1]
                k -= 1
            part[k] = key
        for j in range(last - first):
            out[first + j] = part[j] & low
            if j > 0 and (part[j] ^ part[j - 1]) <= low:
                _insert(out, first, first + j, start)


def _insert(out: NDArray[Any], first: int, last: int, start: np.uint64) -> None:
    """Put ``out[last]`` where its key belongs in ``out[first:last]``, which is in order."""
    number = out[last]
    while last > first and _key(out[last - 1], start) > _key(number, start):
        out[last] = out[last - 1]
        last -= 1
    out[last] = number


try:
    from numba import njit

    _key = njit(cache=True, nogil=True, inline="always")(_key)
    _insert = njit(cache=True, nogil=True)(_insert)
    sort_into = njit(cache=True, nogil=True)(_sort)
except ImportError:  # it comes with the extra `data`
    sort_into = sort_in_numpy
