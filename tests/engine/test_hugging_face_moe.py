"""Logits of a tiny Mixtral and of tiny DeepSeek-V3s equal Hugging Face's, weight for weight."""

from __future__ import annotations

import torch

from tests.distributed.pool import distributed
from tests.engine.hugging_face_peer import (
    FFN,
    GROUPS,
    HEADS,
    HIDDEN,
    LAYERS,
    SIZES,
    VOCAB,
    needs_transformers,
    same_logits,
)

EXPERTS, EXPERT_FFN = 8, 32
RANK_Q, RANK_KV, NOPE, ROPE, VALUE = 24, 32, 16, 8, 16
YARN = {"factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.7, "mscale_all_dim": 0.9}


def mixtral():
    """Hugging Face's model, and the same as our configuration."""
    from transformers import MixtralConfig, MixtralForCausalLM

    from trivium.engine.schema import ModelConfig, MoEConfig

    theirs = MixtralConfig(
        **SIZES,
        rms_norm_eps=1e-6,
        num_key_value_heads=GROUPS,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    ours = ModelConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_query_groups=GROUPS,
        ffn_hidden_size=FFN,
        vocab_size=VOCAB,
        norm_epsilon=1e-6,
        moe=MoEConfig(num_experts=EXPERTS, top_k=2),
    )
    return MixtralForCausalLM(theirs), ours


def deepseek(yarn, compressed_queries):
    """Latent attention, a dense layer, sigmoid routing in groups with a bias, shared experts."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    from trivium.engine.schema import MLAConfig, ModelConfig, MoEConfig, RopeConfig

    rank = RANK_Q if compressed_queries else None
    rope = {"rope_type": "yarn", **YARN} if yarn else {"rope_type": "default"}
    theirs = DeepseekV3Config(
        **SIZES,
        rms_norm_eps=1e-6,
        num_key_value_heads=HEADS,
        moe_intermediate_size=EXPERT_FFN,
        n_shared_experts=2,
        n_routed_experts=EXPERTS,
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5,
        first_k_dense_replace=1,
        q_lora_rank=rank,
        kv_lora_rank=RANK_KV,
        qk_nope_head_dim=NOPE,
        qk_rope_head_dim=ROPE,
        v_head_dim=VALUE,
        rope_parameters=rope | {"rope_theta": 10000.0},
    )
    ours = ModelConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        ffn_hidden_size=FFN,
        vocab_size=VOCAB,
        norm_epsilon=1e-6,
        rope=RopeConfig(
            scaling="yarn",
            factor=YARN["factor"],
            original_max_position=YARN["original_max_position_embeddings"],
            mscale=YARN["mscale"],
            mscale_all_dim=YARN["mscale_all_dim"],
        )
        if yarn
        else RopeConfig(),
        mla=MLAConfig(
            q_lora_rank=rank,
            kv_lora_rank=RANK_KV,
            qk_nope_head_dim=NOPE,
            qk_rope_head_dim=ROPE,
            v_head_dim=VALUE,
        ),
        moe=MoEConfig(
            num_experts=EXPERTS,
            top_k=4,
            ffn_hidden_size=EXPERT_FFN,
            layers=(0, 1),
            shared_ffn_hidden_size=2 * EXPERT_FFN,
            score="sigmoid",
            balance="bias",
            num_groups=4,
            groups_top_k=2,
            scaling_factor=2.5,
        ),
    )
    return DeepseekV3ForCausalLM(theirs), ours


MODELS = {
    "mixtral": mixtral,
    "deepseek-v3": lambda: deepseek(yarn=False, compressed_queries=True),
    "deepseek-v3 yarn": lambda: deepseek(yarn=True, compressed_queries=True),
    "deepseek-v3 full queries": lambda: deepseek(yarn=False, compressed_queries=False),
}


@needs_transformers
@distributed(1, timeout=120.0)
def test_logits():
    # one rank for all: importing transformers takes longer than the rest
    for name, make in MODELS.items():
        torch.manual_seed(0)
        source, model = make()
        with torch.no_grad():
            for key, buffer in source.named_buffers():
                if key.endswith("e_score_correction_bias"):
                    buffer.normal_(std=0.1)
        same_logits(name, source, model)
