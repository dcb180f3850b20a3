"""The layout of a run: which rank is where on each parallel axis, what it holds, and what is legal.

Pure arithmetic, without torch. Ranks are ordered as megatron-core orders them by default,
`tp-cp-ep-dp-pp`: tp varies fastest, pp slowest. Attention and dense layers see the axes tp, cp, dp
and pp; experts see the same ranks of a pipeline stage as etp, ep and edp. Layers go to pipeline
ranks as megatron-core's `get_num_layers_to_build` and `get_transformer_layer_offset` have it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trivium.data_pipeline.errors import InputError
from trivium.engine.limits import nearest_divisors, nearest_multiples
from trivium.engine.schema import ParallelConfig, RunConfig, TrainConfig

if TYPE_CHECKING:
    from rich.table import Table

DENSE_AXES = ("tp", "cp", "dp", "pp")  # fastest first
EXPERT_AXES = ("etp", "ep", "edp", "pp")


class Coordinates(NamedTuple):
    """A rank's index on every axis; `edp` is the data axis that experts see."""

    tp: int
    cp: int
    dp: int
    pp: int
    etp: int
    ep: int
    edp: int


@dataclass(frozen=True, kw_only=True)
class ParallelLayout:
    """Sizes of the axes on `world_size` ranks. Trusts its numbers: `check_layout` judges them."""

    world_size: int
    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    sp: bool = False

    @classmethod
    def of(cls, parallel: ParallelConfig, world_size: int) -> ParallelLayout:
        """The layout that a configuration asks for."""
        return cls(
            world_size=world_size,
            tp=parallel.tp,
            pp=parallel.pp,
            vpp=parallel.vpp,
            cp=parallel.cp,
            ep=parallel.ep,
            etp=parallel.etp,
            sp=parallel.tp > 1 if parallel.sp is None else parallel.sp,
        )

    @property
    def dp(self) -> int:
        """Data-parallel size: what tp, pp and cp leave of the world."""
        return self.world_size // (self.tp * self.pp * self.cp)

    @property
    def edp(self) -> int:
        """Copies of each expert: what etp, ep and pp leave of the world."""
        return self.world_size // (self.etp * self.ep * self.pp)

    def size(self, axis: str) -> int:
        """Size of one axis, by its name in `Coordinates`."""
        size = getattr(self, axis)
        assert isinstance(size, int)
        return size

    def coordinates(self, rank: int) -> Coordinates:
        """Where a global rank is, on every axis."""
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is outside the world of {self.world_size}")
        place: dict[str, int] = {}
        for axes in (DENSE_AXES, EXPERT_AXES):
            rest = rank
            for axis in axes:
                rest, place[axis] = divmod(rest, self.size(axis))
        return Coordinates(**place)

    def groups(self, axes: str) -> list[list[int]]:
        """The process groups of an axis or of several, as in "dp", "tp-pp" or "etp-ep".

        Ranks that differ on the named axes only are in one group. Every rank is in exactly one;
        ranks ascend in a group and groups ascend by first rank.
        """
        names = axes.split("-")
        family = next((f for f in (DENSE_AXES, EXPERT_AXES) if set(names) <= set(f)), None)
        if family is None:
            raise ValueError(f"{axes!r}: axes of one family, {DENSE_AXES} or {EXPERT_AXES}")
        fixed = [axis for axis in family if axis not in names]
        grouped: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.world_size):
            place = self.coordinates(rank)
            grouped.setdefault(tuple(getattr(place, axis) for axis in fixed), []).append(rank)
        return sorted(grouped.values())

    def group_of(self, axes: str, rank: int) -> list[int]:
        """The group of `groups(axes)` that holds `rank`."""
        return next(group for group in self.groups(axes) if rank in group)

    def layers(self, pp_rank: int, chunk: int, num_layers: int) -> range:
        """Decoder layers, counted from 0, in virtual chunk `chunk` of pipeline rank `pp_rank`."""
        each = num_layers // (self.pp * self.vpp)
        first = chunk * (num_layers // self.vpp) + pp_rank * each
        return range(first, first + each)

    def is_first(self, pp_rank: int, chunk: int = 0) -> bool:
        """Does this chunk begin the model (embedding)?"""
        return pp_rank == 0 and chunk == 0

    def is_last(self, pp_rank: int, chunk: int) -> bool:
        """Does this chunk end the model (final norm, MTP heads, output layer)?"""
        return pp_rank == self.pp - 1 and chunk == self.vpp - 1

    def experts(self, ep_rank: int, num_experts: int) -> range:
        """The experts of every MoE layer that an expert-parallel rank holds."""
        each = num_experts // self.ep
        return range(ep_rank * each, (ep_rank + 1) * each)


# --- Legality -----------------------------------------------------------------


def check_layout(config: RunConfig, world_size: int) -> None:
    """Raise InputError, with the nearest legal values, if a run cannot be cut into `world_size`.

    Expects a configuration that `config.check` has passed and `config.fill` completed.
    """
    for rule in (_world, _tensor, _pipeline, _experts, _sequence, _context, _batch):
        for problem in rule(config, world_size):
            raise InputError(problem)


def _world(config: RunConfig, world_size: int) -> Iterator[str]:
    parallel = config.parallel
    model = parallel.tp * parallel.pp * parallel.cp
    if world_size % model:
        yield (
            f"world size {world_size}: must be a multiple of parallel.tp x pp x cp = "
            f"{parallel.tp} x {parallel.pp} x {parallel.cp} = {model}; start "
            f"{nearest_multiples(model, world_size)} processes (torchrun --nproc-per-node N; "
            "--world-size N for a dry run), or lower tp or pp"
        )
    stage = world_size // parallel.pp
    where = f"ranks of a pipeline stage (world size {world_size} / pp {parallel.pp})"
    if stage % parallel.etp:
        yield (
            f"parallel.etp={parallel.etp}: must divide the {stage} {where}; use "
            f"etp={nearest_divisors(stage, parallel.etp)}"
        )
    if stage % (parallel.ep * parallel.etp):
        experts = config.model.moe.num_experts if config.model.moe is not None else 1
        legal = math.gcd(stage // parallel.etp, experts)
        yield (
            f"parallel.ep={parallel.ep}: ep x etp = {parallel.ep * parallel.etp} must divide the "
            f"{stage} {where}; use ep={nearest_divisors(legal, parallel.ep)}"
        )


def _tensor(config: RunConfig, world_size: int) -> Iterator[str]:
    model, tp = config.model, config.parallel.tp
    heads, groups = model.padded_heads, model.padded_groups
    split = {
        "model.num_attention_heads": heads,
        "model.vocab_multiple": model.vocab_multiple,
    }
    if model.ffn_hidden_size is not None and not all(model.moe_pattern):
        split["model.ffn_hidden_size"] = model.ffn_hidden_size
    if model.moe is not None and model.moe.shared_ffn_hidden_size is not None:
        split["model.moe.shared_ffn_hidden_size"] = model.moe.shared_ffn_hidden_size
    if model.mtp.num_heads:  # the projection in front of each head
        split["model.hidden_size"] = model.hidden_size
    legal = math.gcd(*split.values())
    for key, size in split.items():
        if size % tp:
            padding = ""
            if key == "model.num_attention_heads" and model.mla is None and groups % tp:
                padding = f", or model.group_multiple={tp}, which pads"
            yield (
                f"parallel.tp={tp}: must divide {key}={size}; use "
                f"parallel.tp={nearest_divisors(legal, tp)}, or {key}={nearest_multiples(tp, size)}"
                f"{padding}"
            )
    # with fewer groups than tp ranks, megatron-core gives several ranks a copy of one group
    if groups % tp and (tp % groups or (heads + 2 * groups) * (model.head_dim or 1) % tp):
        yield (
            f"parallel.tp={tp}: must divide model.num_query_groups={groups}, or be a multiple "
            f"of it; use parallel.tp={nearest_divisors(groups, tp)}, or "
            f"model.num_query_groups={nearest_multiples(tp, groups)}"
        )
    if model.qk_norm and model.qk_norm_over == "all" and groups % tp:
        yield (
            f"parallel.tp={tp}: must divide model.num_query_groups={groups}, all of whose keys are "
            f"normalised together; use parallel.tp={nearest_divisors(groups, tp)}, or "
            "model.qk_norm_over=head"
        )
    if config.parallel.sp and tp == 1:
        yield (
            "parallel.sp=true: shards activations over tp, and parallel.tp is 1; set "
            "parallel.sp=null"
        )


def _pipeline(config: RunConfig, world_size: int) -> Iterator[str]:
    layers, parallel = config.model.num_layers, config.parallel
    pp, vpp = parallel.pp, parallel.vpp
    if vpp > 1 and pp == 1:
        yield (
            f"parallel.vpp={vpp}: interleaves the stages of a pipeline, and parallel.pp is 1; set "
            "parallel.vpp=1 or raise parallel.pp"
        )
    if layers % pp:
        yield (
            f"parallel.pp={pp}: must divide model.num_layers={layers}; use "
            f"pp={nearest_divisors(layers, pp)}, or num_layers={nearest_multiples(pp, layers)}"
        )
    if layers // pp % vpp:
        yield (
            f"parallel.vpp={vpp}: must divide the {layers // pp} layers of a pipeline rank "
            f"(model.num_layers={layers} / pp {pp}); use "
            f"vpp={nearest_divisors(layers // pp, vpp)}, or "
            f"num_layers={nearest_multiples(pp * vpp, layers)}"
        )


def _experts(config: RunConfig, world_size: int) -> Iterator[str]:
    moe, parallel = config.model.moe, config.parallel
    ep, etp = parallel.ep, parallel.etp
    if moe is None:
        if ep > 1 or etp > 1:
            yield (
                f"parallel.ep={ep}, parallel.etp={etp}: the model has no experts; set both to 1, "
                "or describe the experts in model.moe"
            )
        return
    if moe.num_experts % ep:
        yield (
            f"parallel.ep={ep}: must divide model.moe.num_experts={moe.num_experts}; use "
            f"ep={nearest_divisors(moe.num_experts, ep)}, or "
            f"num_experts={nearest_multiples(ep, moe.num_experts)}"
        )
    width = moe.ffn_hidden_size or config.model.ffn_hidden_size
    if width is not None and width % etp:
        yield (
            f"parallel.etp={etp}: must divide the width of an expert, model.moe.ffn_hidden_size="
            f"{width}; use etp={nearest_divisors(width, etp)}"
        )
    if parallel.tp > 1 and parallel.sp is False:
        yield (
            f"parallel.sp=false: MoE with parallel.tp={parallel.tp} trains only with sequence "
            "parallelism; set parallel.sp=null, or parallel.tp=1"
        )


def _sequence(config: RunConfig, world_size: int) -> Iterator[str]:
    layout, length = ParallelLayout.of(config.parallel, world_size), config.data.sequence_length
    # two chunks for each cp rank, and of what it holds an equal part for each tp rank
    chunks, shares = 2 if layout.cp > 1 else 1, layout.tp if layout.sp else 1
    parts = layout.cp * math.lcm(chunks, shares)
    if length % parts:
        lower = "parallel.sp=false" if shares > 1 else "a smaller parallel.cp"
        yield (
            f"data.sequence_length={length}: must be a multiple of {parts} (tp {layout.tp} under "
            f"sequence parallelism, cp {layout.cp}); use {nearest_multiples(parts, length)}, or "
            f"{lower}"
        )


def _context(config: RunConfig, world_size: int) -> Iterator[str]:
    del world_size
    model, parallel = config.model, config.parallel
    cp, tp = parallel.cp, parallel.tp
    if cp == 1:
        return
    if model.attention_dropout:
        yield (
            f"model.attention_dropout={model.attention_dropout:g}: not available with parallel.cp="
            f"{cp}; set model.attention_dropout=0, or parallel.cp=1"
        )
    if parallel.cp_kind == "ring":
        return
    heads = model.num_attention_heads // tp
    groups = max(1, (model.num_query_groups or model.num_attention_heads) // tp)
    of_rank = f"of a tensor-parallel rank (parallel.tp={tp})"
    if heads % cp:
        yield (
            f"parallel.cp={cp}: all_to_all gives each rank some of the {heads} heads {of_rank}, so "
            f"cp must divide them; use parallel.cp={nearest_divisors(heads, cp)}, or "
            "parallel.cp_kind=ring"
        )
    if groups % cp and cp % groups:
        yield (
            f"parallel.cp={cp}: all_to_all needs cp to divide the {groups} query groups {of_rank}, "
            f"or be a multiple of them; use parallel.cp={nearest_divisors(groups, cp)}, or "
            "parallel.cp_kind=ring"
        )


def _batch(config: RunConfig, world_size: int) -> Iterator[str]:
    layout, train = ParallelLayout.of(config.parallel, world_size), config.train
    share = train.micro_batch * layout.dp
    for batch in batch_stages(train):
        stage = "" if batch == train.global_batch else f" (a stage of train.ramp_up) = {batch}"
        if batch % share:
            yield (
                f"train.global_batch={train.global_batch}{stage}: must be a multiple of "
                f"train.micro_batch x dp = {train.micro_batch} x {layout.dp} = {share}; use "
                f"{nearest_multiples(share, batch)}, or change micro_batch"
            )
        if layout.vpp > 1 and batch // share % layout.pp:
            unit = share * layout.pp
            yield (
                f"train.global_batch={train.global_batch}{stage}: {batch // share} micro-batches a "
                f"rank, and the interleaved schedule (parallel.vpp={layout.vpp}) needs a multiple "
                f"of pp={layout.pp}; use {nearest_multiples(unit, batch)}, or parallel.vpp=1"
            )


def batch_stages(train: TrainConfig) -> Iterator[int]:
    """Every size that the global batch takes, in order of time."""
    if train.ramp_up is not None:
        start, increment, _ = train.ramp_up
        yield from range(start, train.global_batch, increment)
    yield train.global_batch


# --- For people ---------------------------------------------------------------


def summary(layout: ParallelLayout) -> str:
    """The layout in one line of plain text."""
    axes = [f"tp {layout.tp}" + " + sp" * layout.sp, f"pp {layout.pp}"]
    if layout.vpp > 1:
        axes[-1] += f" (vpp {layout.vpp})"
    if layout.cp > 1:
        axes.append(f"cp {layout.cp}")
    axes.append(f"dp {layout.dp}")
    line = f"{layout.world_size} rank{'s' * (layout.world_size > 1)} = " + " x ".join(axes)
    if layout.ep > 1 or layout.etp > 1:
        line += f"; experts: ep {layout.ep} x etp {layout.etp} x edp {layout.edp}"
    return line


def layout_table(config: RunConfig, world_size: int, largest: int = 64) -> Table:
    """What every rank holds: its coordinates, layers, experts, parameters.

    Its dp coordinate is the share of each global batch that it reads.
    Above `largest` ranks, one row for each pipeline stage. `config` is resolved and its
    model.vocab_size known.
    """
    from rich import box
    from rich.table import Table

    from trivium.engine.parameters import parameters_of_stage

    layout = ParallelLayout.of(config.parallel, world_size)
    moe = config.model.moe is not None
    whole = world_size <= largest
    table = Table(box=box.SIMPLE_HEAD)
    split = ["cp"] * (layout.cp > 1)
    names = ["rank", "tp", *split, "pp", "dp"] + ["ep"] * moe if whole else ["ranks", "pp", "dp"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    if moe:
        table.add_column("experts", no_wrap=True)
    table.add_column("parameters" if whole else "parameters a rank", justify="right", no_wrap=True)
    held = [parameters_of_stage(config.model, layout, pp_rank) for pp_rank in range(layout.pp)]
    for rank in range(0, world_size, 1 if whole else world_size // layout.pp):
        place = layout.coordinates(rank)
        table.add_row(*_row(config, layout, rank, place, whole), f"{held[place.pp]:,}")
    return table


def _row(
    config: RunConfig, layout: ParallelLayout, rank: int, place: Coordinates, whole: bool
) -> list[str]:
    """One row: of `rank`, or of the whole pipeline stage that begins with `rank`."""
    moe = config.model.moe
    if whole:
        split = [place.cp] * (layout.cp > 1)
        row = [str(i) for i in (rank, place.tp, *split, place.pp, place.dp)]
        row += [str(place.ep)] * (moe is not None)
    else:
        last = rank + layout.world_size // layout.pp - 1
        row = [f"{rank}-{last}", str(place.pp), _span(range(layout.dp))]
    row.append(_holdings(config, layout, place.pp))
    if moe is not None:
        held = layout.experts(place.ep, moe.num_experts)
        row.append(_span(held) if whole else f"{len(held)} of {moe.num_experts} a rank")
    return row


def _holdings(config: RunConfig, layout: ParallelLayout, pp_rank: int) -> str:
    """Layers of a pipeline rank, chunk by chunk, with what comes before and after them."""
    chunks = []
    heads = config.model.mtp.num_heads
    for chunk in range(layout.vpp):
        parts = ["embedding"] * layout.is_first(pp_rank, chunk)
        parts.append(_span(layout.layers(pp_rank, chunk, config.model.num_layers)))
        if layout.is_last(pp_rank, chunk):
            parts += [f"{heads} MTP"] * (heads > 0) + ["output"]
        chunks.append(" + ".join(parts))
    return " | ".join(chunks)


def _span(numbers: range) -> str:
    first, last = numbers[0], numbers[-1]
    return str(first) if first == last else f"{first}-{last}"


def largest_rank(config: RunConfig, world_size: int) -> tuple[int, int]:
    """(rank, parameters) of the first rank that holds most."""
    from trivium.engine.parameters import parameters_of_stage

    layout = ParallelLayout.of(config.parallel, world_size)
    held = [parameters_of_stage(config.model, layout, pp_rank) for pp_rank in range(layout.pp)]
    return held.index(max(held)) * (world_size // layout.pp), max(held)
