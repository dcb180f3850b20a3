"""Between checkpoints and Hugging Face folders in one process, a tensor at a time.

A checkpoint of training is torch's distributed format: files of chunks, and an index of where each
lies. Chunks are read one by one and put where they belong in the safetensors files; the other way,
the writer of that format asks for each chunk when it writes it. No model is built and no rank is
needed, so what a laptop's disk holds, it can convert.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from trivium.data_pipeline.config_tree import dump_yaml, load
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.files import sync_path
from trivium.data_pipeline.tokenizer import Tokenizer
from trivium.engine import checkpoint_folder
from trivium.engine.corpus import tokenizer_of
from trivium.engine.dialogue import Dialogue
from trivium.engine.hf import folder as hf_folder
from trivium.engine.hf import save
from trivium.engine.hf.complete import check
from trivium.engine.hf.decoder import tensors
from trivium.engine.hf.layout import Layout, Tensors
from trivium.engine.hf.read_rows import fill
from trivium.engine.hf.safetensors_files import Folder, Writer
from trivium.engine.hf.stacks import stacked, unstacked
from trivium.engine.schema import (
    DataConfig,
    Dtype,
    ExportConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from trivium.engine.state import TrainState

# told of bytes done, of all, as a conversion goes on
Progress = Callable[[int, int], None]
_TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHUNK = 32 << 20  # bytes of a chunk of a checkpoint that is written, at most


def to_folder(
    checkpoint: Path,
    out: Path,
    dtype: Dtype | None,
    family: str | None,
    mtp: Literal["keep", "drop"],
    max_file_bytes: int,
    progress: Progress,
) -> ModelConfig:
    """Write the model of a complete checkpoint as the Hugging Face folder `out`.

    dtype: None keeps the checkpoint's. family: a model_type, None chooses. Raises InputError, with
    nothing left behind, where the checkpoint is damaged or no family describes its model.
    """
    checkpoint_folder.read(checkpoint)
    config = load(RunConfig, checkpoint / "config.yaml")
    model = save.exported(config.model, mtp)
    tokenizer = _words(checkpoint, config)
    export = save.Export(
        tokenizer=tokenizer,
        dialogue=_dialogue(checkpoint, tokenizer),
        source=checkpoint if hf_folder.has_tokenizer(checkpoint) else None,
        card=save.card(config, checkpoint),
        family=family or config.export.family,
        max_file_bytes=max_file_bytes,
    )
    begun = save.begin(out, model, dtype or config.train.dtype, export)
    try:
        _copy(checkpoint, begun.table, Writer(begun.placed), progress)
        save.finish(begun)
    except OSError as error:
        raise InputError(
            f"{out}: writing failed ({error.strerror}); free space and start again"
        ) from error
    finally:
        shutil.rmtree(begun.folder, ignore_errors=True)
    return model


def _copy(checkpoint: Path, table: Tensors, writer: Writer, progress: Progress) -> None:
    """Every chunk of the model's tensors to where it belongs, in the order of the files."""
    chunks = sorted(_chunks(checkpoint, table), key=lambda each: (each[0], each[1]))
    total = sum(length for _, _, length, *_ in chunks)
    done = 0
    covered: dict[str, int] = {}
    for file, offset, length, name, row, column in chunks:
        data = _read_chunk(checkpoint / file, offset, length)
        data = data.view(data.shape[-2:]) if table[name].columns is not None else data.view(-1)
        save.write(writer, table[name], row, column, data)
        covered[name] = covered.get(name, 0) + data.numel()
        done += length
        progress(done, total)
    for name, layout in table.items():
        rows, *columns = layout.shape
        if covered.get(name, 0) != rows * (columns[0] if columns else 1):
            raise InputError(
                f"checkpoint {checkpoint}: {name} is not there, or not all of it; its config.yaml "
                "is of another model"
            )
    writer.close()


