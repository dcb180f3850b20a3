"""Weights of a Hugging Face folder into this rank's part of a model, slices only.

A rank reads what it holds and nothing else, some rows at a time: beside the model itself, memory
does not grow with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trivium.engine.agreement import everywhere
from trivium.engine.hf.complete import check
from trivium.engine.hf.decoder import tensors
from trivium.engine.hf.folder import family_of
from trivium.engine.hf.read_rows import fill
from trivium.engine.hf.safetensors_files import Folder
from trivium.engine.hf.shares import shares
from trivium.engine.mesh import Mesh
from trivium.engine.schema import ModelConfig, RunConfig


def load_weights(folder: Path, chunks: Sequence[Any], mesh: Mesh, config: RunConfig) -> list[str]:
    """Fill `chunks` (unwrapped) from `folder`; gives our names of tensors that it does not hold.

    Those can only be MTP heads, which keep their initial weights. Collective. Raises AgreedError,
    on every rank, where the folder does not fit the model or is damaged.
    """
    return everywhere(partial(_load, folder, chunks, mesh, config.model))


def _load(folder: Path, chunks: Sequence[Any], mesh: Mesh, model: ModelConfig) -> list[str]:
    source = Folder(folder)
    try:
        table = tensors(model, family_of(folder).names)
        missing = check(source, table, model)
        with torch.no_grad():
            for share in shares(chunks, mesh):
                if share.name not in missing:
                    fill(share.data, table[share.name], share.row, share.column, source)
        return sorted(missing)
    finally:
        source.close()
