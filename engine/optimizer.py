"""megatron-core's optimizer for a run, and one step of it: clip, judge, update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.transformer import TransformerConfig

from trivium.engine.mesh import Mesh
from trivium.engine.model.megatron_config import DTYPES
from trivium.engine.schema import RunConfig


def wrap(chunks: Sequence[Any], config: RunConfig, mesh: Mesh) -> list[DistributedDataParallel]:
    """Give every chunk fp32 gradient buffers and data-parallel reduction."""
    parallel = config.parallel
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather and parallel.zero == 1,
        use_distributed_optimizer=parallel.zero == 1,
        bucket_size=None if not parallel.overlap_grad_reduce else 40_000_000,
    )
    return [
        DistributedDataParallel(
            config=chunk.config,
            ddp_config=ddp_config,
            module=chunk,
            disable_bucketing=index > 0,
            pg_collection=mesh.groups,
        )
        for index, chunk in enumerate(chunks)
    ]


def create_optimizer(
    chunks: Sequence[DistributedDataParallel], config: RunConfig, mesh: Mesh
) -> MegatronOptimizer:
    """AdamW over the wrapped chunks; hooks the schedule into reduction and loss scaling."""
    settings = config.optimizer
    fp16 = config.train.dtype == "fp16"
    optimizer = get_megatron_optimizer(
        MegatronOptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.beta1,
            adam_beta2=settings.beta2,
            adam_eps=settings.eps,
            clip_grad=settings.clip_grad,
            params_dtype=DTYPES[config.train.dtype],
            bf16=config.train.dtype == "bf16",
            fp16=fp16,
            loss_scale=config.train.loss_scale if fp16 else None,
            initial_loss_scale=2.0**16,
            use_distributed_optimizer=config.parallel.zero == 1,
            overlap_param_gather=config.parallel.overlap_param_gather,
        ),
        list(chunks),
        use_gloo_process_groups=False,
        pg_collection=mesh.groups,
    )
    megatron: TransformerConfig = chunks[0].config
    megatron.finalize_model_grads_func = finalize_model_grads
    megatron.grad_scale_func = optimizer.scale_loss if fp16 else None
    if config.parallel.overlap_grad_reduce:
        single = len(chunks) == 1
        megatron.no_sync_func = chunks[0].no_sync if single else [c.no_sync for c in chunks]
        starts = [chunk.start_grad_sync for chunk in chunks]
        megatron.grad_sync_func = starts[0] if single else starts
    return optimizer


@dataclass(frozen=True)
class Update:
    """What an optimizer step did."""

    applied: bool
    grad_norm: float  # before clipping; nan or inf where gradients are not finite
    loss_scale: float


def apply_update(
    optimizer: MegatronOptimizer, config: RunConfig, lr: float, finite_loss: bool
) -> Update:
    """Clip and update at rate `lr`, unless the loss or a gradient is not finite.

    A refused update leaves parameters and moments untouched. Every rank decides alike: norms and
    losses are global. Collective over the world.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = config.optimizer.weight_decay * group.get("wd_mult", 1.0)
    scale = float(optimizer.get_loss_scale())
    overflow = optimizer.prepare_grads()
    if overflow:
        return Update(False, math.inf, scale)
    norm = float(optimizer.get_grad_norm() or 0.0)
    if not (finite_loss and math.isfinite(norm)):
        return Update(False, norm, scale)
    if config.optimizer.clip_grad > 0:
        for part in getattr(optimizer, "chained_optimizers", [optimizer]):
            if not part.is_stub_optimizer:
                _scale_gradients(part, min(1.0, config.optimizer.clip_grad / (norm + 1e-6)))
    return Update(bool(optimizer.step_with_ready_grads()), norm, scale)


def _scale_gradients(optimizer: MegatronOptimizer, factor: float) -> None:
    """Multiply every gradient of the (fp32) parameters that `optimizer` updates, in place."""
    gradients = [p.grad for p in optimizer.get_parameters() if p.grad is not None]
    if factor < 1.0 and gradients:
        torch._foreach_mul_(gradients, factor)
