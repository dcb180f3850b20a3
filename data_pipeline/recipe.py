"""A recipe: what is read, what happens to it in which order, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .config_tree import OneOf, hash_tree, to_dict
from .dedup.whole import Whole
from .documents import PYTHON_DOCS, OnError, SplitText
from .errors import InputError
from .executors import ExecutorName
from .fast_encoder import Fast
from .presets import Preset, expand
from .stages.registry import stage_classes
from .tokenizer_training import KINDS, LEAST_VOCABULARY

_LONGEST_NAME = 100  # bytes; file systems allow 255, and temporary names are longer


def check_paths(key: str, paths: tuple[str, ...]) -> None:
    """Raise InputError where there is none, or an empty one: that would be the current folder."""
    if not paths:
        raise InputError(f"{key}: name files, folders or globs")
    if not all(path.strip() for path in paths):
        raise InputError(f"{key}: an empty path; the current folder is '.'")


class StageChoice(OneOf):
    """A stage by its name, with its parameters."""

    @classmethod
    def known(cls) -> Mapping[str, type]:
        """Every stage there is, and `preset`, which stands for several."""
        return {**stage_classes(), "preset": Preset}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files that are read alike, and become one shard."""

    name: str  # of the shard
    paths: tuple[str, ...]  # files, folders, globs, URLs, python-docs
    text_key: str = "text"  # of a record
    id_key: str = "id"
    url_key: str = "url"
    split_text: SplitText = "file"  # a text file is one document, or one for each paragraph
    on_error: OnError = "skip"  # a record that cannot be read: fail | skip | replace
    max_document_bytes: int = 64 << 20  # larger documents are rejected
    # Share in the blend: `weight`, or how often the source is gone through while the others are
    # once (`epochs`). Weights are given for all sources or for none.
    weight: float | None = None
    epochs: float = 1.0
    stages: tuple[StageChoice, ...] = ()  # that its documents go through before the recipe's

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", expand(self.stages))
        for choice in self.stages:
            if isinstance(choice.value, Whole):
                raise InputError(
                    f"stages of {self.name}: {choice.name} compares the documents of all sources: "
                    "name it in the stages of the recipe"
                )
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise InputError(f"name {self.name!r}: a file name without folders")
        if not self.name.isprintable() or len(self.name.encode()) > _LONGEST_NAME:
            raise InputError(
                f"name {self.name[:40]!r}: printable characters, {_LONGEST_NAME} bytes at most: "
                "files are called so"
            )
        check_paths(f"paths of {self.name}", self.paths)
        if not self.text_key:
            raise InputError(f"text_key of {self.name} is empty: name the key that holds the text")
        if not 1 <= self.max_document_bytes <= 1 << 30:
            raise InputError(
                f"max_document_bytes {self.max_document_bytes} of {self.name}: 1 to {1 << 30}"
            )
        if self.weight is not None and not self.weight > 0:
            raise InputError(f"weight {self.weight} of {self.name}: above 0; or leave it out")
        if not self.epochs > 0:
            raise InputError(f"epochs {self.epochs} of {self.name}: above 0")
        if self.weight is not None and self.epochs != 1:
            raise InputError(f"{self.name}: give weight or epochs, not both")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sources, the stages that all their documents go through, a tokenizer, and a blend.

    Equal recipes over unchanged files give byte-identical shards, whatever `fast_encoder` and
    the last four fields are.
    """

    sources: tuple[Source | str, ...] = (PYTHON_DOCS,)  # bare paths make up one source, `corpus`
    stages: tuple[StageChoice, ...] = ()
    # tokenizer.json, .model or folder; or what to train: bpe, sentencepiece-bpe/-unigram
    tokenizer: str = "bpe"
    vocab_size: int = 8192  # of a tokenizer to train
    tokenizer_bytes: int = 32 << 20  # at most so much text is sampled to train it
    # An encoder quicker than the tokenizer's library, where it gives the same ids: auto, off, on
    # (an error where none does)
    fast_encoder: Fast = "auto"
    append_eod: bool = True  # end each document with the end-of-document token
    seed: int = 0  # of the sample that a tokenizer is trained on
    # Shares of sources without weights: tokens^(1 / temperature). 1 is as they are; more is evener.
    temperature: float = 1.0
    # folders of prepared corpora whose `index` this one is compared with as well
    earlier: tuple[str, ...] = ()
    keep_index: bool = False  # keep what later corpora need to be compared with this one
    part_bytes: int = 0  # of input for one task; 0: by size of the corpus and number of workers
    workers: int = 0  # processes; 0: one for each core
    executor: ExecutorName = "local"  # local: this machine | ray: a cluster
    keep_work: bool = False  # leave the documents between the stages in <out>/.work

    def __post_init__(self) -> None:
        sources: object = self.sources
        if isinstance(sources, str):  # else each of its characters would be a source
            raise InputError(f"sources {sources!r}: give a list, also of one")
        check_paths("sources", tuple(one for one in self.sources if isinstance(one, str)) or ("-",))
        if not self.sources:
            raise InputError("sources: name at least one")
        names = [source.name for source in self.named_sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"sources: {twice[0]!r} is named twice")
        weighted = [source.weight is not None for source in self.named_sources]
        if any(weighted) and not all(weighted):
            raise InputError("sources: give a weight to all of them or none")
        if any(weighted) and self.temperature != 1:
            raise InputError("temperature: the weights of the sources are given already")
        if not self.temperature > 0:
            raise InputError(f"temperature {self.temperature}: above 0")
        if self.trains_tokenizer and self.vocab_size < LEAST_VOCABULARY:
            raise InputError(
                f"vocab_size {self.vocab_size}: at least {LEAST_VOCABULARY} (256 bytes, control "
                "tokens, some merges)"
            )
        if self.tokenizer_bytes < 1:
            raise InputError(f"tokenizer_bytes {self.tokenizer_bytes}: above 0")
        for name in ("part_bytes", "workers"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)}: 0 or more")
        object.__setattr__(self, "stages", expand(self.stages))

    @cached_property
    def named_sources(self) -> tuple[Source, ...]:
        """The sources; bare paths are one, which stands where the first of them does."""
        bare = tuple(source for source in self.sources if isinstance(source, str))
        named: list[Source] = []
        for source in self.sources:
            if isinstance(source, Source):
                named.append(source)
            elif not any(other.paths == bare for other in named):
                named.append(Source(name="corpus", paths=bare))
        return tuple(named)

    @property
    def trains_tokenizer(self) -> bool:
        """Is the tokenizer one to train?"""
        return self.tokenizer in KINDS

    def deciding(self) -> dict[str, Any]:
        """The fields that decide the result, as JSON has them."""
        tree = to_dict(self)
        for unused in ("part_bytes", "workers", "executor", "keep_work", "fast_encoder"):
            del tree[unused]
        if not self.trains_tokenizer:
            for unused in ("vocab_size", "tokenizer_bytes", "seed"):
                del tree[unused]
        tree["sources"] = [to_dict(source) for source in self.named_sources]
        return tree

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the result, without looking at any file."""
        return hash_tree(self.deciding())
