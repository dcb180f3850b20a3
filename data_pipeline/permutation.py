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
    x = np.arange(1, len(out) + 1, dtype=np.uint64)
    x *= _ODD
    x += start
    x ^= x >> np.uint64(30)
    x *= _MIX_1
    x ^= x >> np.uint64(27)
    x *= _MIX_2
    x ^= x >> np.uint64(31)
    out[:] = np.argsort(x)


def _key(i: int, start: np.uint64) -> np.uint64:
    x = (np.uint64(i) + np.uint64(1)) * _ODD + start
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def _sort(out: NDArray[Any], start: np.uint64) -> None:
    """The same by their first bits, then by the next ones, then by insertion.

    Keys are as good as uniform: after two rounds a bucket holds about eight of them.
    """
    count = len(out)
    bits = 2
    while count >> (bits + 3) > 0:
        bits += 1
    coarse = min(bits - 1, 11)
    fine = bits - coarse
    shift, left, right = np.uint64(64 - coarse), np.uint64(coarse), np.uint64(64 - fine)
    firsts: NDArray[Any] = np.zeros((1 << coarse) + 1, np.int64)
    for i in range(count):
        firsts[np.int64(_key(i, start) >> shift) + 1] += 1
    largest = firsts.max()
    firsts = np.cumsum(firsts)
    keys, numbers = np.empty(count, np.uint64), np.empty(count, out.dtype)
    places = firsts.copy()
    for i in range(count):
        key = _key(i, start)
        bucket = np.int64(key >> shift)
        place = places[bucket]
        keys[place] = key
        numbers[place] = i
        places[bucket] = place + 1
    sorted_keys, sorted_numbers = np.empty(largest, np.uint64), np.empty(largest, out.dtype)
    counts = np.empty((1 << fine) + 1, np.int64)
    for part in range(1 << coarse):
        first, last = firsts[part], firsts[part + 1]
        counts[:] = 0
        for j in range(first, last):
            counts[np.int64((keys[j] << left) >> right) + 1] += 1
        for j in range(1 << fine):
            counts[j + 1] += counts[j]
        for j in range(first, last):
            small = np.int64((keys[j] << left) >> right)
            sorted_keys[counts[small]] = keys[j]
            sorted_numbers[counts[small]] = numbers[j]
            counts[small] += 1
        for j in range(1, last - first):
            k = int(j)
            key, number = sorted_keys[j], sorted_numbers[j]
            while k > 0 and sorted_keys[k - 1] > key:
                sorted_keys[k] = sorted_keys[k - 1]
                sorted_numbers[k] = sorted_numbers[k - 1]
                k -= 1
            sorted_keys[k], sorted_numbers[k] = key, number
        out[first:last] = sorted_numbers[: last - first]


try:
    from numba import njit

    _key = njit(cache=True, nogil=True, inline="always")(_key)
    sort_into = njit(cache=True, nogil=True)(_sort)
except ImportError:  # it comes with the extra `data`
    sort_into = sort_in_numpy
