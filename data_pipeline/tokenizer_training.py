"""Train a tokenizer on a bounded, seeded sample of documents; the same input gives the same file.

All kinds are lossless: any text decodes to itself, whatever bytes it is made of (SentencePiece
reads U+2581, its own mark for a space, as a space).
"""

from __future__ import annotations

import heapq
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from .documents import Document
from .errors import InputError
from .files import write_atomic
from .tokenizer import END_OF_TEXT, JsonTokenizer, SentencePieceTokenizer, Tokenizer

TokenizerKind = Literal["bpe", "sentencepiece-bpe", "sentencepiece-unigram"]
KINDS: tuple[str, ...] = get_args(TokenizerKind)
LEAST_VOCABULARY = 300

# Characters: SentencePiece leaves out sentences over 4,192 bytes, in silence.
_SENTENCE = 1000
_LETTER = r"\p{L}\p{M}"
# Where merges may not cross: contractions, words with one leading mark or space, numbers in threes,
# punctuation, line ends, indentation. Of the family that GPT-4 and Llama-3 use; marks (\p{M}) stay
# with their letters, without which Thai and the Indic scripts fall apart.
_PIECES = "|".join(
    (
        r"'(?:[sdmtSDMT]|ll|LL|ve|VE|re|RE)",
        rf"[^\r\n{_LETTER}\p{{N}}]?[{_LETTER}]+",
        r"\p{N}{1,3}",
        rf" ?[^\s{_LETTER}\p{{N}}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def train_tokenizer(
    kind: TokenizerKind,
    documents: Iterable[Document],
    vocab_size: int,
    out: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    max_bytes: int = 64 << 20,
) -> Tokenizer:
    """A tokenizer of at most ``vocab_size`` ids, the end-of-document token among them.

    Trains on at most ``max_bytes`` of text (sample_texts). ``out``, if given, is a folder, which
    receives the tokenizer as files that load_tokenizer reads. A corpus too small for
    ``vocab_size`` gives a smaller BPE vocabulary.
    """
    if kind not in KINDS:
        raise InputError(f"tokenizer kind {kind!r}: known kinds are {', '.join(KINDS)}")
    if vocab_size < LEAST_VOCABULARY:
        raise InputError(
            f"vocab_size {vocab_size}: at least {LEAST_VOCABULARY} (256 bytes, control tokens, "
            "some merges)"
        )
    texts = sample_texts(documents, max_bytes, seed)
    if not texts:
        raise InputError("training a tokenizer: the sources hold no text")
    tokenizer: Tokenizer
    if kind == "bpe":
        tokenizer = JsonTokenizer(_train_bpe(texts, vocab_size), kind, {})
    else:
        model = _train_sentencepiece(kind.removeprefix("sentencepiece-"), texts, vocab_size)
        tokenizer = SentencePieceTokenizer(model, kind, {})
    if out is not None:
        save_tokenizer(tokenizer, out)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str | os.PathLike[str]) -> None:
    """Write the tokenizer's files into ``folder``, each whole or not at all."""
    for name, content in reversed(tokenizer.files().items()):  # the model last: it is what counts
        write_atomic(Path(folder) / name, content)


def sample_texts(documents: Iterable[Document], max_bytes: int, seed: int) -> list[str]:
    """A uniform sample of documents of at most ``max_bytes``, in corpus order, in one pass.

    Every document draws a number from (seed, position) and the smallest numbers stay: memory is
    bounded by ``max_bytes`` and no document is favoured for coming early. A document larger than
    the whole budget is cut to it.
    """
    kept: list[tuple[int, int, str, int]] = []  # a heap with the largest draw on top
    held = 0
    for position, document in enumerate(documents):
        text = document.text
        size = len(text.encode())
        if size > max_bytes:
            text = text.encode()[:max_bytes].decode(errors="ignore")
            size = len(text.encode())
        heapq.heappush(kept, (-_draw(seed, position), position, text, size))
        held += size
        while held > max_bytes:
            held -= heapq.heappop(kept)[3]
    return [text for _, _, text, _ in sorted(kept, key=lambda entry: entry[1])]


def _draw(seed: int, position: int) -> int:
    """splitmix64's output function on a counter: a fixed pseudo-random 64-bit number."""
    mask = (1 << 64) - 1
    x = (seed * 0xD1342543DE82EF95 + (position + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def _train_bpe(texts: Sequence[str], vocab_size: int) -> bytes:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer, length=len(texts))
    return model.to_str(pretty=False).encode()


def _train_sentencepiece(model_type: str, texts: Sequence[str], vocab_size: int) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            # Lossless: bytes for rare characters, no rewriting of the text.
            byte_fallback=True,
            character_coverage=0.9999,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            eos_piece=END_OF_TEXT,
            num_threads=4,  # fixed: the order of its sums is part of the result
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(
            f"SentencePiece could not train {vocab_size} pieces ({error}): "
            f"give more text, or lower vocab_size"
        ) from error
    return model.getvalue()


def _sentences(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines(keepends=True):
            for start in range(0, len(line), _SENTENCE):
                yield line[start : start + _SENTENCE]
