"""JSON lines to a shard: CPU and wall seconds of `prepare_corpus` against Megatron's preprocessing.

    python -m tools.benchmarks.data_encode [texts='[FILES]'] [tokenizer=tokenizer.json] [out=FILE]

The text is written as one file of JSON lines, as much as `megabytes` says; where there is less, it
is repeated with words exchanged. Each side makes a shard in a process of its own, all of it counted
(start, imports, files), with so many `workers`; the peer is the pattern of Megatron-LM's
preprocess_data.py (megatron_preprocess.py), and .bin and .idx must be its to the byte. Ours runs
with gigatoken, with the table of words, and with the tokenizer's own library alone.

Without a `tokenizer` (a tokenizer.json, or a folder with one) a published one is taken if it lies
beside the repository; else a byte-level BPE is trained, which gigatoken does not read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from tools.benchmarks.turns import (
    OURS,
    ROOT,
    SHARED,
    Asked,
    Clock,
    Contestant,
    Part,
    Passes,
    Ratio,
    Report,
    Work,
    main,
    quotient,
    seconds,
    spread,
)
from trivium.data_pipeline.documents import PYTHON_DOCS, read_documents
from trivium.data_pipeline.errors import InputError, fail_clean
from trivium.data_pipeline.prepare import prepare_corpus
from trivium.data_pipeline.recipe import Recipe, Source
from trivium.data_pipeline.tokenizer import JsonTokenizer, load_tokenizer
from trivium.data_pipeline.tokenizer_training import save_tokenizer, train_tokenizer

PEER = "megatron"
GIGATOKEN = "gigatoken"
# contestant -> the encoder; gigatoken is a peer's, and left out where it cannot read the tokenizer
ENCODERS = {
    f"{GIGATOKEN} in {OURS}": GIGATOKEN,
    f"{OURS}, table of words": "words",
    f"{OURS}, tokenizer's library": "off",
}
TIMES = {GIGATOKEN: 20.0, "words": 2.0}  # of the peer's seconds; "off" stands for no bar
CLOCKS: dict[Clock, str] = {"cpu": "CPU s", "wall": "wall s"}
TRAINED = 32_000  # ids, where there is no tokenizer to take
SHARD = "corpus"

_LINES, _TOKENIZER, _WORKERS = "corpus.jsonl", "tokenizer", "workers"
_PUBLISHED = SHARED.parent / "tokenizers" / "dolma2_tokenizer.json"
_KNOWN = (
    "c4_sample.jsonl.gz",
    "classic_books_en.jsonl.gz",
    "debian_handbook_26_languages.jsonl.gz",
    "openstax_biology_en.jsonl.gz",
    "python_peps_en.jsonl.gz",
)


@dataclass(frozen=True, kw_only=True)
class AskedEncode(Asked):
    """What to encode, and how."""

    passes: int = 2  # the peer takes minutes
    tokenizer: str = ""  # a tokenizer.json, or a folder with one
    megabytes: float = 100.0  # of text
    workers: int = 1


def prepare(asked: AskedEncode, folder: Path) -> dict[str, Any]:
    """Lines and a tokenizer into `folder`."""
    known = tuple(str(SHARED / name) for name in _KNOWN if (SHARED / name).is_file())
    sources = asked.texts or known or (PYTHON_DOCS,)
    megabytes = 0.3 if asked.tiny else asked.megabytes
    documents, size = write_lines(sources, megabytes, folder / _LINES)
    given = asked.tokenizer or ("" if asked.tiny or not _PUBLISHED.is_file() else str(_PUBLISHED))
    if given:
        tokenizer = load_tokenizer(given)
    else:
        lines = read_documents([str(folder / _LINES)])
        tokenizer = train_tokenizer("bpe", lines, 600 if asked.tiny else TRAINED)
    if not isinstance(tokenizer, JsonTokenizer):
        raise InputError(f"{given}: the peer reads a tokenizer.json: give one")
    save_tokenizer(tokenizer, folder / _TOKENIZER)
    (folder / _WORKERS).write_text(str(asked.workers))
    return {
        "sources": " ".join(Path(source).name for source in sources),
        "documents": documents,
        "bytes": size,
        "ids": tokenizer.vocab_size,
    }


def write_lines(sources: tuple[str, ...], megabytes: float, path: Path) -> tuple[int, int]:
    """Documents as JSON lines, and how many and how many bytes of text they are."""
    left = int(megabytes * 1e6)
    documents = size = 0
    with open(path, "w", encoding="utf-8") as stream:
        for text in _texts(sources):
            stream.write(json.dumps({"text": text, "id": documents}, ensure_ascii=False) + "\n")
            documents += 1
            taken = len(text.encode())
            size, left = size + taken, left - taken
            if left <= 0:
                return documents, size
    raise InputError(f"no text to make {megabytes:g} MB of: name other files in texts")


def _texts(sources: tuple[str, ...]) -> Iterator[str]:
    for again in count():
        chance = random.Random(again)
        words: list[str] = []
        nothing = True
        for document in read_documents(sources):
            text = document.text
            nothing = nothing and not text.strip()
            if again:  # every tenth word or so becomes one that came before
                pieces = text.split(" ")
                for at in range(chance.randrange(10), len(pieces), 10):
                    words.append(pieces[at])
                    pieces[at] = words[chance.randrange(max(0, len(words) - 5000), len(words))]
                text = " ".join(pieces)
            yield text
        if nothing:
            return


def ours(encoder: str, lines: str, tokenizer: str, out: str, workers: str) -> None:
    """`prepare_corpus` with one encoder: what a process of this benchmark does.

    Raises InputError where prepare_corpus chooses another than was asked for.
    """
    if encoder == "words":
        sys.modules["gigatoken"] = None  # type: ignore[assignment]  # as if it were not installed
    chosen: list[str] = []
    log = logging.getLogger("trivium.data_pipeline.fast_encoder")
    log.setLevel(logging.INFO)
    log.addHandler(_Kept(chosen))
    recipe = Recipe(
        sources=(Source(name=SHARD, paths=(lines,)),),
        tokenizer=tokenizer,
        workers=int(workers),
        fast_encoder="off" if encoder == "off" else "on",
    )
    prepare_corpus(recipe, out)
    if encoder == GIGATOKEN and not any(f"with {GIGATOKEN}" in line for line in chosen):
        raise InputError(f"{GIGATOKEN} does not do this tokenizer: {'; '.join(chosen)}")


class _Kept(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _contestant(*command: str) -> Callable[[Path], Work]:
    """A process that is given, behind `command`, lines, tokenizer, where to, and workers."""

    def ready(folder: Path) -> Work:
        out = Path(tempfile.mkdtemp(dir=folder))
        target = out / SHARD if command[0].endswith("megatron_preprocess") else out
        given = (folder / _LINES, folder / _TOKENIZER, target, (folder / _WORKERS).read_text())
        whole = [sys.executable, "-m", *command, *map(str, given)]

        def work() -> Path:
            done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                said = done.stderr.strip().splitlines() or ["no message"]
                raise RuntimeError(said[-1])
            return out

        return work

    return ready


def judge(out: Any, folder: Path) -> dict[str, Any]:
    """Hashes of .bin and .idx; the shard is removed."""
    hashes = {
        suffix: hashlib.sha256((out / f"{SHARD}.{suffix}").read_bytes()).hexdigest()
        for suffix in ("bin", "idx")
    }
    shutil.rmtree(out)
    return hashes


def report(passes: Passes, facts: dict[str, Any]) -> Report:
    """The table, the ratios by either clock, and whether shards are the peer's to the byte."""
    rows, ratios, failures = [], [], []
    for name in passes[0]:
        row = [name]
        for clock in CLOCKS:
            taken = seconds(passes, name, clock)
            row += [spread(taken), spread([facts["bytes"] / 1e6 / one for one in taken])]
        rows.append(row)
        if name == PEER or PEER not in passes[0]:
            continue
        for clock, what in CLOCKS.items():
            values = quotient(passes, PEER, name, clock)
            ratios.append(Ratio(f"{what}, {PEER} / {name}", values, TIMES.get(ENCODERS[name])))
        wrong = [one for one in passes if one[name].result != one[PEER].result]
        if wrong:
            failures.append(f"{name}: .bin and .idx are not {PEER}'s MISSED")
    head = ["", "CPU s", "MB/CPU s", "wall s", "MB/wall s"]
    return Report(head, rows, ratios, failures)


_MODULE = "tools.benchmarks.data_encode"
PART = Part(
    _MODULE,
    {
        **{
            name: Contestant(
                _contestant(_MODULE, "ours", encoder),
                {GIGATOKEN: GIGATOKEN, "words": "numba"}.get(encoder, ""),
                "pip install 'trivium[data]'" if encoder == "words" else "",
            )
            for name, encoder in ENCODERS.items()
        },
        PEER: Contestant(
            _contestant("tools.benchmarks.megatron_preprocess"),
            "transformers",
            "pip install 'trivium[parity]'",
        ),
    },
    prepare,
    judge,
    report,
    AskedEncode,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        sys.exit(fail_clean(lambda: ours(*sys.argv[2:])))
    sys.exit(main(PART))
