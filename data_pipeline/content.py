"""What a shard holds, by content: a hash per document, and one identity of the whole.

Document hashes decide the train/validation/test split, so that equal documents never straddle it,
in whatever shard they are. They are kept beside the shard as ``<prefix>.hash``; a foreign shard
gets that file the first time it is read (one pass, about a gigabyte a second), where the folder
may be written to.

    magic "TRVHASH2" | sha256 of the layout, 32 bytes | blake2b-64 of each document's tokens, u64[D]

The layout is the .idx as far as it says something: `Shard.layout`. Files of version 1 are tied to
the whole .idx, and are read.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .files import write_atomic
from .shards import Shard, Tokens

_MAGIC, _FIRST_MAGIC = b"TRVHASH2", b"TRVHASH1"
_HEADER = len(_MAGIC) + 32

Hashes = NDArray[np.uint64]


def hash_path(prefix: str | os.PathLike[str]) -> Path:
    """``<prefix>.hash``."""
    return Path(f"{os.fspath(prefix)}.hash")


def hash_documents(tokens: Tokens, offsets: NDArray[np.integer[Any]]) -> Hashes:
    """uint64 [D]: the hash of each ``tokens[offsets[d]:offsets[d + 1]]``, as stored."""
    if not tokens.size:
        tokens = np.zeros(1, tokens.dtype)  # an empty array has no buffer to slice
    buffer = np.ascontiguousarray(tokens).view(np.uint8).data
    ends: list[int] = (np.asarray(offsets, np.int64) * tokens.itemsize).tolist()
    digests = [
        hashlib.blake2b(buffer[start:end], digest_size=8).digest() for start, end in pairwise(ends)
    ]
    return np.frombuffer(b"".join(digests), "<u8")


def write_hashes(shard: Shard, hashes: Hashes) -> None:
    """Keep ``hashes`` beside ``shard``."""
    content = _MAGIC + shard.layout + hashes.astype("<u8").tobytes()
    write_atomic(hash_path(shard.prefix), content)


def document_hashes(shard: Shard) -> Hashes:
    """uint64 [D], from beside the shard if they are there and fit it, else computed and kept."""
    path = hash_path(shard.prefix)
    if path.is_file() and path.stat().st_size == _HEADER + 8 * shard.num_documents:
        content = np.asarray(np.memmap(path, np.uint8, mode="r"))
        magic, tied_to = content[: len(_MAGIC)].tobytes(), content[len(_MAGIC) : _HEADER].tobytes()
        if (magic == _MAGIC and tied_to == shard.layout) or (
            magic == _FIRST_MAGIC and tied_to == hashlib.sha256(shard.index.data).digest()
        ):
            return content[_HEADER:].view("<u8")
    hashes = hash_documents(shard.tokens, shard.document_offsets)
    with suppress(InputError):  # a folder that may not be written to: computed again next time
        write_hashes(shard, hashes)
    return hashes


def shard_identity(shard: Shard, hashes: Hashes) -> str:
    """Hex sha256 of dtype and document hashes: equal means the same documents in the same order,
    wherever the files lie and whatever they are called."""
    digest = hashlib.sha256(f"{shard.dtype.name} {shard.num_documents}\n".encode())
    digest.update(np.ascontiguousarray(hashes, "<u8").data)
    return digest.hexdigest()
