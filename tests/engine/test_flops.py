"""FLOPs against counts by hand, and the table of peaks."""

from __future__ import annotations

import time

import pytest

from trivium.engine.config import fill_model
from trivium.engine.flops import (
    Utilization,
    keys_per_query,
    known_peak,
    measured_peak,
    training_flops_per_token,
)
from trivium.engine.schema import MLAConfig, ModelConfig, MoEConfig, MTPConfig

S = 128


def flops(convention="full", sequence_length=S, **settings) -> float:
    """In units of 6, FLOPs of a multiply-add in training."""
    model = fill_model(ModelConfig(vocab_size=1000, **settings), sequence_length)
    return training_flops_per_token(model, sequence_length, convention) / 6


def dense(layers=2, hidden=64, heads=4, groups=2, ffn=192, keys=float(S), vocab=1000) -> float:
    dim = hidden // heads
    projections = hidden * (heads + 2 * groups) * dim + heads * dim * hidden
    return layers * (projections + 3 * hidden * ffn + keys * 2 * hidden) + vocab * hidden


DENSE = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "ffn_hidden_size": 192,
}


@pytest.mark.parametrize(("convention", "keys"), [("full", S), ("causal", (S + 1) / 2)])
@pytest.mark.parametrize("tied", [False, True])
def test_dense_with_grouped_queries(convention, keys, tied):
    assert flops(convention, tie_embeddings=tied, **DENSE) == dense(keys=keys)


def test_plain_feed_forward_has_two_matrices():
    assert flops(activation="gelu", **DENSE) == dense() - 2 * 64 * 192


def test_biases_norms_and_learned_positions_are_free():
    extra = {"linear_bias": True, "normalization": "layernorm", "qk_norm": True}
    assert flops(position="learned", **extra, **DENSE) == dense()


def test_only_chosen_and_shared_experts_count():
    moe = MoEConfig(
        num_experts=8, top_k=2, ffn_hidden_size=32, layers=(0, 1), shared_ffn_hidden_size=48
    )
    experts = 3 * 64 * (2 * 32 + 48) + 8 * 64
    assert flops(moe=moe, **DENSE) == dense() - 3 * 64 * 192 + experts


def test_a_prediction_head_is_a_layer_a_projection_and_logits():
    head = dense(layers=3) - dense(layers=2) + 2 * 64 * 64 + 1000 * 64
    assert flops(mtp=MTPConfig(num_heads=2), **DENSE) == dense() + 2 * head


def test_latent_attention():
    mla = MLAConfig(
        q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=10
    )
    query = 64 * 24 + 24 * 4 * 12
    key_value = 64 * (16 + 4) + 16 * 4 * (8 + 10)
    layer = query + key_value + 4 * 10 * 64 + 3 * 64 * 192 + S * 4 * (12 + 10)
    assert flops(mla=mla, **DENSE) == 2 * layer + 1000 * 64


@pytest.mark.parametrize("window", [1, 3, 16, None])
def test_keys_per_query_by_counting(window):
    length = 16
    seen = [min(query + 1, window or length) for query in range(length)]
    assert keys_per_query(length, window, "causal") == pytest.approx(sum(seen) / length)
    assert keys_per_query(length, window, "full") == max(seen)


def test_only_layers_with_a_window_see_less():
    seen = flops("causal", window=16, window_layers=(0, 1), **DENSE)
    both = [flops("causal", window=window, **DENSE) for window in (16, None)]
    assert seen == sum(both) / 2


def test_a_large_model_agrees_with_six_times_its_parameters():
    """Llama-3 8B at 8192 tokens: 6 N for the matrices, of which attention adds a sixth or so."""
    llama = ModelConfig(
        num_layers=32,
        hidden_size=4096,
        num_attention_heads=32,
        num_query_groups=8,
        ffn_hidden_size=14336,
        vocab_size=128256,
    )
    filled = fill_model(llama, 8192)
    matrices = 6 * (8.03e9 - 128256 * 4096)
    attention = 6 * 32 * 2 * 4096 * 8192
    full = training_flops_per_token(filled, 8192, "full")
    assert full == pytest.approx(matrices + attention, rel=1e-3)
    causal = training_flops_per_token(filled, 8192, "causal")
    assert causal == pytest.approx(matrices + attention / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 66.9),
        ("NVIDIA H100 PCIe", 756, 51.2),
        ("NVIDIA H200", 989.4, 66.9),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA A10", 125, 31.2),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA GB200", 2500, 80),
        ("Tesla V100-SXM2-32GB", 125, 15.7),
        ("AMD Instinct MI300X", 1307.4, 163.4),
    ],
)
def test_known_peaks(name, half, single):
    assert known_peak(name, "bf16") == known_peak(name, "fp16") == pytest.approx(half * 1e12)
    assert known_peak(name, "fp32") == pytest.approx(single * 1e12)


@pytest.mark.parametrize("name", ["NVIDIA A10G", "CPU, 2 threads", "RTX 4090 Laptop GPU", ""])
def test_unknown_peaks_are_not_guessed(name):
    assert known_peak(name, "bf16") is None


def test_a_measured_peak_is_the_best_call():
    assert measured_peak(lambda: time.sleep(0.01), 1e6, seconds=0.05) == pytest.approx(1e8, rel=0.3)


def test_utilization_names_its_convention():
    use = Utilization(6e9, "causal", 8 * 989.4e12, "(8 x NVIDIA H100 80GB HBM3)")
    assert use.of(8 * 989.4e12 / 6e9 / 2) == pytest.approx(0.5)
    assert use.label == (
        "model FLOPs, causal attention; peak 7.915 PFLOP/s (8 x NVIDIA H100 80GB HBM3)"
    )
