"""Check digits of national ids, as their registers define them: pure functions over text.

Each is given a match; what stands between its letters and digits is ignored. What cannot be such a
number is False, never an error. `pii_validators` has those of the older kinds.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from .pii_validators import compact, luhn

_ZODIAC = "0123456789ABCDEFHJKLMNPRSTUVWXY"  # Finnish check characters, modulo 31


def _sum(digits: str, weights: Iterable[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def born(year: str, month: str, day: str) -> bool:
    """Whether two digits of a year, a month and a day are a date in some century."""
    try:
        datetime.date(2000 + int(year), int(month), int(day))
    except ValueError:
        return False
    return True


def year_month_day(text: str) -> bool:
    """Begins with a date of birth, yymmdd."""
    digits = compact(text)
    return born(digits[:2], digits[2:4], digits[4:6])


def day_month_year(text: str) -> bool:
    """Begins with a date of birth, ddmmyy, as a Danish CPR number, which has no check digit."""
    digits = compact(text)
    return born(digits[4:6], digits[2:4], digits[:2])


def mod_11_10(text: str) -> bool:
    """ISO 7064, MOD 11,10: German Steuer-ID and Croatian OIB, eleven digits."""
    digits = compact(text)
    product = 10
    for digit in digits[:-1]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return len(set(digits)) > 1 and (11 - product) % 10 == int(digits[-1])


def uk_nino(text: str) -> bool:
    """A prefix that is given out: neither D, F, I, Q, U, V first, nor one kept for other use."""
    prefix = compact(text)[:2]
    return prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


def dutch_bsn(text: str) -> bool:
    """Nine digits; the eleven test, with -1 for the last."""
    digits = compact(text)
    return int(digits) > 0 and _sum(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def swedish_pnr(text: str) -> bool:
    """Date of birth (the day plus 60 for coordination numbers) and a Luhn check digit."""
    digits = compact(text)[-10:]
    return born(digits[:2], digits[2:4], f"{int(digits[4:6]) % 60:02d}") and luhn(digits)


def korean_rrn(text: str) -> bool:
    """Date of birth, sex and century, check digit modulo 11 (random since October 2020)."""
    digits = compact(text)
    if not year_month_day(digits):
        return False
    check = (11 - _sum(digits[:12], (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10
    return check == int(digits[12]) or (digits[:2] >= "20" and digits[6] in "3478")


def turkish_tckn(text: str) -> bool:
    """Eleven digits, the last two sums of the others."""
    digits = [int(digit) for digit in compact(text)]
    tenth = (7 * sum(digits[0:9:2]) - sum(digits[1:8:2])) % 10
    return digits[0] > 0 and digits[9] == tenth and sum(digits[:10]) % 10 == digits[10]


def date_and_luhn(text: str) -> bool:
    """yymmdd first, and a Luhn check digit last: South African ids."""
    return year_month_day(text) and luhn(text)


def greek_amka(text: str) -> bool:
    """ddmmyy first, and a Luhn check digit last."""
    return day_month_year(text) and luhn(text)


def japanese_number(text: str) -> bool:
    """Twelve digits, the last modulo 11 (ministerial order of 2014)."""
    digits = compact(text)
    remainder = _sum(digits[:11], (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return (0 if remainder < 2 else 11 - remainder) == int(digits[11])


def chilean_rut(text: str) -> bool:
    """Seven or eight digits and a check character modulo 11, K for ten."""
    number = compact(text)
    total = _sum(number[-2::-1], (2, 3, 4, 5, 6, 7, 2, 3))
    return number[-1] == "0123456789K"[-total % 11]


def russian_snils(text: str) -> bool:
    """Nine digits and two of control: the weighted sum modulo 101."""
    digits = compact(text)
    return _sum(digits[:9], range(9, 0, -1)) % 101 % 100 == int(digits[9:])


def russian_inn(text: str) -> bool:
    """A person's twelve digits, the last two modulo 11."""
    digits = compact(text)
    weights = (3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8)
    return all(
        _sum(digits[:length], weights[11 - length :]) % 11 % 10 == int(digits[length])
        for length in (10, 11)
    )


def finnish_hetu(text: str) -> bool:
    """ddmmyy, a sign of the century, three digits, a check character modulo 31."""
    date, serial, check = text[:6], text[7:10], text[10]
    return day_month_year(date) and check.upper() == _ZODIAC[int(date + serial) % 31]


def belgian_number(text: str) -> bool:
    """Eleven digits, the last two modulo 97, with a 2 in front for those born from 2000."""
    digits = compact(text)
    check = 97 - int(digits[9:])
    return int(digits[2:4]) <= 12 and check in (int(p + digits[:9]) % 97 for p in ("", "2"))


def mexican_curp(text: str) -> bool:
    """Letters of the name, yymmdd, sex, state, consonants; check digit modulo 10."""
    alphabet = "0123456789ABCDEFGHIJKLMN\N{LATIN CAPITAL LETTER N WITH TILDE}OPQRSTUVWXYZ"
    total = sum(alphabet.index(letter) * (18 - place) for place, letter in enumerate(text[:17]))
    return born(text[4:6], text[6:8], text[8:10]) and -total % 10 == int(text[17])


