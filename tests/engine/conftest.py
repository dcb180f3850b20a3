"""Folders of tiny models, built once for all tests that read them."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """name -> folder of a tiny model of every family."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed: pip install 'trivium[parity]'")
    from tests.engine.hf.tiny_models import MODELS, build

    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        build(name, root / name)
    return {name: str(root / name) for name in MODELS}
