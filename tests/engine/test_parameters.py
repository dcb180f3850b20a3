"""Parameter counts and layouts against what `engine.model.build` and megatron-core really make.

A fake process group stands in for the world, so that one process builds any rank of any layout. It
runs in a process of its own, because the CPU adapter changes megatron-core for good.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from trivium.data_pipeline.config_tree import to_dict
from trivium.engine.config import resolve
from trivium.engine.layout import ParallelLayout
from trivium.engine.parameters import count, parameters_of_rank
from trivium.engine.schema import (
    DataConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
    MTPConfig,
    ParallelConfig,
    RunConfig,
)

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 200, "num_layers": 4}
MOE = MoEConfig(num_experts=4, ffn_hidden_size=48, shared_ffn_hidden_size=16, shared_gate=True)
MLA = MLAConfig(
    q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6
)

MODELS = {
    "plain": ModelConfig(**SMALL),
    "gqa, biases, tied": ModelConfig(
        **SMALL,
        num_query_groups=2,
        qkv_bias=True,
        linear_bias=True,
        qk_norm=True,
        tie_embeddings=True,
        normalization="layernorm",
        activation="gelu",
        position="learned",
    ),
    "norms behind, and over all heads": ModelConfig(
        **SMALL, num_query_groups=2, norm_placement="post", qk_norm=True, qk_norm_over="all"
    ),
    "sandwich, padded groups": ModelConfig(
        **SMALL, num_query_groups=1, group_multiple=2, norm_placement="sandwich", window=4
    ),
    "mqa": ModelConfig(**SMALL, num_query_groups=1, qkv_bias=True, head_dim=16),
    "moe and mtp": ModelConfig(
        **SMALL,
        moe=MoEConfig(num_experts=4, layers=(0, 1, 0, 1), ffn_hidden_size=48),
        mtp=MTPConfig(num_heads=2),
        tie_embeddings=True,
    ),
    "mla, shared experts": ModelConfig(
        **SMALL, moe=MOE, mla=MLA, mtp=MTPConfig(num_heads=1), qk_norm=False
    ),
    "mla, whole queries": ModelConfig(
        **SMALL,
        mla=MLAConfig(kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6),
    ),
}
WHOLE = (1, ParallelConfig())
STAGES = (4, ParallelConfig(tp=2, pp=2))
INTERLEAVED = (4, ParallelConfig(tp=2, pp=2, vpp=2))
EXPERTS = (8, ParallelConfig(tp=2, pp=2, ep=2))
EXPERT_TENSOR = (4, ParallelConfig(tp=2, etp=2, ep=2))
LAYOUTS = {
    "plain": (WHOLE, INTERLEAVED),
    "gqa, biases, tied": (WHOLE, STAGES),
    "norms behind, and over all heads": (WHOLE, INTERLEAVED),
    "sandwich, padded groups": (WHOLE, STAGES),
    "mqa": (WHOLE, (4, ParallelConfig(tp=4))),
    "moe and mtp": (WHOLE, INTERLEAVED, EXPERTS),
    "mla, shared experts": (WHOLE, EXPERTS, EXPERT_TENSOR),
    "mla, whole queries": (STAGES,),
}

GROUPS = {
    "tp": "tp",
    "pp": "pp",
    "dp": "dp",
    "tp-pp": "mp",
    "ep": "ep",
    "etp": "expt_tp",
    "edp": "expt_dp",
    "etp-ep": "tp_ep",
}
# axes of RankGenerator: dense with cp, and expert
ORDERS = [
    {"tp": 2, "ep": 1, "dp": 3, "pp": 2, "cp": 2},
    {"tp": 1, "ep": 4, "dp": 2, "pp": 3, "cp": 1},
    {"tp": 2, "ep": 2, "dp": 2, "pp": 2, "cp": 1},
]

BUILDER = """
import json, sys
from trivium.engine import device
device.prepare()
import torch.distributed as dist
from megatron.core.parallel_state import RankGenerator
from torch.testing._internal.distributed.fake_pg import FakeStore
from trivium.data_pipeline.config_tree import load
from trivium.engine.layout import ParallelLayout
from trivium.engine.mesh import create_mesh, destroy_mesh
from trivium.engine.model import gpt
from trivium.engine.schema import RunConfig
gpt.initialize = lambda *ignored: None  # sizes are asked for, not weights
dist.get_backend = lambda *ignored: "gloo"  # so that no second, real set of groups is made

asked = json.load(sys.stdin)
generators = [RankGenerator(**sizes, order="tp-cp-ep-dp-pp") for sizes in asked["orders"]]
orders = [{axis: made.get_ranks(axis) for axis in asked["axes"]} for made in generators]
built = []
for job in asked["jobs"]:
    config = load(RunConfig, None, [f"{k}={json.dumps(v)}" for k, v in job["config"].items()])
    dist.init_process_group("fake", store=FakeStore(), rank=job["rank"], world_size=job["world"])
    mesh = create_mesh(ParallelLayout.of(config.parallel, job["world"]), seed=1)
    chunks = gpt.build(config, mesh)
    groups = {
        ours: dist.get_process_group_ranks(getattr(mesh.groups, theirs))
        for ours, theirs in asked["groups"].items()
    }
    layers = [[layer.layer_number - 1 for layer in chunk.decoder.layers] for chunk in chunks]
    parameters = sum(p.numel() for chunk in chunks for p in chunk.parameters())
    built.append({"groups": groups, "layers": layers, "parameters": parameters})
    destroy_mesh()
    dist.destroy_process_group()
