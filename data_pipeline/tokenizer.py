"""Text to token ids and back: one interface over tokenizers (BPE) and SentencePiece models.

Encoding never turns text into control tokens: a document that spells out ``<|endoftext|>`` gets
ordinary tokens, so that no text can forge the end of a document. Chat templates ask for control
tokens by name with ``token_id``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import orjson

from .errors import InputError

if TYPE_CHECKING:
    import sentencepiece
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
# Tried in this order where no tokenizer_config.json names the token that ends a document.
_USUAL_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|end▁of▁sentence|>", "[EOS]")
_CONFIG = "tokenizer_config.json"
# White space behind something else (as it is, or as ByteLevel or SentencePiece mark it),
# punctuation behind a letter, a letter behind a line end.
_ACROSS = re.compile(r"[^ĠĊčĉ▁\s][ĠĊčĉ▁\s]|[A-Za-z0-9][!-&(-/:-@\[-`{-~]|[Ċ\n][A-Za-z0-9]")


@runtime_checkable
class Tokenizer(Protocol):
    """What training and generation need of a tokenizer; ids lie in [0, vocab_size)."""

    @property
    def name(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def eod_id(self) -> int:
        """The token that ends a document."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the model file and the end-of-document id: equal means the same ids."""

    def encode(self, text: str) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; ids past the vocabulary (padding rows of a model) are left out."""

    def begins_with(self) -> list[int]:
        """The ids that the tokenizer itself puts before a text."""

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact name, or None."""

    def files(self) -> dict[str, bytes]:
        """File name to content: what to write into a folder for load_tokenizer to give this."""


