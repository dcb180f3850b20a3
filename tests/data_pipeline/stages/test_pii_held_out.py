"""Personal data found in texts that the filters' author did not write: see `pii_held_out`.

Recall and precision on 400 sentences of each kind and as many traps (November 2026, seed 7; here
150, for time). At the first look, before a set had been used to mend anything:

- e-mail, cards, IBAN, IPv6, credentials, secrets: 1.00, 1.00 on `held_out` and on `third`
- IPv4 .99, 1.00 on both; national ids 1.00, 1.00 and .96, 1.00
- telephones .96, .88 on `held_out`; .91, .72 on `third`; .93, .88 on `fourth`, mended after each;
  1.00, .99 on `fifth`, after which nothing was mended
"""

import importlib
import random

import pytest

from tests.data_pipeline.stages import pii_held_out, pii_held_out_values
from trivium.data_pipeline.stages import pii_national_checks
from trivium.data_pipeline.stages.pii import Pii
from trivium.data_pipeline.stages.pii_patterns import KINDS
from trivium.data_pipeline.stages.stage import batch

KIND_OF = {
    "email": "email",
    "phone": "phone",
    "ipv4": "ip_address",
    "ipv6": "ip_address",
    "card": "credit_card",
    "iban": "iban",
    "national_id": "national_id",
    "credentials": "url_credentials",
    "secret": "secret_key",
}
TOKENS = {kind: f"<{kind.upper()}_>" for kind in KINDS}  # none that a text has of its own
STDNUM = """us_ssn:us.ssn fr_nir:fr.nir es_dni:es.dni es_nie:es.nie it_cf:it.codicefiscale
in_aadhaar:in_.aadhaar in_pan:in_.pan br_cpf:br.cpf nl_bsn:nl.bsn pl_pesel:pl.pesel kr_rrn:kr.rrn
tr_tckn:tr.tckimlik za_id:za.idnr de_tax:de.idnr jp_number:jp.in_ cl_rut:cl.rut ru_inn:ru.inn
be_nn:be.nn ca_sin:ca.sin mx_curp:mx.curp no_fnr:no.fodselsnummer ch_ahv:ch.ssn ro_cnp:ro.cnp
cz_rc:cz.rc pt_nif:pt.nif il_tz:il.idnr au_tfn:au.tfn bg_egn:bg.egn ee_ik:ee.ik th_id:th.pin
uk_nhs:gb.nhs ar_cuil:ar.cuit at_svnr:at.vnr ie_pps:ie.pps"""


@pytest.mark.parametrize("half", ["held_out", "third", "fourth", "fifth"])
def test_planted_values_are_found_and_traps_left(half):
    made = pii_held_out.Half(half)
    documents = made.documents(seed=7, lines_per_kind=150)
    redacted = Pii(tokens=TOKENS)(batch([d.text for d in documents])).documents
    failures: list[tuple[str, str, str]] = []
    scores = pii_held_out.score(
        documents,
        redacted.column("text").to_pylist(),
        {token: kind for kind, token in TOKENS.items()},
        KIND_OF,
        failures,
    )
    assert {kind for kind in scores if scores[kind].planted} == set(made.kinds)
    for kind in made.kinds:
        assert min(scores[kind].recall, scores[kind].precision) >= 0.95, (kind, failures[:20])


def test_score_counts_what_survives_and_what_is_taken_in_error():
    document = pii_held_out.join(
        [
            ("to a@b.cc", [pii_held_out.Planted(kind="email", start=3, stop=9)]),
            ("v 1.2.3.4 or c@d.ee", [pii_held_out.Planted(kind="email", start=13, stop=19)]),
        ],
        "\n",
    )
    assert [document.text[p.start : p.stop] for p in document.planted] == ["a@b.cc", "c@d.ee"]
    score = pii_held_out.score(
        [document],
        ["to <E>\nv <I> or c<E>"],
        {"<E>": "email", "<I>": "ip_address"},
        KIND_OF,
    )
    assert score["email"] == pii_held_out.Score(planted=2, found=1, replaced=2, right=2)
    assert score["ipv4"] == pii_held_out.Score(planted=0, found=0, replaced=1, right=0)
    assert score["email"].recall == 0.5


@pytest.mark.parametrize("pair", STDNUM.split())
def test_drawn_ids_are_valid(pair):
    pytest.importorskip("stdnum")
    name, module = pair.split(":")
    validate = importlib.import_module(f"stdnum.{module}").validate
    rng = random.Random(3)
    for _ in range(20):
        assert validate(pii_held_out_values.NATIONAL_IDS[name](rng))


CHECKS = """nl_bsn:dutch_bsn se_pnr:swedish_pnr kr_rrn:korean_rrn tr_tckn:turkish_tckn
za_id:date_and_luhn de_tax:mod_11_10 jp_number:japanese_number cl_rut:chilean_rut
ru_snils:russian_snils ru_inn:russian_inn be_nn:belgian_number ca_sin:canadian_sin
mx_curp:mexican_curp no_fnr:norwegian_fnr ch_ahv:ean_13 ro_cnp:romanian_cnp cz_rc:czech_rc
tw_id:taiwanese_id hk_id:hong_kong_id pt_nif:portuguese_nif au_tfn:australian_tfn
bg_egn:bulgarian_egn ee_ik:baltic_id th_id:thai_id uk_nhs:british_nhs ar_cuil:argentine_cuil
at_svnr:austrian_number"""


@pytest.mark.parametrize("pair", CHECKS.split())
def test_checks_take_valid_ids_and_no_other_last_digit(pair):
    name, check = pair.split(":")
    valid, rng = getattr(pii_national_checks, check), random.Random(4)
    for _ in range(50):
        number = pii_held_out_values.NATIONAL_IDS[name](rng)
        assert valid(number)
        if name not in ("kr_rrn", "at_svnr"):  # at random since 2020; the year of birth comes last
            last = "1" if number[-1] == "0" else "0"
            assert not valid(number[:-1] + last)
