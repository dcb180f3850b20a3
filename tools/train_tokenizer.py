"""Train a tokenizer: python tools/train_tokenizer.py [--config file.yaml] key=value ...

python tools/train_tokenizer.py out=build/tokenizer sources='[text/]' vocab_size=32000
python tools/train_tokenizer.py out=build/tokenizer kind=sentencepiece-unigram
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from trivium.data_pipeline.documents import PYTHON_DOCS, OnError, SplitText, read_documents
from trivium.data_pipeline.errors import InputError, fail_clean
from trivium.data_pipeline.tokenizer_training import TokenizerKind, train_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # see command.py

from tools.command import read


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer:
    """A tokenizer to train, what on, and where to put it."""

    out: str = ""  # folder
    kind: TokenizerKind = "bpe"
    vocab_size: int = 32768
    sources: tuple[str, ...] = (PYTHON_DOCS,)  # files, folders, globs, or python-docs
    text_key: str = "text"  # of a JSON record
    split_text: SplitText = "file"
    on_error: OnError = "fail"
    max_bytes: int = 64 << 20  # at most so much text is sampled
    seed: int = 0  # of the sample


def main() -> None:
    """Train the tokenizer that the command line names, and say what came of it."""
    asked = read(TrainTokenizer, __doc__)
    if not asked.out:
        raise InputError("out: name the folder for the tokenizer: out=build/tokenizer")
    documents = read_documents(
        asked.sources,
        text_key=asked.text_key,
        split_text=asked.split_text,
        on_error=asked.on_error,
    )
    tokenizer = train_tokenizer(
        asked.kind,
        documents,
        asked.vocab_size,
        asked.out,
        seed=asked.seed,
        max_bytes=asked.max_bytes,
    )
    print(
        f"{asked.out}: {tokenizer.vocab_size:,} ids, documents end with id {tokenizer.eod_id}, "
        f"fingerprint {tokenizer.fingerprint[:12]}"
    )


if __name__ == "__main__":
    sys.exit(fail_clean(main))
