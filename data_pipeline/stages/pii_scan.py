"""One pass over the bytes of a batch that finds where personal data could begin.

Nearly all text holds none, so patterns are tried only at these places (anchors). The pass is a
numba kernel over UTF-8; it reads nothing outside the document it is in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

# what an anchor is: the kinds of places
AT = 1  # the local part before an @ (or %40) that a letter or digit follows
SCHEME = 2  # scheme://, an @ before the next blank
PREFIX = 3  # a token with the first bytes of a secret
NUMBER = 4  # digits and what is between their groups: eight or more, or seven and a capital
DOTTED = 5  # the same with three dots and four digits or more
HEX_COLON = 6  # four hexadecimal digits, the first 2 or 3, and a colon
CAPITALS = 7  # capitals and digits as in an IBAN, a codice fiscale or a NIE
SPELT_AT = 8  # name [at] host, or name at host dot; from 64 bytes before to 96 behind

_DIGIT, _UPPER, _LOWER, _BETWEEN, _LOCAL = 1, 2, 4, 8, 16
_ALNUM = _DIGIT | _UPPER | _LOWER
_LONGEST_LOCAL = 64  # RFC 5321
_LONGEST_USERINFO = 256
_WIDEST_GAP = 4  # bytes between two groups of digits: `) - ` or a no-break space and a sign


def _classes() -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for first, last, bit in (("0", "9", _DIGIT), ("A", "Z", _UPPER), ("a", "z", _LOWER)):
        table[ord(first) : ord(last) + 1] |= bit | _LOCAL
    for byte in b" -.()/":
        table[byte] |= _BETWEEN
    # in UTF-8: no-break spaces, hyphen and en dash; wide parentheses
    for byte in b"\xc2\xa0\xe2\x80\x91\x93\xaf\xef\xbc\x88\x89":
        table[byte] |= _BETWEEN
    for byte in b"._%+'-":
        table[byte] |= _LOCAL
    table[0x80:0xC0] |= _LOCAL  # Latin letters with accents: U+00C0 to U+024F
    table[0xC3:0xCA] |= _LOCAL
    return table


CLASSES = _classes()


class Anchors(NamedTuple):
    """Places in order of documents, then of bytes.

    document, place, start, end, digits: int64 [anchors]; start and end are bytes of the document,
    digits how many digits lie between them (numbers only).
    """

    document: NDArray[np.int64]
    place: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    digits: NDArray[np.int64]


def anchors(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], prefixes: NDArray[np.uint8]
) -> Anchors:
    """The anchors of the documents data[offsets[i] : offsets[i + 1]].

    prefixes: uint8 [secrets, 8], the first bytes of secrets (`?` for any), at which no token is in
    progress.
    """
    first_bytes = np.zeros((256, 256), np.bool_)  # the first and the second
    first_bytes[prefixes[:, 0], prefixes[:, 1]] = True
    # read-only as an Arrow buffer is, or numba would compile the kernel a second time
    data, offsets = data.view(), offsets.view()
    data.flags.writeable = offsets.flags.writeable = False
    found = _scan(data, offsets, CLASSES, prefixes, first_bytes)
    return Anchors(found[:, 0], found[:, 1], found[:, 2], found[:, 3], found[:, 4])


@njit(cache=True, nogil=True)
def _scan(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    classes: NDArray[np.uint8],
    prefixes: NDArray[np.uint8],
    first_bytes: NDArray[np.bool_],
) -> NDArray[np.int64]:
    found = np.empty((256, 5), np.int64)
    count = 0
    for document in range(len(offsets) - 1):
        begin, stop = offsets[document], offsets[document + 1]
        numbers_from = begin  # bytes before it are part of a number already reported
        before = np.uint8(0)  # class of the byte before i, alphanumeric bits and underscore only
        i = begin
        while i < stop:
            byte = data[i]
            kind = classes[byte] & _ALNUM
            place, start, end, digits = 0, i, i, 0
            if kind != 0:
                if before == 0:
                    if (
                        i + 8 <= stop
                        and first_bytes[byte, data[i + 1]]
                        and _begins(data, i, prefixes)
                    ):
                        place = PREFIX
                    if place == 0 and _hex_colon(data, i, stop, classes):
                        place = HEX_COLON
                    elif place == 0 and kind == _UPPER and _capitals(data, i, stop, classes):
                        place = CAPITALS
                    elif place == 0 and kind == _DIGIT and i >= numbers_from:
                        end, digits, dots = _number(data, i, stop, classes)
                        numbers_from = end
                        if dots >= 3 and digits >= 4:
                            place = DOTTED
                        elif digits >= 8 or (
                            digits == end - i == 7 and end < stop and classes[data[end]] & _UPPER
                        ):
                            place = NUMBER
                    elif (
                        place == 0
                        and byte | 0x20 == 0x61
                        and begin < i < stop - 4
                        and data[i + 1] | 0x20 == 0x74
                        and _spelt_at(data, i, stop, classes)
                    ):
                        start, end, place = max(begin, i - 66), min(stop, i + 96), SPELT_AT
            elif byte == 0x40 or (  # @ or %40
                byte == 0x25 and i + 3 < stop and data[i + 1] == 0x34 and data[i + 2] == 0x30
            ):
                after = i + 1 if byte == 0x40 else i + 3
                if after < stop and (classes[data[after]] & _ALNUM or data[after] >= 0x80):
                    start = i
                    while (
                        start > begin
                        and i - start < _LONGEST_LOCAL
                        and classes[data[start - 1]] & _LOCAL
                    ):
                        start -= 1
                    while start < i and not (
                        classes[data[start]] & _ALNUM or data[start] >= 0xC0 or data[start] == 0x5F
                    ):
                        start += 1
                    if start < i:
                        place = AT
            elif (
                byte == 0x3A  # :
                and before != 0
                and i + 3 < stop
                and data[i + 1] == 0x2F
                and data[i + 2] == 0x2F
            ):
                end = i + 3
                while (
                    end < stop
                    and end - i < _LONGEST_USERINFO
                    and data[end] > 0x20
                    and data[end] != 0x40
                    and data[end] != 0x2F
                ):
                    end += 1
                if end < stop and data[end] == 0x40:
                    start = i
                    while start > begin and i - start < 32 and _of_scheme(data[start - 1]):
                        start -= 1
                    while not classes[data[start]] & (_UPPER | _LOWER) and start < i:
                        start += 1
                    place = SCHEME
            if place != 0:
                if count == len(found):
                    wider = np.empty((2 * count, 5), np.int64)
                    wider[:count] = found
                    found = wider
                found[count, 0] = document
                found[count, 1] = place
                found[count, 2] = start - begin
                found[count, 3] = end - begin
                found[count, 4] = digits
                count += 1
            before = kind if byte != 0x5F else np.uint8(_LOWER)
            i += 1
    return found[:count].copy()


@njit(cache=True, nogil=True)
def _begins(data: NDArray[np.uint8], i: int, prefixes: NDArray[np.uint8]) -> bool:
    for row in range(len(prefixes)):
        j = 0
        while j < 8 and (prefixes[row, j] == data[i + j] or prefixes[row, j] == 0x3F):
            j += 1
        if j == 8:
            return True
    return False


@njit(cache=True, nogil=True)
def _of_scheme(byte: int) -> bool:
    """Letters, digits and the signs that RFC 3986 allows in a scheme."""
    return (
        0x61 <= byte | 0x20 <= 0x7A or 0x30 <= byte <= 0x39 or byte in (0x2B, 0x2D, 0x2E)
    ) and byte < 0x80


@njit(cache=True, nogil=True)
def _number(
    data: NDArray[np.uint8], i: int, stop: int, classes: NDArray[np.uint8]
) -> tuple[int, int, int]:
    """End, digits and dots of the groups of digits that begin at i."""
    end, digits, dots, seen = i, 0, 0, 0
    j = i
    while j < stop and j - end <= _WIDEST_GAP:
        kind = classes[data[j]]
        if kind & _DIGIT:
            digits += 1
            end = j + 1
            dots = seen
        elif kind & _BETWEEN:
            seen += data[j] == 0x2E
        elif digits == 6 and (data[j] | 3) == 0x43 and data[j - 1] == 0x32:
            pass  # 2A or 2B, Corsica in a French NIR
        else:
            break
        j += 1
    return end, digits, dots


@njit(cache=True, nogil=True)
def _hex_colon(data: NDArray[np.uint8], i: int, stop: int, classes: NDArray[np.uint8]) -> bool:
    if i + 5 >= stop or data[i + 4] != 0x3A or (data[i] != 0x32 and data[i] != 0x33):
        return False
    hexadecimal = True
    for j in range(i + 1, i + 4):
        hexadecimal &= classes[data[j]] & _DIGIT != 0 or 0x61 <= data[j] | 0x20 <= 0x66
    return hexadecimal


@njit(cache=True, nogil=True)
def _capitals(data: NDArray[np.uint8], i: int, stop: int, classes: NDArray[np.uint8]) -> bool:
    """Capitals, then digits: one and six, two and two, four and six, five and four, or an Italian
    code: 16 of both."""
    if i + 9 > stop:
        return False
    capitals, gap = 0, 0
    while capitals < 6 and classes[data[i + capitals]] & _UPPER:
        capitals += 1
    j = i + capitals
    if data[j] == 0x20 or data[j] == 0x2D:
        gap, j = 1, j + 1
    if capitals == 3 or capitals == 6:  # RSSMRA85T10A562S, RSS MRA 85T10 A562S
        if (capitals == 3) != (gap == 1) or i + 16 + 3 * gap > stop:
            return False
        for k in range(i, i + 16 + 3 * gap):
            if not classes[data[k]] & (_DIGIT | _UPPER) and not (gap and data[k] == data[i + 3]):
                return False
        return True
    digits = 0
    while digits < 6 and j + digits < stop and classes[data[j + digits]] & _DIGIT:
        digits += 1
    if capitals == 1:  # NIE, ids of Hong Kong, Singapore, Taiwan
        return digits == 6
    if capitals == 2:  # IBAN: GB82...; national insurance: AB 12 34 56 C
        return digits >= 2 and (not gap or data[j + 2] == data[j - 1])
    if capitals == 4:  # CURP
        return digits == 6
    return capitals == 5 and digits == 4  # PAN: ABCPE1234F


@njit(cache=True, nogil=True)
def _spelt_at(data: NDArray[np.uint8], i: int, stop: int, classes: NDArray[np.uint8]) -> bool:
    """Whether the `at` at i stands in brackets, or between blanks before a word and `dot`."""
    left, right = i - 1, i + 2
    if data[left] != 0x20 or data[right] != 0x20:
        return data[left] in (0x5B, 0x28, 0x7B, 0x3C) and data[right] in (0x5D, 0x29, 0x7D, 0x3E)
    if left > 0 and data[left - 1] in (0x5B, 0x28, 0x7B):  # [ at ]
        return data[right + 1] in (0x5D, 0x29, 0x7D)
    j = right + 1
    while j < stop and (classes[data[j]] & _ALNUM or data[j] == 0x2D):
        j += 1
    return (
        right + 1 < j < stop - 5
        and data[j] == 0x20
        and data[j + 1] | 0x20 == 0x64
        and data[j + 2] | 0x20 == 0x6F
        and data[j + 3] | 0x20 == 0x74
        and data[j + 4] == 0x20
    )
