"""One pass of tokens through every stage of the model, without a schedule and without gradients.

Training has megatron-core's schedules, which keep stages busy with many micro-batches. To generate
and to score, what is wanted is the last stage's output for these tokens now.

Shapes: S tokens, B rows, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.packed_seq_params import PackedSeqParams

from trivium.engine.mesh import Mesh
from trivium.engine.model.gpt import Heads


def forward(
    chunks: Sequence[Any],
    mesh: Mesh,
    tokens_BS: torch.Tensor,
    positions_BS: torch.Tensor,
    rows: PackedSeqParams | None = None,
) -> Heads | None:
    """Pass tokens through this rank's `chunks` (unwrapped); the last stage gets the heads.

    rows: where documents, or cached sequences, begin in the one row that B is then. Every rank of a
    pipeline gives the same tokens. Sequence and context parallelism must be off. Collective over
    the ranks of a data-parallel replica, and over all that share its experts.
    """
    group, stages = mesh.groups.pp, mesh.layout.pp
    if stages == 1 and len(chunks) == 1:
        output = chunks[0](
            input_ids=tokens_BS,
            position_ids=positions_BS,
            attention_mask=None,
            packed_seq_params=rows,
        )
        return output
    ranks = dist.get_process_group_ranks(group)
    config = chunks[0].config
    shape = (tokens_BS.shape[1], tokens_BS.shape[0], config.hidden_size)
    output = None
    for index, chunk in enumerate(chunks):
        first = mesh.pp_rank == 0 and index == 0
        last = mesh.is_last_stage and index == len(chunks) - 1
        if not first:
            hidden_SBH = torch.empty(shape, dtype=config.pipeline_dtype, device=tokens_BS.device)
            dist.recv(hidden_SBH, src=ranks[(mesh.pp_rank - 1) % stages], group=group)
            chunk.set_input_tensor(hidden_SBH)
        output = chunk(
            input_ids=tokens_BS,
            position_ids=positions_BS,
            attention_mask=None,
            packed_seq_params=rows,
        )
        if not last:
            dist.send(output.contiguous(), dst=ranks[(mesh.pp_rank + 1) % stages], group=group)
    return output if isinstance(output, Heads) else None
