"""Prints the parity table after the tests that measured it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.parity.table import Result

_results: list[Result] = []


@pytest.fixture(scope="session")
def parity_results() -> list[Result]:
    """What has been measured so far in this session."""
    return _results


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of relative differences from one rank."""
    if not _results:
        return
    from tests.parity.table import HEADER, row_of

    terminalreporter.section("layout parity: largest relative difference from one rank")
    rows = [HEADER, *map(row_of, _results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())
