"""Telephone numbers: how they are written, and whether such digits are one.

Lengths are those of ITU-T E.164 and the national numbering plans, kept coarse: a table of a page,
not the metadata of a library. Checks are pure functions over ASCII strings.
"""

from __future__ import annotations

import itertools
import re

from .pii_shapes import AFTER, AFTER_SET_OFF, BEFORE, SEP, Pattern, names, number

_DIGITS = re.compile(r"\d+")
_OTHERS = (7, 10)  # least and most digits of countries that the table leaves out
_DIALLING = """
1:10-10 7:10-10 20:8-10 27:9-9 30:10-10 31:9-9 32:8-9 33:9-9 34:9-9 36:8-9 39:6-11 40:9-9 41:9-9
43:7-12 44:9-10 45:8-8 46:7-10 47:8-8 48:9-9 49:7-11 51:8-9 52:10-10 53:8-8 54:10-11 55:10-11
56:9-9 57:8-10 58:10-10 60:8-10 61:9-9 62:8-12 63:8-10 64:8-10 65:8-8 66:8-9 81:9-10 82:8-10
84:9-10 86:9-11 90:10-10 91:10-10 92:9-10 93:9-9 94:9-9 95:7-10 98:10-10
247:5-6 290:4-5 298:6-6 299:6-6 376:6-9 500:5-5 508:6-9 597:6-7 672:5-6 676:5-7 677:5-7 678:5-7
681:6-6 682:5-5 683:4-7 685:5-7 686:5-8 687:6-6 688:5-7 690:4-7
"""
# country code -> least and most digits of its national numbers
_PLANS: dict[str, tuple[int, int]] = {}
_WITHOUT_PLAN = "211-299 350-389 420-423 500-509 590-599 670-692 800-808 850-886 960-998"
for _item in _WITHOUT_PLAN.split():
    _first, _, _last = _item.partition("-")
    _PLANS.update((str(code), _OTHERS) for code in range(int(_first), int(_last) + 1))
for _item in _DIALLING.split():
    _code, _, _range = _item.partition(":")
    _least, _, _most = _range.partition("-")
    _PLANS[_code] = (int(_least), int(_most))


def _groups(text: str) -> list[str]:
    return _DIGITS.findall(text)


def international(text: str) -> bool:
    """`+` or `00`, an assigned country code, and as many digits as that country's numbers have."""
    groups = _groups(text.replace("(0)", " "))
    if text.count(".") == 1 and len(groups) == 2:  # a signed decimal
        return False
    digits = "".join(groups)
    if not text.startswith("+"):
        digits = digits.removeprefix("00")
    for length in (1, 2, 3):
        plan = _PLANS.get(digits[:length])
        if plan is None:
            continue
        national = digits[length:]
        if digits[0] == "1" and not north_american(national):
            return False
        return plan[0] <= len(national) <= plan[1] and len(set(national)) > 1
    return False


def north_american(text: str) -> bool:
    """Ten digits of the North American plan, a leading 1 aside.

    Area code and exchange begin with 2 to 9 and neither is a service code (N11); area codes
    beginning 37 or 96 or with a 9 in the middle are kept for later use.
    """
    digits = "".join(_groups(text))
    if len(digits) == 11:
        digits = digits.removeprefix("1")
    if len(digits) != 10:
        return False
    area, exchange = digits[:3], digits[3:6]
    return not (
        area[0] in "01"
        or exchange[0] in "01"
        or area[1:] == "11"
        or exchange[1:] == "11"
        or area[:2] in ("37", "96")
        or area[1] == "9"
        or len(set(digits[3:])) == 1
    )


