"""The text of an answer as it grows: nothing is said that a stop string takes back."""

from __future__ import annotations

import itertools

import pytest

from tests.engine.generation.letters import Letters
from trivium.engine.generation.request import Request, Token
from trivium.engine.generation.sequence import begin


def ids(text):
    return [ord(letter) for letter in text]


class Plain(Letters):
    """Id i is the character with the code i."""

    def decode(self, ids):
        return "".join(map(chr, ids))


def write(text, sizes, **asked):
    """(pieces as they came, the writing) of an answer that would say `text`, `sizes` at a time."""
    given = {"prompt": (1,), "max_new_tokens": 100} | asked
    one = begin(0, Request(**given), 0, 0, Plain())
    pieces, rest = [], ids(text)
    for size in itertools.cycle(sizes):
        if not rest or one.finish:
            break
        now, rest = rest[:size], rest[size:]
        added = one.take([Token(id=id, logprob=0.0) for id in now])
        pieces.append("".join(token.text for token in added))
    return pieces, one


@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 3), (50,)], ids=str)
def test_text_ends_before_the_first_stop_string(sizes):
    text = "one, two, END and ENDLESS"
    pieces, one = write(text, sizes, stop=("ENDLESS", "END", "never"))
    assert "".join(pieces) == "one, two, "
    assert one.finish == "stop"


def test_what_may_become_a_stop_string_waits():
    pieces, one = write("abcabd", (1,), stop=("abd",))
    assert pieces == ["", "", "abc", "", "", ""]
    assert one.finish == "stop"


@pytest.mark.parametrize("sizes", [(1,), (4,)], ids=str)
def test_what_waited_is_said_where_the_answer_ends(sizes):
    pieces, one = write("so en", sizes, stop=("end",), max_new_tokens=5)
    assert "".join(pieces) == "so en"
    assert one.finish == "length"
    pieces, one = write("so en\x02", sizes, stop=("end",), stop_ids=frozenset({2}))
    assert "".join(pieces) + one.written.late == "so en"
    assert one.finish == "stop"
    assert one.answer == ids("so en")


def test_a_speculation_ends_where_one_token_at_a_time_would():
    alone = write("hello END more", (1,), stop=("END",))[1]
    at_once = write("hello END more", (14,), stop=("END",))[1]
    assert alone.answer == at_once.answer == ids("hello END")
    short = write("hello", (5,), max_new_tokens=3)[1]
    assert (short.answer, short.finish) == (ids("hel"), "length")
