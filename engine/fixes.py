"""Corrections to megatron-core 0.16.1 that hold on every device.

Unlike `host.py`, nothing here has to do with the CPU: these are faults of megatron-core without
Transformer Engine or apex, most of which raise nothing and give wrong gradients. Each function
names the place, the fault and how it shows. What can be put right in a module of our own is put
right there (`model/`) and not here. `apply` asserts the version range that was tested.
"""

from __future__ import annotations

import importlib.util
import queue
import types
from typing import Any

import torch

TESTED = ((0, 16), (0, 20))  # megatron-core versions, [from, to)
_applied = False


def apply() -> None:
    """Correct megatron-core in this process. Idempotent; call after `host.install` on a CPU."""
    global _applied
    if _applied:
        return
    _check_version()
    _contiguous_reduction()
    _without_transformer_engine()
    _aux_loss_scale()
    _recomputed_bias()
    _adam()
    _weight_gradients()
    _rotary()
    _routing()
    _next_tokens()
    _checkpoint_writer()
    _applied = True


def _check_version() -> None:
    import megatron.core

    version = tuple(int(part) for part in megatron.core.__version__.split(".")[:2])
    if not TESTED[0] <= version < TESTED[1]:
        low, high = (".".join(map(str, bound)) for bound in TESTED)
        raise RuntimeError(
            f"megatron-core {megatron.core.__version__} is outside the tested range "
            f">={low},<{high}: install a version in that range"
        )


def _contiguous_reduction() -> None:
    """tensor_parallel/mappings.py `_reduce`: all-reduces a contiguous *copy* and returns the
    original, so a non-contiguous input comes back unreduced and TP ranks drift apart."""
    import megatron.core.tensor_parallel.mappings as mappings

    reduce = mappings._reduce
    mappings._reduce = lambda input_, group: reduce(input_.contiguous(), group)


def _without_transformer_engine() -> None:
    """Names that exist only with Transformer Engine but are used without it."""
    import megatron.core.transformer.moe.moe_utils as moe_utils
    import megatron.core.transformer.multi_latent_attention as mla

    if not hasattr(moe_utils, "te_general_gemm"):  # NameError in every router
        moe_utils.te_general_gemm = None
    if importlib.util.find_spec("transformer_engine") is None:  # isinstance() with a mock
        mla.HAVE_TE = False


def _aux_loss_scale() -> None:
    """moe/router.py: with a per-token loss the auxiliary losses are multiplied by the *local* token
    count, while the division afterwards is by the global one: they come out tp x cp too small."""
    from megatron.core.transformer.moe import router

    original = router.TopKRouter.attach_and_log_load_balancing_loss

    def attach(
        self: Any,
        activation: torch.Tensor,
        aux_loss_coeff: float,
        aux_loss: torch.Tensor,
        aux_loss_name: str,
        reduce_group: Any,
        reduce_group_has_dp: bool = False,
        valid_token_count: Any = None,
    ) -> torch.Tensor:
        if self.calculate_per_token_loss:
            local = activation.shape[0] if valid_token_count is None else valid_token_count
            valid_token_count = local * self.tp_cp_group.size()
        return original(
            self,
            activation,
            aux_loss_coeff,
            aux_loss,
            aux_loss_name,
            reduce_group,
            reduce_group_has_dp,
            valid_token_count,
        )

    router.TopKRouter.attach_and_log_load_balancing_loss = attach

    original_z = router.TopKRouter.apply_z_loss

    def apply_z_loss(self: Any, logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        weight = self.config.moe_z_loss_coeff
        if weight is None or not self.calculate_per_token_loss:
            return original_z(self, logits, *args, **kwargs)
        self.config.moe_z_loss_coeff = weight * self.tp_cp_group.size()
        try:
            return original_z(self, logits, *args, **kwargs)
        finally:
            self.config.moe_z_loss_coeff = weight

    router.TopKRouter.apply_z_loss = apply_z_loss


def _recomputed_bias() -> None:
    """tensor_parallel/random.py `CheckpointFunction`: the MLP returns its last bias, the parameter
    itself, to be added with the residual. What a checkpoint returns becomes its child, so the next
    backward pass recomputes without end (linear biases with selective recomputation)."""
    from megatron.core.tensor_parallel import random

    original = random.CheckpointFunction.forward

    def alias(output: Any) -> Any:
        return output.view_as(output) if isinstance(output, torch.nn.Parameter) else output

    def forward(ctx: Any, run_function: Any, distribute: bool, *args: Any) -> Any:
        outputs = original(ctx, run_function, distribute, *args)
        return tuple(map(alias, outputs)) if isinstance(outputs, tuple) else alias(outputs)

    random.CheckpointFunction.forward = staticmethod(forward)


def _adam() -> None:
    """optimizer/: torch's AdamW keeps one `step` tensor per parameter, lazily, which the sharded
    checkpoint can neither save before step 1 nor load; and no other takes a verdict that is still
    on the device. Ours has FusedAdam's interface."""
    import megatron.core.optimizer as optimizer
    import megatron.core.optimizer.distrib_optimizer as distributed

    from trivium.engine.adamw import FusedAdamW

    optimizer.Adam = distributed.Adam = FusedAdamW
    optimizer.USING_PYTORCH_OPTIMIZER = False
    distributed.HAVE_APEX_OR_TE = True


def _weight_gradients() -> None:
    """tensor_parallel/layers.py: apex's extension adds a weight's gradient to `main_grad` in the
    product; so does BLAS. Which layers use it is decided where they are wrapped (optimizer.py)."""
    import megatron.core.tensor_parallel.layers as layers

    from trivium.kernels.weight_gradient import accumulate

    layers.fused_weight_gradient_mlp_cuda = types.SimpleNamespace(
        wgrad_gemm_accum_fp32=accumulate, wgrad_gemm_accum_fp16=accumulate
    )
    layers._grad_accum_fusion_available = True


def _rotary() -> None:
    """models/common/embeddings: nine passes without Transformer Engine, and its slot is too narrow
    for what a fused kernel can do."""
    from trivium.engine.model import rotary

    rotary.install()


def _routing() -> None:
    """transformer/moe: routing and permutation have slots for fused kernels, empty without TE."""
    from trivium.engine.model import moe_hooks

    moe_hooks.install()


def _next_tokens() -> None:
    """transformer/multi_token_prediction.py: assumes that cp cuts each document, not the row."""
    from trivium.engine.model import context_parallel

    context_parallel.install()


def _checkpoint_writer() -> None:
    """dist_checkpointing/strategies/filesystem_async.py: forks a process for each file and waits
    for it without end, even if it has died. Here files are written where they are asked for."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    writer = filesystem_async.FileSystemWriterAsync

    def write(
        transforms: list[Any], use_msc: bool, rank: int, buckets: list[Any], results: Any
    ) -> None:
        del use_msc, rank
        written: dict[int, Any] | Exception = {}
        for index, bucket in enumerate(buckets):
            answer: queue.Queue[Any] = queue.Queue()
            counter: queue.Queue[Any] = queue.Queue()
            counter.put(index)
            try:
                writer.write_preloaded_data(transforms, index, bucket, answer, counter, True)
                _, outcome = answer.get_nowait()
            except Exception as error:
                outcome = error
            if isinstance(outcome, Exception):
                written = outcome
                break
            assert isinstance(written, dict)
            written[index] = outcome
        results.put(written)

    writer.write_preloaded_data_multiproc = staticmethod(write)
