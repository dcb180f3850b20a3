"""RunConfig -> megatron-core's TransformerConfig: the one place where their names meet ours."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_config import MLATransformerConfig

from trivium.engine.model import moe_hooks
from trivium.engine.model.variations import Variations
from trivium.engine.schema import ModelConfig, RunConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _squared_relu(x: torch.Tensor) -> torch.Tensor:
    """relu(x)^2 (Primer, arXiv 2109.08668)."""
    return F.relu(x).square()


def _leave(tensor: torch.Tensor) -> torch.Tensor:
    """An initialisation that does nothing."""
    return tensor


# name -> (activation, gated)
ACTIVATIONS = {
    "swiglu": (F.silu, True),
    "geglu": (F.gelu, True),
    "geglu_tanh": (F.gelu, True),  # megatron-core refuses others: `GatedActivation` approximates
    "silu": (F.silu, False),
    "gelu": (F.gelu, False),
    "relu": (F.relu, False),
    "relu2": (_squared_relu, False),
}


def transformer_config(config: RunConfig) -> TransformerConfig:
    """The megatron-core configuration of a resolved and checked run. Initial weights are not
    megatron's business here: `model.init` writes them."""
    fields = _model(config.model) | _parallel(config) | _training(config)
    model = config.model
    if model.moe is not None:
        fields |= _moe(model)
    if model.mla is not None:
        made: TransformerConfig = MLATransformerConfig(**fields | _mla(model))
    else:
        made = TransformerConfig(**fields)
        if model.rope.scaling == "yarn":
            _yarn(made, model)
    made.variations = Variations.of(model)
    return made


def _model(model: ModelConfig) -> dict[str, Any]:
    activation, gated = ACTIVATIONS[model.activation]
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.padded_heads,
        "num_query_groups": model.padded_groups,
        "kv_channels": model.head_dim,
        "ffn_hidden_size": model.ffn_hidden_size,
        "normalization": "RMSNorm" if model.normalization == "rmsnorm" else "LayerNorm",
        "layernorm_epsilon": model.norm_epsilon,
        "layernorm_zero_centered_gamma": model.norm_zero_centered,
        "activation_func": activation,
        "gated_linear_unit": gated,
        "bias_activation_fusion": False,
        "use_te_activation_func": gated,  # names the slot, not the library: `GatedActivation`
        "add_bias_linear": model.linear_bias,
        "add_qkv_bias": model.qkv_bias,
        # megatron-core sums the gradients of such norms over tp: right for a norm of each head
        "qk_layernorm": model.qk_norm and model.qk_norm_over == "head",
        "rotary_interleaved": model.rope.interleaved,
        "window_size": None if model.window is None else (model.window - 1, 0),
        "softmax_scale": model.attention_scale,
        "attention_dropout": model.attention_dropout,
        "hidden_dropout": model.hidden_dropout,
        "mtp_num_layers": model.mtp.num_heads or None,
        "mtp_loss_scaling_factor": model.mtp.loss_weight,
    }


def _parallel(config: RunConfig) -> dict[str, Any]:
    parallel = config.parallel
    interleaved = parallel.pp > 1 and parallel.vpp > 1
    return {
        "tensor_model_parallel_size": parallel.tp,
        "pipeline_model_parallel_size": parallel.pp,
        "virtual_pipeline_model_parallel_size": parallel.vpp if interleaved else None,
        "context_parallel_size": parallel.cp,
        "cp_comm_type": "p2p" if parallel.cp_kind == "ring" else "a2a",
        "expert_model_parallel_size": parallel.ep,
        "expert_tensor_parallel_size": parallel.etp,
        "sequence_parallel": bool(parallel.sp) and parallel.tp > 1,
        # batched exchange swaps activations and gradients at pp 2 with virtual stages
        "overlap_p2p_comm": interleaved,
        "tp_comm_overlap": parallel.tp_overlap,
        "batch_p2p_comm": not interleaved,
        # gloo's isend still reads the tensor when the schedule would free it
        "deallocate_pipeline_outputs": dist.get_backend() != "gloo",
    }


