"""What the small files of a Hugging Face folder say: the model, its dtype, how to talk to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from trivium.data_pipeline.chat import named_tokens
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.tokenizer import load_tokenizer
from trivium.engine.config import fill_model
from trivium.engine.dialogue import Dialogue
from trivium.engine.hf import safetensors_files
from trivium.engine.hf.families import FAMILIES, Family
from trivium.engine.hf.fields import CONFIG, Fields, read_json
from trivium.engine.schema import Dtype, ModelConfig, MTPConfig

GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
_DTYPES: dict[str, Dtype] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
DTYPE_NAMES = {ours: theirs for theirs, ours in _DTYPES.items()}


def is_folder(path: Path) -> bool:
    """Is it a Hugging Face folder: one with a config.json that names a model_type?"""
    try:
        return "model_type" in json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def has_tokenizer(folder: Path) -> bool:
    """Does it hold a tokenizer's file?"""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def family_of(folder: Path) -> Family:
    """The family that config.json names; InputError for one that is not known."""
    return _family(read_json(folder / CONFIG), folder)


def _family(raw: dict[str, Any], folder: Path) -> Family:
    kind = raw.get("model_type")
    if kind not in FAMILIES:
        raise InputError(
            f"{folder / CONFIG}: model_type={json.dumps(kind)} is not known; known are "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[kind]


def model_config(folder: Path) -> ModelConfig:
    """The model that config.json describes, filled in.

    Raises InputError for a family, a field or a value that is not supported, and names it.
    """
    raw = read_json(folder / CONFIG)
    family = _family(raw, folder)
    fields = Fields(raw, str(folder / CONFIG))
    try:
        model = family.read(fields)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / CONFIG}: holds a value that cannot be ({error})") from error
    fields.finish()
    if model.mtp.num_heads and not _holds_heads(folder, model):
        model = replace(model, mtp=MTPConfig())
    return fill_model(model, model.max_position or 1)


def _holds_heads(folder: Path, model: ModelConfig) -> bool:
    """Are the MTP heads that config.json counts in the files? transformers leaves them out."""
    prefix = f"model.layers.{model.num_layers}."
    return any(name.startswith(prefix) for name in safetensors_files.names(folder))


def dtype(folder: Path) -> Dtype:
    """The dtype that config.json names, as `train.dtype` does; fp32 where it names none."""
    raw = read_json(folder / CONFIG)
    named = str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch.")
    if named not in _DTYPES:
        raise InputError(
            f"{folder / CONFIG}: dtype={json.dumps(named)} is not known; known are "
            f"{', '.join(_DTYPES)}"
        )
    return _DTYPES[named]


def dialogue(folder: Path) -> Dialogue:
    """Ids that begin and end, and the chat template, of whichever file names them first.

    Stop ids are those of generation_config.json and the tokenizer's end, or else config.json's.
    """
    model, words = _optional(folder / CONFIG), _optional(folder / TOKENIZER)
    generation = _optional(folder / GENERATION)
    stops: set[int] = set()
    for found in (generation.get("eos_token_id"), model.get("eos_token_id")):
        if found is not None and not stops:
            stops = {int(one) for one in (found if isinstance(found, list) else [found])}
    begin = words.get("bos_token")
    begin = begin.get("content") if isinstance(begin, dict) else begin
    bos = model.get("bos_token_id") or generation.get("bos_token_id")
    begins: tuple[int, ...] = ()
    if has_tokenizer(folder):
        tokenizer = load_tokenizer(folder)
        stops.add(tokenizer.eod_id)
        begins = tuple(tokenizer.begins_with())
        bos = tokenizer.token_id(begin) if isinstance(begin, str) else bos
    return Dialogue(
        bos_id=bos,
        begin_ids=begins,
        stop_ids=frozenset(stops),
        chat_template=chat_template(folder),
        named_tokens=named_tokens(words),
    )


def chat_template(folder: Path) -> str | None:
    """From its own file, or from tokenizer_config.json: the one named `default` of several."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    found = _optional(folder / TOKENIZER).get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
