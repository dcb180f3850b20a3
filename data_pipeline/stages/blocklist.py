"""Drops documents by the domain of their URL or by words of their text, from lists in files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import InputError
from .stage import Verdict
from .thresholds import check_thresholds, first_reasons
from .words import Analysis, analyse, folded_hashes

_STEP = np.uint64(0xD6E8FEB86659FD93)
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*:)?//+")
_HOST_ENDS = str.maketrans({"\\": "/", "?": "/", "#": "/"})


@dataclass(frozen=True, kw_only=True)
class Blocklist:
    """Files of UTF-8 text, an entry a line; empty lines and those that start with `#` are left.

    A domain stands for itself and all below it: `example.org` also drops `www.example.org`. A word
    or phrase is found in either case and next to punctuation, as whole words only; in scripts
    without spaces wherever its letters follow each other.
    """

    domains: str | None = None  # path
    words: str | None = None  # path
    max_words: int = 0  # occurrences of listed words that a document may have and stay

    def __post_init__(self) -> None:
        check_thresholds(self)
        if self.domains is None and self.words is None:
            raise InputError("a blocklist needs a file of domains, of words, or both")
        if self.domains is not None:
            blocked_domains(self.domains)
        if self.words is not None:
            blocked_words(self.words)

    @property
    def reads(self) -> tuple[str, ...]:
        """The files that decide beside the parameters."""
        return tuple(path for path in (self.domains, self.words) if path is not None)

    def __call__(self, documents: pa.Table) -> Verdict:
        """Judge by the column `url`, where it is not null, and by the words of each text."""
        rules = []
        if self.domains is not None:
            rules.append(("blocked domain", _in_domains(documents, blocked_domains(self.domains))))
        if self.words is not None:
            found = count_phrases(analyse(documents), *blocked_words(self.words))
            rules.append(("blocked words", found > self.max_words))
        return Verdict(documents, first_reasons(len(documents), rules))


def host_of(url: str) -> str:
    """The host of `url` in lower case and its ASCII form; without scheme, user, port, last dot."""
    rest = _SCHEME.sub("", url.strip().translate(_HOST_ENDS))
    host = rest.split("/", 1)[0].rsplit("@", 1)[-1]
    host = host.split("]", 1)[0].removeprefix("[") if host.startswith("[") else host.split(":")[0]
    host = host.strip().strip(".").lower()
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host


def _in_domains(documents: pa.Table, domains: frozenset[str]) -> NDArray[np.bool_]:
    urls = documents.column("url").to_pylist()
    return np.array([url is not None and _listed(host_of(url), domains) for url in urls], np.bool_)


def _listed(host: str, domains: frozenset[str]) -> bool:
    while host:
        if host in domains:
            return True
        host = host.partition(".")[2]
    return False


@lru_cache(maxsize=8)
def blocked_domains(path: str) -> frozenset[str]:
    """The domains of a file; it is read once in a process."""
    return frozenset(host_of(line) for line in _entries(path)) - {""}


@lru_cache(maxsize=8)
def blocked_words(path: str) -> tuple[NDArray[np.uint64], int]:
    """The sorted hashes of a file's phrases, and the most words in one; read once in a process."""
    phrases = [part for part in folded_hashes(_entries(path)) if len(part)]
    if not phrases:
        raise InputError(f"{path}: no word in it: give one or more, an entry a line")
    keys = np.zeros(len(phrases), np.uint64)
    for number, part in enumerate(phrases):
        _hash_phrase(part, keys[number : number + 1])
    return np.unique(keys), max(len(part) for part in phrases)


def _entries(path: str) -> list[str]:
    try:
        text = Path(path).expanduser().read_text("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}): check the path and its rights"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8: convert the file (iconv -t utf-8)"
        ) from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def count_phrases(analysis: Analysis, keys: NDArray[np.uint64], longest: int) -> NDArray[np.int64]:
    """int64 [documents]: at how many words a phrase of `keys` (of `blocked_words`) starts."""
    counts = np.zeros(len(analysis.texts), np.int64)
    _count_phrases(analysis.words.of, analysis.words.folded, keys, longest, counts)
    return counts


@nb.njit(cache=True, nogil=True)
def _hash_phrase(part, key):  # type: ignore[no-untyped-def]
    for value in part:
        key[0] = (key[0] ^ value) * _STEP


@nb.njit(cache=True, nogil=True)
def _count_phrases(of, folded, keys, longest, counts):  # type: ignore[no-untyped-def]
    # by the top 16 bits of a key most words are settled without a search
    likely = np.zeros(1 << 16, np.bool_)
    for key in keys:
        likely[key >> np.uint64(48)] = True
    for d in range(len(of) - 1):
        for w in range(of[d], of[d + 1]):
            key = np.uint64(0)
            for k in range(w, min(w + longest, of[d + 1])):
                key = (key ^ folded[k]) * _STEP
                if likely[key >> np.uint64(48)]:
                    at = np.searchsorted(keys, key)
                    if at < len(keys) and keys[at] == key:
                        counts[d] += 1
                        break
