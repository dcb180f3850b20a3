"""Compressed streams give every byte that can be decompressed, and say what is wrong behind it."""

from __future__ import annotations

import gzip
import io
import random
import zlib

import pytest
import zstandard

from trivium.data_pipeline.unpack import PIECE, Damaged, open_unpacked, unpacked

LINES = b"".join(b"%d: some words that repeat\n" % number for number in range(40_000))


def read(packed: bytes, name: str) -> tuple[bytes, str]:
    """What can be read, and what then is wrong."""
    found = list[bytes]()
    try:
        for piece in unpacked(io.BytesIO(packed), name):
            assert 0 < len(piece) <= PIECE
            found.append(piece)
    except Damaged as error:
        return b"".join(found), str(error)
    return b"".join(found), ""


def byte_by_byte(packed: bytes) -> bytes:
    """What zlib gives when it is fed so slowly that an error drops nothing."""
    member, found = zlib.decompressobj(31), list[bytes]()
    for at in range(len(packed)):
        try:
            found.append(member.decompress(packed[at : at + 1]))
        except zlib.error:
            break
    return b"".join(found)


@pytest.mark.parametrize(("name", "pack"), [("a.gz", gzip.compress), ("a.zst", zstandard.compress)])
def test_whole_streams(name, pack):
    assert read(pack(LINES), name) == (LINES, "")
    assert read(pack(LINES) + pack(b"") + pack(b"end"), name) == (LINES + b"end", "")
    assert read(b"", name) == (b"", "")
    assert read(pack(bytes(5 * PIECE)), name) == (bytes(5 * PIECE), "")
    with open_unpacked(io.BytesIO(pack(LINES)), name) as stream:
        assert b"".join(stream) == LINES


def test_padding_behind_a_member_is_nothing_and_garbage_is_damage():
    packed = gzip.compress(LINES)
    assert read(packed + bytes(600), "a.gz") == (LINES, "")
    found, problem = read(packed + b"garbage", "a.GZ")
    assert found == LINES
    assert "header" in problem


def test_a_cut_loses_nothing_that_is_there():
    packed = gzip.compress(LINES, mtime=0)
    for at in (5, 30, 1000, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        found, problem = read(packed[:at], "a.gz")
        assert found == zlib.decompressobj(31).decompress(packed[:at])
        assert "ends inside" in problem
    packed = zstandard.compress(LINES)
    found, problem = read(packed[:-20], "a.zst")
    assert LINES.startswith(found)
    assert len(found) > len(LINES) - (256 << 10)  # blocks hold 128 KiB
    assert "ends inside" in problem


def test_a_flipped_bit_loses_nothing_before_it():
    chance = random.Random(4)
    packed = gzip.compress(LINES, mtime=0)
    anywhere = [chance.randrange(20, len(packed)) for _ in range(10)]
    for place in (len(packed) - 1, len(packed) - 8, *anywhere):
        broken = bytearray(packed)
        broken[place] ^= 1 << chance.randrange(8)
        found, problem = read(bytes(broken), "a.gz")
        assert found == byte_by_byte(bytes(broken))
        assert problem
