"""Who fills the slots of a layer: Transformer Engine where it is, else our own modules.

Every backend gives the same checkpoint keys, so a run may change it when it resumes. Attention is
always ours: packed rows and context parallelism cut sequences in their own way.

Transformer Engine is written against its documented interface, through megatron-core's wrappers,
and tested with doubles that record how they are called (tests/engine/test_backend.py).
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP

from trivium.data_pipeline.errors import InputError
from trivium.engine.model.activation import GatedActivation
from trivium.engine.model.specs import TorchBackend
from trivium.engine.schema import KernelsConfig

_WRAPPERS = "megatron.core.extensions.transformer_engine"


class TransformerEngineBackend(TorchBackend):
    """Linear layers and norms of Transformer Engine: its FP8 and its overlap with tp.

    The norm stays a module of its own in front of its linear layer: fused, it would have another
    name in checkpoints.
    """

    def __init__(self, fp8: bool = False) -> None:
        self.wrappers = importlib.import_module(_WRAPPERS)
        self.fp8 = fp8

    def column_parallel_linear(self) -> type:
        return self.wrappers.TEColumnParallelLinear

    def row_parallel_linear(self) -> type:
        return self.wrappers.TERowParallelLinear

    def layer_norm(self, rms_norm: bool = False, for_qk: bool = False) -> type:
        # per head, rows are short: Transformer Engine's kernel is made for whole hidden states
        return super().layer_norm(rms_norm, for_qk) if for_qk else self.wrappers.TENorm

    def grouped_mlp_modules(
        self, moe_use_grouped_gemm: bool, moe_use_legacy_grouped_gemm: bool
    ) -> tuple[type, MLPSubmodules | None]:
        if not self.fp8:
            return super().grouped_mlp_modules(moe_use_grouped_gemm, moe_use_legacy_grouped_gemm)
        return SequentialMLP, MLPSubmodules(
            linear_fc1=self.wrappers.TEColumnParallelLinear,
            linear_fc2=self.wrappers.TERowParallelLinear,
            activation_func=GatedActivation,
        )


def choose_backend(settings: KernelsConfig) -> BackendSpecProvider:
    """The backend that `kernels.backend` names, or the best there is.

    Raises InputError where what is asked for is not installed.
    """
    installed = importlib.util.find_spec("transformer_engine") is not None
    wanted = settings.backend
    if wanted == "auto":
        on_cuda = torch.device(torch.cuda.current_device()).type == "cuda"
        wanted = "transformer_engine" if installed and on_cuda else "trivium"
    if wanted != "transformer_engine":
        if settings.fp8 != "none":
            raise InputError(
                f"kernels.fp8={settings.fp8}: is Transformer Engine's, which is "
                f"{'not chosen' if installed else 'not installed'} here; pip install trivium[te] "
                "and set kernels.backend=transformer_engine, or set kernels.fp8=none"
            )
        return TorchBackend()
    if not installed:
        raise InputError(
            "kernels.backend=transformer_engine: it is not installed; pip install trivium[te], or "
            "set kernels.backend=auto"
        )
    return TransformerEngineBackend(settings.fp8 != "none")


def start_overlap(rows: int, hidden_size: int, tp: int, fp8: bool) -> None:
    """Allocate the buffers through which Transformer Engine overlaps tp's exchange with products.

    rows: sequence length x micro-batch of one context-parallel rank. Call once, before the model
    is built. Collective over tp.
    """
    engine: Any = importlib.import_module("transformer_engine.pytorch")
    engine.initialize_ub(
        shape=[rows, hidden_size], tp_size=tp, use_fp8=fp8, bootstrap_backend="nccl"
    )
