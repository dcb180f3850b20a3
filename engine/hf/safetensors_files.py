"""Folders of safetensors files, read and written a few rows at a time.

The format: 8 bytes of length, a JSON header (name -> dtype, shape, first and last byte), the data.
It is read with `pread` rather than mapped: a mapped file counts as memory of the process as far as
it was touched, and a rank wants slices. It is written in place, so that every rank can put its own
rows where they belong. Never reads a pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivium.data_pipeline.errors import InputError
from trivium.engine.hf.fields import read_json
from trivium.engine.hf.layout import Shape

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# name in a header -> bytes of an element, name in torch
DTYPES = {
    "F64": (8, "float64"),
    "F32": (4, "float32"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
}
_MOST = 100 << 20  # bytes of a header: the reference implementation's limit
_STEP = 32 << 20  # bytes read or written at a time


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies."""

    file: Path
    dtype: str  # as headers name it
    shape: Shape
    start: int  # byte in the file

    @property
    def row_bytes(self) -> int:
        """Of one index of the first dim."""
        size = DTYPES[self.dtype][0]
        for count in self.shape[1:]:
            size *= count
        return size

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return self.row_bytes * (self.shape[0] if self.shape else 1)


class Folder:
    """The tensors of a folder, by name; files are opened as they are needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        for file, names in _files(path).items():
            found = dict(_header(path / file))
            for name in names if names is not None else found:
                if name not in found:
                    raise InputError(
                        f"{path / file}: {name} is missing, which {INDEX} says is there; "
                        "download the folder again"
                    )
            self.entries |= found
        self._open: dict[Path, int] = {}

    def close(self) -> None:
        """Close every file."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open = {}

    def expect(self, name: str, shape: Shape) -> Entry:
        """The tensor `name`, which must have this shape."""
        entry = self.entries.get(name)
        if entry is None:
            raise InputError(
                f"{self.path}: tensor {name} is missing; the folder is incomplete, or its "
                "config.json is of another model"
            )
        if entry.shape != shape:
            raise InputError(
                f"{entry.file}: {name} has the shape {list(entry.shape)}, not {list(shape)} as "
                "config.json says; the folder is of another model, or damaged"
            )
        return entry

    def rows(self, entry: Entry, first: int, count: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Rows [first, first + count) in steps: (row within these, tensor [rows, ...])."""
        import torch

        dtype = getattr(torch, DTYPES[entry.dtype][1])
        descriptor = self._open.get(entry.file)
        if descriptor is None:
            descriptor = self._open[entry.file] = os.open(entry.file, os.O_RDONLY)
        step = max(1, _STEP // max(1, entry.row_bytes))
        for at in range(0, count, step):
            rows = min(step, count - at)
            buffer = bytearray(rows * entry.row_bytes)
            position = entry.start + (first + at) * entry.row_bytes
            _fill(descriptor, buffer, position, entry.file)
            values = torch.frombuffer(buffer, dtype=dtype)
            yield at, values.view(rows, *entry.shape[1:])


def names(path: Path) -> set[str]:
    """The tensors of a folder, by its index or its one file's header."""
    found: set[str] = set()
    for file, listed in _files(path).items():
        found |= set(listed if listed is not None else dict(_header(path / file)))
    return found


def _fill(descriptor: int, buffer: bytearray, position: int, file: Path) -> None:
    view = memoryview(buffer)
    while view:
        count = os.preadv(descriptor, [view], position)
        if count == 0:
            raise InputError(f"{file}: ends early; it is truncated: download it again")
        view, position = view[count:], position + count


def _files(path: Path) -> dict[str, list[str] | None]:
    """File name -> the tensors the index says it holds (None: all that are in it)."""
    if (path / INDEX).is_file():
        mapping = read_json(path / INDEX).get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise InputError(f"{path / INDEX}: has no weight_map; download it again")
        files: dict[str, list[str] | None] = {}
        for name, file in mapping.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise InputError(f"{path / INDEX}: {name} is in {file!r}, which is no file name")
            names = files.setdefault(file, [])
            assert names is not None
            names.append(name)
        for file in files:
            if not (path / file).is_file():
                raise InputError(
                    f"{path / file}: is missing, which {INDEX} names; download the folder again"
                )
        return files
    if (path / SINGLE).is_file():
        return {SINGLE: None}
    pickles = [p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if pickles:
        raise InputError(
            f"{path}: holds pickled weights only ({sorted(pickles)[0]}), which can run code when "
            "they are loaded; convert them to safetensors with transformers' save_pretrained"
        )
    raise InputError(f"{path}: no {SINGLE} and no {INDEX}; give a Hugging Face folder")


def _header(file: Path) -> Iterator[tuple[str, Entry]]:
    """Name and place of every tensor of a file, whose size must be what its header says."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(_MOST, size - 8):
            raise InputError(f"{file}: is no safetensors file, or is truncated; download it again")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise InputError(f"{file}: its header cannot be read; download it again") from error
    if not isinstance(header, dict):
        raise InputError(f"{file}: its header cannot be read; download it again")
    end = 0
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = facts["dtype"], tuple(int(n) for n in facts["shape"])
            first, last = (int(n) for n in facts["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file}: its entry of {name} cannot be read") from error
        if dtype not in DTYPES:
            raise InputError(
                f"{file}: {name} is of dtype {dtype}; only {', '.join(DTYPES)} are read, so "
                "convert quantised weights first"
            )
        entry = Entry(file, dtype, shape, 8 + length + first)
        if first < 0 or last - first != entry.bytes:
            raise InputError(f"{file}: its entry of {name} does not fit its shape")
        end = max(end, last)
        yield name, entry
    if size < 8 + length + end:
        raise InputError(
            f"{file}: has {size} bytes, its header says {8 + length + end}; it is truncated: "
            "download it again"
        )


# --- Writing --------------------------------------------------------------------------------------


def plan(folder: Path, tensors: Mapping[str, tuple[str, Shape]], most: int) -> dict[str, Entry]:
    """Where every tensor will lie: files of at most `most` bytes, unless one tensor is larger."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, (dtype, shape) in tensors.items():
        size = Entry(folder, dtype, shape, 0).bytes
        if groups[-1] and filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    placed: dict[str, Entry] = {}
    for number, names in enumerate(groups, start=1):
        file = SINGLE
        if len(groups) > 1:
            file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        start = 8 + len(_encode(_table(names, tensors)))
        for name, facts in _table(names, tensors).items():
            dtype, shape = tensors[name]
            placed[name] = Entry(folder / file, dtype, shape, start + facts["data_offsets"][0])
    return placed


def _table(names: list[str], tensors: Mapping[str, tuple[str, Shape]]) -> dict[str, dict[str, Any]]:
    at = 0
    table: dict[str, dict[str, Any]] = {}
    for name in names:
        dtype, shape = tensors[name]
        size = Entry(Path(), dtype, shape, 0).bytes
        table[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [at, at + size],
        }
        at += size
    return table


def _encode(table: dict[str, dict[str, Any]]) -> bytes:
    """The header, padded with spaces so that the data is aligned to 8 bytes."""
    text = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
    return text + b" " * (-len(text) % 8)


def create(placed: Mapping[str, Entry]) -> None:
    """Make the files with their headers, as long as they will be, and the index."""
    by_file: dict[Path, list[str]] = {}
    for name, entry in placed.items():
        by_file.setdefault(entry.file, []).append(name)
    total = sum(entry.bytes for entry in placed.values())
    for file, names in by_file.items():
        tensors = {name: (placed[name].dtype, placed[name].shape) for name in names}
        header = _encode(_table(names, tensors))
        with open(file, "wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header)
            stream.truncate(max(placed[name].start + placed[name].bytes for name in names))
    if len(by_file) > 1:
        mapping = {name: entry.file.name for name, entry in sorted(placed.items())}
        content = {"metadata": {"total_size": total}, "weight_map": mapping}
        folder = next(iter(by_file)).parent
        (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n")


class Writer:
    """Puts rows where they belong in files that `create` made; several processes may."""

    def __init__(self, placed: Mapping[str, Entry]) -> None:
        self.placed = placed
        self._open: dict[Path, int] = {}

    def put(self, name: str, row: int, column: int, values: torch.Tensor) -> None:
        """values [rows, columns] (or [rows]) from (row, column) of tensor `name` on."""
        import torch

        entry = self.placed[name]
        descriptor = self._open.get(entry.file)
        if descriptor is None:
            descriptor = self._open[entry.file] = os.open(entry.file, os.O_WRONLY)
        whole = values.dim() < 2 or values.shape[1] == entry.shape[1]
        step = max(1, _STEP // max(1, entry.row_bytes))
        for at in range(0, values.shape[0], step):
            part = (
                values[at : at + step]
                .to(device="cpu", dtype=getattr(torch, DTYPES[entry.dtype][1]))
                .contiguous()
            )
            data = part.view(torch.uint8).numpy().reshape(part.shape[0], -1)
            position = entry.start + (row + at) * entry.row_bytes
            if whole:
                _put(descriptor, memoryview(data.reshape(-1).data), position)
                continue
            for index, line in enumerate(data):
                offset = index * entry.row_bytes + column * DTYPES[entry.dtype][0]
                _put(descriptor, memoryview(line.data), position + offset)

    def close(self) -> None:
        """Everything to the disk."""
        for descriptor in self._open.values():
            os.fsync(descriptor)
            os.close(descriptor)
        self._open = {}


def _put(descriptor: int, view: memoryview, position: int) -> None:
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count
