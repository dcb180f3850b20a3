"""National ids, country by country: how they are written, what checks them, what they are called.

Numbers whose shape or check is weak need one of their names shortly before.
"""

from __future__ import annotations

from . import pii_national_checks as checks
from . import pii_scan, pii_validators
from .pii_shapes import AFTER, AFTER_SET_OFF, BEFORE, Pattern, Valid, names, number, utf8

_NOT_INSIDE = r"(?<![\w+-])(?<!\w\.)"
_ALONE = r"(?!\w|[-.]\w)"


def _digits(expression: str, valid: Valid | None, least: int, words: str = "") -> Pattern:
    context = names(words) if words else None
    after = AFTER_SET_OFF if words else AFTER
    return number("national_id", f"{BEFORE}(?:{expression}){after}", valid, least, context=context)


def _lettered(expression: str, valid: Valid | None, words: str = "") -> Pattern:
    return Pattern(
        kind="national_id",
        anchor=pii_scan.CAPITALS,
        expression=utf8(f"{_NOT_INSIDE}(?:{expression}){_ALONE}"),
        valid=valid,
        context=names(words) if words else None,
    )


_EUROPE = (
    # Germany, Austria, Switzerland
    _digits(
        r"[1-9]\d([ /]?)\d{3}\1\d{3}\1\d{3}",
        checks.mod_11_10,
        11,
        "steuer, idnr, tin!, tax id, tax identification",
    ),
    _digits(r"\d{4} ?\d{6}", checks.austrian_number, 10, "svnr, sv-nr, sv-nummer, sozialvers"),
    _digits(r"756([. ]?)\d{4}\1\d{4}\1\d\d", checks.ean_13, 13),
    # France, Belgium, Netherlands
    number(
        "national_id",
        rf"{BEFORE}[12]([ .]?)\d\d\1\d\d\1(?:\d\d|2[AB])\1\d{{3}}\1\d{{3}}[ .]?\d\d{AFTER}",
        pii_validators.french_nir,
        14,
    ),
    _digits(r"\d\d\.\d\d\.\d\d[-.]\d{3}[-.]\d\d", checks.belgian_number, 11),
    _digits(
        r"\d{6}[ -]?\d{3}[ -]?\d\d",
        checks.belgian_number,
        11,
        "rijksregister, registre national, numéro national, niss!, insz!, nrn!, national number",
    ),
    _digits(
        r"\d{9}|\d{4}[. ]\d\d[. ]\d{3}|\d{3}[. ]\d{3}[. ]\d{3}",
        checks.dutch_bsn,
        9,
        "bsn, burgerservice, sofi",
    ),
    # Britain, Ireland
    _lettered(
        r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] \d\d \d\d \d\d [A-D]",
        checks.uk_nino,
    ),
    _lettered(
        r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]([ -]?)\d\d\1\d\d\1\d\d\1[A-D]",
        checks.uk_nino,
        "national insurance, nino!, ni no, ni num, ni:, nat ins, n.i.",
    ),
    _digits(r"\d{3}([ -]?)\d{3}\1\d{4}", checks.british_nhs, 10, "nhs!"),
    number(
        "national_id",
        rf"{_NOT_INSIDE}\d{{7}} ?[A-W][AHW]?{_ALONE}",
        checks.irish_pps,
        7,
        context=names("pps!, ppsn!, pps no, personal public service"),
    ),
    # Spain, Portugal, Italy, Greece
    *(
        number(
            "national_id",
            rf"{_NOT_INSIDE}(?:\d{{8}}|\d\d\.\d{{3}}\.\d{{3}}){gap}[A-HJ-NP-TV-Z](?!\w|[-.]\w)",
            pii_validators.spanish_id,
            8,
            context=context,
        )
        for gap, context in (("-?", None), (" ", names("dni!, nif!, d.n.i., documento")))
    ),
    _lettered(r"[XYZ][ -]?\d{7}[ -]?[A-HJ-NP-TV-Z]", pii_validators.spanish_id),
    _digits(r"[1-3]\d\d([ .]?)\d{3}\1\d{3}", checks.portuguese_nif, 9, "nif!, contribuinte"),
    _lettered(
        r"[A-Z]{3}([ -]?)[A-Z]{3}\1[0-9LMNP-V]{2}[ABCDEHLMPRST][0-9LMNP-V]{2}"
        r"\1[A-Z][0-9LMNP-V]{3}[A-Z]",
        pii_validators.codice_fiscale,
    ),
    _digits(r"\d{11}", checks.greek_amka, 11, "amka, αμκα"),
    # the north
    _digits(
        r"(?:19|20)?\d{6}[-+ ]?\d{4}",
        checks.swedish_pnr,
        10,
        "personn, person-n, pnr!, samordnings, swedish id",
    ),
    _digits(
        r"\d{6}[ -]?\d{5}",
        checks.norwegian_fnr,
        11,
        "fødsels, fnr!, personn, person-n, norwegian id, d-nummer",
    ),
    _digits(r"\d{6}[ -]?\d{4}", checks.day_month_year, 10, "cpr, personn, danish id"),
    number(
        "national_id",
        rf"{_NOT_INSIDE}\d{{6}}[-+]\d{{3}}[0-9A-FHJ-NPR-Y]{_ALONE}",
        checks.finnish_hetu,
        9,
    ),
    _digits(r"[1-8]\d{10}", checks.baltic_id, 11, "isikukood, asmens kod, personal code"),
    # the east
    _digits(r"\d{11}", pii_validators.polish_pesel, 11, "pesel"),
    _digits(r"\d{6}/\d{3,4}", checks.czech_rc, 9),
    _digits(r"\d{9,10}", checks.czech_rc, 9, "rodné č, rodne c, r.č., rč"),
    _digits(r"[1-8]\d{12}", checks.romanian_cnp, 13, "cnp!, cod numeric"),
    _digits(r"\d{10}", checks.bulgarian_egn, 10, "егн, egn!"),
    _digits(r"\d{11}", checks.mod_11_10, 11, "oib!"),
    _digits(r"\d{10}", checks.ukrainian_number, 10, "рнокпп, іпн, ідентифікаційн"),
    _digits(r"\d{3}-\d{3}-\d{3}[ -]\d\d", checks.russian_snils, 11),
    _digits(r"\d{3}([ -]?)\d{3}\1\d{3}[ -]?\d\d", checks.russian_snils, 11, "снилс, snils"),
    _digits(r"\d{12}", checks.russian_inn, 12, "инн, inn!"),
    _digits(r"[1-9]\d{10}", checks.turkish_tckn, 11, "kimlik, tckn, t.c."),
)

