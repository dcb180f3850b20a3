"""Near-duplicate removal end to end: CPU seconds, recall and precision against four libraries.

    python -m tools.benchmarks.data_dedup [passes=4] [texts='[FILES]'] [peers='[rensa]'] [out=FILE]

From a file of JSON lines to which documents stay. The corpus has planted near-duplicates
(`planted.py`): copies of real documents with edits at eight rates, Chinese by characters. Two
documents are duplicates where their sets of shingles (five words; five characters where a script
has no word spaces) have an exact Jaccard similarity of 0.8 or more, and so is whatever such pairs
connect. Of each cluster one document is to stay.

    right      documents removed that leave another of their true cluster
    recall     right / what could be removed
    precision  right / what was removed

Peers have 128 permutations and threshold 0.8 where they take these, else their documented defaults:

    datasketch  MinHashLSH; a document stays if a query finds none that stays. Ready shingles by
                the truth's own rule, hashed in bulk.
    rensa       RMinHashDeduplicator with LSH, `add_pairs` of the same shingles.
    datatrove   signatures, buckets and clusters, English words by spaCy, 14 buckets of 8. It wants
                xxhash below 4, so an environment of its own:
                pip install 'datatrove[processing]' spacy
    text_dedup  text_dedup.minhash as its command line runs it, one process. Its pins are of another
                age, and it does not need them:
                pip install --no-deps text-dedup && pip install datasets click-option-group fire
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
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
COPIES = 6000
MADE_CHINESE = (600, 800)  # documents, characters each, where there is no real Chinese
RECALL = 0.995
BARS = {"datasketch": 0.4, "datatrove": 0.15}  # most of the peer's CPU seconds

_CORPUS, _TRUTH = "corpus.jsonl", "truth.npz"
_KNOWN = ("debian_handbook_26_languages.jsonl.gz", "chinese_poetry.jsonl.gz")
_SHARES = ("recall", "recall of words", "recall of characters", "precision")
_WARM_UP = [f"a few words to wake up on, not to be timed, number {n // 2}" * 9 for n in range(8)]


def prepare(asked: Asked, folder: Path) -> dict[str, Any]:
    """Corpus and truth into `folder`."""
    known = [str(SHARED / name) for name in _KNOWN if (SHARED / name).is_file()]
    sources = asked.texts or tuple(known) or (PYTHON_DOCS,)
    originals = planted.joined(document.text for document in read_documents(sources))
    if asked.tiny:
        originals = [text for text in originals if len(text) < 20_000][:60]
    if sources == (PYTHON_DOCS,):
        documents, characters = (10, 300) if asked.tiny else MADE_CHINESE
        originals += planted.made_chinese(documents, characters, seed=2)
    if not originals:
        raise InputError("no text to measure with: name larger files in texts")
    corpus = planted.planted(originals, 60 if asked.tiny else COPIES, seed=1)
    unspaced = list(map(planted.is_unspaced, corpus))
    with (folder / _CORPUS).open("wb") as lines:
        for number, text in enumerate(corpus):
            record = {"text": text, "id": str(number), "unspaced": unspaced[number]}
            lines.write(orjson.dumps(record) + b"\n")
    pairs = planted.true_pairs(planted.hashed_sets(corpus))
    labels = _components(len(corpus), pairs)
    np.savez(folder / _TRUTH, labels=labels, unspaced=unspaced)
    return {
        "sources": " ".join(Path(source).name for source in sources),
        "documents": len(corpus),
        "bytes": sum(len(text.encode()) for text in corpus),
        "without word spaces": sum(unspaced),
        "true pairs": len(pairs),
        "true duplicates": len(corpus) - len(np.unique(labels)),
    }


def _components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int32]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


def judge(kept: Any, folder: Path) -> dict[str, Any]:
    """Recall and precision of documents removed. kept: numbers of the documents that stay.

    Recall also of the clusters alone whose documents have word spaces, and that have none.
    """
    truth = np.load(folder / _TRUTH)
    labels = truth["labels"]
    stays = np.zeros(len(labels), bool)
    stays[np.asarray(kept, np.int64)] = True
    sizes = np.bincount(labels)
    removed = np.bincount(labels, ~stays, len(sizes)).astype(np.int64)
    right = np.minimum(removed, sizes - 1)
    of_characters = np.bincount(labels, truth["unspaced"], len(sizes)) > sizes / 2

    def recall(clusters: Any) -> float:
        return float(right[clusters].sum() / max(1, (sizes - 1)[clusters].sum()))

    return {
        "removed": int(removed.sum()),
        "recall": recall(slice(None)),
        "recall of words": recall(~of_characters),
        "recall of characters": recall(of_characters),
        "precision": float(right.sum() / max(1, removed.sum())),
    }


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    with (folder / _CORPUS).open("rb") as lines:
        yield from map(orjson.loads, lines)


def _shingled(folder: Path) -> Iterator[list[str]]:
    for record in _records(folder):
        yield planted.shingles(record["text"], record["unspaced"])


def trivium(folder: Path) -> Work:
    """`near_duplicates` over the texts."""
    from trivium.data_pipeline.dedup.near import near_duplicates

    near_duplicates(_WARM_UP)

    def work() -> NDArray[np.int64]:
        return np.flatnonzero(near_duplicates([one["text"] for one in _records(folder)]).keep)

    return work


def datasketch(folder: Path) -> Work:
    """Signatures by `MinHash.generator`, which hashes in bulk; insert where a query is empty."""
    from datasketch import MinHash, MinHashLSH

    list(MinHash.generator([[b"warm"]], num_perm=PERMUTATIONS))

    def work() -> list[int]:
        lsh = MinHashLSH(threshold=planted.THRESHOLD, num_perm=PERMUTATIONS)
        encoded = ([one.encode() for one in document] for document in _shingled(folder))
        kept = []
        for number, minhash in enumerate(MinHash.generator(encoded, num_perm=PERMUTATIONS)):
            if not lsh.query(minhash):
                lsh.insert(number, minhash)
                kept.append(number)
        return kept

    return work


def rensa(folder: Path) -> Work:
    """The deduplicator of its documentation."""
    from rensa import RMinHashDeduplicator

    def work() -> list[int]:
        dedup = RMinHashDeduplicator(planted.THRESHOLD, PERMUTATIONS, use_lsh=True)
        pairs = ((str(number), one) for number, one in enumerate(_shingled(folder)))
        return [number for number, new in enumerate(dedup.add_pairs(pairs)) if new]

    return work


def datatrove(folder: Path) -> Work:
    """Its first three stages, one task each (a task for every bucket); what is marked to go."""
    os.environ["LOGURU_LEVEL"] = "ERROR"
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader

    config = MinhashConfig()
    MinhashDedupSignature(str(folder / "nothing"), config=config).get_shingles(_WARM_UP[0])
    count = len(np.load(folder / _TRUTH)["labels"])

    def work() -> NDArray[np.int64]:
        with tempfile.TemporaryDirectory() as out:

            def run(tasks: int, *steps: Any) -> None:
                logs = tempfile.mkdtemp(dir=out)
                LocalPipelineExecutor(list(steps), tasks=tasks, logging_dir=logs).run()

            reader = JsonlReader(str(folder), glob_pattern=_CORPUS)
            run(1, reader, MinhashDedupSignature(f"{out}/signatures", config=config))
            run(
                config.num_buckets,
                MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config),
            )
            run(1, MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config))
            marked = Path(out, "remove", "000000.remove")
            removed = np.fromfile(marked, "<u4") if marked.is_file() else np.empty(0, np.uint32)
        return np.setdiff1d(np.arange(count), removed)

    return work


def text_dedup(folder: Path) -> Work:
    """Its command, in this process; the records that it saves."""
    import datasets
    from text_dedup.minhash import main as command

    datasets.disable_progress_bars()

    def work() -> list[int]:
        with tempfile.TemporaryDirectory() as out:
            options = {
                "path": "json",
                "data_files": folder / _CORPUS,
                "split": "train",
                "cache_dir": f"{out}/cache",
                "output": f"{out}/kept",
                "column": "text",
                "num_perm": PERMUTATIONS,
                "threshold": planted.THRESHOLD,
                "num_proc": 1,
            }
            pairs = [(f"--{name}", str(value)) for name, value in options.items()]
            with contextlib.redirect_stdout(sys.stderr):
                command([part for pair in pairs for part in pair], standalone_mode=False)
            kept = datasets.load_from_disk(f"{out}/kept")["id"]
            return [int(number) for number in kept]

    return work


def report(passes: Passes, facts: dict[str, Any]) -> Report:
    """The table, ratios to every peer, and whether recall and precision are what they must be."""
    rows = []
    for name, turn in passes[0].items():
        cpu = seconds(passes, name)
        rows.append(
            [
                name,
                spread(cpu),
                spread([facts["bytes"] / 1e6 / one for one in cpu]),
                f"{turn.result['removed']:,}",
                *(f"{turn.result[key]:.4f}" for key in _SHARES),
            ]
        )
    ratios = [
        Ratio(f"CPU s, {OURS} / {peer}", values, BARS.get(peer), least=False)
        for peer in PART.contestants
        if peer != OURS and (values := quotient(passes, OURS, peer))
    ]
    ours = [one[OURS].result for one in passes]
    failures = []
    if min(one["recall"] for one in ours) < RECALL:
        failures.append(f"recall below {RECALL}")
    if min(one["precision"] for one in ours) < 1:
        failures.append("precision below 1")
    return Report(["", "CPU s", "MB/s", "removed", *_SHARES], rows, ratios, failures)


PART = Part(
    "tools.benchmarks.data_dedup",
    {
        OURS: Contestant(trivium, "numba", "pip install 'trivium[data]'"),
        "datasketch": Contestant(datasketch, "datasketch"),
        "rensa": Contestant(rensa, "rensa"),
        "datatrove": Contestant(
            datatrove, "datatrove", "pip install 'datatrove[processing]' spacy"
        ),
        "text_dedup": Contestant(
            text_dedup,
            "text_dedup",
            "pip install --no-deps text-dedup && pip install datasets click-option-group fire",
        ),
    },
    prepare,
    judge,
    report,
)

if __name__ == "__main__":
    sys.exit(main(PART))
