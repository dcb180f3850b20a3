"""A corpus with planted near-duplicates, and the truth about it.

Originals are real documents; short ones are joined until they are long enough to be compared.
Copies are originals with edits at one of several rates: of words, or of characters where a script
has no word spaces. The truth is exact, and found without any code of the product: all pairs whose
sets of shingles have a Jaccard similarity of at least the threshold, by prefix filtering
(Chaudhuri, Ganti, Kaushik 2006; Bayardo, Ma, Srikant 2007), which leaves out no such pair.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from hashlib import blake2b
from math import ceil

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.8
SHINGLE = 5  # words or characters
RATES = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05)  # edits a word, or a character
JOINED = 500  # characters that a document has at least

# letters of these have no spaces between words
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR")
_PUNCTUATION = "，。"
_AROUND_WORDS = re.compile(r"(\s+)")


def joined(texts: Iterable[str], least: int = JOINED) -> list[str]:
    """`texts` in order, several of them in one document where they are short."""
    documents, waiting = list[str](), list[str]()
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= least:
            documents.append("\n\n".join(waiting))
            waiting, size = [], 0
    return documents


def made_chinese(documents: int, characters: int, seed: int) -> list[str]:
    """Texts that look like Chinese to a program: common characters are much more common.

    For where no real Chinese is at hand. Sentences of 5 to 20 characters, frequencies by Zipf.
    """
    chance = random.Random(seed)
    alphabet = [chr(0x4E00 + place) for place in chance.sample(range(0x5000), 4000)]
    weights = [1 / (rank + 3) for rank in range(len(alphabet))]
    made = []
    for _ in range(documents):
        drawn = chance.choices(alphabet, weights, k=characters)
        place = chance.randint(5, 20)
        while place < characters:
            drawn[place] = chance.choice(_PUNCTUATION)
            place += chance.randint(6, 21)
        made.append("".join(drawn))
    return made


def planted(originals: Sequence[str], copies: int, seed: int) -> list[str]:
    """`originals` and `copies` edited copies of them, in any order."""
    chance = random.Random(seed)
    corpus = list(originals)
    for number in range(copies):
        corpus.append(edited(chance.choice(originals), RATES[number % len(RATES)], chance))
    chance.shuffle(corpus)
    return corpus


def edited(text: str, rate: float, chance: random.Random) -> str:
    """`text` with about `rate` of its words (or characters) replaced, left out or doubled.

    A replacement is another unit of the same text.
    """
    unspaced = is_unspaced(text)
    pieces = list(text) if unspaced else _AROUND_WORDS.split(text)
    places = range(0, len(pieces), 1 if unspaced else 2)  # between the words is white space
    number = int(rate * len(places) + chance.random())
    for place in chance.sample(places, min(number, len(places))):
        piece = pieces[place]
        doubled = piece * 2 if unspaced else f"{piece} {piece}"
        pieces[place] = (pieces[chance.choice(places)], "", doubled)[chance.randrange(3)]
    return "".join(pieces)


@cache
def _kind(character: str) -> int:
    """0: no letter; 1: of a script with word spaces; 2: of one without."""
    if not character.isalpha():
        return 0
    return 2 if unicodedata.name(character, "").startswith(_UNSPACED) else 1


def is_unspaced(text: str) -> bool:
    """Whether most letters are of a script without spaces between words."""
    if text.isascii():
        return False
    kinds = [0, 0, 0]
    for character, count in Counter(text).items():
        kinds[_kind(character)] += count
    return kinds[2] > kinds[1]


def shingles(text: str, unspaced: bool) -> list[str]:
    """Runs of five words, or characters, of a text in lower case; a short text is one.

    Written for speed: it is what the peers that take shingles are given.
    """
    words = text.lower().split()
    units: Sequence[str] = " ".join(words) if unspaced else words
    join: Callable[[Iterable[str]], str] = ("" if unspaced else " ").join
    if len(units) < SHINGLE:
        return [join(units)] if units else []
    return list(map(join, zip(*(units[start:] for start in range(SHINGLE)), strict=False)))


def hashed_sets(texts: Iterable[str]) -> list[NDArray[np.uint64]]:
    """The set of every text's shingles, as sorted 64-bit BLAKE2b hashes.

    Letters are made lower case one by one: Python's `str.lower` of a whole text knows a final
    sigma.
    """
    return [_hashed_set("".join(map(str.lower, text)), is_unspaced(text)) for text in texts]


def _hashed_set(text: str, unspaced: bool) -> NDArray[np.uint64]:
    digests = (blake2b(one.encode(), digest_size=8).digest() for one in shingles(text, unspaced))
    return np.unique(np.frombuffer(b"".join(digests), np.uint64))


def true_pairs(
    sets: Sequence[NDArray[np.uint64]], threshold: float = THRESHOLD
) -> NDArray[np.int64]:
    """Every pair of sets at or above `threshold`, int64 [pairs, 2], first < second, sorted.

    Of two such sets, each in the same order of all members, the first
    |x| - ceil(threshold |x|) + 1 members have one in common. Rarest first, few others have.
    """
    sizes = np.array([len(one) for one in sets], np.int64)
    everything = np.concatenate([np.empty(0, np.uint64), *sets])
    _, member, counts = np.unique(everything, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    owner = np.repeat(np.arange(len(sets)), sizes)
    rare_first = np.lexsort((rank[member], owner))
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    prefix = np.array([size - ceil(threshold * size - 1e-9) + 1 for size in sizes.tolist()])
    rows = rare_first[place < prefix[owner]]
    tokens, owners = member[rows], owner[rows]
    order = np.lexsort((owners, tokens))
    pairs = _sharing(tokens[order], owners[order], sizes, threshold)
    similar = [similarity(sets[a], sets[b]) >= threshold for a, b in pairs.tolist()]
    return pairs[np.array(similar, bool)]


def _sharing(
    tokens: NDArray[np.int64],
    owners: NDArray[np.int64],
    sizes: NDArray[np.int64],
    threshold: float,
) -> NDArray[np.int64]:
    """Different pairs of owners with an equal token, of sizes that allow the threshold."""
    count = len(sizes)
    found = np.empty(0, np.int64)
    at = np.arange(len(tokens))
    step = 1
    while len(at):
        at = at[at + step < len(tokens)]
        at = at[tokens[at] == tokens[at + step]]
        first, second = owners[at], owners[at + step]
        low, high = np.minimum(sizes[first], sizes[second]), np.maximum(sizes[first], sizes[second])
        fits = low >= threshold * high - 1e-9
        found = np.union1d(found, first[fits] * count + second[fits])
        step += 1
    return np.stack(np.divmod(found, count), axis=1)


def similarity(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """Jaccard similarity of two sorted sets."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