def norwegian_fnr(text: str) -> bool:
    """ddmmyy (the day plus 40 for D-numbers) and two check digits modulo 11."""
    digits = compact(text)
    return (
        born(digits[4:6], digits[2:4], f"{int(digits[:2]) % 40:02d}")
        and _sum(digits[:10], (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
        and _sum(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0
    )


def ean_13(text: str) -> bool:
    """Thirteen digits, weights 1 and 3: a Swiss AHV number, which begins with 756."""
    return _sum(compact(text), (1, 3) * 7) % 10 == 0


def romanian_cnp(text: str) -> bool:
    """Sex and century, yymmdd, county, serial, check digit modulo 11."""
    digits = compact(text)
    check = _sum(digits[:12], map(int, "279146358279")) % 11
    return year_month_day(digits[1:]) and (1 if check == 10 else check) == int(digits[12])


def taiwanese_id(text: str) -> bool:
    """A letter that stands for two digits, nine digits; the weighted sum is a multiple of ten."""
    letter, digits = text[0].upper(), text[1:]
    value = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(letter) + 10
    return (value // 10 + value % 10 * 9 + _sum(digits, (8, 7, 6, 5, 4, 3, 2, 1, 1))) % 10 == 0


def hong_kong_id(text: str) -> bool:
    """One or two letters, six digits, a check character modulo 11, A for ten."""
    number = compact(text).rjust(9)
    values = [36 if character == " " else int(character, 36) for character in number]
    return (
        sum(value * weight for value, weight in zip(values, range(9, 0, -1), strict=True)) % 11 == 0
    )


def singapore_nric(text: str) -> bool:
    """S, T, F, G or M, seven digits, a check letter modulo 11 of each series."""
    series, letters = text[0].upper(), {"S": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "M": "KLJNPQRTUWX"}
    total = _sum(text[1:8], (2, 7, 6, 5, 4, 3, 2))
    total += {"T": 4, "G": 4, "M": 3}.get(series, 0)
    place = 10 - total % 11 if series == "M" else total % 11
    return letters[{"T": "S", "G": "F"}.get(series, series)][place] == text[8].upper()


def czech_rc(text: str) -> bool:
    """yymmdd (the month plus 50 for women, plus 20 at need), ten digits a multiple of 11."""
    digits = compact(text)
    month = f"{int(digits[2:4]) % 50 % 20:02d}"
    whole = len(digits) == 9 or int(digits[:9]) % 11 % 10 == int(digits[9])
    return born(digits[:2], month, digits[4:6]) and whole


def portuguese_nif(text: str) -> bool:
    """Nine digits, the last modulo 11."""
    digits = compact(text)
    return -_sum(digits[:8], range(9, 1, -1)) % 11 % 10 == int(digits[8])


def canadian_sin(text: str) -> bool:
    """Nine digits that pass the Luhn check; none begins with 0 or 8."""
    return compact(text)[0] not in "08" and luhn(text)


def baltic_id(text: str) -> bool:
    """Estonia and Lithuania: century, yymmdd, serial; modulo 11 with a second round for ten."""
    digits = compact(text)
    check = _sum(digits[:10], (1, 2, 3, 4, 5, 6, 7, 8, 9, 1)) % 11
    if check == 10:
        check = _sum(digits[:10], (3, 4, 5, 6, 7, 8, 9, 1, 2, 3)) % 11 % 10
    return year_month_day(digits[1:]) and check == int(digits[10])


def bulgarian_egn(text: str) -> bool:
    """yymmdd (months plus 20 or 40 in other centuries), check digit modulo 11."""
    digits = compact(text)
    check = _sum(digits[:9], (2, 4, 8, 5, 10, 9, 7, 3, 6)) % 11 % 10
    return born(digits[:2], f"{int(digits[2:4]) % 20:02d}", digits[4:6]) and check == int(digits[9])


def ukrainian_number(text: str) -> bool:
    """Ten digits, the last modulo 11 with the weights of the state register."""
    digits = compact(text)
    return _sum(digits[:9], (-1, 5, 7, 9, 4, 6, 10, 5, 7)) % 11 % 10 == int(digits[9])


def thai_id(text: str) -> bool:
    """Thirteen digits, the last modulo 11."""
    digits = compact(text)
    return (11 - _sum(digits[:12], range(13, 1, -1)) % 11) % 10 == int(digits[12])


def austrian_number(text: str) -> bool:
    """Serial, check digit (the fourth), ddmmyy."""
    digits = compact(text)
    total = _sum(digits, (3, 7, 9, 0, 5, 8, 4, 2, 1, 6))
    return total % 11 == int(digits[3]) and 1 <= int(digits[4:6]) <= 31


def australian_tfn(text: str) -> bool:
    """Nine digits whose weighted sum is a multiple of 11."""
    return _sum(compact(text), (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def british_nhs(text: str) -> bool:
    """Ten digits, the last modulo 11."""
    digits = compact(text)
    return -_sum(digits[:9], range(10, 1, -1)) % 11 == int(digits[9])


def argentine_cuil(text: str) -> bool:
    """Prefix, number, check digit modulo 11."""
    digits = compact(text)
    return -_sum(digits[:10], (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11 == int(digits[10])


def irish_pps(text: str) -> bool:
    """Seven digits, a check letter modulo 23, and a second letter that counts too."""
    number = compact(text)
    extra = 9 * (ord(number[8]) - ord("A") + 1) if number[8:] not in ("", "W") else 0
    return number[7] == "WABCDEFGHIJKLMNOPQRSTUV"[(_sum(number[:7], range(8, 1, -1)) + extra) % 23]
