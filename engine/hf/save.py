"""A Hugging Face folder, from its small files to the places of its weights.

The files are made with their headers and their full length first (`begin`); then whoever has
weights puts them where they belong (`write`). The folder is written under a temporary name and
renamed when all of it is on the disk (`finish`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.files import sync_path
from trivium.data_pipeline.tokenizer import Tokenizer
from trivium.engine import parameters
from trivium.engine.dialogue import Dialogue
from trivium.engine.hf import safetensors_files
from trivium.engine.hf.decoder import tensors
from trivium.engine.hf.families import FAMILIES, Family
from trivium.engine.hf.fields import CONFIG
from trivium.engine.hf.folder import DTYPE_NAMES, GENERATION, TEMPLATE, TOKENIZER
from trivium.engine.hf.layout import Layout, Shape, Tensors
from trivium.engine.hf.safetensors_files import Entry, Writer
from trivium.engine.schema import Dtype, ModelConfig, MTPConfig, RunConfig
from trivium.engine.units import format_bytes

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}  # as headers name them
# Files of a source folder that go along as they are: the tokenizer in all its forms, its template.
CARRIED = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


@dataclass(frozen=True, kw_only=True)
class Export:
    """What a folder is to hold beside the weights.

    source: the Hugging Face folder that the model came from, whose tokenizer files, template and
    generation_config.json go along. card: the text of README.md. family: a model_type; None
    chooses the first that can say what the model is.
    """

    tokenizer: Tokenizer | None
    dialogue: Dialogue = field(default_factory=Dialogue)
    source: Path | None = None
    card: str = ""
    family: str | None = None
    max_file_bytes: int = 5 * 1000**3


@dataclass(frozen=True)
class Begun:
    """A folder being written: its temporary name, its name, what is in it and where it lies."""

    folder: Path
    final: Path
    table: Tensors
    placed: Mapping[str, Entry]


def exported(model: ModelConfig, mtp: Literal["keep", "drop"]) -> ModelConfig:
    """The model as it is written: with its MTP heads, or without."""
    return model if mtp == "keep" else replace(model, mtp=MTPConfig())


def family_for(model: ModelConfig, named: str | None = None) -> Family:
    """The family to write `model` as; InputError where there is none."""
    if named is not None:
        if named not in FAMILIES:
            raise InputError(f"family {named}: not known; known are {', '.join(FAMILIES)}")
        candidates = [FAMILIES[named]]
    else:
        candidates = list(FAMILIES.values())
    for family in candidates:
        if family.fits(model):
            return family
    if model.mtp.num_heads and any(each.fits(exported(model, "drop")) for each in candidates):
        raise InputError(
            f"no Hugging Face family has a place for the {model.mtp.num_heads} MTP heads of this "
            "model; leave them out with export.mtp=drop (of tools/convert_checkpoint.py, mtp=drop)"
        )
    raise InputError(
        f"no Hugging Face family {'' if named is None else f'({named} was asked for) '}describes "
        f"this model; known are {', '.join(FAMILIES)}, each with its own parts: see "
        "docs/hugging_face.md"
    )


def begin(folder: Path, model: ModelConfig, dtype: Dtype, export: Export) -> Begun:
    """Everything but the weights, under a temporary name; the files of weights stand ready.

    Raises InputError where the folder exists, the model fits no family, or the disk is full.
    """
    family = family_for(model, export.family)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not empty; give another name or remove it")
    partial_folder = folder.with_name(f".{folder.name}.partial")
    table = tensors(model, family.names)
    placed = safetensors_files.plan(
        partial_folder, _their_tensors(table, DTYPES[dtype]), export.max_file_bytes
    )
    try:
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
        check_room(folder, partial_folder, sum(entry.bytes for entry in placed.values()))
        safetensors_files.create(placed)
        _small_files(partial_folder, family, model, dtype, export)
    except OSError as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); give another folder"
        ) from error
    return Begun(partial_folder, folder, table, placed)


def check_room(folder: Path, partial_folder: Path, size: int) -> None:
    """Raise InputError, with nothing left, where the disk has no `size` bytes for `folder`."""
    free = shutil.disk_usage(partial_folder).free
    if free < size:
        shutil.rmtree(partial_folder)
        raise InputError(
            f"{folder}: needs {format_bytes(size)}, the disk has {format_bytes(free)} free; free "
            "space or give another folder"
        )


def _their_tensors(table: Tensors, dtype: str) -> dict[str, tuple[str, Shape]]:
    """Their tensors in the order of ours, which is that of the model."""
    found: dict[str, tuple[str, Shape]] = {}
    for layout in table.values():
        kept = DTYPES["fp32"] if layout.keep_fp32 else dtype
        for name, shape in layout.sources().items():
            found[name] = (kept, shape)
    return found


def write(writer: Writer, layout: Layout, row: int, column: int, data: torch.Tensor) -> None:
    """Put a part of a tensor of ours, from (row, column) on, into their tensors."""
    width = layout.their_columns
    if width is not None:
        data = data[:, : max(0, width - column)]
    for run in layout.within(row, row + data.shape[0]):
        if run.source is not None and data.numel():
            values = data[run.offset : run.offset + run.rows]
            writer.put(run.source, run.start, column, values)


def finish(out: Begun) -> None:
    """All of it to the disk, then the name."""
    for path in out.folder.iterdir():
        sync_path(path)
    sync_path(out.folder)
    if out.final.is_dir():
        out.final.rmdir()  # `begin` saw it empty
    os.rename(out.folder, out.final)
    sync_path(out.final.parent)


def card(config: RunConfig, source: Path, facts: dict[str, Any] | None = None) -> str:
    """A model card for README.md: what the model is and where it came from, as far as is known."""
    model = config.model
    total, active = parameters.count(model)
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- trivium",
        "---",
        "",
        f"# {source.name}",
        "",
        f"A decoder with {total:,} parameters"
        + (f", {active:,} of them active for a token" if active != total else "")
        + f": {model.num_layers} layers of width {model.hidden_size}, "
        f"{model.num_attention_heads} heads, a vocabulary of {model.vocab_size:,}.",
        "",
        f"Exported by Trivium from `{source.name}`.",
    ]
    rows = {"dtype of training": config.train.dtype, **(facts or {})}
    lines += ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines) + "\n"


# --- The small files ------------------------------------------------------------------------------


def _small_files(
    folder: Path, family: Family, model: ModelConfig, dtype: Dtype, export: Export
) -> None:
    carried = _carry(folder, export.source) if export.source is not None else set()
    tokenizer = export.tokenizer
    if tokenizer is not None and not carried & {"tokenizer.json", "tokenizer.model"}:
        for name, content in tokenizer.files().items():
            (folder / name).write_bytes(content)
        words = folder / TOKENIZER
        if tokenizer.files().keys() & {"tokenizer.json"}:
            _amend(words, {"tokenizer_class": "PreTrainedTokenizerFast"})
    template = export.dialogue.chat_template
    if template is not None and TEMPLATE not in carried:
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
    ids = _ids(export)
    if GENERATION not in carried:
        _dump(folder / GENERATION, ids)
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.write(model),
        **ids,
        "dtype": DTYPE_NAMES[dtype],
        "torch_dtype": DTYPE_NAMES[dtype],  # as transformers 4 calls it
        "use_cache": True,
    }
    _dump(folder / CONFIG, config)
    if export.card:
        (folder / "README.md").write_text(export.card, encoding="utf-8")


def _carry(folder: Path, source: Path) -> set[str]:
    found = {name for name in CARRIED if (source / name).is_file()}
    for name in found:
        shutil.copyfile(source / name, folder / name)
    return found


def _ids(export: Export) -> dict[str, Any]:
    """Control tokens: one end as a number, several as a list."""
    stops = sorted(export.dialogue.stop_ids)
    made: dict[str, Any] = {}
    if export.dialogue.bos_id is not None:
        made["bos_token_id"] = export.dialogue.bos_id
    if stops:
        made["eos_token_id"] = stops[0] if len(stops) == 1 else stops
    return made


def _amend(path: Path, more: dict[str, Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    _dump(path, {**more, **content})


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
