"""A decoder layer for a few cached rows, without what a training step needs around it.

On a CPU, megatron-core's way through a layer (hooks, contexts, choices for a dozen features) takes
as long as half of its products when there are eight rows. Here the same modules' weights go through
the same operations in the same order, one after the other. It is taken for grouped attention with
RMSNorm and without biases on its output; other layers, and CUDA, go through their own forward. The
tests compare both ways.

Shapes: T new tokens, G key/value groups, X query heads of each, Y of them with their key, D head
dim, R <= D the dims that rotate, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.mlp import MLP

from trivium.engine.model.activation import GatedActivation
from trivium.engine.model.attention import CoreAttention
from trivium.engine.model.cached_attention import CachedRows, Positions
from trivium.engine.model.layer import Layer
from trivium.engine.model.norm import Norm


def lean(layer: Any) -> Any:
    """The layer's forward for cached rows; None for a layer that needs its own."""
    attention: Any = getattr(layer, "self_attention", None)
    if type(layer) is not Layer or type(attention) is not SelfAttention:
        return None
    norms = layer.input_layernorm, layer.pre_mlp_layernorm
    rotates = not layer.config.rotary_interleaved and not hasattr(
        layer.config, "yarn_rotary_scaling_factor"
    )
    if not all(isinstance(norm, Norm) and norm.rms for norm in norms) or not rotates:
        return None
    if not isinstance(attention.core_attention, CoreAttention) or attention.q_layernorm is not None:
        per_head = isinstance(attention.q_layernorm, Norm) and attention.q_layernorm.rms
        if not per_head:
            return None
    weight = attention.linear_qkv.weight
    if weight is None or weight.is_cuda:
        return None
    return _forward(layer, attention)


def _forward(layer: Any, attention: Any) -> Any:
    own = type(layer).forward
    mlp = _gated(layer.mlp)

    def forward(*args: Any, **given: Any) -> Any:
        rows = given.get("packed_seq_params")
        if not isinstance(rows, CachedRows) or args:
            return own(layer, *args, **given)
        x_T1H = given["hidden_states"]
        angles = given["rotary_pos_emb"]
        if layer.window_rotary is not None:
            angles = layer.window_rotary(angles.shape[0], packed_seq=True)
        out, bias = _attend(attention, normed(layer.input_layernorm, x_T1H), rows, angles)
        x_T1H = x_T1H + _behind(layer.post_attention_layernorm, out, bias)
        out, bias = mlp(normed(layer.pre_mlp_layernorm, x_T1H))
        return x_T1H + _behind(layer.post_mlp_layernorm, out, bias), None

    return forward


def _attend(
    attention: Any, x_T1H: torch.Tensor, rows: CachedRows, angles: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    mixed, _ = attention.linear_qkv(x_T1H)
    tokens, groups = mixed.shape[0], attention.num_query_groups_per_partition
    heads_TGYD = mixed.view(tokens, groups, -1, attention.hidden_size_per_attention_head)
    count = heads_TGYD.shape[2] - 2  # query heads of a group, and behind them its key and value
    turning = heads_TGYD[:, :, : count + 1]
    if attention.q_layernorm is not None:
        q_TGXD, k_TG1D = turning.split((count, 1), 2)
        normal = normed(attention.q_layernorm, q_TGXD), normed(attention.k_layernorm, k_TG1D)
        turning = torch.cat(normal, 2)
    at = rows.cu_seqlens_q
    assert isinstance(at, Positions)
    turned_TGYD = turned(turning, *at.turns(angles))
    q_TGXD, k_TGD = turned_TGYD[:, :, :count], turned_TGYD[:, :, count]
    out = rows.attend(attention.core_attention, q_TGXD, k_TGD, heads_TGYD[:, :, -1])
    result: tuple[torch.Tensor, torch.Tensor | None] = attention.linear_proj(out.unsqueeze(1))
    return result


def turned(
    x_TGYD: torch.Tensor, cos_T11R: torch.Tensor, signed_sin_T11R: torch.Tensor
) -> torch.Tensor:
    """Pairs (i, i + R/2) of the first R dims by their angles; sin is negative in the first half."""
    width = cos_T11R.shape[-1]
    first = x_TGYD if width == x_TGYD.shape[-1] else x_TGYD[..., :width]
    a, b = first.chunk(2, -1)
    out = torch.cat((b, a), -1).mul_(signed_sin_T11R).addcmul_(first, cos_T11R)
    return out if first is x_TGYD else torch.cat((out, x_TGYD[..., width:]), -1)


def normed(norm: Norm, x: torch.Tensor) -> torch.Tensor:
    """RMSNorm of x by the module's gain, statistics in fp32."""
    gain = norm.weight.float() + 1 if norm.zero_centered else norm.weight.float()
    if x.dtype == torch.float32:
        return torch.rms_norm(x, norm.shape, gain, norm.eps)
    return torch.rms_norm(x.float(), norm.shape, gain, norm.eps).to(x.dtype)


def _behind(norm: Norm | None, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    x = x if bias is None else x + bias
    return x if norm is None else normed(norm, x)


def _gated(mlp: Any) -> Any:
    """A dense gated feed-forward in three steps, or the module itself."""
    act = getattr(mlp, "activation_func", None)
    if type(mlp) is not MLP or not isinstance(act, GatedActivation):
        return mlp
    gelu, tanh = act.kind == "gelu", "tanh" if act.approximate else "none"

    def forward(x_T1H: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        both, _ = mlp.linear_fc1(x_T1H)
        gate, value = both.chunk(2, -1)
        inner = F.gelu(gate, approximate=tanh) if gelu else F.silu(gate)
        result: tuple[torch.Tensor, torch.Tensor | None] = mlp.linear_fc2(inner.mul_(value))
        return result

    return forward if mlp.linear_fc1.bias is None else mlp