def trunk(text: str) -> bool:
    """A national number that begins with the trunk prefix 0, as in Germany, Britain, China, Japan.

    French numbers are five pairs; of the others, a two-digit area is in parentheses or followed by
    the hyphenated 4-4 of Japan and Shanghai, and 10 to 12 digits are needed (9 where the area is
    set off by parentheses or a slash).
    """
    groups = _groups(text)
    count = sum(map(len, groups))
    if [len(group) for group in groups] == [2] * 5:
        numbers = [int(group) for group in groups]
        return any(b - a != 1 for a, b in itertools.pairwise(numbers))
    if "." in text or len(set("".join(groups[1:]))) < 2:
        return False
    marked = text[0] in "(（" or "/" in text
    rest = [len(group) for group in groups[1:]]
    if (len(groups[0]) == 6 and count > 11) or (len(rest) == 3 and {*map(len, groups)} == {3}):
        return False
    if len(rest) == 2 and text.count("-") == 2 and rest[1] != 4 and rest != [3, 3]:
        return False  # East Asia: 03-1234-5678, 0120-123-456
    if rest in ([2, 2, 2], [3, 2, 2]) and len(groups[0]) < 4:  # Sweden: 08-123 45 67
        return count >= 9 and "-" in text
    if not (9 if marked else 10) <= count <= 12:
        return False
    if len(groups[0]) == 2 and not marked:
        return "-" in text and " " not in text and (rest == [4, 4] or rest == [8])
    return max(rest) >= 3


def french(text: str) -> bool:
    """Ten digits: 0, an area of 1 to 9, eight more, not all alike."""
    digits = "".join(_groups(text))
    return len(digits) == 10 and digits[0] == "0" and digits[1] != "0" and len(set(digits[2:])) > 1


def varied(text: str) -> bool:
    """More than three different digits: no filler such as 13333333333 or 99999 99999."""
    return len(set("".join(_groups(text)))) > 3


def named(text: str) -> bool:
    """Eight to thirteen digits after a word for telephone, in groups; neither date nor range."""
    groups = _groups(text)
    digits = "".join(groups)
    if "." in text and ("-" in text or (len(groups[0]) < 3 and {*map(len, groups[1:])} == {3})):
        return False  # decimals, thousands
    return (
        8 <= len(digits) <= 13
        and len(set(digits)) > 2
        and sum(len(group) == 1 for group in groups[1:]) < 2
        and not _NEITHER.fullmatch(text)
    )


def mentioned(text: str) -> bool:
    """The same after a verb such as call: nine digits or more, not a count in thousands."""
    sizes = [len(group) for group in _groups(text)]
    thousands = text[0] not in "0(" and len(sizes) > 1 and set(sizes[1:]) == {3}
    return sum(sizes) >= 9 and named(text) and not thousands


# dates, ranges of years, addresses of the Internet
_NEITHER = re.compile(
    r"(?:19|20)\d\d.(?:\d\d.\d\d|(?:19|20)\d\d)|\d\d.\d\d.(?:19|20)\d\d|(?:19|20)\d{6}"
    r"|\d{4}[-\u2013]\d{4}|\d{1,3}(?:\.\d{1,3}){3}"
)
# between the name and the number: a few words, no end of a sentence; or one number before this one
_NEAR = r"(?:(?![a-z]{5}\. )[^\d\n>]){0,32}(?:>[ ,;/|]{1,4})?$"
_NOUNS = names(
    """
    tel!, telephone!, telefon!, telefonnummer, telefoon!, telefoonn, téléphone!, teléfono!,
    telefono!, tél!, telefone!, telp!, tfno, phone!, phone_n, phonenum, cellphone, fone!, ph!,
    mob!, mobile!, mobil!, mobiel!, móvil!, movil!, mobile_n, celular!, cell:, cell., cell phone,
    cell no, cellulare!, telemóvel, telemovel, fax!, telefax!, rufnummer, rückruf, whatsapp,
    zap!, hotline!, helpline!, landline!, toll-free, toll free, sms!, gsm:, gsm no, puhelin!,
    puh!, cep tel, cep no, τηλ, тел!, телефон!, телефона!, телефону!, телефоне!, телефоны!, моб!,
    мобильн, звон, позвон, факс!, هاتف, جوال, تليفون, موبايل, واتساب, تلفن, טלפון, נייד, 电话,
    電話, 手机, 手機, 座机, 固话, 热线, 熱線, 致电, 拨打, 来电, 传真, 微信, 携帯, 연락처, 전화,
    휴대, 핸드폰, 팩스, फ़ोन, मोबाइल, संपर्क, โทร, điện thoại, llámame, llámanos, llama al,
    llame al, appelez, joignable, chiamami, zadzwoń
    """,
    _NEAR,
)
_VERBS = names(
    """
    call, dial, text!, reach, contact, ring!, bel!, handy!, portable!, ligue!, 联系, 聯繫, 連絡
    """,
    _NEAR,
)
_COMMON = """
    phone!, tel!, tél, telef, telephone!, mob!, mobile!, cell!, call!, dial!, fax!, whatsapp,
    sms!, text!, contact, handy!, rufnummer, appel, portable!, 电话, 電話, 手机, 手機, 联系,
    聯繫, 致电, 热线, 拨打, 携帯, 微信, फ़ोन, मोबाइल, संपर्क
    """
