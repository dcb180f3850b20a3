"""Layouts by name, all of them and a covering few; pure arithmetic, no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from trivium.engine.config import resolve
from trivium.engine.schema import ParallelConfig, RunConfig

LARGEST_WORLD = 8


def layout(name: str) -> tuple[ParallelConfig, int]:
    """From words such as `tp2 sp pp2 vpp2 cp2 dp2 zero`: the sections and the world size.

    Left out, an axis is 1, and sp and zero are off; cp is a ring unless `a2a` says otherwise.
    """
    sizes = {"tp": 1, "pp": 1, "vpp": 1, "cp": 1, "ep": 1, "etp": 1, "dp": 1, "zero": 0}
    words = name.split()
    for word in words:
        axis = word.rstrip("0123456789")
        if axis in sizes and axis != "zero":
            sizes[axis] = int(word[len(axis) :])
    dp = sizes.pop("dp")
    sizes["zero"] = int("zero" in words)
    parallel = ParallelConfig(
        **sizes,  # type: ignore[arg-type]
        cp_kind="all_to_all" if "a2a" in words else "ring",
        sp="sp" in words,
        overlap_grad_reduce="overlap" in words,
        overlap_param_gather="overlap" in words and "zero" in words,
    )
    return parallel, parallel.tp * parallel.pp * parallel.cp * dp


def place(config: RunConfig, name: str) -> tuple[RunConfig, int]:
    """The run under a named layout, resolved, and its world size. InputError if it is not legal.

    Cut into as few micro-batches as exercise both accumulation and the pipeline.
    """
    parallel, world_size = layout(name)
    dp = world_size // (parallel.tp * parallel.pp * parallel.cp)
    micro = config.train.global_batch // (dp * max(2, parallel.pp))
    train = replace(config.train, micro_batch=max(1, micro))
    return resolve(replace(config, parallel=parallel, train=train), world_size), world_size


def all_names(experts: bool) -> Iterator[str]:
    """Every product of the axes that fits `LARGEST_WORLD`, legal or not; 1 rank first."""
    axes: list[tuple[str, ...]] = [
        ("", "tp2", "tp2 sp", "tp4", "tp4 sp"),
        ("", "pp2", "pp2 vpp2", "pp4", "pp4 vpp2"),
        ("", "ep2", "ep4") if experts else ("",),
        ("", "etp2", "etp4") if experts else ("",),
        ("", "dp2", "dp4"),
        ("", "zero"),
    ]
    for words in itertools.product(*axes):
        name = " ".join(filter(None, words))
        if layout(name)[1] <= LARGEST_WORLD:
            yield name


def context_names(experts: bool) -> Iterator[str]:
    """Every product of both kinds of cp with the other axes, with ZeRO-1, that fits."""
    axes: list[tuple[str, ...]] = [
        ("", "tp2 sp", "tp4 sp"),
        ("", "pp2", "pp2 vpp2"),
        ("cp2", "cp2 a2a", "cp4", "cp4 a2a"),
        ("", "ep2") if experts else ("",),
        ("", "dp2"),
    ]
    for words in itertools.product(*axes):
        name = " ".join([*filter(None, words), "zero"])
        if layout(name)[1] <= LARGEST_WORLD:
            yield name
