"""A file of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_pipeline.readers.files import (
    make_every_kind,
)


@pytest.fixture
def every_kind(tmp_path: Path) -> dict[str, Path]:
    return make_every_kind(tmp_path)
