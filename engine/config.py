"""The one edge where a run is judged: `resolve` makes a configuration legal and complete.

`data_pipeline/config_tree.py` reads it; `schema.py` says what it holds. Imports neither torch nor
megatron-core.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

from trivium.data_pipeline.config_tree import hash_tree, to_dict
from trivium.data_pipeline.errors import InputError
from trivium.engine import layout, limits
from trivium.engine.schema import DataConfig, ModelConfig, RunConfig

# What a resumed run may change without becoming another run: where it runs, how it is cut into
# ranks and micro-batches, when it stops, what it writes. `training_fingerprint` leaves these out.
NOT_TRAINING = (
    "parallel",
    "run",
    "track",
    "export",
    "sample",
    "validation",
    "checkpoint",
    "train.steps",
    "train.micro_batch",
    "train.recompute",
    "train.head",
    "train.max_bad_steps",
    "train.manual_gc_every",
    "data.dir",
    "model.moe.dispatcher",
)


def training_fingerprint(config: RunConfig) -> str:
    """sha256 of what decides the numbers of a resolved run: everything but `NOT_TRAINING`.

    Equal fingerprints mean that a checkpoint of one run continues as the other, up to rounding.
    What is left out: parallel, run, track, sample, validation, checkpoint, and a few single keys.
    """
    tree = to_dict(config)
    for dotted in NOT_TRAINING:
        *sections, name = dotted.split(".")
        node = tree
        for section in sections:
            node = node.get(section) or {}
        node.pop(name, None)
    return hash_tree(tree)


def check(config: RunConfig) -> None:
    """Raise InputError for the first value out of range, or at odds with another of its section."""
    limits.check_ranges(config)
    limits.check_sections(config)


def resolve(config: RunConfig, world_size: int) -> RunConfig:
    """The run, legal on `world_size` ranks and complete: check, fill, check the layout. Idempotent.

    `model.vocab_size` alone stays None where a tokenizer has yet to be trained or read.
    """
    config = adopt_folder(config)
    check(config)
    filled = fill(config)
    if filled.export.hf:
        from trivium.engine.hf.save import exported, family_for

        family_for(exported(filled.model, filled.export.mtp), filled.export.family)
    layout.check_layout(filled, world_size)
    return filled


# What a run may set beside `model.from_hf`: how it trains, not what the model is.
FREE_OF_FOLDER = (
    "attention_dropout",
    "hidden_dropout",
    "init_std",
    "max_position",
    "group_multiple",
    "vocab_multiple",
    "mtp",
)
FREE_OF_FOLDER_MOE = ("aux_loss_weight", "bias_update_rate", "z_loss_weight", "dispatcher")


def adopt_folder(config: RunConfig) -> RunConfig:
    """The run with the model of `model.from_hf`, its family, and its tokenizer if none is named.

    Raises InputError for a folder that cannot be read, and for a field of the model that is set to
    something else than the folder says.
    """
    given = config.model
    if given.from_hf is None:
        return config
    from pathlib import Path

    from trivium.engine.hf.folder import family_of, is_folder, model_config

    folder = Path(given.from_hf)
    if not is_folder(folder):
        raise InputError(
            f"model.from_hf={given.from_hf}: is no Hugging Face folder (a config.json with a "
            "model_type); give one"
        )
    theirs = model_config(folder)
    plain = ModelConfig()
    changes: dict[str, Any] = {"from_hf": given.from_hf}
    for name in (each.name for each in fields(ModelConfig) if each.name != "from_hf"):
        ours = getattr(given, name)
        if name == "moe" and ours is not None and theirs.moe is not None:
            moe = {key: getattr(ours, key) for key in FREE_OF_FOLDER_MOE}
            merged = replace(theirs.moe, **moe)
            if merged != fill_model(replace(theirs, moe=ours), 1).moe:
                raise _not_the_folders("model.moe", given.from_hf)
            changes["moe"] = merged
        elif ours == getattr(plain, name) or ours == getattr(theirs, name):
            continue
        elif name not in FREE_OF_FOLDER:
            raise _not_the_folders(f"model.{name}", given.from_hf)
        else:
            changes[name] = ours
    data = config.data
    if data.tokenizer == DataConfig().tokenizer:
        data = replace(data, tokenizer=given.from_hf)
    # other families may be able to say what the model is as well
    family = config.export.family or family_of(folder).model_type
    export = replace(config.export, family=family)
    return replace(config, model=replace(theirs, **changes), data=data, export=export)


def _not_the_folders(key: str, folder: str) -> InputError:
    return InputError(
        f"{key}: is not what model.from_hf={folder} says; drop it (beside a folder may be set: "
        f"{', '.join(FREE_OF_FOLDER)}, and of moe {', '.join(FREE_OF_FOLDER_MOE)})"
    )


def fill(config: RunConfig) -> RunConfig:
    """The run with every default that follows from other values written out; nothing is checked."""
    parallel = config.parallel
    if parallel.sp is None:
        parallel = replace(parallel, sp=parallel.tp > 1)
    schedule = config.schedule
    if schedule.decay_steps is None:
        schedule = replace(schedule, decay_steps=config.train.steps)
    data = config.data
    if data.corpus is not None and data.dir is None:
        data = replace(data, dir=f"build/data/{_corpus_hash(config)}")
    model = fill_model(config.model, config.data.sequence_length)
    return replace(config, parallel=parallel, schedule=schedule, data=data, model=model)


def fill_model(model: ModelConfig, sequence_length: int) -> ModelConfig:
    """The model with its derived sizes written out.

    A gated feed-forward defaults to 8/3 hidden sizes, so that its three matrices hold as many
    parameters as the two of a plain one with 4 (arXiv 2002.05202); both in multiples of 64.
    """
    heads = model.num_attention_heads
    head_dim = model.head_dim or model.hidden_size // heads
    if model.mla is not None:
        head_dim = model.mla.qk_nope_head_dim + model.mla.qk_rope_head_dim
    ffn = model.ffn_hidden_size
    if ffn is None:
        width = 8 * model.hidden_size / 3 if model.gated else 4 * model.hidden_size
        ffn = math.ceil(width / 64) * 64
    moe = model.moe
    if moe is not None and moe.ffn_hidden_size is None:
        moe = replace(moe, ffn_hidden_size=ffn)
    return replace(
        model,
        head_dim=head_dim,
        num_query_groups=model.num_query_groups or heads,
        ffn_hidden_size=ffn,
        max_position=model.max_position or sequence_length,
        moe=moe,
    )


def _corpus_hash(config: RunConfig) -> str:
    """A short name for what preparing the corpus depends on: one folder for each outcome."""
    data = to_dict(config.data)
    keys = ("corpus", "text_key", "tokenizer", "vocab_size", "split")
    return hash_tree({key: data[key] for key in keys})[:12]
