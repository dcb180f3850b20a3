"""Shared by all tests: the ranks of `tests.distributed.pool` end with the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed import pool


@pytest.fixture(scope="session", autouse=True)
def _nursery() -> Iterator[None]:
    """The process that ranks are forked from, started at its first use, ended here."""
    yield
    pool.close()