print(json.dumps({"built": built, "orders": orders}))
"""

Job = tuple[str, RunConfig, int, int]  # model's name, run, world size, rank


def _run(model: ModelConfig, parallel: ParallelConfig, world_size: int) -> RunConfig:
    data = DataConfig(corpus=("python-docs",), sequence_length=16)
    return resolve(RunConfig(model=model, parallel=parallel, data=data), world_size)


def _jobs() -> list[Job]:
    """The first and the last rank of every stage, of every pair of model and layout."""
    jobs = []
    for name, layouts in LAYOUTS.items():
        for world_size, parallel in layouts:
            config = _run(MODELS[name], parallel, world_size)
            stage = world_size // parallel.pp
            for first in range(0, world_size, stage):
                jobs += [(name, config, world_size, r) for r in {first, first + stage - 1}]
    return jobs


@pytest.fixture(scope="module")
def megatron() -> tuple[list[tuple[Job, dict[str, Any]]], list[dict[str, Any]]]:
    """What megatron-core builds for every job, and its rank orders."""
    jobs = _jobs()
    asked = {
        "jobs": [{"config": to_dict(c), "world": world, "rank": r} for _, c, world, r in jobs],
        "groups": GROUPS,
        "orders": ORDERS,
        "axes": ["tp", "cp", "dp", "pp", "ep", "tp-pp", "tp-ep", "dp-cp"],
    }
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILDER],
        input=json.dumps(asked),
        env=os.environ | {"TRIVIUM_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    answer = json.loads(ran.stdout.splitlines()[-1])
    return list(zip(jobs, answer["built"], strict=True)), answer["orders"]


def test_every_rank_holds_what_is_counted(megatron: Any) -> None:
    wrong = []
    for (name, config, world, rank), built in megatron[0]:
        layout = ParallelLayout.of(config.parallel, world)
        counted = parameters_of_rank(config.model, layout, rank)
        if counted != built["parameters"]:
            wrong.append(f"{name}, {layout}, {rank=}: {counted}, built {built['parameters']}")
    assert not wrong, "\n".join(wrong)


def test_layers_and_groups_are_where_the_layout_says(megatron: Any) -> None:
    for (_, config, world, rank), built in megatron[0]:
        layout = ParallelLayout.of(config.parallel, world)
        pp_rank = layout.coordinates(rank).pp
        layers = [
            list(layout.layers(pp_rank, chunk, config.model.num_layers))
            for chunk in range(layout.vpp)
        ]
        assert layers == built["layers"]
        assert {axes: layout.group_of(axes, rank) for axes in GROUPS} == built["groups"]


def test_rank_order_is_megatrons(megatron: Any) -> None:
    expert = {
        "tp": "etp",
        "ep": "ep",
        "dp": "edp",
        "pp": "pp",
        "tp-pp": "etp-pp",
        "tp-ep": "etp-ep",
    }
    for sizes, orders in zip(ORDERS, megatron[1], strict=True):
        world = sizes["tp"] * sizes["ep"] * sizes["dp"] * sizes["pp"] * sizes["cp"]
        axes = {"world_size": world, "pp": sizes["pp"]}
        if sizes["ep"] == 1:
            layout = ParallelLayout(**axes, tp=sizes["tp"], cp=sizes["cp"])
            names = {axis: axis for axis in ("tp", "cp", "dp", "pp", "tp-pp", "dp-cp")}
        else:
            layout = ParallelLayout(**axes, etp=sizes["tp"], ep=sizes["ep"])
            names = expert
        for theirs, ours in names.items():
            assert layout.groups(ours) == orders[theirs], (sizes, theirs)


def test_active_parameters_leave_out_the_experts_not_chosen() -> None:
    config = _run(ModelConfig(**SMALL, moe=MoEConfig(num_experts=8, top_k=2)), ParallelConfig(), 1)
    model = config.model
    assert model.moe is not None
    assert model.moe.ffn_hidden_size is not None
    expert = 3 * model.hidden_size * model.moe.ffn_hidden_size
    total, active = count(model)
    assert total - active == 6 * expert * model.num_layers


def test_copies_count_on_ranks_but_not_in_the_total() -> None:
    model = ModelConfig(**SMALL, tie_embeddings=True)
    config = _run(model, ParallelConfig(pp=2), 2)
    layout = ParallelLayout.of(config.parallel, 2)
    held = sum(parameters_of_rank(config.model, layout, rank) for rank in range(2))
    assert held - count(config.model).total == config.model.padded_vocab_size * 32
