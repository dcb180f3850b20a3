"""Encode every distinct word once: a table from words to ids in front of any exact encoder.

Natural text repeats its words, and no token of the usual vocabularies reaches across the start of a
word. So text is cut into words, those that were seen are looked up, and only new ones go through
the encoder that is behind. Where a cut is made, the patterns that split text for BPE cut as well:

- before a space that follows something other than white space. A piece has spaces at its front,
  or throughout; and whether ``\\s+(?!\\S)`` gives up its last character depends on what follows the
  cut, not on what is before it.
- ``fine``: also before ASCII punctuation, a tab or a line end that follows a letter or a digit
  (but not before ', which may begin the 's of a piece "it's"), and between a line end and a letter
  or a digit. After punctuation a line end may belong to the punctuation's piece.

Whether a given tokenizer keeps to this is not assumed: `fast_encoder` tries it first. Text without
spaces (Chinese, Thai) passes through as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

_LONGEST = 48  # bytes; longer words seldom come again and are not kept
_WORDS = 1 << 20  # kept; the table starts over when it is nearly full
_SLOTS = 4 * _WORDS
_LETTERS = 12 * _WORDS  # bytes of the words kept
_ROOM = 1 << 12  # words that must fit for the table not to be emptied
_SPACE, _LETTER, _OTHER = 1, 2, 3  # classes of bytes before which there may be a cut; 0: never


class WordEncoder:
    """``encode`` (texts to lists of ids), asked once for each word it has not seen lately.

    ``added``: texts that are a token wherever they stand; no word is to end within one.
    ``drop_space``: the encoder puts a space of its own before every text, so a word is given to it
    without its first one. About 60 MB when the table is full.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], list[list[int]]],
        fine: bool,
        drop_space: bool = False,
        added: Sequence[str] = (),
    ) -> None:
        self._encode = encode
        self._cuts = _cuts(fine, added)
        self._drop_space = drop_space
        self._slots = np.zeros(_SLOTS, np.int64)  # upper half of the hash | number of the word + 1
        self._letters = np.empty(_LETTERS, np.uint8)
        self._word_ends = np.zeros(_WORDS + 1, np.int64)
        self._ids = np.empty(1 << 16, np.int32)
        self._id_ends = np.zeros(_WORDS + 1, np.int64)
        self._known = 0

    def __call__(self, data: Bytes, starts: Ints, ends: Ints) -> tuple[NDArray[np.int32], Ints]:
        """Ids end to end, and their number for each ``data[starts[i]:ends[i]]``."""
        if self._known > _WORDS - _ROOM or self._word_ends[self._known] > _LETTERS - _ROOM * 12:
            self._forget()
        # One layout, read-only as an Arrow buffer is, or numba would compile others as well.
        data, starts, ends = data.view(), np.array(starts), np.array(ends)
        data.flags.writeable = False
        most = int((ends - starts).sum())
        words = np.empty(most, np.int32)
        firsts = np.empty(len(starts) + 1, np.int64)
        spans = np.empty((most, 2), np.int64)
        known, direct = _look_up(
            data, starts, ends, self._cuts, self._drop_space, self._slots, self._letters,
            self._word_ends, self._known, words, firsts, spans,
        )  # fmt: skip
        words = words[: firsts[-1]]
        other_ids, other_ends = self._learn(data, known, spans[:direct])
        lengths = np.empty(len(starts), np.int64)
        total = _count(words, firsts, self._id_ends, other_ends, lengths)
        out = np.empty(total, np.int32)
        _gather(words, self._ids, self._id_ends, other_ids, other_ends, out)
        return out, lengths

    def _forget(self) -> None:
        self._slots[:] = 0
        self._known = 0

    def _learn(
        self, data: Bytes, known: int, spans: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], Ints]:
        """Encode the new words, which are kept, and ``spans``: their ids, and where each ends."""
        texts = self._new_words(known)
        texts += [str(data[start:end].data, "utf-8") for start, end in spans.tolist()]
        try:
            encoded = self._encode(texts) if texts else []
        except BaseException:
            self._forget()  # the table names words that have no ids
            raise
        self._keep(encoded[: known - self._known], known)
        others = encoded[len(encoded) - len(spans) :]
        ends = np.zeros(len(others) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, others), np.int64, len(others)), out=ends[1:])
        return np.array(list(chain.from_iterable(others)), np.int32), ends

    def _new_words(self, known: int) -> list[str]:
        bounds = self._word_ends[self._known : known + 1].tolist()
        letters = self._letters.data
        skip = 1 if self._drop_space else 0
        texts = []
        for start, end in pairwise(bounds):
            at = start + skip if letters[start] == 32 else start
            texts.append(str(letters[at:end], "utf-8"))
        return texts

    def _keep(self, encoded: list[list[int]], known: int) -> None:
        """The ids of the words that were new, behind those of the others."""
        first = int(self._id_ends[self._known])
        counts = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._id_ends[self._known + 1 : known + 1] = first + np.cumsum(counts)
        last = int(self._id_ends[known])
        if last > len(self._ids):
            self._ids = np.concatenate([self._ids[:first], np.empty(2 * last - first, np.int32)])
        self._ids[first:last] = np.array(list(chain.from_iterable(encoded)), np.int32)
        self._known = known


