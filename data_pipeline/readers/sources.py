"""Which files there are to read, of which kind, and how to open one, here or across a network."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..documents import find_files
from ..errors import InputError
from ..files import storage_errors
from ..unpack import open_unpacked

# What stops a read of a damaged or vanished file; gzip.BadGzipFile is an OSError.
DAMAGE = (OSError, EOFError, zlib.error)  # unpack.Damaged is an EOFError

_KINDS = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "html": (".html", ".htm", ".xhtml"),
    "warc": (".warc", ".wet"),
}
_DOCUMENTS = (".txt", ".md", ".rst", ".py", ".json", ".jsonl")
_PACKED = (".gz", ".zst")  # all but Parquet, which packs its own columns
_KNOWN = ", ".join(sorted(s for group in _KINDS.values() for s in group))


@dataclass(frozen=True)
class Source:
    """A file to read.

    kind: parquet, csv, tsv, html, warc, or documents (what `documents.read_documents` reads).
    path: of a local file, or the one source name that `documents` understands (`python-docs`).
    remote: an fsspec OpenFile, for files across a network.
    """

    name: str
    kind: str
    path: str = ""
    remote: Any = None

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file as bytes, unpacked; but a web archive in .gz as it is, record by record."""
        name = _bare(self.name)
        with self._raw() as raw:
            if name.endswith(".zst") or (name.endswith(".gz") and self.kind != "warc"):
                yield open_unpacked(raw, name)
            else:
                yield raw

    @contextmanager
    def local(self) -> Iterator[str]:
        """A path of this machine: its own, or that of a copy which lives as long as the context."""
        if self.remote is None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="trivium-read-") as folder:
            path = os.path.join(folder, os.path.basename(_bare(self.name)))
            with self._raw() as raw, storage_errors(Path(path)), open(path, "wb") as copy:
                shutil.copyfileobj(raw, copy, 1 << 20)
            yield path

    def mark(self) -> str:
        """Of a file across a network: what its filesystem tells versions apart by, if anything."""
        return str(_asked(self.name, lambda: self.remote.fs.ukey(self.remote.path)))

    @contextmanager
    def _raw(self) -> Iterator[IO[bytes]]:
        if self.remote is None:
            with open(self.path, "rb") as raw:
                yield raw
            return
        stream = _asked(self.name, self.remote.open)
        try:
            yield stream
        finally:
            stream.close()


def find_sources(sources: Sequence[str]) -> list[Source]:
    """Every file that `sources` (files, folders, globs, URLs, `python-docs`) stand for, in order.

    Folders are searched in depth; their files come sorted by path. Raises InputError where a source
    has no file of a known kind, or where its network package is not installed.
    """
    if not sources:
        raise InputError("sources is empty: name files, folders, globs or URLs to read")
    found = list[Source]()
    for source in sources:
        if "\0" in source:
            raise InputError(f"{source!r}: a path cannot hold a NUL byte")
        found += _remote(source) if "://" in source else _local(source)
    return found


def _bare(name: str) -> str:
    """The name in lower case, of a URL without its query: where the suffixes are."""
    return (name.partition("?")[0] if "://" in name else name).lower()


def _kind(name: str) -> str | None:
    lower = _bare(name)
    if lower.endswith(_KINDS["parquet"]):
        return "parquet"
    plain = next((lower[: -len(end)] for end in _PACKED if lower.endswith(end)), lower)
    for kind, suffixes in _KINDS.items():
        if plain.endswith(suffixes) and kind != "parquet":
            return kind
    return "documents" if plain.endswith(_DOCUMENTS) else None


def _local(source: str) -> list[Source]:
    path = Path(source)
    try:
        path = path.expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # a pattern, or missing
    except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links, no home
        raise InputError(f"{source[:200]}: cannot be opened ({error}): check the path") from error
    if path.is_file():
        kind = _kind(path.name)
        if kind is None:
            raise InputError(f"{source}: unknown kind of file; known: {_all_known()}")
        return [Source(source, kind, str(path))]
    if path.is_dir():
        names = sorted(str(p) for p in path.rglob("*") if p.is_file())
    else:
        names = sorted(p for p in glob.glob(str(path), recursive=True) if os.path.isfile(p))
        if not names:
            # it knows the sources that are no files, and says what is missing
            return [Source(f.name, "documents", source) for f in find_files([source])[:1]]
    found = [Source(name, kind, name) for name in names if (kind := _kind(name))]
    if not found:
        raise InputError(f"{source}: no file of a known kind inside ({_all_known()})")
    return found


def _remote(source: str) -> list[Source]:
    """fsspec finds what a URL or a pattern over URLs stands for."""
    try:
        import fsspec
    except ImportError:
        raise InputError(f"{source}: reading it needs the package: pip install fsspec") from None
    files = _asked(source, lambda: list(fsspec.open_files(source, "rb", compression=None)))
    found = list[Source]()
    for file in sorted(files, key=lambda f: str(f.full_name)):
        name = source if len(files) == 1 and "*" not in source else str(file.full_name)
        kind = _kind(name)
        if kind is None:
            raise InputError(f"{name}: unknown kind of file; known: {_all_known()}")
        found.append(Source(name, kind, remote=file))
    if not found:
        raise InputError(f"{source}: nothing matches")
    return found


def _asked(name: str, ask: Callable[[], Any]) -> Any:
    """Each filesystem of fsspec has errors of its own (HTTP, S3, Hub): one line for any of them."""
    try:
        return ask()
    except ImportError as error:
        raise InputError(f"{name}: a package is missing: {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{name}: cannot be opened ({reason}): check the address") from error


def _all_known() -> str:
    return f"{_KNOWN}, {', '.join(_DOCUMENTS)}; all but Parquet also with {' or '.join(_PACKED)}"
