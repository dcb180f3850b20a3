"""The peer of data_encode.py: JSON lines to a shard as Megatron-LM's preprocess_data.py does it.

    python -m tools.benchmarks.megatron_preprocess LINES.jsonl TOKENIZER_FOLDER PREFIX WORKERS

A pool of processes over lines, each parsed and encoded by itself with the transformers tokenizer
that Megatron wraps, and megatron-core's IndexedDatasetBuilder in the parent.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from typing import Any

_CHUNK = 32  # lines that a worker is given at a time


class Encoder:
    """What a worker knows; one for each process."""

    tokenizer: Any = None

    def __init__(self, folder: str, eod: int) -> None:
        self.folder = folder
        self.eod = eod

    def initializer(self) -> None:
        """In the worker: load the tokenizer."""
        Encoder.tokenizer = load(self.folder)

    def encode(self, line: str) -> tuple[list[int], list[int], int]:
        """Ids of a line's document, its lengths, and the bytes that were read."""
        data = json.loads(line)
        ids = Encoder.tokenizer(data["text"], add_special_tokens=False).input_ids
        if ids:
            ids.append(self.eod)
        return ids, [len(ids)] if ids else [], len(line)


def load(folder: str) -> Any:
    """The tokenizer of a folder, as transformers gives it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=f"{folder}/tokenizer.json", model_max_length=1 << 62
    )


def main() -> None:
    """Make the shard that the command line names."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    from trivium.data_pipeline.tokenizer import load_tokenizer

    path, folder, prefix, workers = sys.argv[1:]
    ours = load_tokenizer(folder)  # for the end-of-document id alone
    encoder = Encoder(folder, ours.eod_id)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", DType.optimal_dtype(ours.vocab_size))
    with open(path, encoding="utf-8") as lines:
        pool = multiprocessing.Pool(int(workers), initializer=encoder.initializer)
        for ids, lengths, _ in pool.imap(encoder.encode, lines, _CHUNK):
            if ids:
                builder.add_document(ids, lengths)
        pool.close()
        pool.join()
    builder.finalize(f"{prefix}.idx")


if __name__ == "__main__":
    main()