_ASIA_AND_AFRICA = (
    number(
        "national_id",
        r"(?<![\w+-])(?<!\w\.)[1-8]\d{5} ?\d{8} ?\d{3}[\dXx](?![\w]|\.\d)",
        pii_validators.chinese_resident_id,
        17,
    ),
    _lettered(
        r"[A-Z][1289]\d{8}",
        checks.taiwanese_id,
        "身分證, 身份證, 身分证, 身份证, 統一編號, taiwan id, national id, id no, id number",
    ),
    _lettered(r"[A-Z]{1,2}\d{6} ?\([0-9A]\)", checks.hong_kong_id),
    _lettered(
        r"[A-Z]{1,2}\d{6}[0-9A]", checks.hong_kong_id, "hkid, hong kong, 香港, 身份證, 身份证"
    ),
    _lettered(
        r"[STFGM]\d{7}[A-Z]",
        checks.singapore_nric,
        "nric, fin!, singapore, identity card, ic no, id no, id number",
    ),
    _digits(r"\d{6}-\d\d-\d{4}", checks.year_month_day, 12, "mykad, ic no, ic:, nric, pengenalan"),
    _digits(
        r"\d{4}([ -]?)\d{4}\1\d{4}",
        checks.japanese_number,
        12,
        "マイナンバー, 個人番号, my number, mynumber",
    ),
    _digits(r"\d{6} ?- ?[1-8]\d{6}", checks.korean_rrn, 13),
    _digits(r"\d{6}[1-8]\d{6}", checks.korean_rrn, 13, "주민, 외국인등록, rrn!, resident reg"),
    _digits(
        r"[2-9]\d{3}([ -]?)\d{4}\1\d{4}",
        pii_validators.indian_aadhaar,
        12,
        "aadhaar, aadhar, uid!, uidai, आधार",
    ),
    _lettered(
        r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]",
        None,
        "pan!, permanent account, income tax, पैन",
    ),
    _digits(r"\d-\d{4}-\d{5}-\d\d-\d", checks.thai_id, 13),
    _digits(r"[1-8]\d{12}", checks.thai_id, 13, "ประชาชน, thai id, national id"),
    _digits(r"\d{5}-\d{7}-\d", None, 13, "cnic, nadra, شناختی, id card, identity"),
    _digits(r"\d{9}", pii_validators.luhn, 9, "ת.ז, זהות, teudat, israeli id"),
    _digits(r"[12]\d{9}", pii_validators.luhn, 10, "هوية, الهوية, إقامة, iqama, saudi id"),
    _digits(
        r"\d{13}",
        checks.date_and_luhn,
        13,
        "south african, id no, id num, id nr, identity, identiteit, id:, rsa!",
    ),
)

_AMERICAS_AND_AUSTRALIA = (
    _digits(r"\d{3}([- ])\d\d\1\d{4}", pii_validators.us_ssn, 9),
    _digits(r"\d{9}", pii_validators.us_ssn, 9, "ssn!, social security, soc sec"),
    _digits(
        r"\d{3}([ -]?)\d{3}\1\d{3}",
        checks.canadian_sin,
        9,
        "sin:, sin no, sin num, sin #, sin (, social insurance, assurance sociale",
    ),
    _lettered(r"[A-Z][AEIOUX][A-Z]{2}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d", checks.mexican_curp),
    _digits(r"\d{3}\.\d{3}\.\d{3}-\d\d", pii_validators.brazilian_cpf, 11),
    _digits(r"\d{9}[- ]?\d\d", pii_validators.brazilian_cpf, 11, "cpf!, c.p.f."),
    number(
        "national_id",
        rf"{BEFORE}\d{{1,2}}(\.?)\d{{3}}\1\d{{3}}-[\dKk]{_ALONE}",
        checks.chilean_rut,
        8,
        context=names("rut!, run!, r.u.t., rol único, rol unico, cédula"),
    ),
    _digits(r"(?:2[03457]|3[034])-\d{8}-\d", checks.argentine_cuil, 11),
    _digits(r"\d{3}([ -]?)\d{3}\1\d{3}", checks.australian_tfn, 9, "tfn!, tax file"),
)

NATIONAL_IDS: tuple[Pattern, ...] = (*_EUROPE, *_ASIA_AND_AFRICA, *_AMERICAS_AND_AUSTRALIA)
