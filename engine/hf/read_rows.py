"""Part of a tensor of ours, read from theirs as its `Layout` says."""

from __future__ import annotations

import torch

from trivium.engine.hf.layout import Layout
from trivium.engine.hf.safetensors_files import Folder


def fill(data: torch.Tensor, layout: Layout, row: int, column: int, source: Folder) -> None:
    """Write into `data` what stands from (row, column) on; zeros where ours alone has any.

    data: [rows, columns], or [rows] of a vector, in any dtype. Some rows are read at a time.
    """
    width, shapes = layout.their_columns, layout.sources()
    for run in layout.within(row, row + data.shape[0]):
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
            count = max(0, min(width - column, data.shape[1]))
            part[:, :count].copy_(values[:, column : column + count])
            part[:, count:].zero_()