def _chunks(checkpoint: Path, table: Tensors) -> Iterator[tuple[str, int, int, str, int, int]]:
    """(file, offset, length, our name, row, column) of every chunk of the model's weights."""
    metadata = dcp.FileSystemReader(str(checkpoint)).read_metadata()
    for index, info in metadata.storage_data.items():
        if index.offset is None or index.fqn.startswith("optimizer."):
            continue
        facts = metadata.state_dict_metadata[index.fqn]
        offset = tuple(index.offset)
        vector = _is_vector(index.fqn, table, facts.size)  # type: ignore[union-attr]
        lead = len(offset) - (1 if vector else 2)
        with suppress(ValueError):
            name = unstacked(index.fqn, offset[:lead])
            if name in table:
                row, *column = offset[lead:]
                place = name, row, column[0] if column else 0
                yield info.relative_path, info.offset, info.length, *place


def _is_vector(key: str, table: Tensors, size: Any) -> bool:
    """Has a tensor of this key one dim (norms, biases) behind what numbers it?"""
    for lead in range(len(size)):
        with suppress(ValueError):
            layout = table.get(unstacked(key, (0,) * lead))
            if layout is not None:
                return layout.columns is None
    return False


class _View(io.RawIOBase):
    """Bytes [start, start + length) of a file, as a file of their own."""

    def __init__(self, file: Any, start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self._length - self._at)]
        self._file.seek(self._start + self._at)
        count: int = self._file.readinto(view)
        self._at += count
        return count


def _read_chunk(file: Path, offset: int, length: int) -> torch.Tensor:
    """One tensor of a checkpoint's file."""
    with open(file, "rb", buffering=0) as stream:
        view: Any = _View(stream, offset, length)
        return torch.load(view, weights_only=True, map_location="cpu")


def _words(checkpoint: Path, config: RunConfig) -> Tokenizer | None:
    """The tokenizer of a checkpoint; None where its run's is gone, for weights go without it."""
    try:
        return tokenizer_of(config.data, checkpoint)
    except (InputError, OSError):
        return None


def _dialogue(checkpoint: Path, tokenizer: Tokenizer | None) -> Dialogue:
    """How the model wants to be talked to, as the checkpoint or its run's tokenizer says."""
    if (checkpoint / hf_folder.GENERATION).is_file():
        return hf_folder.dialogue(checkpoint)
    stops = frozenset() if tokenizer is None else frozenset({tokenizer.eod_id})
    return Dialogue(stop_ids=stops)


# --- The other way --------------------------------------------------------------------------------


def from_folder(folder: Path, out: Path, dtype: Dtype | None, progress: Progress) -> ModelConfig:
    """Write a Hugging Face folder as the checkpoint `out`: weights, tokenizer, no optimizer.

    dtype: None keeps the folder's. Raises InputError, with nothing left behind, where the folder
    is damaged or not supported.
    """
    family = hf_folder.family_of(folder)
    model = hf_folder.model_config(folder)
    dtype = dtype or hf_folder.dtype(folder)
    if out.exists():
        raise InputError(f"{out}: exists; give another name or remove it")
    source = Folder(folder)
    partial = out.with_name(f".{out.name}.partial")
    try:
        table = tensors(model, family.names)
        check(source, table, model)
        config = RunConfig(
            model=model,
            train=TrainConfig(dtype=dtype),
            data=DataConfig(tokenizer=str(out)),
            export=ExportConfig(family=family.model_type),
        )
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        planner = _Planner(source, table, model, dtype, progress)
        save.check_room(out, partial, planner.total)
        writer = dcp.FileSystemWriter(str(partial), single_file_per_rank=True, thread_count=1)
        dcp.save({}, storage_writer=writer, planner=planner, no_dist=True)
        _describe(folder, partial, out, config)
        _publish(partial, out)
    except (OSError, dcp.api.CheckpointException) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[-1]
        raise InputError(f"{out}: writing failed ({why}); free space and start again") from error
    finally:
        source.close()
        shutil.rmtree(partial, ignore_errors=True)
    return model


def stacks(model: ModelConfig) -> int | None:
    """Layers that megatron-core keeps as one tensor: all, where the pattern of MoE is no list."""
    return model.num_layers if model.moe is None or model.moe.layers == 1 else None


