"""Tiny models of every family with random weights, as transformers builds and saves them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

VOCAB, LENGTH, ROWS = 250, 24, 2
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "rms_norm_eps": 1e-5,
}
GROUPED = {"num_key_value_heads": 2}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LATENT = {
    "rms_norm_eps": 1e-6,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
GLM_MOE = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "num_nextn_predict_layers": 0,
    "head_dim": 16,
}
SIGMOID = {"num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}

# name -> (class of transformers, fields)
MODELS: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", GROUPED | {"rope_parameters": ROPE}),
    "llama tied llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama linear": (
        "Llama",
        GROUPED
        | {"head_dim": 24, "rope_parameters": ROPE | {"rope_type": "linear", "factor": 2.0}},
    ),
    "llama three groups": (
        "Llama",
        {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3},
    ),
    "mistral": ("Mistral", GROUPED | {"sliding_window": 7}),
    "qwen2": (
        "Qwen2",
        GROUPED
        | {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}
        | {"tie_word_embeddings": True},
    ),
    "qwen3 yarn": ("Qwen3", GROUPED | {"head_dim": 32, "rope_parameters": YARN}),
    "qwen3 moe": (
        "Qwen3Moe",
        GROUPED
        | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
        | {"norm_topk_prob": True},
    ),
    "qwen3 moe sparse": (
        "Qwen3Moe",
        GROUPED
        | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
        | {"mlp_only_layers": [1], "norm_topk_prob": False},
    ),
    "mixtral": ("Mixtral", GROUPED | {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "deepseek-v2": ("DeepseekV2", LATENT | {"num_experts_per_tok": 2, "q_lora_rank": None}),
    "deepseek-v2 groups": (
        "DeepseekV2",
        LATENT
        | {"num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.7}
        | {"topk_method": "group_limited_greedy"},
    ),
    "deepseek-v2 yarn": (
        "DeepseekV2",
        LATENT
        | {"num_experts_per_tok": 2, "q_lora_rank": None}
        | {"rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
    ),
    "deepseek-v3": ("DeepseekV3", LATENT | SIGMOID),
    "deepseek-v3 yarn": (
        "DeepseekV3",
        LATENT | SIGMOID | {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.9}},
    ),
    "glm": ("Glm", GROUPED | {"head_dim": 16}),
    "glm4": ("Glm4", GROUPED | {"head_dim": 16}),
    "glm4 moe": ("Glm4Moe", GROUPED | GLM_MOE | {"use_qk_norm": True, "attention_bias": True}),
    "olmo2": ("Olmo2", GROUPED),
    "gemma2": (
        "Gemma2",
        GROUPED | {"head_dim": 24, "query_pre_attn_scalar": 20, "sliding_window": 6},
    ),
    "gemma3": (
        "Gemma3Text",
        GROUPED | {"head_dim": 24, "query_pre_attn_scalar": 20, "sliding_window": 6},
    ),
}
MODELS["gemma3 linear"] = (
    "Gemma3Text",
    MODELS["gemma3"][1] | {"rope_parameters": {"rope_type": "linear", "factor": 4.0}},
)
EXPERTS = ("qwen3 moe", "qwen3 moe sparse", "mixtral", "deepseek-v2", "deepseek-v3", "glm4 moe")
CLASSES = {"Gemma3Text": "Gemma3ForCausalLM"}


def tokens():
    return torch.randint(VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))


def build(name, folder: Path):
    """Save the model into `folder`, with `expected.pt`: its logits [ROWS, LENGTH, VOCAB]."""
    import transformers

    kind, fields = MODELS[name]
    given = SIZES | fields
    if kind == "Gemma3Text":
        given["layer_types"] = ["sliding_attention"] * 3 + ["full_attention"]
        theta = {"full_attention": 50000.0, "sliding_attention": 10000.0}
        given["rope_parameters"] = {
            key: {"rope_type": "default", "rope_theta": value} for key, value in theta.items()
        }
        given["rope_parameters"]["full_attention"] |= fields.get("rope_parameters", {})
    config = getattr(transformers, f"{kind}Config")(
        **given, bos_token_id=1, eos_token_id=2, pad_token_id=None
    )
    torch.manual_seed(len(name))
    made = getattr(transformers, CLASSES.get(kind, f"{kind}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for key, value in [*made.named_parameters(), *made.named_buffers()]:
            if key.endswith(("norm.weight", "layernorm.weight", ".bias", "correction_bias")):
                value.add_(torch.randn_like(value) * 0.1)
        expected = made(tokens()).logits
    made.save_pretrained(folder)
    torch.save(expected, folder / "expected.pt")


def config_of(folder):
    return json.loads((Path(folder) / "config.json").read_text())


def opened(folder, parallel):
    """(chunks, mesh, config) on this rank."""
    import torch.distributed as dist

    from trivium.engine import hf
    from trivium.engine.config import fill
    from trivium.engine.hf.load import load_weights
    from trivium.engine.layout import ParallelLayout, check_layout
    from trivium.engine.mesh import create_mesh, destroy_mesh
    from trivium.engine.model.gpt import assemble
    from trivium.engine.schema import DataConfig, ParallelConfig, RunConfig

    destroy_mesh()
    path = Path(folder)
    config = RunConfig(model=hf.model_config(path), data=DataConfig(corpus=("x",)))
    config = replace(config, parallel=ParallelConfig(**parallel))
    config = fill(hf.fit_groups(config))
    check_layout(config, dist.get_world_size())
    config = replace(config, parallel=replace(config.parallel, sp=False))
    mesh = create_mesh(ParallelLayout.of(config.parallel, dist.get_world_size()), 1)
    chunks = assemble(config, mesh)
    with torch.no_grad():
        for chunk in chunks:  # what is not loaded shows
            for parameter in chunk.parameters():
                parameter.fill_(torch.nan)
    assert load_weights(path, chunks, mesh, config) == []
    for chunk in chunks:
        chunk.eval()
    return chunks, mesh, config
