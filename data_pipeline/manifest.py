"""The manifest of a prepared corpus: written last, so that it being there means all of it is.

It holds no path and no time: prepared twice from the same input, it is the same file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import sha256_of, write_atomic
from .shards import Shard
from .tokenizer import Tokenizer, load_tokenizer

MANIFEST = "manifest.json"
FORMAT = 2
_LOOKED_AT = 1 << 22  # tokens
_SMALL = 1 << 26  # files up to this size are hashed even in the quick check


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """A shard of the folder: what one source became."""

    name: str  # the shard is <directory>/<name>.bin and .idx
    documents: int
    tokens: int
    bytes: int  # of text, as UTF-8
    weight: float  # share of the samples, in the blend of all shards


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds, and what it was made from and with."""

    directory: Path  # where it was loaded from; not part of the file
    format: int = FORMAT
    shards: tuple[ShardFacts, ...]
    skipped: int  # records that could not be read, under on_error=skip
    dtype: str
    vocab_size: int
    eod_id: int
    tokenizer_file: str  # its name in the folder
    tokenizer_fingerprint: str
    unigram_entropy: float  # nats per token, of the blend
    files: Mapping[str, Mapping[str, Any]]  # name -> bytes, sha256
    spec: Mapping[str, Any]
    spec_hash: str
    versions: Mapping[str, str]

    @property
    def documents(self) -> int:
        """Of all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Of all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Of the text of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def blend(self) -> list[tuple[Path, float]]:
        """Prefix and weight of every shard."""
        return [(self.directory / shard.name, shard.weight) for shard in self.shards]

    @property
    def prefix(self) -> Path:
        """Of the one shard; InputError where there are several."""
        if len(self.shards) > 1:
            names = ", ".join(str(prefix) for prefix, _ in self.blend)
            raise InputError(f"{self.directory}: holds several shards: name one of {names}")
        return self.directory / self.shards[0].name

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Manifest:
        """The manifest of a folder, of a shard prefix in it, or the file itself.

        Raises InputError if there is none, it is not whole, or a file it names is missing or has
        another size or content than when it was written.
        """
        location = Path(path)
        file = location / MANIFEST if location.is_dir() else location
        if file.name != MANIFEST:
            file = file.parent / MANIFEST
        manifest = cls._read(file)
        if location not in (file, file.parent) and not manifest.holds(location.name):
            names = " or ".join(str(prefix) for prefix, _ in manifest.blend)
            raise InputError(f"{location}: not in the manifest beside it: give {names}")
        manifest.check()
        return manifest

    @classmethod
    def find(cls, prefix: str | os.PathLike[str]) -> Manifest | None:
        """The manifest of the shard ``prefix``, or None: shards of other makers have none."""
        file = Path(prefix).parent / MANIFEST
        if not file.is_file() or not cls._read(file).holds(Path(prefix).name):
            return None
        return cls.load(prefix)

    def holds(self, name: str) -> bool:
        """Is there a shard of this name?"""
        return any(shard.name == name for shard in self.shards)

    @classmethod
    def _read(cls, file: Path) -> Manifest:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise InputError(
                    f"{file}: format {content['format']}, this version reads {FORMAT}: "
                    f"prepare the corpus again"
                )
            names = {field.name for field in fields(cls)} - {"directory"}
            content["shards"] = tuple(ShardFacts(**facts) for facts in content["shards"])
            return cls(directory=file.parent, **{name: content[name] for name in names})
        except FileNotFoundError as error:
            raise InputError(
                f"{file}: no such file: the corpus is not prepared, or was interrupted: run "
                f"tools/prepare_corpus.py (again)"
            ) from error
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(
                f"{file}: not a whole manifest ({error}): prepare the corpus again"
            ) from error

    def write(self) -> None:
        content = {k: v for k, v in asdict(self).items() if k != "directory"}
        written = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_atomic(self.directory / MANIFEST, written.encode())

    def check(self, *, every_byte: bool = False) -> None:
        """Raise InputError unless every file is as written: sizes, hashes of the small files, and
        with ``every_byte`` hashes of all."""
        for name, facts in self.files.items():
            file = self.directory / name
            actual = file.stat().st_size if file.is_file() else -1
            if actual != facts["bytes"]:
                state = "is missing" if actual < 0 else f"is {actual} bytes"
                raise InputError(
                    f"{file}: {state} where the manifest says {facts['bytes']} bytes: "
                    f"copy the folder again or prepare the corpus again"
                )
            if (every_byte or actual <= _SMALL) and sha256_of(file) != facts["sha256"]:
                raise InputError(
                    f"{file}: its content is not what the manifest says (sha256): "
                    f"copy the folder again or prepare the corpus again"
                )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the shard was made with."""
        tokenizer = load_tokenizer(self.directory / self.tokenizer_file)
        self.require_tokenizer(tokenizer)
        return tokenizer

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise InputError unless ``tokenizer`` gives the ids that this shard is made of."""
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise InputError(
                f"{tokenizer.name}: wrong tokenizer (vocabulary {tokenizer.vocab_size}, "
                f"{tokenizer.fingerprint[:12]}): {self.directory} was made with another "
                f"(vocabulary {self.vocab_size}, {self.tokenizer_fingerprint[:12]}): "
                f"use {self.directory / self.tokenizer_file}, or prepare the corpus again"
            )


def require_tokenizer(prefix: str | os.PathLike[str], tokenizer: Tokenizer) -> None:
    """Raise InputError unless the shard ``prefix`` can have been made with ``tokenizer``.

    By fingerprint where the shard has a manifest; else by the ids at its beginning.
    """
    manifest = Manifest.find(prefix)
    if manifest is not None:
        return manifest.require_tokenizer(tokenizer)
    beginning = Shard(prefix).tokens[:_LOOKED_AT]
    highest = int(beginning.max()) if beginning.size else 0
    if highest >= tokenizer.vocab_size:
        raise InputError(
            f"{prefix}: holds token id {highest}, and {tokenizer.name} has ids below "
            f"{tokenizer.vocab_size}: wrong tokenizer; give the one that the shard was made with"
        )
