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

from trivium.data_pipeline.errors import InputError
from trivium.engine.agreement import everywhere
from trivium.engine.hf.decoder import tensors
from trivium.engine.hf.folder import family_of
from trivium.engine.hf.layout import Layout, Tensors
from trivium.engine.hf.safetensors_files import Folder
from trivium.engine.hf.shares import Share, shares
from trivium.engine.mesh import Mesh
from trivium.engine.schema import ModelConfig, RunConfig

# Of buffers that older versions of the library saved, and of layers that it never loads.
_DERIVED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


def load_weights(
    folder: Path, chunks: Sequence[Any], mesh: Mesh, config: RunConfig
) -> list[str]:
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
                    _fill(share, table[share.name], source)
        return sorted(missing)
    finally:
        source.close()


def check(source: Folder, table: Tensors, model: ModelConfig) -> set[str]:
    """Are all tensors there, in their shapes, and none that nobody asked for?

    Gives our names of MTP heads' tensors that are not. Raises InputError for anything else.
    """
    left = set(source.entries)
    missing = set()
    for name, layout in table.items():
        for theirs, shape in layout.sources().items():
            if theirs not in left and name.startswith("mtp."):
                missing.add(name)
                continue
            source.expect(theirs, shape)
            left.discard(theirs)
    left = {name for name in left if not _harmless(name, model, table)}
    if left:
        raise InputError(
            f"{source.path}: tensor {min(left)} has no place in the model that config.json "
            f"describes ({len(left)} such); the folder is of another model"
        )
    return missing


def _harmless(name: str, model: ModelConfig, table: Tensors) -> bool:
    """Buffers, a tied head written out, and what an MTP head shares with the trunk."""
    if name.endswith(_DERIVED):
        return True
    if model.tie_embeddings and name == "lm_head.weight":
        return True
    head = name.startswith(tuple(f"model.layers.{model.num_layers + i}." for i in range(8)))
    # the trunk's embedding and output layer once more; or heads that this model leaves out
    shared = name.endswith(("embed_tokens.weight", "shared_head.head.weight"))
    return head and (shared or model.mtp.num_heads == 0)


def _fill(share: Share, layout: Layout, source: Folder) -> None:
    """Write rows and columns of a share, zeros where ours alone has any."""
    data = share.data
    width = layout.their_columns
    shapes = layout.sources()
    for run in layout.within(share.row, share.row + data.shape[0]):
        target = data[run.offset : run.offset + run.rows]
        if run.source is None:
            target.zero_()
            continue
        entry = source.expect(run.source, shapes[run.source])
        for at, values in source.rows(entry, run.start, run.rows):
            part = target[at : at + values.shape[0]]
            if width is None:
                part.copy_(values)
                continue
            count = max(0, min(width - share.column, data.shape[1]))
            part[:, :count].copy_(values[:, share.column : share.column + count])
            part[:, count:].zero_()
