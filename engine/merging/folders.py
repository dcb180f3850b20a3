"""Merge Hugging Face folders, a tensor at a time: memory is a few copies of the largest tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.files import storage_errors, sync_path
from trivium.engine.hf.fields import CONFIG, read_json
from trivium.engine.hf.folder import is_folder
from trivium.engine.hf.safetensors_files import Entry, Folder, Writer, create, plan
from trivium.engine.hf.save import CARRIED
from trivium.engine.merging.methods import Method

# fields of config.json that say nothing of what the weights mean
_INCIDENTAL = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"}


def merge(
    models: Sequence[Path],
    base: Path | None,
    out: Path,
    method: Method,
    max_file_bytes: int,
    told: Callable[[int, int], None],
) -> int:
    """Write the merged model as the folder `out`; gives the number of its elements.

    Dtypes, config.json and tokenizer are those of the base, or else of the first model. Raises
    InputError, with nothing left behind, where folders do not fit together or cannot be read.
    """
    if out.exists():
        raise InputError(f"{out}: exists; give another name or remove it")
    lead = base or models[0]
    paths = [*models, *([base] if base else [])]
    for path in paths:
        if not is_folder(path):
            raise InputError(
                f"{path}: is no Hugging Face folder; make one of a checkpoint with "
                "tools/convert_checkpoint.py to-hf"
            )
        _same_model(lead, path)
    partial = out.with_name(f".{out.name}.partial")
    with ExitStack() as stack:
        folders = [stack.enter_context(closing(Folder(path))) for path in paths]
        first = folders[paths.index(lead)]
        for folder in folders:
            _same_tensors(first, folder)
        try:
            with storage_errors(out):
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                return _write(first, folders, base is not None, partial, out, method,
                              max_file_bytes, told)  # fmt: skip
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write(
    first: Folder,
    folders: Sequence[Folder],
    has_base: bool,
    partial: Path,
    out: Path,
    method: Method,
    max_file_bytes: int,
    told: Callable[[int, int], None],
) -> int:
    tensors = {name: (entry.dtype, entry.shape) for name, entry in first.entries.items()}
    placed = plan(partial, tensors, max_file_bytes)
    create(placed)
    total, done, elements = sum(entry.bytes for entry in placed.values()), 0, 0
    with closing(Writer(placed)) as writer:
        for name, entry in placed.items():
            read = [_whole(folder, folder.entries[name]) for folder in folders]
            base = read.pop() if has_base else None
            merged = method(name, read, base)
            if not torch.isfinite(merged).all():
                raise InputError(f"{name}: the merged tensor has values that are not finite")
            writer.put(name, 0, 0, merged.reshape(merged.shape or (1,)))
            elements += merged.numel()
            done += entry.bytes
            told(done, total)
    for name in (CONFIG, *CARRIED):
        if (first.path / name).is_file():
            shutil.copyfile(first.path / name, partial / name)
    for path in partial.iterdir():
        sync_path(path)
    sync_path(partial)
    partial.rename(out)
    sync_path(out.parent)
    return elements


def _whole(folder: Folder, entry: Entry) -> torch.Tensor:
    """All of a tensor, in float64."""
    whole = torch.empty(entry.shape or (1,), dtype=torch.float64)
    for at, values in folder.rows(entry, 0, whole.shape[0]):
        whole[at : at + values.shape[0]] = values.view(values.shape[0], *whole.shape[1:])
    return whole.view(entry.shape)


def _same_tensors(first: Folder, other: Folder) -> None:
    for name in sorted(first.entries.keys() ^ other.entries.keys()):
        lacks = other if name in first.entries else first
        raise InputError(
            f"{lacks.path}: has no tensor {name}, which another model has; only models of one "
            "architecture can be merged"
        )
    for name, entry in first.entries.items():
        other.expect(name, entry.shape)


def _same_model(lead: Path, other: Path) -> None:
    """Do config.json and vocabulary say that weights stand for the same things?"""
    ours, theirs = read_json(lead / CONFIG), read_json(other / CONFIG)
    for key in sorted((ours.keys() | theirs.keys()) - _INCIDENTAL):
        if ours.get(key) != theirs.get(key) and not key.endswith("_token_id"):
            raise InputError(
                f"{other / CONFIG}: {key}={json.dumps(theirs.get(key))}, but {lead} has "
                f"{json.dumps(ours.get(key))}; only models of one architecture can be merged"
            )
    words = [_vocabulary(path) for path in (lead, other)]
    if None not in words and words[0] != words[1]:
        raise InputError(
            f"{other}: its vocabulary is not that of {lead}, so the same row stands for another "
            "token; only models of one tokenizer can be merged"
        )


def _vocabulary(folder: Path) -> Any:
    if not (folder / "tokenizer.json").is_file():
        return None
    return read_json(folder / "tokenizer.json").get("model", {}).get("vocab")
