"""Models between Hugging Face folders and Trivium's checkpoints.

    python tools/convert_checkpoint.py from-hf hf=FOLDER out=CHECKPOINT [dtype=bf16]
    python tools/convert_checkpoint.py to-hf checkpoint=RUN_OR_CHECKPOINT out=FOLDER [dtype=bf16]

One process and no GPU: tensors go through one at a time, so memory stays near that of the largest.
Only safetensors are read. What from-hf writes is what `checkpoint.load` (with
`checkpoint.load_optimizer=false`), generation and evaluation take; training can also read the
folder itself (`model.from_hf=FOLDER`) and write one at its end (`export.hf=true`).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.command import parse, parser
from trivium.data_pipeline.errors import InputError, fail_clean
from trivium.engine.schema import Dtype


@dataclass(frozen=True, kw_only=True)
class FromHF:
    """What from-hf takes."""

    hf: str = ""  # a Hugging Face folder
    out: str = ""  # the checkpoint to write
    dtype: Dtype | None = None  # default: the folder's


@dataclass(frozen=True, kw_only=True)
class ToHF:
    """What to-hf takes."""

    checkpoint: str = ""  # a checkpoint, or a run's folder, whose newest is taken
    out: str = ""  # the folder to write
    dtype: Dtype | None = None  # default: the checkpoint's
    family: str | None = None  # a model_type; default: the first that can say what the model is
    mtp: Literal["keep", "drop"] = "keep"  # MTP heads: few families have a place for them
    max_file_gb: float = 5.0  # of one safetensors file


def main() -> int:
    """Convert; gives the exit status."""
    given = parser(__doc__)
    given.add_argument("direction", choices=("from-hf", "to-hf"))
    form: type[Any] = FromHF if "from-hf" in sys.argv[1:2] else ToHF
    _, asked = parse(given, form)
    for name in ("hf", "checkpoint", "out"):
        if getattr(asked, name, None) == "":
            raise InputError(f"{name}: is missing; see --help for the form of the command")
    # torch says that it saves from one process, which is what is meant
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    from trivium.engine.hf import checkpoints
    from trivium.engine.parameters import count

    out = Path(asked.out)
    with _progress() as told:
        if isinstance(asked, FromHF):
            model = checkpoints.from_folder(Path(asked.hf), out, asked.dtype, told)
        else:
            from trivium.engine.checkpoint_folder import find

            if asked.max_file_gb <= 0:
                raise InputError(f"max_file_gb={asked.max_file_gb:g}: must be above 0")
            model = checkpoints.to_folder(
                find(asked.checkpoint),
                out,
                asked.dtype,
                asked.family,
                asked.mtp,
                int(asked.max_file_gb * 1e9),
                told,
            )
    print(f"{out}: {count(model).total:,} parameters")
    return 0


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar of bytes on the terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("convert")
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    sys.exit(fail_clean(main))