_WORDS, _WORDS_NEAR = names(_COMMON), names(_COMMON, _NEAR)
# a national number as anybody may write one
_ANY = (
    rf"(?:\(\d{{1,5}}\)|\d{{1,13}})"
    rf"(?:(?:[/.]|{SEP}){{1,3}}(?:\(\d{{1,4}}\)|\d{{1,12}})|(?<=\))\d{{2,12}}){{0,6}}"
)

PHONES: tuple[Pattern, ...] = (
    number(
        "phone",
        rf"(?<![\w.+*/^)%-])(?:\(?\+\d{{1,15}}|00[1-9]\d{{0,5}}(?={SEP}|[.(]))"
        rf"(?:(?:[ .\-/()]{{1,3}}|{SEP})\d{{1,12}}){{0,6}}"
        r"(?!\w|[-./]\w| ?[*^=])",
        international,
        8,
        trim=True,
    ),
    number(
        "phone",
        rf"{BEFORE}(?:1[-. ])?(?:\([2-9]\d\d\) ?[2-9]\d\d{SEP}|[2-9]\d\d([-.])[2-9]\d\d\1"
        rf"|[2-9]\d\d [2-9]\d\d-)\d{{4}}{AFTER_SET_OFF}",
        north_american,
        10,
    ),
    number(
        "phone",
        rf"{BEFORE}(?:1 )?[2-9]\d\d [2-9]\d\d \d{{4}}{AFTER}",
        north_american,
        10,
        context=_WORDS,
    ),
    number(
        "phone",
        rf"{BEFORE}(?:(?:\(|（)0[1-9]\d{{0,4}}(?:\)|）) ?|0[1-9]\d{{0,4}}(?: ?/ ?|{SEP}|\.))"
        rf"\d{{1,8}}(?:(?:{SEP}|\.)\d{{1,5}}){{0,4}}{AFTER}",
        trunk,
        9,
    ),
    number("phone", rf"{BEFORE}0\d{{9}}{AFTER}", french, 10, context=_WORDS_NEAR),
    number("phone", rf"{BEFORE}1[3-9]\d{SEP}\d{{4}}{SEP}\d{{4}}{AFTER}", varied, 11),
    # service numbers of China; Russia; Brazil
    number("phone", rf"{BEFORE}[48]00-\d{{3}}-\d{{4}}{AFTER}", varied, 10),
    number(
        "phone",
        rf"{BEFORE}(?:8[ -]?(?:\(\d{{3,5}}\) ?|9\d\d[ -])|\([3-9]\d\d\) ?)"
        rf"\d{{2,3}}[ -]\d\d[ -]\d\d{AFTER}",
        varied,
        10,
    ),
    number("phone", rf"{BEFORE}\([1-9][1-9]\) ?(?:9 ?)?\d{{4}}[ -]\d{{4}}{AFTER}", varied, 10),
    number(
        "phone",
        rf"{BEFORE}(?:1[3-9]\d{{9}}|01[5-7]\d{{8,9}}|07\d{{9}}|0[789]0\d{{8}}|0[1-9]\d{{9}}"
        rf"|0?[6-9]\d{{4}}[ -]?\d{{5}}){AFTER}",
        varied,
        10,
        context=_WORDS_NEAR,
    ),
    # before its name, as Chinese has it
    number(
        "phone",
        rf"{BEFORE}1[3-9]\d{{9}}(?= ?(?:\(|（)?(?:微信|电话|手机))",
        varied,
        11,
    ),
    number("phone", rf"{BEFORE}{_ANY}{AFTER_SET_OFF}", named, 8, context=_NOUNS, trim=True),
    number("phone", rf"{BEFORE}{_ANY}{AFTER_SET_OFF}", mentioned, 9, context=_VERBS, trim=True),
)
