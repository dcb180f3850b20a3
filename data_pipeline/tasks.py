"""Work over files that can be killed anywhere and started again.

A task makes one folder. It works in a folder of a temporary name, which is synced and renamed when
the task is done, so a folder under its own name is whole, and its `facts.json` says what the task
reported. A second run finds it there and does not repeat it; what it finds under a temporary name
it removes.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .executors import Executor
from .files import storage_errors, sync_path, write_atomic
from .progress import Progress

FACTS = "facts.json"
_WORTH_IT = 4 << 20  # bytes; less is done before other processes have started
Facts = dict[str, Any]


# work(folder, **arguments): a function of a module, deterministic in its arguments; it writes files
# into `folder` and returns facts that JSON can hold.
Work = Callable[..., Facts]


@dataclass(frozen=True)
class Task:
    """`work(folder, **arguments)`, whose folder will stand at `output`."""

    output: Path
    work: Work
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: int = 1  # bytes of its input: what progress counts

    @property
    def done(self) -> bool:
        """Did an earlier run or another process finish it?"""
        return (self.output / FACTS).is_file()


def run_tasks(
    tasks: Sequence[Task],
    executor: Executor | None = None,
    *,
    progress: Progress | None = None,
    stage: str = "",
) -> list[Facts]:
    """What every task reported, in the order of `tasks`; those that are done are not repeated.

    executor: where they run, this process where none is given; it is used where the work is worth
    it. Raises InputError where a task does, or where a worker is killed; finished tasks are kept
    either way.
    """
    outputs = [task.output for task in tasks]
    if len(set(outputs)) != len(outputs):
        raise ValueError("two tasks have one output")
    waiting = [task for task in tasks if not task.done]
    for folder in {task.output.parent for task in waiting}:
        _sweep(folder)
    total = sum(task.size for task in tasks)
    left = sum(task.size for task in waiting)
    if executor is None or left < _WORTH_IT:
        executor = Executor()
    for task in executor(perform, waiting):
        left -= task.size
        if progress is not None:
            progress(stage, total - left, total)
    return [read_facts(output) for output in outputs]


@dataclass
class Runner:
    """Runs the tasks of one job, stage after stage, and adds up what they cost."""

    executor: Executor = field(default_factory=Executor)
    progress: Progress | None = None
    cpu_seconds: float = 0.0  # of all tasks, also of those that an earlier run did

    def __call__(self, tasks: Sequence[Task], stage: str) -> list[Facts]:
        """Facts of `tasks`, in their order."""
        facts = run_tasks(tasks, self.executor, progress=self.progress, stage=stage)
        self.cpu_seconds += sum(fact["cpu_seconds"] for fact in facts)
        return facts


def read_facts(folder: Path) -> Facts:
    """What the task that made `folder` reported."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    assert isinstance(facts, dict)
    return facts


def perform(task: Task) -> None:
    """Do one task, whole or not at all; again where it was done does no harm."""
    if task.done:
        return
    partial = task.output.with_name(f".{task.output.name}.{uuid.uuid4().hex[:12]}.partial")
    with storage_errors(task.output):
        partial.mkdir(parents=True)
        try:
            began = time.process_time()
            facts = task.work(partial, **task.arguments)
            facts["cpu_seconds"] = time.process_time() - began
            write_atomic(partial / FACTS, json.dumps(facts, sort_keys=True).encode())
            for path in partial.rglob("*"):
                sync_path(path)
            _put_in_place(partial, task)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        sync_path(task.output.parent)


def _put_in_place(partial: Path, task: Task) -> None:
    try:
        partial.rename(task.output)
    except OSError:
        # Somebody was quicker: a worker that outlived the run that was killed, or one that Ray
        # took for lost. What it did is the same.
        if not task.done:
            raise


def _sweep(folder: Path) -> None:
    """Remove what a killed run was in the middle of."""
    for left in folder.glob(".*.partial") if folder.is_dir() else ():
        shutil.rmtree(left, ignore_errors=True)
