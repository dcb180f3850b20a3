"""megatron-core's optimizer for a run, and one step of it: norm, verdict, update.

The host reads nothing in between: whether an update happens is decided on the device, by the
gradient's norm and the loss, and learnt with the step's metrics. Only fp16 waits, for its scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
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
from trivium.kernels.multi_tensor import judge, squared_sum


def wrap(chunks: Sequence[Any], config: RunConfig, mesh: Mesh) -> list[DistributedDataParallel]:
    """Give every chunk fp32 gradient buffers and data-parallel reduction."""
    for chunk in chunks:
        _fuse_weight_gradients(chunk)
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


def _fuse_weight_gradients(chunk: Any) -> None:
    """Let linear layers add their weight gradients to main_grad inside the product.

    Not the output layer that shares the embedding's weight. What a fused product leaves in `.grad`
    is a placeholder; autograd adds the embedding's gradient to it, and DDP drops both, unless the
    placeholder is zeros and is added over the whole vocabulary: nothing is saved then.
    """
    shared = getattr(chunk, "share_embeddings_and_output_weights", False)
    tied = getattr(chunk, "output_layer", None) if shared else None
    for module in chunk.modules():
        if hasattr(module, "gradient_accumulation_fusion") and module is not tied:
            module.gradient_accumulation_fusion = True


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
    for part in parts_of(optimizer):
        _write_through(part)
    megatron: TransformerConfig = chunks[0].config
    megatron.finalize_model_grads_func = partial(_finalize, mesh)
    megatron.grad_scale_func = optimizer.scale_loss if fp16 else None
    if config.parallel.overlap_grad_reduce:
        single = len(chunks) == 1
        megatron.no_sync_func = chunks[0].no_sync if single else [c.no_sync for c in chunks]
        starts = [chunk.start_grad_sync for chunk in chunks]
        megatron.grad_sync_func = starts[0] if single else starts
    return optimizer


def parts_of(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """The optimizers behind a chain of them that hold parameters on this rank."""
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    return [part for part in parts if not part.is_stub_optimizer]


def _write_through(part: MegatronOptimizer) -> None:
    """Let the update itself write the model's bf16 or fp16 weights: no pass of copies after it."""
    if hasattr(part, "shard_float16_groups"):  # ZeRO-1: this rank's parts of the model's buffer
        low, main = part.shard_float16_groups, part.shard_fp32_from_float16_groups
    elif hasattr(part, "float16_groups"):
        low, main = part.float16_groups, part.fp32_from_float16_groups
    else:
        return  # fp32: the optimizer's parameters are the model's
    for low_group, main_group in zip(low, main, strict=True):
        for model, master in zip(low_group, main_group, strict=True):
            part.optimizer.copies[master] = model.detach()
    part._copy_main_params_to_model_params = lambda: None


def _finalize(mesh: Mesh, model: list[Any], num_tokens: Any = None, **options: Any) -> None:
    """megatron-core's reductions, then the division by the weight of the step.

    megatron-core's own asks on the host whether that weight is 0, and so waits for the device.
    """
    finalize_model_grads(model, None, **options)
    if num_tokens is None:
        return
    if mesh.layout.pp > 1:  # the last stage has counted
        last = dist.get_process_group_ranks(mesh.groups.pp)[-1]
        dist.broadcast(num_tokens, src=last, group=mesh.groups.pp)
    dist.all_reduce(num_tokens, group=mesh.groups.dp_cp)
    for chunk in model:
        chunk.scale_gradients(1.0 / num_tokens.clamp(min=1))


@dataclass(frozen=True)
class Launched:
    """An update on its way: `verdict` says, on the device, what comes of it.

    verdict: fp32 [3], the gradient's norm before clipping (not finite where gradients are not), the
    factor on it, and 1 where nothing was written. counted: the optimizer has counted the step.
    """

    verdict: torch.Tensor
    loss_scale: float
    counted: bool = True


@dataclass(frozen=True)
class Update:
    """What an optimizer step did."""

    applied: bool
    grad_norm: float  # before clipping; nan or inf where gradients are not finite
    loss_scale: float


def launch_update(
    optimizer: MegatronOptimizer, config: RunConfig, lr: float, loss: torch.Tensor | None = None
) -> Launched:
    """Clip and update at rate `lr`, unless `loss` (a number) or the gradient's norm is not finite.

    A refused update leaves parameters and moments untouched. Every rank decides alike: norms and
    losses are global. Read the verdict, then call `finish_update`. Collective over the world.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = config.optimizer.weight_decay * group.get("wd_mult", 1.0)
    scale = float(optimizer.get_loss_scale()) if config.train.dtype == "fp16" else 1.0
    if optimizer.prepare_grads():  # an overflow, in fp16 only
        device = torch.cuda.current_device()
        return Launched(torch.tensor([math.inf, 1.0, 1.0], device=device), scale, counted=False)
    verdict = judge(_squares(optimizer), loss, config.optimizer.clip_grad)
    for part in parts_of(optimizer):
        part.optimizer.verdict = verdict
    optimizer.step_with_ready_grads()
    for part in parts_of(optimizer):
        part.optimizer.verdict = None  # of this step only
    return Launched(verdict, scale)


def finish_update(
    optimizer: MegatronOptimizer, launched: Launched, grad_norm: float, refused: bool
) -> Update:
    """Settle an update whose verdict has been read."""
    if refused and launched.counted:
        for part in parts_of(optimizer):
            part.optimizer.take_back()
    return Update(not refused, grad_norm, launched.loss_scale)


def apply_update(
    optimizer: MegatronOptimizer, config: RunConfig, lr: float, loss: torch.Tensor | None = None
) -> Update:
    """`launch_update`, wait, `finish_update`: for callers that have nothing else to read."""
    launched = launch_update(optimizer, config, lr, loss)
    norm, _, refused = launched.verdict.tolist()
    return finish_update(optimizer, launched, norm, bool(refused))


def _squares(optimizer: MegatronOptimizer) -> torch.Tensor:
    """Sum of squares of the whole gradient, each element once. Collective over the world."""
    gradients: dict[Any, list[torch.Tensor]] = {}
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        mine = gradients.setdefault(part.get_grad_stats_parallel_group(), [])
        mine.extend(part.get_main_grads_for_grad_norm())
    total = torch.zeros((), dtype=torch.float64, device=torch.cuda.current_device())
    for group, tensors in gradients.items():
        squares = squared_sum(tensors, total.device)
        dist.all_reduce(squares, group=group)
        total += squares
    return total