def _cuts(fine: bool, added: Sequence[str]) -> Bytes:
    """uint8 [256]: the class of each byte."""
    cuts = np.zeros(256, np.uint8)
    if fine:
        cuts[:128] = _OTHER
        for byte in range(128):
            if chr(byte).isalnum():
                cuts[byte] = _LETTER
        cuts[ord("'")] = 0
        for token in added:
            for before, here in pairwise(token.encode()):
                if cuts[before] == _LETTER and cuts[here] == _OTHER:
                    cuts[here] = 0
    cuts[32] = _SPACE
    return cuts


@njit(cache=True, nogil=True, inline="always")
def _is_letter(data: Bytes, at: int, start: int) -> bool:
    """Whether the character that ends at ``data[at]`` is surely a letter or a digit."""
    byte = data[at]
    if byte < 0x80:
        letter = byte | 0x20
        return 97 <= letter <= 122 or 48 <= byte <= 57
    if at == start:
        return False
    lead = data[at - 1]  # blocks of letters throughout: Latin with accents, Cyrillic
    if lead == 0xC3:
        return byte != 0x97 and byte != 0xB7
    return lead == 0xC4 or lead == 0xC5 or lead == 0xD0 or lead == 0xD1


@njit(cache=True, nogil=True, inline="always")
def _is_blank(data: Bytes, at: int, start: int) -> bool:
    """Whether the character that ends at ``data[at]`` is white space."""
    byte = data[at]
    if byte < 0x80:
        return byte <= 32 or byte == 0x7F
    # U+0085, U+00A0, U+1680, U+2000-200A, U+2028-2029, U+202F, U+205F, U+3000, and U+2581, which
    # SentencePiece reads as a space; by their last bytes
    if at - start < 1:
        return False
    if data[at - 1] == 0xC2:
        return byte == 0x85 or byte == 0xA0
    if at - start < 2:
        return False
    lead, middle = data[at - 2], data[at - 1]
    if lead == 0xE2 and middle == 0x80:
        return byte <= 0x8A or byte == 0xA8 or byte == 0xA9 or byte == 0xAF
    return (
        (lead == 0xE2 and middle == 0x81 and byte == 0x9F)
        or (lead == 0xE2 and middle == 0x96 and byte == 0x81)
        or (lead == 0xE1 and middle == 0x9A and byte == 0x80)
        or (lead == 0xE3 and middle == 0x80 and byte == 0x80)
    )


@njit(cache=True, nogil=True, inline="always")
def _may_cut(data: Bytes, at: int, start: int, cut: int) -> bool:
    """Whether text may be cut before ``data[at]``, which is of class ``cut`` and not the first."""
    if cut == _SPACE:
        return not _is_blank(data, at - 1, start)
    if cut == _LETTER:
        return data[at - 1] == 10 and at - 1 > start and not _is_blank(data, at - 2, start)
    return _is_letter(data, at - 1, start)


