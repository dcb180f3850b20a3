"""Draws made-up personal values that satisfy the check digits of the real ones.

Written from the public descriptions of the formats, apart from the filters: nothing here imports
the stage. `test_pii_held_out.py` holds these draws against python-stdnum where that is installed.
"""

import ipaddress
import re
import string
from collections.abc import Callable, Sequence
from random import Random

DIGITS, LOWER, UPPER = string.digits, string.ascii_lowercase, string.ascii_uppercase
_SHAPES = """
AE:19n AT:16n AZ:4a20c BE:12n BG:4a6n8c BR:23n1a1c CH:5n12c CY:8n16c CZ:20n DE:18n DK:14n EE:16n
ES:20n FI:14n FR:10n11c2n GB:4a14n GE:2a16n GR:7n16c HR:17n HU:24n IE:4a14n IL:19n IS:22n
IT:1a10n12c JO:4a4n18c KW:4a22c KZ:3n13c LI:5n12c LT:16n LU:3n13c LV:4a13c MC:10n11c2n
MT:4a5n18c NL:4a10n PK:4a16c PL:24n PT:21n QA:4a21c RO:4a16c SA:2n18c SE:20n SI:15n SK:20n
TN:20n TR:5n1n16c UA:6n19c
"""
IBAN_SHAPES = dict(item.split(":") for item in _SHAPES.split())
CARDS = {
    "visa": (("4",), 16),
    "mastercard": (("51", "52", "53", "54", "55", "2231", "2401", "2650"), 16),
    "amex": (("34", "37"), 15),
    "discover": (("6011", "6445", "65"), 16),
    "jcb": (("3530", "3566", "3588"), 16),
    "diners": (("3001", "3044", "36", "38"), 14),
    "unionpay": (("620", "6225", "6228"), 16),
    "unionpay_long": (("6217", "6228"), 19),
}
NETWORKS_6 = (
    "2001:4860",
    "2003:c7",
    "2600:1700",
    "2a00:1450",
    "2a02:8108",
    "2408:8207",
    "2804:14c",
)


def _pick(random: Random, alphabet: Sequence[str], count: int) -> str:
    return "".join(random.choices(alphabet, k=count))


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))


