"""What config.json says: files as published, what they leave out, and what is refused by name."""

from __future__ import annotations

import importlib.util
import json

import pytest

from trivium.data_pipeline.errors import InputError
from trivium.engine import hf
from trivium.engine.hf.families import FAMILIES

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'trivium[parity]'",
)

GEMMA2_2B = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 107],
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "initializer_range": 0.02,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.4",
    "use_cache": True,
    "vocab_size": 256000,
}
# the text part of the larger ones: global layers are stretched, local ones are not
GEMMA3 = {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_hidden_layers": 34,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rope_theta": 1000000,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "vocab_size": 262208,
}
OLMO2_1B = {
    "architectures": ["Olmo2ForCausalLM"],
    "model_type": "olmo2",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 16,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}
GLM45_AIR = {
    "architectures": ["Glm4MoeForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": [151329, 151336, 151338],
    "first_k_dense_replace": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 10944,
    "max_position_embeddings": 131072,
    "model_type": "glm4_moe",
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 96,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 46,
    "num_key_value_heads": 8,
    "num_nextn_predict_layers": 0,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.0,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_qk_norm": False,
    "vocab_size": 151552,
}
DEEPSEEK_V2 = {
    "model_type": "deepseek_v2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 250,
    "moe_intermediate_size": 32,
    "n_routed_experts": 16,
    "num_experts_per_tok": 6,
    "topk_method": "group_limited_greedy",
    "n_group": 8,
    "topk_group": 4,
}
DEEPSEEK_V3 = {key: value for key, value in DEEPSEEK_V2.items() if key != "topk_method"} | {
    "model_type": "deepseek_v3",
    "num_experts_per_tok": 8,
}


def read(folder, config):
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return hf.model_config(folder)


def test_gemma_2(tmp_path):
    model = read(tmp_path, GEMMA2_2B)
    assert model.tie_embeddings
    assert (model.attention_softcap, model.logit_softcap) == (50.0, 30.0)
    assert (model.attention_scale, model.embedding_scale) == (1 / 16, 48.0)
    assert model.window == 4096
    assert model.window_pattern == (True, False) * 13
    assert read(tmp_path, GEMMA2_2B | {"attn_logit_softcapping": None}).attention_softcap is None


def test_gemma_3(tmp_path):
    model = read(tmp_path, GEMMA3)
    rope = model.rope
    assert (rope.theta, rope.window_theta, rope.scaling, rope.factor) == (1e6, 1e4, "linear", 8)
    assert model.window_pattern == tuple(index % 6 != 5 for index in range(34))
    assert model.qk_norm
    assert model.attention_softcap is model.logit_softcap is None


def test_olmo_2(tmp_path):
    model = read(tmp_path, OLMO2_1B)
    assert (model.norm_placement, model.qk_norm_over) == ("post", "all")
    assert model.rope.theta == 500000


def test_glm_4_moe(tmp_path):
    model = read(tmp_path, GLM45_AIR)
    assert model.moe is not None
    assert model.moe.num_groups is None
    assert model.moe_pattern == (False,) + (True,) * 45
    assert (model.qkv_bias, model.qk_norm, model.rope.percent) == (True, False, 0.5)


def test_groups_of_experts(tmp_path):
    moe = read(tmp_path, DEEPSEEK_V2).moe
    assert moe is not None
    assert (moe.num_groups, moe.groups_top_k) == (8, 4)
    moe = read(tmp_path, DEEPSEEK_V2 | {"topk_method": "greedy"}).moe
    assert moe is not None
    assert moe.num_groups is None


REFUSED = {
    "capped as another": (GEMMA2_2B, {"hidden_activation": "gelu"}, "hidden_activation"),
    "a layer of another kind": (
        GEMMA2_2B,
        {"layer_types": ["chunked_attention"] * 26},
        "chunked_attention",
    ),
    "a rope with magnitude beside another": (
        GEMMA3,
        {"rope_scaling": {"factor": 8.0, "rope_type": "yarn"}},
        'rope_type="yarn"',
    ),
    "scaled local layers": (
        GEMMA3,
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            }
        },
        "rope_parameters.sliding_attention",
    ),
    "biased": (OLMO2_1B, {"attention_bias": True}, "attention_bias"),
    "weights that do not sum to 1": (GLM45_AIR, {"norm_topk_prob": False}, "norm_topk_prob"),
    "groups by their best two": (DEEPSEEK_V2, {"topk_group": 3}, "topk_group=3"),
    "groups by their best": (DEEPSEEK_V3, {"topk_group": 8}, "topk_group=8"),
    "another choice of experts": (DEEPSEEK_V2, {"topk_method": "noaux_tc"}, "topk_method"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_another_model_is_refused(tmp_path, case):
    base, changes, named = REFUSED[case]
    with pytest.raises(InputError) as caught:
        read(tmp_path, base | changes)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


# What `read` cannot do without; the library has a default for these as well.
SIZES = """
    num_hidden_layers num_attention_heads num_key_value_heads hidden_size intermediate_size
    vocab_size num_experts_per_tok n_routed_experts moe_intermediate_size num_local_experts
    n_shared_experts num_nextn_predict_layers
"""


@needs_transformers
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_file_leaves_out_is_what_transformers_takes(tmp_path, family):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    whole = CONFIG_MAPPING[family]().to_dict()
    if "num_nextn_predict_layers" in whole:
        whole["num_nextn_predict_layers"] = 0  # they are looked for in the files
    if whole.get("num_experts_per_tok", 1) is None:
        whole["num_experts_per_tok"] = 6
    short = {name: whole[name] for name in SIZES.split() if name in whole}
    assert read(tmp_path, short | {"model_type": family}) == read(tmp_path, whole)