@njit(cache=True, nogil=True)
def _look_up(
    data: Bytes,
    starts: Ints,
    ends: Ints,
    cuts: Bytes,
    drop_space: bool,
    slots: Ints,
    letters: Bytes,
    word_ends: Ints,
    known: int,
    words: NDArray[np.int32],
    firsts: Ints,
    spans: Ints,
) -> tuple[int, int]:
    """Number of every word into ``words`` [firsts[i] : firsts[i + 1]] for text i; -1 - m for
    ``spans[m]``, text that is not kept. New words get the next numbers. Both counts after it."""
    count = direct = 0
    mask = np.int64(len(slots) - 1)
    for text in range(len(starts)):
        firsts[text] = count
        start, end = starts[text], ends[text]
        at = start
        joins = False  # whether the word before is one that is not kept
        while at < end:
            h = np.uint64(0xCBF29CE484222325)
            stop = at
            while True:
                h = (h ^ np.uint64(data[stop])) * np.uint64(0x9E3779B97F4A7C15)
                stop += 1
                if stop == end:
                    break
                cut = cuts[data[stop]]
                if (
                    cut != 0
                    and _may_cut(data, stop, start, cut)
                    and (not drop_space or stop + 1 < end)  # a last space alone would be nothing
                ):
                    break
            size = stop - at
            # A space at the very start of a text is no word's: its encoder would see it otherwise.
            if size > _LONGEST or (drop_space and at == start and data[at] == 32):
                number = -1
            else:
                h ^= h >> np.uint64(29)
                h *= np.uint64(0xFF51AFD7ED558CCD)
                h ^= h >> np.uint64(32)
                tag = np.int64(h) & np.int64(~0x3FFFFFFF)
                slot = np.int64(h >> np.uint64(5)) & mask
                number = -2
                while slots[slot] != 0:
                    if (slots[slot] & np.int64(~0x3FFFFFFF)) == tag:
                        candidate = (slots[slot] & 0x3FFFFFFF) - 1
                        begin = word_ends[candidate]
                        if word_ends[candidate + 1] - begin == size:
                            same = True
                            for i in range(size):
                                if letters[begin + i] != data[at + i]:
                                    same = False
                                    break
                            if same:
                                number = candidate
                                break
                    slot = (slot + 1) & mask
                if number == -2:
                    begin = word_ends[known]
                    if known < len(word_ends) - 1 and begin + size <= len(letters):
                        for i in range(size):
                            letters[begin + i] = data[at + i]
                        word_ends[known + 1] = begin + size
                        slots[slot] = tag | (known + 1)
                        number = known
                        known += 1
                    else:
                        number = -1
            if number >= 0:
                words[count] = number
                count += 1
            elif joins:
                spans[direct - 1, 1] = stop
            else:
                spans[direct, 0] = at + 1 if drop_space and at != start and data[at] == 32 else at
                spans[direct, 1] = stop
                direct += 1
                words[count] = -direct
                count += 1
            joins = number < 0
            at = stop
    firsts[len(starts)] = count
    return known, direct


@njit(cache=True, nogil=True)
def _count(
    words: NDArray[np.int32], firsts: Ints, id_ends: Ints, other_ends: Ints, lengths: Ints
) -> int:
    """Ids of every text into ``lengths``, and of all."""
    total = 0
    for text in range(len(lengths)):
        before = total
        for i in range(firsts[text], firsts[text + 1]):
            word = words[i]
            if word >= 0:
                total += id_ends[word + 1] - id_ends[word]
            else:
                total += other_ends[-word] - other_ends[-word - 1]
        lengths[text] = total - before
    return total


@njit(cache=True, nogil=True)
def _gather(
    words: NDArray[np.int32],
    ids: NDArray[np.int32],
    id_ends: Ints,
    other_ids: NDArray[np.int32],
    other_ends: Ints,
    out: NDArray[np.int32],
) -> None:
    """The ids of ``words`` end to end into ``out``."""
    at = 0
    for word in words:
        if word >= 0:
            for i in range(id_ends[word], id_ends[word + 1]):
                out[at] = ids[i]
                at += 1
        else:
            for i in range(other_ends[-word - 1], other_ends[-word]):
                out[at] = other_ids[i]
                at += 1
