"""A model of Hugging Face's and ours with its weights: for the tests that compare their logits."""

from __future__ import annotations

import importlib.util

import pytest
import torch

LAYERS, HIDDEN, HEADS, GROUPS, FFN, VOCAB, LENGTH = 2, 64, 4, 2, 96, 256, 24
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'trivium[parity]'",
)


def gated(state, name):
    return torch.cat([state[f"{name}.{part}_proj.weight"] for part in ("gate", "up")])


def attention(state, theirs, mine):
    """q, k and v interleaved by group, or the projections of latent attention."""
    theirs, mine = f"{theirs}.self_attn", f"{mine}.self_attention"
    yield f"{mine}.linear_proj.weight", state[f"{theirs}.o_proj.weight"]
    if f"{theirs}.k_proj.weight" in state:
        parts = [state[f"{theirs}.{x}_proj.weight"] for x in "qkv"]
        split = [x.view(GROUPS, -1, HIDDEN // HEADS, HIDDEN) for x in parts]
        yield f"{mine}.linear_qkv.weight", torch.cat(split, dim=1).reshape(-1, HIDDEN)
        return
    names = {
        "q_proj": "linear_q_proj",
        "q_a_proj": "linear_q_down_proj",
        "q_a_layernorm": "q_layernorm",
        "q_b_proj": "linear_q_up_proj",
        "kv_a_proj_with_mqa": "linear_kv_down_proj",
        "kv_a_layernorm": "kv_layernorm",
        "kv_b_proj": "linear_kv_up_proj",
    }
    for name, ours in names.items():
        if f"{theirs}.{name}.weight" in state:
            yield f"{mine}.{ours}.weight", state[f"{theirs}.{name}.weight"]


def feed_forward(state, theirs, mine):
    """Dense, or router, experts and shared expert."""
    theirs, mine = f"{theirs}.mlp", f"{mine}.mlp"
    if f"{theirs}.gate.weight" not in state:
        yield f"{mine}.linear_fc1.weight", gated(state, theirs)
        yield f"{mine}.linear_fc2.weight", state[f"{theirs}.down_proj.weight"]
        return
    yield f"{mine}.router.weight", state[f"{theirs}.gate.weight"]
    if f"{theirs}.gate.e_score_correction_bias" in state:
        yield f"{mine}.router.expert_bias", state[f"{theirs}.gate.e_score_correction_bias"]
    for expert in range(len(state[f"{theirs}.experts.gate_up_proj"])):
        experts = f"{mine}.experts.local_experts.{expert}"
        yield f"{experts}.linear_fc1.weight", state[f"{theirs}.experts.gate_up_proj"][expert]
        yield f"{experts}.linear_fc2.weight", state[f"{theirs}.experts.down_proj"][expert]
    if f"{theirs}.shared_experts.down_proj.weight" in state:
        shared = f"{mine}.shared_experts"
        yield f"{shared}.linear_fc1.weight", gated(state, f"{theirs}.shared_experts")
        yield f"{shared}.linear_fc2.weight", state[f"{theirs}.shared_experts.down_proj.weight"]


def weights(state):
    yield "embedding.word_embeddings.weight", state["model.embed_tokens.weight"]
    yield "decoder.final_layernorm.weight", state["model.norm.weight"]
    yield "output_layer.weight", state["lm_head.weight"]
    for layer in range(LAYERS):
        theirs, mine = f"model.layers.{layer}", f"decoder.layers.{layer}"
        yield f"{mine}.input_layernorm.weight", state[f"{theirs}.input_layernorm.weight"]
        norm = state[f"{theirs}.post_attention_layernorm.weight"]
        yield f"{mine}.pre_mlp_layernorm.weight", norm
        yield from attention(state, theirs, mine)
        yield from feed_forward(state, theirs, mine)


def built(model, state):
    """Our model on one rank, holding `state`."""
    from trivium.engine.config import fill
    from trivium.engine.layout import ParallelLayout
    from trivium.engine.mesh import create_mesh, destroy_mesh
    from trivium.engine.model.gpt import build
    from trivium.engine.schema import DataConfig, RunConfig

    data = DataConfig(corpus=("python-docs",), sequence_length=LENGTH)
    config = fill(RunConfig(model=model, data=data))
    destroy_mesh()
    [chunk] = build(config, create_mesh(ParallelLayout(world_size=1), 1))
    target = dict(chunk.named_parameters())
    target |= {name: b for name, b in chunk.named_buffers() if name.endswith("expert_bias")}
    source = dict(weights(state))
    assert source.keys() == target.keys(), source.keys() ^ target.keys()
    with torch.no_grad():
        for name, value in source.items():
            target[name].copy_(value)
    return chunk.eval()


def same_logits(name, source, model):
    """Whether both give the same logits of tokens drawn at random; `source` is Hugging Face's."""
    chunk = built(model, source.state_dict())
    tokens = torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(LENGTH).expand(2, -1)
    with torch.no_grad():
        ours = chunk(input_ids=tokens, position_ids=positions, attention_mask=None).logits()
        expected = source.eval()(tokens).logits
    error = (ours.transpose(0, 1) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5, f"{name}: logits differ by {error:.1e} of the largest"