def luhn_digit(payload: str) -> str:
    """The digit that makes `payload` plus it pass the Luhn check."""
    doubled = [int(d) * (2 - i % 2) for i, d in enumerate(reversed(payload))]
    return str(-sum(d // 10 + d % 10 for d in doubled) % 10)


def verhoeff_digit(payload: str) -> str:
    """The Verhoeff check digit: the dihedral group D5 and the powers of one permutation."""
    permutation, state = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4), 0

    def times(a: int, b: int) -> int:
        if a < 5:
            return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
        return 5 + (a - b) % 5 if b < 5 else (a - b) % 5

    for position, digit in enumerate(reversed(payload), start=1):
        value = int(digit)
        for _ in range(position % 8):
            value = permutation[value]
        state = times(state, value)
    return next(str(d) for d in range(10) if times(state, d) == 0)


def card(random: Random, brand: str) -> str:
    prefixes, length = CARDS[brand]
    prefix = random.choice(prefixes)
    payload = prefix + _pick(random, DIGITS, length - 1 - len(prefix))
    return payload + luhn_digit(payload)


def iban(random: Random, country: str) -> str:
    """An IBAN; Belgian and Spanish accounts also get their national check digits right."""
    body, count = "", ""
    for letter in IBAN_SHAPES[country]:
        if letter.isdigit():
            count += letter
            continue
        body += _pick(random, {"n": DIGITS, "a": UPPER, "c": DIGITS + UPPER}[letter], int(count))
        count = ""
    if country == "BE":
        body = body[:10] + f"{int(body[:10]) % 97 or 97:02d}"
    if country == "ES":
        weights = (1, 2, 4, 8, 5, 10, 9, 7, 3, 6)
        checks = [11 - _weighted(part, weights) % 11 for part in ("00" + body[:8], body[10:])]
        body = body[:8] + "".join(str({10: 1, 11: 0}.get(c, c)) for c in checks) + body[10:]
    number = "".join(str(int(letter, 36)) for letter in body + country + "00")
    return f"{country}{98 - int(number) % 97:02d}{body}"


def public_ipv4(random: Random) -> str:
    """An address of the open internet; its first octet is one that version numbers seldom have."""
    while True:
        octets = [random.randint(24, 220), *(random.randint(0, 255) for _ in range(3))]
        address = ipaddress.IPv4Address(".".join(map(str, octets)))
        if address.is_global and not address.is_multicast:
            return str(address)


def public_ipv6(random: Random, style: str) -> str:
    groups = "".join(f":{random.randint(0x1000, 0xFFFF):x}" for _ in range(4))
    network = random.choice(NETWORKS_6)
    if style == "short":
        return f"{network}:{random.randint(1, 0xFFFF):x}::{random.randint(1, 0xFFF):x}"
    address = ipaddress.IPv6Address(f"{network}:{random.randint(0, 0xFFFF):x}:0{groups}")
    return str(address if style == "usual" else address.exploded)


def _date(random: Random, pattern: str, since: int = 1950, until: int = 1999) -> str:
    year, month, day = random.randint(since, until), random.randint(1, 12), random.randint(1, 28)
    parts = {"Y": f"{year}", "y": f"{year % 100:02d}", "m": f"{month:02d}", "d": f"{day:02d}"}
    return "".join(parts.get(letter, letter) for letter in pattern)


def _us_ssn(random: Random) -> str:
    area = random.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03d}{random.randint(1, 99):02d}{random.randint(1, 9999):04d}"


def _uk_nino(random: Random) -> str:
    prefix = random.choice(["AB", "CE", "JG", "PX", "SR", "WM", "YZ", "NH", "TL", "ER"])
    return prefix + _pick(random, DIGITS, 6) + random.choice("ABCD")


def _fr_nir(random: Random) -> str:
    body = random.choice("12") + _date(random, "ym") + f"{random.randint(21, 95):02d}"
    body += f"{random.randint(1, 300):03d}{random.randint(1, 600):03d}"
    return f"{body}{97 - int(body) % 97:02d}"


def _dni_letter(number: str) -> str:
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]


def _es_dni(random: Random) -> str:
    number = random.choice(DIGITS[1:8]) + _pick(random, DIGITS, 7)
    return number + _dni_letter(number)


def _es_nie(random: Random) -> str:
    series, digits = random.choice("012"), _pick(random, DIGITS, 7)
    return "XYZ"[int(series)] + digits + _dni_letter(series + digits)


def _it_cf(random: Random) -> str:
    code = _pick(random, "BCDFGLMNPRSTVZ", 6) + _date(random, "y") + random.choice("ABCDEHLMPRST")
    code += f"{random.randint(1, 28) + random.choice((0, 40)):02d}{random.choice('ABCDEFGHL')}"
    code += f"{random.randint(100, 999)}"
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24)
    odd += (23,)
    index = [int(c) if c.isdigit() else ord(c) - 65 for c in code]
    return code + UPPER[sum(odd[v] if i % 2 == 0 else v for i, v in enumerate(index)) % 26]


def _cn_id(random: Random) -> str:
    area = random.choice(("110105", "310104", "440305", "510107", "420106", "330106", "320102"))
    body = area + _date(random, "Ymd", until=2005) + f"{random.randint(1, 999):03d}"
    return body + "10X98765432"[_weighted(body, [2 ** (17 - i) % 11 for i in range(17)]) % 11]


def _cn_id_x(random: Random) -> str:
    return next(number for number in iter(lambda: _cn_id(random), "") if number.endswith("X"))