def load_tokenizer(path: str | os.PathLike[str], *, eod: str | None = None) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``, a SentencePiece ``.model``, or a folder with one.

    The end-of-document token is ``eod``, else the eos_token of a tokenizer_config.json beside it,
    else the model's own, else the first usual name in the vocabulary.
    """
    location = Path(path).expanduser()
    if location.is_dir():
        candidates = [location / "tokenizer.json", location / "tokenizer.model"]
        candidates += sorted(location.glob("*.model"))
        file = next((c for c in candidates if c.is_file()), None)
        if file is None:
            raise InputError(f"{location}: no tokenizer.json and no .model in this folder")
    elif location.is_file():
        file = location
    else:
        raise InputError(
            f"{location}: no such tokenizer: give a tokenizer.json, a SentencePiece .model, "
            f"or a folder that holds one"
        )
    config = _read_config(file.with_name(_CONFIG))
    if eod is not None:
        config["eos_token"] = eod
    content = file.read_bytes()
    if file.suffix == ".json":
        return JsonTokenizer(content, str(location), config)
    if file.suffix == ".model":
        return SentencePieceTokenizer(content, str(location), config)
    raise InputError(f"{file}: a tokenizer is a .json or a .model file")


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error}): mend or remove it") from error
    return config if isinstance(config, dict) else {}


class _FileTokenizer:
    """What both kinds share: identity from content, and the end of a document."""

    file_name: str

    def __init__(self, content: bytes, name: str, config: dict[str, Any]) -> None:
        self.name = name
        self.content = content  # of the model's file
        self._config = config

    def token_id(self, token: str) -> int | None:
        raise NotImplementedError

    def _own_end(self) -> int | None:
        return None

    @cached_property
    def eod_id(self) -> int:
        named = self._config.get("eos_token")
        if isinstance(named, dict):  # an AddedToken written out
            named = named.get("content")
        if isinstance(named, str):
            found = self.token_id(named)
            if found is None:
                raise InputError(f"{self.name}: the end token {named!r} is not in the vocabulary")
            return found
        if (own := self._own_end()) is not None:
            return own
        for token in _USUAL_ENDS:
            if (found := self.token_id(token)) is not None:
                return found
        raise InputError(
            f"{self.name}: no end-of-document token (tried {', '.join(_USUAL_ENDS)}): "
            f"name it as eos_token in a {_CONFIG} beside the tokenizer"
        )

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.content + b"\0eod=%d" % self.eod_id).hexdigest()

    def files(self) -> dict[str, bytes]:
        config = dict(self._config)
        config.setdefault("eos_token", self._piece(self.eod_id))
        written = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        return {self.file_name: self.content, _CONFIG: written.encode()}

    def _piece(self, id: int) -> str:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    def _pieces(self) -> Iterable[tuple[str, int]]:
        raise NotImplementedError

    def token_texts(self) -> Iterator[str]:
        """The texts of tokens that reach, by their look, from one word into the next."""
        for piece, id in self._pieces():
            if _ACROSS.search(piece):
                yield self.decode([id])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.content, self.name, self._config)


class JsonTokenizer(_FileTokenizer):
    """A ``tokenizer.json`` of the tokenizers library."""

    file_name = "tokenizer.json"

    @cached_property
    def _model(self) -> tokenizers.Tokenizer:
        # Worker processes are our parallelism; the library's threads do not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        try:
            model = Tokenizer.from_buffer(self.content)
        except Exception as error:
            raise InputError(f"{self.name}: not a tokenizer.json ({error})") from error
        model.encode_special_tokens = True
        model.no_truncation()
        model.no_padding()
        return model

    def json(self) -> dict[str, Any]:
        """The file, parsed, less truncation and padding, which encoding leaves out as well."""
        return self._parsed | {"truncation": None, "padding": None}

    @cached_property
    def _parsed(self) -> dict[str, Any]:
        try:
            parsed: dict[str, Any] = orjson.loads(self.content)
        except ValueError:  # half surrogates, which the standard library reads
            parsed = json.loads(self.content)
        return parsed

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        """Every piece and its id: from the file, which is parsed anyway, where it lists them so."""
        model = self._model  # says what is wrong with a file that is none
        listed = self._parsed["model"].get("vocab")
        if not isinstance(listed, dict):  # a unigram's pieces come with scores
            return model.get_vocab(with_added_tokens=True)
        found: dict[str, int] = dict(listed)
        for token in self._parsed.get("added_tokens", []):
            found.setdefault(token["content"], token["id"])
        return found

    def added(self) -> list[str]:
        """What is one token wherever it stands in a text: added tokens, less those of control."""
        return [t["content"] for t in self.json().get("added_tokens", []) if not t.get("special")]

    @cached_property
    def is_bpe(self) -> bool:
        """Whether ids come of merges, which happen in one place whatever is in another."""
        return bool(self.json()["model"].get("type") == "BPE")

    @cached_property
    def vocab_size(self) -> int:
        return 1 + max(self._vocabulary.values())

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(i) for i in ids if 0 <= i < self.vocab_size]
        return self._model.decode(known, skip_special_tokens=False)

    def begins_with(self) -> list[int]:
        """What the tokenizer itself puts before a text: a model was trained to see it there."""
        self._model.encode_special_tokens = False
        try:
            whole, bare = (
                self._model.encode("a", add_special_tokens=on).ids for on in (True, False)
            )
        finally:
            self._model.encode_special_tokens = True
        return whole[: len(whole) - len(bare)] if whole[-len(bare) :] == bare else []

    def token_id(self, token: str) -> int | None:
        return self._model.token_to_id(token)

    def _piece(self, id: int) -> str:
        return str(self._model.id_to_token(id))

    def _pieces(self) -> Iterable[tuple[str, int]]:
        return self._vocabulary.items()


class SentencePieceTokenizer(_FileTokenizer):
    """A SentencePiece ``.model``, BPE or unigram."""

    file_name = "tokenizer.model"

    @cached_property
    def _model(self) -> sentencepiece.SentencePieceProcessor:
        from sentencepiece import SentencePieceProcessor

        try:
            return SentencePieceProcessor(model_proto=self.content)
        except Exception as error:
            raise InputError(f"{self.name}: not a SentencePiece model ({error})") from error

    @cached_property
    def is_bpe(self) -> bool:
        """Whether ids come of merges: their scores are ranks, those of a unigram logarithms."""
        scores = map(self._model.get_score, range(self.vocab_size))
        return all(score == int(score) for score in scores)

    @cached_property
    def vocab_size(self) -> int:
        return int(self._model.get_piece_size())

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text, out_type=int)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._model.encode(list(texts), out_type=int, num_threads=1)

    def decode(self, ids: Sequence[int]) -> str:
        return self._model.decode([int(i) for i in ids if 0 <= i < self.vocab_size])

    def begins_with(self) -> list[int]:
        """What the tokenizer itself puts before a text, if its configuration says so."""
        begin = int(self._model.bos_id())
        wanted = self._config.get("add_bos_token", False)
        return [begin] if wanted and begin >= 0 else []

    def token_id(self, token: str) -> int | None:
        found = int(self._model.piece_to_id(token))
        return found if self._model.id_to_piece(found) == token else None

    def _own_end(self) -> int | None:
        end = int(self._model.eos_id())
        return end if end >= 0 else None

    def _piece(self, id: int) -> str:
        return str(self._model.id_to_piece(id))

    def _pieces(self) -> Iterable[tuple[str, int]]:
        return ((self._piece(id), id) for id in range(self.vocab_size))


class TextStream:
    """Decode ids as they are generated: ``push`` returns the text that can no longer change.

    One character may be spread over several byte tokens, and a piece's leading space depends on
    its left neighbour; so a short tail of ids is decoded again each time and text is held back
    while it ends in U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tail: list[int] = []
        self._told = 0  # ids of the tail whose text is out already

    def push(self, id: int) -> str:
        self._tail.append(id)
        return self._advance(final=False)

    def flush(self) -> str:
        """The held-back rest, at the end of a generation."""
        return self._advance(final=True)

    def _advance(self, final: bool) -> str:
        before = self._tokenizer.decode(self._tail[: self._told])
        now = self._tokenizer.decode(self._tail)
        held_back = now.endswith("\ufffd") and len(self._tail) - self._told < 8
        if (held_back and not final) or len(now) <= len(before):
            return ""
        self._tail = self._tail[self._told :]
        self._told = len(self._tail)
        return now[len(before) :]