def _training(config: RunConfig) -> dict[str, Any]:
    dtype = DTYPES[config.train.dtype]
    modules = ["mlp"] + (["moe"] if config.model.moe is not None else [])
    recompute: dict[str, dict[str, Any]] = {
        "none": {},
        "selective": {"recompute_granularity": "selective", "recompute_modules": modules},
        "full": {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        },
    }
    fp8 = config.kernels.fp8
    return {
        "fp8": None if fp8 == "none" else fp8,
        "fp8_recipe": config.kernels.fp8_recipe,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": config.train.dtype == "bf16",
        "fp16": config.train.dtype == "fp16",
        # `model.init` writes the weights; megatron marks which are sharded only when it initialises
        "perform_initialization": True,
        "init_method": _leave,
        "output_layer_init_method": _leave,
        "embedding_init_method": _leave,
        "calculate_per_token_loss": True,
        "gradient_accumulation_fusion": False,
        "transformer_impl": "local",
        "bias_dropout_fusion": False,
        "async_tensor_model_parallel_allreduce": False,
        **recompute[config.train.recompute],
    }


def _moe(model: ModelConfig) -> dict[str, Any]:
    moe = model.moe
    assert moe is not None
    balancing = {"aux": "aux_loss", "sequence": "seq_aux_loss", "bias": "none", "none": "none"}
    weighted = moe.balance in ("aux", "sequence")
    return {
        "num_moe_experts": moe.num_experts,
        "moe_ffn_hidden_size": moe.ffn_hidden_size,
        "moe_layer_freq": moe.layers if isinstance(moe.layers, int) else list(moe.layers),
        "moe_shared_expert_intermediate_size": moe.shared_ffn_hidden_size,
        "moe_shared_expert_gate": moe.shared_gate,
        "moe_router_topk": moe.top_k,
        "moe_router_score_function": moe.score,
        "moe_router_pre_softmax": moe.pre_softmax,
        "moe_router_load_balancing_type": balancing[moe.balance],
        "moe_aux_loss_coeff": moe.aux_loss_weight if weighted else 0.0,
        "moe_router_enable_expert_bias": moe.balance == "bias",
        "moe_router_bias_update_rate": moe.bias_update_rate,
        "moe_z_loss_coeff": moe.z_loss_weight or None,
        "moe_router_num_groups": moe.num_groups,
        "moe_router_group_topk": moe.groups_top_k,
        "moe_router_topk_scaling_factor": moe.scaling_factor,
        "moe_router_dtype": "fp32",
        **moe_hooks.fusions(),
        "moe_token_dispatcher_type": moe.dispatcher,
    }


def _mla(model: ModelConfig) -> dict[str, Any]:
    mla, rope = model.mla, model.rope
    assert mla is not None
    return {
        "multi_latent_attention": True,
        "qk_layernorm": False,  # names per-head norms only; MLA normalises its latents always
        "q_lora_rank": mla.q_lora_rank,
        "kv_lora_rank": mla.kv_lora_rank,
        "qk_head_dim": mla.qk_nope_head_dim,
        "qk_pos_emb_head_dim": mla.qk_rope_head_dim,
        "v_head_dim": mla.v_head_dim,
        "rope_type": "yarn" if rope.scaling == "yarn" else "rope",
        "rotary_base": rope.theta,
        "rotary_percent": rope.percent,
        "rotary_scaling_factor": rope.factor,
        "original_max_position_embeddings": rope.original_max_position,
        "beta_fast": rope.beta_fast,
        "beta_slow": rope.beta_slow,
        "mscale": rope.mscale,
        "mscale_all_dim": rope.mscale_all_dim,
    }


def _yarn(made: TransformerConfig, model: ModelConfig) -> None:
    """Outside MLA, megatron-core reads YaRN from attributes that are not fields."""
    rope = model.rope
    made.yarn_rotary_scaling_factor = rope.factor
    made.yarn_original_max_position_embeddings = rope.original_max_position
    made.yarn_beta_fast = rope.beta_fast
    made.yarn_beta_slow = rope.beta_slow
    made.yarn_mscale = rope.mscale
    made.yarn_mscale_all_dim = rope.mscale_all_dim
    made.yarn_correction_range_round_to_int = True
