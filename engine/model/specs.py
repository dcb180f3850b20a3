"""Layers of a decoder as megatron-core specs, over a backend that says which module fills a slot.

One builder for every model: attention (grouped or latent), feed-forward (dense or MoE), MTP. A
backend provider answers with plain torch modules today; fused kernels and Transformer Engine are
other providers with the same checkpoint keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.models.gpt.gpt_layer_specs import get_mlp_module_spec_for_backend
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.multi_latent_attention import MLASelfAttentionSubmodules
from megatron.core.transformer.multi_token_prediction import (
    MultiTokenPredictionBlockSubmodules,
    get_mtp_layer_spec_for_backend,
)
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_layer import (
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)

from trivium.engine.model.activation import GatedActivation
from trivium.engine.model.attention import CoreAttention
from trivium.engine.model.experts import GroupedExperts
from trivium.engine.model.layer import Layer
from trivium.engine.model.mla import KVDownProjection, LatentAttention, ReplicatedLinear
from trivium.engine.model.mtp import PredictionHead
from trivium.engine.model.norm import HeadsNorm, Norm
from trivium.engine.model.variations import variations


class TorchBackend(BackendSpecProvider):
    """Every slot filled with plain torch and megatron-core modules; runs on any device."""

    def column_parallel_linear(self) -> type:
        return ColumnParallelLinear

    def row_parallel_linear(self) -> type:
        return RowParallelLinear

    def fuse_layernorm_and_linear(self) -> bool:
        return False

    def column_parallel_layer_norm_linear(self) -> type | None:
        return None

    def layer_norm(self, rms_norm: bool = False, for_qk: bool = False) -> type:
        del rms_norm, for_qk  # `Norm` reads the configuration
        return Norm

    def core_attention(self) -> type:
        return CoreAttention

    def grouped_mlp_modules(
        self, moe_use_grouped_gemm: bool, moe_use_legacy_grouped_gemm: bool
    ) -> tuple[type, MLPSubmodules | None]:
        del moe_use_grouped_gemm, moe_use_legacy_grouped_gemm
        return GroupedExperts, MLPSubmodules(
            linear_fc1=ColumnParallelLinear,
            linear_fc2=RowParallelLinear,
            activation_func=GatedActivation,
        )

    def activation_func(self) -> type | None:
        return GatedActivation


def layer_spec(config: TransformerConfig, backend: BackendSpecProvider, moe: bool) -> ModuleSpec:
    """One decoder layer: norm, attention, norm, feed-forward, each with its residual."""
    norm = backend.layer_norm(rms_norm=config.normalization == "RMSNorm")
    before = IdentityOp if variations(config).norm_placement == "post" else norm
    attention = _latent if config.multi_latent_attention else _grouped
    return ModuleSpec(
        module=Layer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=before,
            self_attention=attention(config, backend),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=before,
            mlp=get_mlp_module_spec_for_backend(
                backend,
                num_experts=config.num_moe_experts if moe else None,
                use_te_activation_func=config.use_te_activation_func,
            ),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def _grouped(config: TransformerConfig, backend: BackendSpecProvider) -> ModuleSpec:
    kind = variations(config).qk_norm_over
    q_norm = k_norm = backend.layer_norm(for_qk=True) if kind == "head" else None
    if kind == "all":
        tp = config.tensor_model_parallel_size
        q_norm = ModuleSpec(HeadsNorm, params={"heads": config.num_attention_heads // tp})
        k_norm = ModuleSpec(HeadsNorm, params={"heads": config.num_query_groups // tp})
    return ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=backend.column_parallel_linear(),
            core_attention=backend.core_attention(),
            linear_proj=backend.row_parallel_linear(),
            q_layernorm=q_norm,
            k_layernorm=k_norm,
        ),
    )


def _latent(config: TransformerConfig, backend: BackendSpecProvider) -> ModuleSpec:
    del config  # MLA's latents are always normalised
    return ModuleSpec(
        module=LatentAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=MLASelfAttentionSubmodules(
            linear_q_proj=backend.column_parallel_linear(),
            linear_q_down_proj=ReplicatedLinear,
            linear_q_up_proj=backend.column_parallel_linear(),
            linear_kv_down_proj=KVDownProjection,
            linear_kv_up_proj=backend.column_parallel_linear(),
            core_attention=backend.core_attention(),
            linear_proj=backend.row_parallel_linear(),
            q_layernorm=backend.layer_norm(),
            kv_layernorm=backend.layer_norm(),
        ),
    )


def block_spec(
    config: TransformerConfig,
    backend: BackendSpecProvider,
    pattern: Sequence[bool],
    vp_stage: int | None,
    pp_rank: int,
) -> TransformerBlockSubmodules:
    """The decoder layers of one pipeline chunk, and the norm after the last.

    pattern: for every layer of the whole decoder, whether it is MoE.
    """
    specs = {moe: layer_spec(config, backend, moe) for moe in set(pattern)}
    first = get_transformer_layer_offset(config, vp_stage=vp_stage, pp_rank=pp_rank)
    count = get_num_layers_to_build(config, vp_stage=vp_stage, pp_rank=pp_rank)
    layers = [specs[moe] for moe in pattern[first : first + count]]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=backend.layer_norm())


def mtp_spec(
    config: TransformerConfig, backend: BackendSpecProvider, moe: bool
) -> MultiTokenPredictionBlockSubmodules | None:
    """The MTP heads, all on the last pipeline chunk; each has a layer like the decoder's last."""
    if not config.mtp_num_layers:
        return None
    layer = layer_spec(config, backend, moe)
    head = replace(get_mtp_layer_spec_for_backend(layer, backend), module=PredictionHead)
    return MultiTokenPredictionBlockSubmodules(layer_specs=[head] * config.mtp_num_layers)