def _in_aadhaar(random: Random) -> str:
    body = random.choice(DIGITS[2:]) + _pick(random, DIGITS, 10)
    return body + verhoeff_digit(body)


def _in_pan(random: Random) -> str:
    letters = _pick(random, UPPER, 3) + "P" + _pick(random, UPPER, 1)
    return f"{letters}{random.randint(1, 9999):04d}{_pick(random, UPPER, 1)}"


def _br_cpf(random: Random) -> str:
    body = _pick(random, DIGITS, 9)
    for length in (9, 10):
        remainder = _weighted(body, range(length + 1, 1, -1)) % 11
        body += str(0 if remainder < 2 else 11 - remainder)
    return body


def _remainder_11(random: Random, length: int, weights: Sequence[int]) -> str:
    """Digits and a last one that is their weighted sum modulo 11, redrawn where that is 10."""
    while True:
        body = random.choice(DIGITS[1:]) + _pick(random, DIGITS, length - 2)
        if (check := _weighted(body, weights) % 11) < 10:
            return f"{body}{check}"


def _nl_bsn(random: Random) -> str:
    return _remainder_11(random, 9, range(9, 1, -1))


def _pl_pesel(random: Random) -> str:
    body = _date(random, "ymd") + _pick(random, DIGITS, 4)
    return f"{body}{-_weighted(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10}"


def _se_pnr(random: Random) -> str:
    body = _date(random, "ymd") + _pick(random, DIGITS, 3)
    return body + luhn_digit(body)


def _se_pnr_long(random: Random) -> str:
    return "19" + _se_pnr(random)


def _kr_rrn(random: Random) -> str:
    body = _date(random, "ymd") + random.choice("12") + f"{random.randint(0, 95):02d}"
    body += _pick(random, DIGITS, 3)
    return f"{body}{(11 - _weighted(body, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10}"


def _tr_tckn(random: Random) -> str:
    body = random.choice(DIGITS[1:]) + _pick(random, DIGITS, 8)
    body += str((7 * sum(map(int, body[::2])) - sum(map(int, body[1::2]))) % 10)
    return f"{body}{sum(map(int, body)) % 10}"


def _za_id(random: Random) -> str:
    body = _date(random, "ymd") + _pick(random, DIGITS, 4) + "08"
    return body + luhn_digit(body)


def _de_tax(random: Random) -> str:
    """Steuer-ID: of its first ten digits one comes twice, one is missing; ISO 7064 mod 11, 10."""
    digits = random.sample(DIGITS, 9)
    digits.insert(random.randint(2, 9), digits[0])
    if digits[0] == "0":
        digits = [{"0": "1", "1": "0"}.get(d, d) for d in digits]
    product = 10
    for digit in digits:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return f"{''.join(digits)}{(11 - product) % 10}"


