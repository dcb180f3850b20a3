"""Numbers as people read them."""

from __future__ import annotations

from trivium.engine.units import format_bytes, format_count, format_flops, format_seconds


def test_formats():
    assert [format_count(x) for x in (0.5, 42, 999, 999.7, 12_400, 1.31e6, 2e9)] == [
        "0.5", "42", "999", "1k", "12.4k", "1.31M", "2G",
    ]  # fmt: skip
    assert [format_bytes(x) for x in (512, 2**29, 1.3e9, 2**41)] == [
        "512 B", "512 MiB", "1.21 GiB", "2 TiB",
    ]  # fmt: skip
    assert [format_seconds(x) for x in (None, 0, 41.6, 725, 11220, 187200)] == [
        "-", "0:00", "0:42", "12:05", "3:07:00", "2 d 4 h",
    ]  # fmt: skip
    assert [format_flops(x) for x in (2e7, 35e9, 989.4e12, 7.9152e15)] == [
        "20 MFLOP/s", "35 GFLOP/s", "989.4 TFLOP/s", "7.915 PFLOP/s",
    ]  # fmt: skip
