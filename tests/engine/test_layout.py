"""Layout arithmetic and legality; `test_parameters` holds it against megatron-core."""

from __future__ import annotations

import pytest

from trivium.data_pipeline.config_tree import load
from trivium.data_pipeline.errors import InputError
from trivium.engine.config import fill, resolve
from trivium.engine.layout import (
    Coordinates,
    ParallelLayout,
    batch_stages,
    check_layout,
    largest_rank,
    layout_table,
    summary,
)
from trivium.engine.schema import RunConfig, TrainConfig

DATA = ("data.corpus=python-docs", "model.vocab_size=500")


def run(*overrides: str) -> RunConfig:
    return load(RunConfig, None, [*DATA, *overrides])


def test_axes_fill_the_world() -> None:
    layout = ParallelLayout(world_size=48, tp=2, cp=2, pp=3, ep=4, etp=1)
    assert (layout.dp, layout.edp) == (4, 4)
    assert layout.coordinates(0) == Coordinates(0, 0, 0, 0, 0, 0, 0)
    assert layout.coordinates(7) == Coordinates(tp=1, cp=1, dp=1, pp=0, etp=0, ep=3, edp=1)
    assert layout.coordinates(47) == Coordinates(1, 1, 3, 2, 0, 3, 3)
    assert len({layout.coordinates(rank)[:4] for rank in range(48)}) == 48
    with pytest.raises(ValueError, match="outside"):
        layout.coordinates(48)


def test_groups_partition_the_world() -> None:
    layout = ParallelLayout(world_size=8, tp=2, pp=2, ep=2)
    assert layout.groups("tp") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert layout.groups("dp") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert layout.groups("pp") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert layout.groups("ep") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert layout.groups("edp") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert layout.groups("tp-cp-dp-pp") == [list(range(8))]
    assert layout.group_of("tp-pp", 3) == [2, 3, 6, 7]
    with pytest.raises(ValueError, match="one family"):
        layout.groups("tp-ep")


def test_layers_interleave_over_chunks() -> None:
    layout = ParallelLayout(world_size=4, pp=4, vpp=2)
    held = [[list(layout.layers(pp, chunk, 16)) for chunk in range(2)] for pp in range(4)]
    assert held[0] == [[0, 1], [8, 9]]
    assert held[3] == [[6, 7], [14, 15]]
    assert layout.is_first(0, 0)
    assert not layout.is_first(0, 1)
    assert layout.is_last(3, 1)
    assert not layout.is_last(3, 0)
    assert list(ParallelLayout(world_size=4, ep=4).experts(2, 8)) == [4, 5]


def test_batch_stages_ramp_up() -> None:
    train = TrainConfig(global_batch=16, ramp_up=(4, 4, 100))
    assert list(batch_stages(train)) == [4, 8, 12, 16]
    assert list(batch_stages(TrainConfig(global_batch=16))) == [16]


@pytest.mark.parametrize(
    ("world_size", "overrides"),
    [
        (1, []),
        (8, ["parallel.tp=2", "parallel.pp=2"]),
        (4, ["parallel.tp=4"]),
        (4, ["parallel.tp=4", "model.num_query_groups=2"]),  # two ranks share a group
        (2, ["parallel.pp=2", "parallel.vpp=2"]),
        (8, ["model.moe={}", "parallel.ep=8"]),
        (8, ["model.moe={}", "parallel.tp=2", "parallel.ep=2", "parallel.etp=2"]),
        (2, ["parallel.tp=2", "parallel.sp=false", "data.sequence_length=15"]),
        (3, ["parallel.cp=3", "data.sequence_length=18", "train.global_batch=7"]),
        (8, ["parallel.cp=4", "parallel.tp=2", "data.sequence_length=24"]),
        (
            4,
            ["parallel.cp=4", "parallel.cp_kind=all_to_all", "model.num_query_groups=2"],
        ),
        (4, ["train.global_batch=16", "train.ramp_up=[4, 4, 100]"]),
    ],
)
def test_legal_layouts_pass(world_size: int, overrides: list[str]) -> None:
    check_layout(fill(run(*overrides)), world_size)


