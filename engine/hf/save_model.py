"""A model as a Hugging Face folder: every rank writes its own rows into the files.

Nothing is gathered, so memory does not grow with the model; the folder must be on a disk that all
ranks see, as checkpoints must.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trivium.data_pipeline.errors import InputError
from trivium.engine.agreement import everywhere, on_first
from trivium.engine.hf.safetensors_files import Writer
from trivium.engine.hf.save import Begun, Export, begin, finish, write
from trivium.engine.hf.shares import shares
from trivium.engine.mesh import Mesh
from trivium.engine.schema import Dtype, ModelConfig


def save(
    folder: Path,
    chunks: Sequence[Any],
    mesh: Mesh,
    model: ModelConfig,
    dtype: Dtype,
    export: Export,
) -> None:
    """Write `chunks` (unwrapped) as the folder. Collective; AgreedError leaves nothing behind.

    model: what is written, of which `chunks` may hold more (`exported`).
    """
    out = on_first(partial(begin, folder, model, dtype, export))
    try:
        everywhere(partial(_write_shares, out, chunks, mesh))
    except InputError:
        on_first(partial(shutil.rmtree, out.folder, ignore_errors=True))
        raise
    on_first(partial(finish, out))
    dist.barrier()


def _write_shares(out: Begun, chunks: Sequence[Any], mesh: Mesh) -> None:
    writer = Writer(out.placed)
    written: set[tuple[str, int, int]] = set()
    try:
        for share in shares(chunks, mesh):
            place = (share.name, share.row, share.column)
            if share.name not in out.table:  # an MTP head that is left out
                continue
            if share.main and place not in written:  # a tied weight is held twice
                written.add(place)
                write(writer, out.table[share.name], share.row, share.column, share.data)
        writer.close()
    except OSError as error:
        raise InputError(
            f"{out.final}: writing failed ({error.strerror}); free space and start again"
        ) from error
