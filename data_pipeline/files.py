"""Files that appear whole or not at all.

A file is written under a temporary name, synced, and renamed; a reader (or the next run after a
power cut) sees the old file or the new one, never half of one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import InputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NUMPY_SHORT = re.compile(r"\d+ requested and \d+ written")  # what ndarray.tofile says of it
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn "disk full" and "not allowed" while writing ``path`` into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or (error.errno is None and _NUMPY_SHORT.search(str(error))):
            raise InputError(
                f"{path}: the disk is full ({error.strerror or error}): free some space or choose "
                f"another output folder, then run again; no incomplete file was left in its place"
            ) from error
        if error.errno in _REFUSED:
            raise InputError(
                f"{error.filename or path}: cannot write here ({error.strerror}): "
                f"choose an output folder that this user may write to"
            ) from error
        raise


def sync_path(path: Path) -> None:
    """Force a file, or the names inside a directory, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(stream: IO[bytes]) -> None:
    """Force what was written to ``stream`` onto the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` as ``path``, whole or not at all."""
    with appearing(path) as stream:
        stream.write(content)


@contextmanager
def appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which is there as ``path`` when the context ends; not where it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as stream:
                yield stream
                sync_file(stream)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_path(path.parent)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold ``lock`` alone; other processes of this machine wait. Released when the holder dies."""
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = open(lock, "ab")  # noqa: SIM115  (closed below, after the caller's block)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
    finally:
        stream.close()


def link_file(source: Path, target: Path) -> None:
    """``source`` under another name as well, without a copy where the file system can; replaces."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            try:
                os.link(source, temporary)
            except OSError as error:
                if error.errno in _FULL:
                    raise
                shutil.copyfile(source, temporary)
                sync_path(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_path(target.parent)


def link_tree(source: Path, target: Path) -> None:
    """Every file below ``source`` also below ``target``."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            link_file(file, target / file.relative_to(source))