@pytest.mark.parametrize(
    ("world_size", "overrides", "parts"),
    [
        (
            2,
            ["parallel.cp=2", "data.sequence_length=30"],
            ["data.sequence_length=30", "28 or 32", "smaller parallel.cp"],
        ),
        (
            2,
            ["parallel.cp=2", "model.attention_dropout=0.1"],
            ["model.attention_dropout=0.1", "parallel.cp=2"],
        ),
        (
            6,
            ["parallel.cp=3", "parallel.tp=2", "parallel.cp_kind=all_to_all",
             "data.sequence_length=48"],
            ["parallel.cp=3", "2 heads", "parallel.tp=2", "cp=2", "cp_kind=ring"],
        ),
        (
            4,
            ["parallel.cp=4", "parallel.cp_kind=all_to_all", "model.num_attention_heads=12",
             "model.num_query_groups=6", "model.hidden_size=96"],
            ["parallel.cp=4", "6 query groups", "cp=3 or 6", "cp_kind=ring"],
        ),
        (6, ["parallel.tp=4"], ["world size 6", "= 4", "start 4 or 8 processes"]),
        (1, ["parallel.pp=2"], ["world size 1", "--world-size"]),
        (3, ["parallel.tp=3"], ["parallel.tp=3", "num_attention_heads=4", "=2 or 4", "3 or 6"]),
        (
            3,
            ["parallel.tp=3", "model.num_attention_heads=6", "model.hidden_size=384"],
            ["parallel.tp=3", "model.vocab_multiple=128", "=126 or 129"],
        ),
        (
            4,
            ["parallel.tp=4", "model.ffn_hidden_size=130"],
            ["model.ffn_hidden_size=130", "=2", "=128 or 132"],
        ),
        (
            4,
            ["parallel.tp=4", "model.moe.shared_ffn_hidden_size=130"],
            ["model.moe.shared_ffn_hidden_size=130"],
        ),
        (
            4,
            ["parallel.tp=4", "model.num_attention_heads=12", "model.num_query_groups=6",
             "model.hidden_size=96"],
            ["parallel.tp=4", "model.num_query_groups=6", "=3 or 6", "=4 or 8"],
        ),
        (
            4,
            ["parallel.tp=4", "model.mtp.num_heads=1", "model.hidden_size=66", "model.head_dim=8"],
            ["model.hidden_size=66"],
        ),
        (1, ["parallel.sp=true"], ["parallel.sp=true", "parallel.tp is 1"]),
        (2, ["parallel.vpp=2"], ["parallel.vpp=2", "parallel.pp is 1"]),
        (3, ["parallel.pp=3"], ["parallel.pp=3", "num_layers=4", "pp=2 or 4", "=3 or 6"]),
        (
            2,
            ["parallel.pp=2", "parallel.vpp=3"],
            ["parallel.vpp=3", "2 layers", "vpp=2", "num_layers=6"],
        ),
        (
            2,
            ["parallel.pp=2", "parallel.vpp=2", "train.global_batch=7"],
            ["7 micro-batches", "pp=2", "use 6 or 8", "vpp=1"],
        ),
        (2, ["parallel.ep=2"], ["parallel.ep=2", "no experts"]),
        (3, ["model.moe={}", "parallel.ep=3"], ["parallel.ep=3", "num_experts=8", "ep=2 or 4"]),
        (
            4,
            ["model.moe={}", "parallel.ep=4", "parallel.pp=2"],
            ["parallel.ep=4", "2 ranks of a pipeline stage", "ep=2"],
        ),
        (3, ["model.moe={}", "parallel.etp=2"], ["parallel.etp=2", "3 ranks", "etp=1 or 3"]),
        (
            2,
            ["model.moe.ffn_hidden_size=33", "parallel.etp=2"],
            ["parallel.etp=2", "ffn_hidden_size=33", "etp=1 or 3"],
        ),
        (2, ["model.moe={}", "parallel.tp=2", "parallel.sp=false"], ["parallel.sp=false"]),
        (
            4,
            ["parallel.tp=4", "data.sequence_length=30"],
            ["data.sequence_length=30", "28 or 32", "parallel.sp=false"],
        ),
        (3, [], ["train.global_batch=8", "1 x 3 = 3", "use 6 or 9"]),
        (
            4,
            ["train.ramp_up=[2, 2, 100]"],
            ["train.ramp_up", "= 2", "use 4"],
        ),
    ],
)  # fmt: skip
def test_impossible_layouts_name_value_limit_and_remedy(
    world_size: int, overrides: list[str], parts: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        check_layout(fill(run(*overrides)), world_size)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_remedies_are_legal() -> None:
    """What the messages about tp and pp propose passes."""
    check_layout(fill(run("parallel.tp=2")), 2)
    check_layout(fill(run("parallel.pp=4")), 4)
    config = run("parallel.tp=2", "model.num_attention_heads=6", "model.hidden_size=384")
    check_layout(fill(config), 2)


def cells(config: RunConfig, world_size: int) -> list[list[str]]:
    table = layout_table(config, world_size)
    return [[str(cell) for cell in column.cells] for column in table.columns]


def test_table_has_a_row_for_every_rank() -> None:
    config = resolve(run("model.moe={}", "parallel.pp=2", "parallel.ep=2", "parallel.vpp=2"), 4)
    rank, tp, pp, dp, ep, layers, experts, parameters = cells(config, 4)
    assert rank == ["0", "1", "2", "3"]
    assert (tp, pp, dp) == (["0"] * 4, ["0", "0", "1", "1"], ["0", "1", "0", "1"])
    assert (ep, experts) == (["0", "1", "0", "1"], ["0-3", "4-7", "0-3", "4-7"])
    assert layers[0] == "embedding + 0 | 2"
    assert layers[3] == "1 | 3 + output"
    assert parameters[0] == parameters[1]
    line = summary(ParallelLayout.of(config.parallel, 4))
    assert line == "4 ranks = tp 1 x pp 2 (vpp 2) x dp 2; experts: ep 2 x etp 1 x edp 1"
    assert summary(ParallelLayout(world_size=1)) == "1 rank = tp 1 x pp 1 x dp 1"


def test_table_of_a_large_world_has_a_row_for_every_stage() -> None:
    config = resolve(run("parallel.tp=2", "parallel.pp=4", "train.global_batch=64"), 128)
    ranks, _, dp, layers, parameters = cells(config, 128)
    assert ranks == ["0-31", "32-63", "64-95", "96-127"]
    assert dp == ["0-15"] * 4
    assert layers == ["embedding + 0", "1", "2", "3 + output"]
    rank, held = largest_rank(config, 128)
    assert (rank, f"{held:,}") == (96, parameters[3])
