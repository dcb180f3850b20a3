"""A decoder layer with norms where a model wants them, and sum and norm in one pass.

megatron-core's layer normalises before attention and feed-forward only. Here each of their outputs
may be normalised too, before it is added (`Variations.norm_placement`). Where the norm before the
feed-forward is ours, the step that adds (`self_attn_bda`) also normalises, and the step that
normalises finds it done. Modules, parameters and checkpoint keys are otherwise megatron-core's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.common.embeddings import RotaryEmbedding
from megatron.core.transformer.transformer_layer import TransformerLayer

from trivium.engine.model.norm import Norm
from trivium.engine.model.variations import variations

_WithBias = tuple[torch.Tensor, torch.Tensor | None]
_Add = Callable[[_WithBias, torch.Tensor, float], torch.Tensor]


class Layer(TransformerLayer):
    """`TransformerLayer`, with norms behind attention and feed-forward where the model has them.

    One pass does sum and norm where nothing comes between them. That is: our RMSNorm, no dropout,
    no bias on attention's output, and the norm's output is kept for backward (not recomputed or
    offloaded on its own). Elsewhere megatron-core's own steps run.
    """

    self_attn_bda: Any
    mlp_bda: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._done: tuple[torch.Tensor, torch.Tensor] | None = None  # a sum and its norm
        special = variations(self.config)
        self.post_attention_layernorm = self.post_mlp_layernorm = None
        if special.norm_placement != "pre":
            hidden, eps = self.config.hidden_size, self.config.layernorm_epsilon
            self.post_attention_layernorm = Norm(self.config, hidden, eps)
            self.post_mlp_layernorm = Norm(self.config, hidden, eps)
        norm = self.pre_mlp_layernorm
        self._fuses = (
            self.self_attn_bda is get_bias_dropout_add
            and isinstance(norm, Norm)
            and norm.rms
            and self.hidden_dropout == 0
            and not self.recompute_pre_mlp_layernorm
            and not self.offload_attn_norm
            and not self.offload_mlp_norm
        )
        if self._fuses or self.post_attention_layernorm is not None:
            self.self_attn_bda = self._get_attention_add
        if self.post_mlp_layernorm is not None:
            self.mlp_bda = self._get_mlp_add
        self.window_rotary: RotaryEmbedding | None = None
        if special.window_theta is not None and special.has_window(self.layer_number):
            self.window_rotary = RotaryEmbedding(
                self.config.kv_channels,
                rotary_percent=special.rotary_percent,
                rotary_interleaved=self.config.rotary_interleaved,
                rotary_base=special.window_theta,
                cp_group=self.pg_collection.cp,
            )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent; a layer with a window may have its own angles."""
        angles = kwargs.get("rotary_pos_emb")
        if self.window_rotary is not None and angles is not None:
            packed = kwargs.get("packed_seq_params") is not None
            length = angles.shape[0] * (1 if packed else self.config.context_parallel_size)
            kwargs["rotary_pos_emb"] = self.window_rotary(length, packed_seq=packed)
        return super().forward(*args, **kwargs)

    def _get_attention_add(self, training: bool, fused: bool) -> _Add:
        """As megatron-core's `get_bias_dropout_add`: gives the function that adds."""
        only_add = get_bias_dropout_add(training, fused)

        def add(x_with_bias: _WithBias, residual: torch.Tensor, dropout: float) -> torch.Tensor:
            x, bias = _normed(self.post_attention_layernorm, x_with_bias)
            if not self._fuses or bias is not None or x.dtype != residual.dtype:
                return only_add((x, bias), residual, dropout)
            # called as a module, so that hooks which wait for its parameters run
            normed, total = self.pre_mlp_layernorm(x, residual)
            self._done = total, normed
            return total

        return add

    def _get_mlp_add(self, training: bool, fused: bool) -> _Add:
        """The same behind the feed-forward."""
        only_add = get_bias_dropout_add(training, fused)

        def add(x_with_bias: _WithBias, residual: torch.Tensor, dropout: float) -> torch.Tensor:
            return only_add(_normed(self.post_mlp_layernorm, x_with_bias), residual, dropout)

        return add

    def _forward_pre_mlp_layernorm(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The norm of the sum, if that is what has just been made, else of `hidden_states`."""
        done, self._done = self._done, None
        if done is not None and done[0] is hidden_states:
            return done[1]
        return super()._forward_pre_mlp_layernorm(hidden_states)


def _normed(norm: Norm | None, x_with_bias: _WithBias) -> _WithBias:
    """The output of attention or feed-forward, its bias added, behind `norm`."""
    if norm is None:
        return x_with_bias
    x, bias = x_with_bias
    return norm(x if bias is None else x + bias), None