def _jp_number(random: Random) -> str:
    body = _pick(random, DIGITS, 11)
    remainder = _weighted(body, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return f"{body}{0 if remainder < 2 else 11 - remainder}"


def _cl_rut(random: Random) -> str:
    body = f"{random.randint(5_000_000, 24_999_999):08d}"
    return body + "0123456789K"[-_weighted(body, (3, 2, 7, 6, 5, 4, 3, 2)) % 11]


def _ru_snils(random: Random) -> str:
    body = random.choice(DIGITS[1:]) + _pick(random, DIGITS, 8)
    return f"{body}{_weighted(body, range(9, 0, -1)) % 101 % 100:02d}"


def _ru_inn(random: Random) -> str:
    body = random.choice(("77", "78", "50", "66", "54")) + _pick(random, DIGITS, 8)
    for weights in ((7, 2, 4, 10, 3, 5, 9, 4, 6, 8), (3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8)):
        body += str(_weighted(body, weights) % 11 % 10)
    return body


def _fi_hetu(random: Random) -> str:
    date, serial = _date(random, "dmy"), f"{random.randint(2, 899):03d}"
    return date + serial + "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(date + serial) % 31]


def _be_nn(random: Random) -> str:
    body = _date(random, "ymd") + f"{random.randint(1, 997):03d}"
    return f"{body}{97 - int(body) % 97:02d}"


def _ca_sin(random: Random) -> str:
    body = random.choice("1234567") + _pick(random, DIGITS, 7)
    return body + luhn_digit(body)


def _mx_curp(random: Random) -> str:
    code = _pick(random, "BCDFGLMPRS", 1) + random.choice("AEIU") + _pick(random, "BCDFGLMPRS", 2)
    code += _date(random, "ymd") + random.choice("HM") + random.choice(("DF", "JC", "NL", "VZ"))
    code += _pick(random, "BCDFGLMNPRSTVZ", 3) + "0"
    alphabet = "0123456789ABCDEFGHIJKLMNÑOPQRSTUVWXYZ"
    total = sum(alphabet.index(c) * (18 - i) for i, c in enumerate(code))
    return f"{code}{-total % 10}"


def _no_fnr(random: Random) -> str:
    while True:
        body = _date(random, "dmy") + f"{random.randint(0, 499):03d}"
        first = -_weighted(body, (3, 7, 6, 1, 8, 9, 4, 5, 2)) % 11
        second = -_weighted(f"{body}{first % 10}", (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
        if first < 10 and second < 10:
            return f"{body}{first}{second}"


def _ch_ahv(random: Random) -> str:
    body = "756" + _pick(random, DIGITS, 9)
    return f"{body}{-_weighted(body, (1, 3) * 6) % 10}"


def _ro_cnp(random: Random) -> str:
    body = random.choice("12") + _date(random, "ymd") + f"{random.randint(1, 46):02d}"
    body += f"{random.randint(1, 999):03d}"
    check = _weighted(body, [int(d) for d in "279146358279"]) % 11
    return f"{body}{1 if check == 10 else check}"


def _tw_id(random: Random) -> str:
    letter = random.choice("ABCDEFGHJK")
    body = str(10 + "ABCDEFGHJK".index(letter)) + random.choice("12") + _pick(random, DIGITS, 7)
    return f"{letter}{body[2:]}{-_weighted(body, (1, 9, 8, 7, 6, 5, 4, 3, 2, 1)) % 10}"


def _sg_nric(random: Random) -> str:
    body = _pick(random, DIGITS, 7)
    return f"S{body}{'JZIHGFEDCBA'[_weighted(body, (2, 7, 6, 5, 4, 3, 2)) % 11]}"


def _cz_rc(random: Random) -> str:
    while True:
        body = _date(random, "ymd", since=1955) + f"{random.randint(0, 999):03d}"
        if int(body) % 11 < 10:
            return f"{body}{int(body) % 11}"


def _dk_cpr(random: Random) -> str:
    return f"{_date(random, 'dmy')}{random.randint(1, 3999):04d}"


def _pt_nif(random: Random) -> str:
    body = random.choice("12") + _pick(random, DIGITS, 7)
    remainder = _weighted(body, range(9, 1, -1)) % 11
    return f"{body}{0 if remainder < 2 else 11 - remainder}"


def _il_tz(random: Random) -> str:
    body = _pick(random, "0123", 1) + _pick(random, DIGITS, 7)
    return body + luhn_digit(body)


def _hk_id(random: Random) -> str:
    letter, body = random.choice("ACDGKPRYZ"), _pick(random, DIGITS, 6)
    total = 36 * 9 + (ord(letter) - 55) * 8 + _weighted(body, range(7, 1, -1))
    return f"{letter}{body}{'0123456789A'[-total % 11]}"


def _ending(random: Random, head: str, count: int, weights: Sequence[int]) -> str:
    """`head`, digits, and a last one that is the weighted sum modulo 11, redrawn where it is 10."""
    while True:
        body = head + _pick(random, DIGITS, count)
        if (check := _weighted(body, weights) % 11) < 10:
            return f"{body}{check}"


def _au_tfn(random: Random) -> str:
    return _ending(random, random.choice(DIGITS[1:]), 7, (1, 4, 3, 7, 5, 8, 6, 9))


def _bg_egn(random: Random) -> str:
    return _ending(random, _date(random, "ymd"), 3, (2, 4, 8, 5, 10, 9, 7, 3, 6))


def _ee_ik(random: Random) -> str:
    return _ending(
        random, random.choice("34") + _date(random, "ymd"), 3, (1, 2, 3, 4, 5, 6, 7, 8, 9, 1)
    )


def _th_id(random: Random) -> str:
    body = random.choice("12345678") + _pick(random, DIGITS, 11)
    return f"{body}{(11 - _weighted(body, range(13, 1, -1)) % 11) % 10}"


def _uk_nhs(random: Random) -> str:
    return _ending(random, random.choice("4679"), 8, (-10, -9, -8, -7, -6, -5, -4, -3, -2))


def _ar_cuil(random: Random) -> str:
    return _ending(random, random.choice(("20", "27")), 8, (-5, -4, -3, -2, -7, -6, -5, -4, -3, -2))


def _at_svnr(random: Random) -> str:
    while True:
        serial, date = random.choice(DIGITS[1:]) + _pick(random, DIGITS, 2), _date(random, "dmy")
        if (check := _weighted(serial + date, (3, 7, 9, 5, 8, 4, 2, 1, 6)) % 11) < 10:
            return f"{serial}{check}{date}"


def _ie_pps(random: Random) -> str:
    body = _pick(random, DIGITS, 7)
    return body + "WABCDEFGHIJKLMNOPQRSTUV"[_weighted(body, range(8, 1, -1)) % 23]


def _base64(random: Random, length: int, line: int) -> str:
    body = _pick(random, LOWER + UPPER + DIGITS + "+/", length - 1) + "="
    return "\n".join(body[i : i + line] for i in range(0, length, line))


def _pem(random: Random) -> str:
    return "MII" + _base64(random, random.randint(300, 900), 64)


# every function above whose name begins with a country
NATIONAL_IDS: dict[str, Callable[[Random], str]] = {
    name[1:]: value for name, value in list(globals().items()) if re.match(r"_[a-z]{2}_", name)
}
RUNS = {
    "d": DIGITS,  # any digits
    "m": DIGITS[1:],  # of which the first is not 0
    "n": DIGITS[2:],
    "h": DIGITS + "abcdef",
    "H": DIGITS + "ABCDEF",
    "l": LOWER,
    "U": UPPER,
    "u": DIGITS + UPPER,
    "k": UPPER + DIGITS[2:8],  # base32
    "a": DIGITS + LOWER,
    "w": DIGITS + LOWER + UPPER,
    "b": DIGITS + LOWER + UPPER + "-_",
    "s": DIGITS + LOWER + UPPER + "+/",
}


def draw(random: Random, name: str, argument: str) -> str:
    """A value of the kind `name`: a run such as `d4`, or one of the functions above."""
    if name[0] in RUNS and (len(name) == 1 or name[1:].isdigit()):
        return _pick(random, RUNS[name[0]], int(name[1:] or 1))
    if name == "int":
        low, high = argument.split("-")
        return str(random.randint(int(low), int(high)))
    if name == "area":  # of the North American plan, also an exchange: no service code, no reserve
        return f"{random.choice('2458')}{random.choice('0234567')}{random.choice('2345678')}"
    if name == "date":
        return _date(random, argument, 1980, 2023)
    if name == "pem":
        return _pem(random)
    if name == "ipv4":
        return public_ipv4(random)
    if name == "ipv6":
        return public_ipv6(random, argument)
    if name == "iban":
        return iban(random, argument)
    if name in CARDS:
        return card(random, name)
    return NATIONAL_IDS[name](random)
