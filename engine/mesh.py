"""The process groups of a layout, made by megatron-core and handed to it explicitly."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection

from trivium.engine.layout import ParallelLayout


@dataclass(frozen=True)
class Mesh:
    """A layout with its groups and this rank's place in it."""

    layout: ParallelLayout
    rank: int
    groups: ProcessGroupCollection

    @property
    def tp_rank(self) -> int:
        return self.groups.tp.rank()

    @property
    def pp_rank(self) -> int:
        return self.groups.pp.rank()

    @property
    def cp_rank(self) -> int:
        return self.groups.cp.rank()

    @property
    def dp_rank(self) -> int:
        return self.groups.dp.rank()

    @property
    def is_last_stage(self) -> bool:
        """Does this rank hold the end of the pipeline, where losses are?"""
        return self.pp_rank == self.layout.pp - 1


def create_mesh(layout: ParallelLayout, seed: int, timeout_minutes: float = 10.0) -> Mesh:
    """Create every process group of `layout`; `torch.distributed` must be initialised.

    Collective over the world. Seeds the random streams that dropout draws from: one for replicated
    and one for tensor-parallel regions, so that dropout does depend on the layout.
    """
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        context_parallel_size=layout.cp,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.etp,
        create_gloo_process_groups=dist.get_backend() != "gloo",
        distributed_timeout_minutes=max(1, round(timeout_minutes)),
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return Mesh(layout, dist.get_rank(), ProcessGroupCollection.use_mpu_process_groups())


def destroy_mesh() -> None:
    """Forget every group; the world itself stays."""
    parallel_state.destroy_model_parallel()
