"""Logits of a tiny Llama equal Hugging Face's, weight for weight."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.distributed.pool import distributed

LAYERS, HIDDEN, HEADS, GROUPS, FFN, VOCAB, LENGTH = 2, 64, 4, 2, 96, 256, 24

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'trivium[parity]'",
)


def llama(scaled):
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if scaled:
        rope |= {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters=rope,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def ours(scaled):
    from trivium.engine.config import fill
    from trivium.engine.layout import ParallelLayout
    from trivium.engine.mesh import create_mesh
    from trivium.engine.model.gpt import build
    from trivium.engine.schema import DataConfig, ModelConfig, RopeConfig, RunConfig

    rope = RopeConfig()
    if scaled:
        rope = RopeConfig(scaling="llama3", factor=8.0, original_max_position=16)
    model = ModelConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_query_groups=GROUPS,
        ffn_hidden_size=FFN,
        vocab_size=VOCAB,
        rope=rope,
    )
    data = DataConfig(corpus=("python-docs",), sequence_length=LENGTH)
    config = fill(RunConfig(model=model, data=data))
    [chunk] = build(config, create_mesh(ParallelLayout(world_size=1), 1))
    return chunk


def copy(source, chunk):
    """Hugging Face's weights into ours: q, k, v interleave by group; gate and up are stacked."""
    state = source.state_dict()
    D = HIDDEN // HEADS

    def qkv(layer):
        parts = [state[f"{layer}.self_attn.{x}_proj.weight"] for x in "qkv"]
        q, k, v = (x.view(GROUPS, -1, D, HIDDEN) for x in parts)
        return torch.cat([q, k, v], dim=1).reshape(-1, HIDDEN)

    target = {
        "embedding.word_embeddings.weight": state["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": state["model.norm.weight"],
        "output_layer.weight": state["lm_head.weight"],
    }
    for index in range(LAYERS):
        theirs, mine = f"model.layers.{index}", f"decoder.layers.{index}"
        gate, up = (state[f"{theirs}.mlp.{x}_proj.weight"] for x in ("gate", "up"))
        target |= {
            f"{mine}.input_layernorm.weight": state[f"{theirs}.input_layernorm.weight"],
            f"{mine}.pre_mlp_layernorm.weight": state[f"{theirs}.post_attention_layernorm.weight"],
            f"{mine}.self_attention.linear_qkv.weight": qkv(theirs),
            f"{mine}.self_attention.linear_proj.weight": state[f"{theirs}.self_attn.o_proj.weight"],
            f"{mine}.mlp.linear_fc1.weight": torch.cat([gate, up]),
            f"{mine}.mlp.linear_fc2.weight": state[f"{theirs}.mlp.down_proj.weight"],
        }
    parameters = dict(chunk.named_parameters())
    assert parameters.keys() == target.keys()
    with torch.no_grad():
        for name, value in target.items():
            parameters[name].copy_(value)


@needs_transformers
@pytest.mark.parametrize("scaled", [False, True], ids=["rope", "llama3 rope"])
@distributed(1, timeout=120.0)
def test_llama(scaled):
    source, chunk = llama(scaled), ours(scaled)
    copy(source, chunk)
    tokens = torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(LENGTH).expand(2, -1)
    with torch.no_grad():
        heads = chunk(input_ids=tokens, position_ids=positions, attention_mask=None)
        torch.testing.assert_close(
            heads.logits().transpose(0, 1), source(tokens).logits, rtol=1e-4, atol=1e-5
        )
