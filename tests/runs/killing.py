"""Runs as a user starts them, and their sudden end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TINY = """
train: {steps: 12, global_batch: 8, micro_batch: 2}
data:
  corpus: CORPUS
  dir: DATA
  tokenizer: bpe
  vocab_size: 512
  sequence_length: 32
  split: [0.8, 0.1, 0.1]
model:
  num_layers: 4
  hidden_size: 64
  num_attention_heads: 4
  num_query_groups: 2
  ffn_hidden_size: 128
  moe: {num_experts: 4, top_k: 2, ffn_hidden_size: 64, layers: 2}
  mtp: {num_heads: 1}
optimizer: {lr: 2e-3}
schedule: {warmup_steps: 2, min_lr: 1e-4}
checkpoint: {every: 2}
validation: {every: 5, batches: 1}
"""

# a corpus that is on every machine and prepared in a second
SOURCES = [str(Path(os.__file__).parent / name) for name in ("asyncio", "email")]


def write_config(folder: Path) -> Path:
    """A tiny model on real text, prepared below `folder` on first use."""
    path = folder / "tiny.yaml"
    text = TINY.replace("CORPUS", str(SOURCES)).replace("DATA", str(folder / "data"))
    path.write_text(text)
    return path


def command(config: Path, run: Path, processes: int, overrides: Sequence[str]) -> list[str]:
    """The command line of a run over `processes` ranks."""
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        launch += ["-m"]
    arguments = ["train", "--config", str(config), f"run.dir={run}", *overrides]
    return [*launch, "trivium.engine", *arguments]


def start(
    config: Path, run: Path, processes: int = 1, overrides: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start a run in a process group of its own."""
    return subprocess.Popen(
        command(config, run, processes, overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TRIVIUM_DEVICE": "cpu"},
    )


def finish(process: subprocess.Popen[str], timeout: float = 240.0) -> str:
    """Wait for a run to end well; gives what it printed."""
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        kill(process)
    assert process.returncode == 0, output
    return output


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of torchrun and every rank."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def steps_logged(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0


def kill_at_random(
    process: subprocess.Popen[str], run: Path, last: int, chance: random.Random
) -> bool:
    """Kill all ranks a moment after a random step below `last`; False if the run ended first."""
    target = chance.randrange(steps_logged(run), last)
    while process.poll() is None:
        if steps_logged(run) >= target:
            time.sleep(chance.random() * 0.5)
            kill(process)
            return True
        time.sleep(0.02)
    return False
