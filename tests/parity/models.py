"""The tiny models that layouts are compared on: 4 layers, hidden size 64, 4 heads, 250 tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trivium.engine.schema import (
    DataConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
    MTPConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)

STEPS = 20
SEQUENCE = 32
GLOBAL_BATCH = 8

LATENT = MLAConfig(
    q_lora_rank=32, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16
)


# For its width, as large as 0.02 is at a width of 1600. With 0.02 the latents and the normalised
# queries of these models begin near 0, where normalising magnifies rounding a hundredfold.
INIT_STD = 0.1


def tiny(**fields: Any) -> ModelConfig:
    """A small dense decoder, with fields replaced."""
    sizes = {"num_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "ffn_hidden_size": 128}
    return ModelConfig(**sizes | {"vocab_size": 250, "init_std": INIT_STD} | fields)


MODELS = {
    "dense": tiny(num_query_groups=2, tie_embeddings=True, qk_norm=True, qkv_bias=True),
    "moe": tiny(
        moe=MoEConfig(
            num_experts=4, top_k=2, ffn_hidden_size=64, z_loss_weight=1e-3, aux_loss_weight=1e-2
        )
    ),
    "mtp": tiny(mtp=MTPConfig(num_heads=2, loss_weight=0.3)),
    "mla": tiny(mla=LATENT),
    # with a document mask: lines of text are documents, cut wherever a chunk of cp ends
    "packed": tiny(num_query_groups=2, mtp=MTPConfig(num_heads=1, loss_weight=0.3)),
    # DeepSeek-V3 in small: latent attention, a dense layer first, sigmoid routing in groups with
    # aux-loss-free balancing, a shared expert, one MTP head
    "deepseek": tiny(
        mla=LATENT,
        mtp=MTPConfig(num_heads=1, loss_weight=0.3),
        moe=MoEConfig(
            num_experts=8,
            top_k=2,
            ffn_hidden_size=32,
            shared_ffn_hidden_size=64,
            layers=(0, 1, 1, 1),
            score="sigmoid",
            balance="bias",
            num_groups=4,
            groups_top_k=2,
            scaling_factor=2.5,
        ),
    ),
}


# model -> fields of data
DATA: dict[str, dict[str, Any]] = {"packed": {"document_mask": True}}


def of_depth(model: ModelConfig, num_layers: int) -> ModelConfig:
    """`model` with another number of layers; those added are as its last."""
    moe = model.moe
    if moe is not None and not isinstance(moe.layers, int):
        pattern = (moe.layers + moe.layers[-1:] * num_layers)[:num_layers]
        moe = replace(moe, layers=pattern)
    return replace(model, num_layers=num_layers, moe=moe)


def run_of(model: ModelConfig, train: TrainConfig | None = None, **data: Any) -> RunConfig:
    """A 20-step run of `model`: AdamW at a peak rate of 1e-3, 5 steps of warm-up, cosine decay."""
    return RunConfig(
        model=model,
        train=train or TrainConfig(steps=STEPS, global_batch=GLOBAL_BATCH, micro_batch=1),
        data=DataConfig(corpus=("python-docs",), sequence_length=SEQUENCE, **data),
        optimizer=OptimizerConfig(lr=1e-3),
        schedule=ScheduleConfig(warmup_steps=5, min_lr=1e-4),
    )
