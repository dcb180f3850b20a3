"""Feature by feature, what a model or a run can have; rows of them that cover every pair."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.parity.covering import Row, cover
from tests.parity.layouts import LARGEST_WORLD, layout, place
from tests.parity.models import LATENT, run_of, tiny
from trivium.data_pipeline.errors import InputError
from trivium.engine.schema import MoEConfig, MTPConfig, RopeConfig, RunConfig, TrainConfig

MOE = MoEConfig(num_experts=4, top_k=2, ffn_hidden_size=64)
SIGMOID = replace(MOE, num_experts=8, score="sigmoid", scaling_factor=2.5)
ALTERNATE = {"window": 5, "window_layers": (1, 0, 0, 1)}
CAPS = {"attention_softcap": 3.0, "logit_softcap": 4.0}

# factor -> value -> fields of the model
MODEL: dict[str, dict[str, dict[str, Any]]] = {
    "attention": {
        "mha": {},
        "gqa2": {"num_query_groups": 2},
        "mqa": {"num_query_groups": 1},
        "mla": {"mla": LATENT},
        "mla-noq": {"mla": replace(LATENT, q_lora_rank=None)},
    },
    "position": {
        "rope": {},
        "interleaved": {"rope": RopeConfig(interleaved=True, scaling="linear", factor=4.0)},
        "partial": {"rope": RopeConfig(percent=0.5)},
        "llama3": {"rope": RopeConfig(scaling="llama3", factor=8.0, original_max_position=16)},
        "yarn": {"rope": RopeConfig(scaling="yarn", factor=4.0, original_max_position=16)},
        "two-thetas": {
            "rope": RopeConfig(scaling="linear", factor=4.0, window_theta=500.0),
            **ALTERNATE,
        },
        "learned": {"position": "learned"},
        "nope": {"position": "none"},
    },
    "norm": {
        "rms": {},
        "layernorm": {"normalization": "layernorm"},
        "zero-centred": {"norm_zero_centered": True},
        "post": {"norm_placement": "post"},
        "sandwich": {"norm_placement": "sandwich", "norm_zero_centered": True},
    },
    "activation": {
        name: {"activation": name} for name in ("swiglu", "geglu", "geglu_tanh", "gelu", "relu2")
    },
    "bias": {"": {}, "qkv-bias": {"qkv_bias": True}, "linear-bias": {"linear_bias": True}},
    "qk-norm": {
        "": {},
        "qk-norm": {"qk_norm": True},
        "all-heads": {"qk_norm": True, "qk_norm_over": "all"},
    },
    "caps": {"": {}, "capped": CAPS | {"attention_scale": 0.3, "embedding_scale": 8.0}},
    "tied": {"": {}, "tied": {"tie_embeddings": True}},
    "window": {"": {}, "window": {"window": 5}, "alternate": ALTERNATE},
    "mtp": {
        "": {},
        "mtp1": {"mtp": MTPConfig(num_heads=1, loss_weight=0.5)},
        "mtp2": {"mtp": MTPConfig(num_heads=2, loss_weight=0.5)},
    },
    "moe": {
        "": {},
        "aux": {"moe": replace(MOE, aux_loss_weight=0.1, z_loss_weight=1e-2)},
        "sequence": {"moe": replace(MOE, balance="sequence", aux_loss_weight=0.1)},
        "pre-softmax": {"moe": replace(MOE, pre_softmax=True, balance="none")},
        "bias": {"moe": replace(SIGMOID, balance="bias", layers=(0, 1, 1, 1))},
        "groups": {"moe": replace(SIGMOID, num_groups=4, groups_top_k=2, balance="bias", layers=2)},
    },
}
# factor -> value -> fields of model.moe
EXPERTS: dict[str, dict[str, dict[str, Any]]] = {
    "shared": {
        "": {},
        "shared": {"shared_ffn_hidden_size": 64},
        "shared-gate": {"shared_ffn_hidden_size": 64, "shared_gate": True},
    },
    "dispatcher": {"": {}, "allgather": {"dispatcher": "allgather"}},
}
# factor -> value -> fields of train (or data)
TRAIN: dict[str, dict[str, dict[str, Any]]] = {
    "recompute": {
        "": {},
        "selective": {"recompute": "selective"},
        "full": {"recompute": "full"},
    },
    "z-loss": {"": {}, "z-loss": {"z_loss": 1e-2}},
}
DATA: dict[str, dict[str, dict[str, Any]]] = {
    "documents": {"": {}, "documents": {"document_mask": True}}
}
# factor -> words of a layout's name
LAYOUT: dict[str, tuple[str, ...]] = {
    "tp": ("", "tp2", "tp2 sp", "tp4 sp"),
    "pp": ("", "pp2", "pp2 vpp2", "pp4"),
    "cp": ("", "cp2", "cp2 a2a"),
    "ep": ("", "ep2", "ep4"),
    "etp": ("", "etp2"),
    "dp": ("", "dp2"),
    "overlap": ("", "overlap"),
    "zero": ("", "zero"),
}
FACTORS = MODEL | EXPERTS | TRAIN | DATA


def run_of_row(row: Row) -> RunConfig:
    """The run that a row of features describes, its layout aside."""
    model = tiny(**_fields(MODEL, row))
    if model.moe is not None:
        model = replace(model, moe=replace(model.moe, **_fields(EXPERTS, row)))
    elif any(row[factor] for factor in EXPERTS):
        raise InputError("features of experts, and no experts")
    train = TrainConfig(steps=20, global_batch=8, **_fields(TRAIN, row))
    return run_of(model, train, **_fields(DATA, row))


def _fields(table: dict[str, dict[str, dict[str, Any]]], row: Row) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for factor, values in table.items():
        merged |= values[str(row[factor])]
    return merged


def layout_of_row(row: Row) -> str:
    """The name of a row's layout."""
    return " ".join(str(row[axis]) for axis in LAYOUT if row[axis])


