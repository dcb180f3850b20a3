"""A decoder layer that adds attention's output to the residual and normalises the sum in one pass.

megatron-core's layer does this in two steps with the sum written and read between them. Here the
step that adds (`self_attn_bda`) also normalises, and the step that normalises finds it done.
Modules, parameters and checkpoint keys are megatron-core's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.transformer.transformer_layer import TransformerLayer

from trivium.engine.model.norm import Norm

_WithBias = tuple[torch.Tensor, torch.Tensor | None]
_Add = Callable[[_WithBias, torch.Tensor, float], torch.Tensor]


class Layer(TransformerLayer):
    """`TransformerLayer`, with one pass for sum and norm where nothing comes between them.

    That is: our RMSNorm, no dropout, no bias on attention's output, and the norm's output is kept
    for backward (not recomputed or offloaded on its own). Elsewhere megatron-core's own steps run.
    """

    self_attn_bda: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._done: tuple[torch.Tensor, torch.Tensor] | None = None  # a sum and its norm
        norm = self.pre_mlp_layernorm
        if (
            self.self_attn_bda is get_bias_dropout_add
            and isinstance(norm, Norm)
            and norm.rms
            and self.hidden_dropout == 0
            and not self.recompute_pre_mlp_layernorm
            and not self.offload_attn_norm
            and not self.offload_mlp_norm
        ):
            self.self_attn_bda = self._get_add_and_norm

    def _get_add_and_norm(self, training: bool, fused: bool) -> _Add:
        """As megatron-core's `get_bias_dropout_add`: gives the function that adds."""

        def add(x_with_bias: _WithBias, residual: torch.Tensor, dropout: float) -> torch.Tensor:
            x, bias = x_with_bias
            if bias is not None or x.dtype != residual.dtype:
                only_add = get_bias_dropout_add(training, fused)
                return only_add(x_with_bias, residual, dropout)
            # called as a module, so that hooks which wait for its parameters run
            normed, total = self.pre_mlp_layernorm(x, residual)
            self._done = total, normed
            return total

        return add

    def _forward_pre_mlp_layernorm(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The norm of the sum, if that is what has just been made, else of `hidden_states`."""
        done, self._done = self._done, None
        if done is not None and done[0] is hidden_states:
            return done[1]
        return super()._forward_pre_mlp_layernorm(hidden_states)
