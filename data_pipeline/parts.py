"""A corpus cut into parts of a bounded size: what one task works on.

Files are taken together up to `part_bytes`. A file that is larger is read once and written as
pieces of that size, so that several processes share it, whatever its format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from .documents import InputFile, find_files
from .readers import Counts, ReadOptions, find_sources, read_batches
from .readers import Source as File
from .recipe import Recipe, Source
from .report.profile import Profile
from .stages.stage import COLUMNS
from .stages.tally import text_bytes
from .tasks import Facts, Task

REJECTS = "rejects.jsonl"
BATCH_BYTES = 8 << 20
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")  # zstd takes thrice as long


@dataclass(frozen=True)
class Part:
    """What one task reads: files, or a piece of one file."""

    source: Source
    paths: tuple[str, ...]
    size: int  # bytes
    piece: str = ""  # an Arrow file that was cut from it

    def read(
        self, counts: Counts, rejects: Path, batch_bytes: int = BATCH_BYTES
    ) -> Iterator[pa.Table]:
        """Its documents, in batches."""
        if self.piece:
            return stored_batches(Path(self.piece))
        return read_batches(self.paths, options_for(self.source, rejects, batch_bytes), counts)


def plan_parts(recipe: Recipe, part_bytes: int) -> list[Part]:
    """The files of each source, in order, in parts of about `part_bytes`."""
    parts = []
    for source in recipe.named_sources:
        paths: list[str] = []
        size = 0
        for file in find_sources(source.paths):
            length = file_size(file)
            if paths and size + length > part_bytes:
                parts.append(Part(source, tuple(paths), size))
                paths, size = [], 0
            paths.append(file.path or file.name)
            size += length
        parts.append(Part(source, tuple(paths), size))
    return parts


def file_size(file: File) -> int:
    """Bytes on disk; of a file across a network none are known, and it counts as one."""
    if file.remote is not None:
        return 1
    path = Path(file.path)
    files = [path] if path.is_file() else [one.path for one in find_files([file.path])]
    return sum(one.stat().st_size for one in files)


def describe_files(sources: Sequence[str]) -> list[tuple[str, int, int | str]]:
    """Name, bytes and time of change of every file: equal where nothing has changed."""
    described: list[tuple[str, int, int | str]] = []
    for file in find_sources(sources):
        if file.remote is not None:
            described.append((file.name, 1, file.mark()))
            continue
        path = Path(file.path)
        found = [InputFile(path, "text", file.name)] if path.is_file() else find_files([file.path])
        for one in found:
            facts = one.path.stat()
            described.append((one.name, facts.st_size, facts.st_mtime_ns))
    return described


def cutting(parts: Sequence[Part], part_bytes: int, folder: Path) -> list[Task | None]:
    """For each part the task that cuts it, None where it is small enough."""
    return [
        Task(folder / f"{number:05d}", cut, {"part": part, "part_bytes": part_bytes}, part.size)
        if part.size > part_bytes
        else None
        for number, part in enumerate(parts)
    ]


def cut(folder: Path, *, part: Part, part_bytes: int) -> Facts:
    """The documents of `part` in Arrow files of about `part_bytes` of text each."""
    counts = Counts()
    sizes = list[int]()
    profiles: dict[str, Profile] = {}
    writer: ArrowWriter | None = None
    for batch in part.read(counts, folder / REJECTS, min(BATCH_BYTES, part_bytes)):
        if writer is None or sizes[-1] >= part_bytes:
            if writer is not None:
                writer.close()
            name = f"{len(sizes):05d}.arrow"
            writer = ArrowWriter(folder / name, passing=True)
            profile = profiles.setdefault(name, Profile())
            sizes.append(0)
        writer.write(batch)
        profile.add(Profile.of(batch))
        sizes[-1] += text_bytes(batch)
    if writer is not None:
        writer.close()
    found = {name: profile.to_json() for name, profile in profiles.items()}
    return {"sizes": sizes, "read": vars(counts), "profiles": found}


def pieces(part: Part, folder: Path, facts: Facts) -> list[Part]:
    """The parts that `cut` made of one."""
    return [
        replace(part, size=size, piece=str(folder / f"{number:05d}.arrow"))
        for number, size in enumerate(facts["sizes"])
    ]


def options_for(source: Source, rejects: Path, batch_bytes: int) -> ReadOptions:
    """How the files of a source are read."""
    return ReadOptions(
        text_column=source.text_key,
        id_column=source.id_key,
        url_column=source.url_key,
        batch_bytes=batch_bytes,
        max_document_bytes=source.max_document_bytes,
        split_text=source.split_text,
        on_error=source.on_error,
        with_mime=True,
        rejects=rejects,
    )


class ArrowWriter:
    """Batches of one schema into an Arrow file; without any it has the columns of COLUMNS.

    passing: the file is read once and soon, so compressing it would not pay.
    """

    def __init__(self, file: Path, passing: bool = False) -> None:
        self._file = file
        self._options = None if passing else _OPTIONS
        self._writer: pa.RecordBatchFileWriter | None = None

    def write(self, batch: pa.Table) -> None:
        """Add a batch."""
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._file), batch.schema, options=self._options)
        self._writer.write_table(batch.combine_chunks())

    def close(self) -> None:
        """Finish the file."""
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._file), COLUMNS)
        self._writer.close()


def stored_batches(file: Path) -> Iterator[pa.Table]:
    """The batches of an Arrow file; none is kept."""
    with pa.memory_map(str(file)) as stream:
        reader = pa.ipc.open_file(stream)
        for number in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(number)])