def name_of_row(row: Row) -> str:
    """Layout first, then every value that is not the plain one."""
    plain = {factor: next(iter(values)) for factor, values in FACTORS.items()}
    unusual = [str(row[factor]) for factor in FACTORS if row[factor] != plain[factor]]
    return ",".join([layout_of_row(row).replace(" ", "."), *unusual])


def covering_rows(every_pair: bool) -> list[Row]:
    """Rows that hold every legal pair of axes, and of an axis and a feature.

    With `every_pair`, those of two features as well.
    """
    draw = random.Random(0)
    factors = {factor: list(values) for factor, values in (LAYOUT | FACTORS).items()}
    wanted = [
        pair
        for pair in itertools.combinations(factors, 2)
        if every_pair or not LAYOUT.keys().isdisjoint(pair)
    ]
    rows: list[Row] = []
    for one, other in wanted:
        for values in itertools.product(factors[one], factors[other]):
            rows += _legal_rows(factors, {one: values[0], other: values[1]}, draw, count=1)
    return cover(rows, wanted, lambda row: 2 + layout(layout_of_row(row))[1])


def _legal_rows(
    factors: Mapping[str, Sequence[str]], fixed: Row, draw: random.Random, count: int
) -> Iterator[Row]:
    """Up to `count` random rows with the `fixed` values, on 2 to 8 ranks, that resolve."""
    for _ in range(10 * count):
        row = {factor: draw.choice(values) for factor, values in factors.items()} | dict(fixed)
        if draw.random() < 0.5:
            row["moe"] = ""
        row |= _without_conflicts(row, draw) | dict(fixed)
        name = layout_of_row(row)
        if not 2 <= layout(name)[1] <= LARGEST_WORLD:
            continue
        with contextlib.suppress(InputError):
            place(run_of_row(row), name)
            yield row
            count -= 1
            if count == 0:
                return


def _without_conflicts(row: Row, draw: random.Random) -> Row:
    """Values to put in place of those that do not go together; only saves draws."""
    better: dict[str, Hashable] = {}
    if not row["moe"]:
        better |= dict.fromkeys(("ep", "etp", *EXPERTS), "")
    elif row["bias"] == "linear-bias":
        better["bias"] = ""
    if str(row["attention"]).startswith("mla"):
        better |= {"qk-norm": "", "bias": "", "position": draw.choice(("rope", "yarn"))}
        better["caps"] = ""
    if row["position"] in ("learned", "two-thetas") or row["window"] == "alternate":
        better["mtp"] = ""
    if row["cp"]:
        better["caps"] = ""
    return better
