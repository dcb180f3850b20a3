"""Lines and array elements: cut apart as Python and orjson do, whatever the pieces."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.data_pipeline.records import Elements, lines

VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(st.sampled_from('a"\\[]{}, é\n'), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('"\\]k'), inner, max_size=2)
    ),
    max_leaves=8,
)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"bcd"]), max_size=20), st.integers(1, 9))
def test_lines(parts, size):
    data = b"".join(parts)
    found = list(lines(pieces(data, size), 5, 100))
    assert b"".join(data[cut.offset - 100 :][: cut.size] for cut in found) == data
    assert [cut.size for cut in found] == [
        len(line) for line in data.replace(b"\r", b"r").splitlines(True)
    ]
    for cut in found:
        whole = data[cut.offset - 100 :][: cut.size]
        assert cut.raw == (whole if cut.size <= 5 else None)


@given(st.lists(VALUES, max_size=5), st.integers(1, 30), st.sampled_from([b"", b" \n"]))
def test_elements(values, size, space):
    data = b"\xef\xbb\xbf" + space + orjson.dumps(values, option=orjson.OPT_INDENT_2) + b"\nrest"
    elements = Elements(pieces(data, size), 1 << 20)
    found = list(elements)
    assert [orjson.loads(cut.raw or b"") for cut in found] == values
    assert all(data[cut.offset :][: cut.size] == cut.raw for cut in found)
    assert not elements.open
    assert b"".join(elements.rest) == data[elements.offset :] == b"\nrest"


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_an_array_without_end_and_an_element_over_the_limit(size):
    long = b'{"a": "%s"}' % (b"x\\\\" * 50)
    data = b"[1, " + long + b', {"b": 2}, {"c"'
    elements = Elements(pieces(data, size), 20)
    assert [(cut.size, cut.raw) for cut in elements] == [
        (1, b"1"), (len(long) + 1, None), (9, b' {"b": 2}'), (5, b' {"c"'),
    ]  # fmt: skip
    assert elements.open