class _Planner(SavePlanner):
    """Chunks of all tensors, each read from the folder when it is written."""

    def __init__(
        self, source: Folder, table: Tensors, model: ModelConfig, dtype: Dtype, progress: Progress
    ) -> None:
        self.source, self.table, self.progress = source, table, progress
        self.model, self.dtype = model, _TORCH[dtype]
        self.total = sum(self._bytes(layout, layout.rows) for layout in table.values())
        self.done = 0
        self.places: dict[MetadataIndex, tuple[str, int, int]] = {}

    def _kept(self, layout: Layout) -> torch.dtype:
        return torch.float32 if layout.keep_fp32 else self.dtype

    def _bytes(self, layout: Layout, rows: int) -> int:
        return rows * (layout.columns or 1) * self._kept(layout).itemsize

    def set_up_planner(
        self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        """Nothing is given: the table says what there is."""

    def create_local_plan(self) -> SavePlan:
        """Every tensor, in chunks of bounded size."""
        experts = self.model.moe.num_experts if self.model.moe is not None else 0
        items = []
        for name, layout in self.table.items():
            key, sizes, at = stacked(name, stacks(self.model), experts)
            step = max(1, _CHUNK // max(1, self._bytes(layout, 1)))
            tail = layout.shape[1:]
            for row in range(0, layout.rows, step):
                rows = min(step, layout.rows - row)
                offset = torch.Size((*at, row, *(0,) * len(tail)))
                index = MetadataIndex(key, offset)
                self.places[index] = (name, row, rows)
                data = TensorWriteData(
                    chunk=ChunkStorageMetadata(offset, torch.Size((*(1,) * len(at), rows, *tail))),
                    properties=TensorProperties(dtype=self._kept(layout)),
                    size=torch.Size((*sizes, *layout.shape)),
                )
                items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        return SavePlan(items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """The one plan there is, and the index of it."""
        plans, metadata = create_default_global_save_plan(all_plans)
        return plans, metadata

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """As planned; chunks may have been numbered."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        """Rows of one tensor of ours, read from theirs now."""
        index = write_item.index
        name, row, rows = self.places[MetadataIndex(index.fqn, index.offset)]
        layout = self.table[name]
        out = torch.empty(rows, *layout.shape[1:], dtype=self._kept(layout))
        fill(out, layout, row, 0, self.source)
        self.done += self._bytes(layout, rows)
        self.progress(self.done, self.total)
        assert write_item.tensor_data is not None
        return out.view(write_item.tensor_data.chunk.sizes)


def _describe(folder: Path, partial: Path, out: Path, config: RunConfig) -> None:
    """What makes it a checkpoint: megatron-core's two small files, config.yaml, the tokenizer."""
    torch.save({}, partial / "common.pt")
    kinds = {
        "sharded_backend": "torch_dist",
        "sharded_backend_version": 1,
        "common_backend": "torch",
        "common_backend_version": 1,
    }
    (partial / "metadata.json").write_text(json.dumps(kinds))
    for name in save.CARRIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, partial / name)
    # what generation_config.json leaves to config.json
    if not (partial / hf_folder.GENERATION).is_file():
        found = hf_folder.dialogue(folder)
        ids = {"bos_token_id": found.bos_id, "eos_token_id": sorted(found.stop_ids)}
        (partial / hf_folder.GENERATION).write_text(json.dumps(ids))
    config = replace(config, run=replace(config.run, dir=str(out)))
    (partial / "config.yaml").write_text(dump_yaml(config))


def _publish(partial: Path, out: Path) -> None:
    files = {
        path.name: checkpoint_folder.describe(path)
        for path in sorted(partial.iterdir())
        if path.is_file()
    }
    state = TrainState()
    checkpoint_folder.write_manifest(partial, state, files, weights_only=True)
    for path in partial.iterdir():
        sync_path(path)
    sync_path(partial)
    partial.rename(out)
    sync_path(out.parent)
