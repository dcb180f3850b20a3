"""MinHash signatures of 128 permutations over word 5-grams: CPU seconds against two libraries.

    python -m tools.benchmarks.data_minhash [passes=4] [texts='[FILES]'] [out=FILE]

Ours starts from text: lower case, words, hashes, permutations. Peers are timed twice: from text,
with shingles made as Python makes them fastest, and from ready shingles, which are bytes for
datasketch (`MinHash.generator` calls `update_batch`) and text for rensa (a digest matrix). In the
schemes affine32 and legacy ours are datasketch's signatures bit for bit: hashes of both are
compared. The fast scheme is our own hash.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tools.benchmarks import planted
from tools.benchmarks.turns import (
    OURS,
    SHARED,
    Asked,
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
from trivium.data_pipeline.errors import InputError

PERMUTATIONS = 128
TOGETHER = 256  # documents of a batch, as in a pipeline
MOST = 25_000_000  # bytes of text that are measured
SCHEMES = ("affine32", "legacy")
FAST = f"{OURS} fast"
# (numerator, denominator, bar); ours from text every time
BARS = (
    ("datasketch affine32, ready shingles", f"{OURS} affine32", 6.0),
    ("datasketch legacy, ready shingles", f"{OURS} legacy", 6.0),
    ("datasketch affine32, ready shingles", FAST, 20.0),
    ("datasketch affine32, from text", FAST, 20.0),
    ("rensa, from text", FAST, 8.0),
    ("rensa, ready shingles", FAST, None),
)

_CORPUS = "corpus.jsonl"
_KNOWN = ("debian_handbook_26_languages.jsonl.gz", "python_peps_en.jsonl.gz")


def prepare(asked: Asked, folder: Path) -> dict[str, Any]:
    """The first documents that are spaced by words, into `folder`."""
    known = [str(SHARED / name) for name in _KNOWN if (SHARED / name).is_file()]
    sources = asked.texts or tuple(known) or (PYTHON_DOCS,)
    most = 300_000 if asked.tiny else MOST
    size = count = 0
    with (folder / _CORPUS).open("wb") as lines:
        for document in read_documents(sources):
            text = document.text
            # Python's lower case of a whole text knows a final sigma, ours does not
            if size >= most or "Σ" in text or planted.is_unspaced(text):
                continue
            size += len(text.encode())
            count += 1
            lines.write(orjson.dumps(text) + b"\n")
    if not size:
        raise InputError("no text to measure with: name other files in texts")
    names = " ".join(Path(source).name for source in sources)
    return {"sources": names, "documents": count, "bytes": size}


def judge(signatures: Any, folder: Path) -> dict[str, Any]:
    """A hash of the signatures: an array, or rensa's matrix."""
    rows = signatures if isinstance(signatures, np.ndarray) else signatures.to_rows()
    values = np.ascontiguousarray(rows, np.uint64)
    return {"sha256": hashlib.sha256(values.tobytes()).hexdigest(), "documents": len(values)}


def _texts(folder: Path) -> list[str]:
    with (folder / _CORPUS).open("rb") as lines:
        return [orjson.loads(line) for line in lines]


def _shingled(texts: list[str]) -> Iterator[list[str]]:
    return (planted.shingles(text, False) for text in texts)


def _ours(scheme: Any) -> Callable[[Path], Work]:
    def ready(folder: Path) -> Work:
        from trivium.data_pipeline.dedup.minhash import MinHash
        from trivium.data_pipeline.stages.stage import Texts, batch

        texts = _texts(folder)
        minhash = MinHash(permutations=PERMUTATIONS, scheme=scheme)
        firsts = range(0, len(texts), TOGETHER)
        parts = [Texts(batch(texts[first : first + TOGETHER])) for first in firsts]
        minhash(parts[0])
        return lambda: np.concatenate([minhash(part) for part in parts])

    return ready


def _datasketch(scheme: str, from_text: bool) -> Callable[[Path], Work]:
    def ready(folder: Path) -> Work:
        from datasketch import MinHash

        texts = _texts(folder)

        def encoded() -> Iterator[list[bytes]]:
            return ([one.encode() for one in document] for document in _shingled(texts))

        shingles = [] if from_text else list(encoded())

        def work() -> NDArray[Any]:
            given = encoded() if from_text else shingles
            made = MinHash.generator(given, num_perm=PERMUTATIONS, scheme=scheme)
            return np.array([one.hashvalues for one in made])

        list(MinHash.generator([[b"warm"]], num_perm=PERMUTATIONS, scheme=scheme))
        return work

    return ready


def _rensa(from_text: bool) -> Callable[[Path], Work]:
    def ready(folder: Path) -> Work:
        from rensa import RMinHash

        texts = _texts(folder)
        shingles = [] if from_text else list(_shingled(texts))

        def work() -> Any:
            given = _shingled(texts) if from_text else shingles
            return RMinHash.digest_matrix_from_token_sets(given, PERMUTATIONS, 1)

        RMinHash.digest_matrix_from_token_sets([["warm"]], PERMUTATIONS, 1)
        return work

    return ready


def report(passes: Passes, facts: dict[str, Any]) -> Report:
    """The table, the ratios, and whether signatures are datasketch's bit for bit."""
    rows = []
    for name in passes[0]:
        cpu = seconds(passes, name)
        rows.append([name, spread(cpu), spread([facts["bytes"] / 1e6 / one for one in cpu])])
    ratios = [
        Ratio(f"CPU s, {peer} / {ours}", values, bar)
        for peer, ours, bar in BARS
        if (values := quotient(passes, peer, ours))
    ]
    failures = [
        f"{peer} and {OURS} {scheme} differ"
        for scheme in SCHEMES
        for peer in passes[0]
        if peer.startswith(f"datasketch {scheme}")
        and passes[0][peer].result != passes[0][f"{OURS} {scheme}"].result
    ]
    return Report(["", "CPU s", "MB/s"], rows, ratios, failures)


_DATA = ("numba", "pip install 'trivium[data]'")
PART = Part(
    "tools.benchmarks.data_minhash",
    {
        FAST: Contestant(_ours("fast"), *_DATA),
        **{f"{OURS} {scheme}": Contestant(_ours(scheme), *_DATA) for scheme in SCHEMES},
        "datasketch affine32, from text": Contestant(_datasketch("affine32", True), "datasketch"),
        **{
            f"datasketch {scheme}, ready shingles": Contestant(
                _datasketch(scheme, False), "datasketch"
            )
            for scheme in SCHEMES
        },
        "rensa, from text": Contestant(_rensa(True), "rensa"),
        "rensa, ready shingles": Contestant(_rensa(False), "rensa"),
    },
    prepare,
    judge,
    report,
)

if __name__ == "__main__":
    sys.exit(main(PART))
