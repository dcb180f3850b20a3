"""Logits of a tiny Llama equal Hugging Face's, weight for weight."""

from __future__ import annotations

import pytest
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


def llama(scaled):
    """Hugging Face's model, and the same as our configuration."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from trivium.engine.schema import ModelConfig, RopeConfig

    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if scaled:
        rope |= {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    theirs = LlamaConfig(
        **SIZES, num_key_value_heads=GROUPS, rms_norm_eps=1e-5, rope_parameters=rope
    )
    ours = ModelConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_query_groups=GROUPS,
        ffn_hidden_size=FFN,
        vocab_size=VOCAB,
        rope=RopeConfig(scaling="llama3", factor=8.0, original_max_position=16)
        if scaled
        else RopeConfig(),
    )
    return LlamaForCausalLM(theirs), ours


@needs_transformers
@pytest.mark.parametrize("scaled", [False, True], ids=["rope", "llama3 rope"])
@distributed(1, timeout=120.0)
def test_llama(scaled):
    torch.manual_seed(0)
    same_logits("llama", *llama(scaled))
