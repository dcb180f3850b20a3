"""Tasks whose folders appear whole, whoever is killed and when."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trivium.data_pipeline import tasks
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.executors import executor_for
from trivium.data_pipeline.tasks import FACTS, Task, read_facts, run_tasks

COUNT = 12


def chained(folder: Path, *, number: int, log: str, pause: float = 0.0) -> dict[str, Any]:
    """Write a file in pieces, slowly; log that the work was begun and ended."""
    note(log, f"begin {number}")
    with open(folder / "data.bin", "wb") as stream:
        value = str(number).encode()
        for _ in range(20):
            value = hashlib.sha256(value).digest()
            stream.write(value)
            stream.flush()
            time.sleep(pause / 20)
    note(log, f"end {number}")
    return {"number": number, "last": value.hex()}


def refuse(folder: Path, *, number: int) -> dict[str, Any]:
    (folder / "half").write_text("half")
    raise InputError(f"task {number}: refused")


def die(folder: Path, *, number: int) -> dict[str, Any]:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
    return {"number": number}


def note(log: str, line: str) -> None:
    with open(log, "a") as stream:
        stream.write(line + "\n")


def tasks_in(folder: Path, pause: float = 0.0) -> list[Task]:
    log = str(folder / "log")
    return [
        Task(folder / "out" / f"{n:03d}", chained, {"number": n, "log": log, "pause": pause}, n + 1)
        for n in range(COUNT)
    ]


def content(folder: Path) -> dict[str, Any]:
    """Of every file; of facts without the time that the task took."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.bin")):
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.parent.name] = {**read_facts(path.parent), "cpu_seconds": None}
    return found


@pytest.fixture(autouse=True)
def always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small as the tasks are, they go to the executor."""
    monkeypatch.setattr(tasks, "_WORTH_IT", 0)


@pytest.mark.parametrize("where", ["local", "ray"])
def test_facts_come_in_order_and_nothing_is_done_twice(tmp_path, where):
    if where == "ray":
        pytest.importorskip("ray")
    told: list[tuple[str, int, int]] = []

    def run() -> list[dict[str, Any]]:
        def progress(*line: Any) -> None:
            told.append(line)

        with executor_for(where, 2) as executor:
            return run_tasks(tasks_in(tmp_path), executor, progress=progress, stage="hashing")

    facts = run()
    assert [fact["number"] for fact in facts] == list(range(COUNT))
    total = COUNT * (COUNT + 1) // 2
    assert told[-1] == ("hashing", total, total)
    assert len(told) == COUNT
    assert run() == facts
    assert (tmp_path / "log").read_text().count("begin") == COUNT


def test_a_task_that_refuses_leaves_nothing_and_the_others_are_kept(tmp_path):
    asked = [*tasks_in(tmp_path)[:3], Task(tmp_path / "out" / "bad", refuse, {"number": 7})]
    with pytest.raises(InputError, match="task 7: refused"):
        run_tasks(asked)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000", "001", "002"]


def test_a_killed_worker_is_one_line_with_a_remedy(tmp_path):
    asked = [Task(tmp_path / "out" / f"bad{n}", die, {"number": n}) for n in range(2)]
    with (
        executor_for("local", 2) as executor,
        pytest.raises(InputError, match=r"killed.*workers=1"),
    ):
        run_tasks(asked, executor)
    assert not any(task.done for task in asked)


def test_killed_anywhere_and_started_again_gives_the_same_bytes(tmp_path):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    run_tasks(tasks_in(undisturbed))
    chance, kills = random.Random(0), 0
    while kills < 3:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.data_pipeline.test_tasks", str(disturbed)],
            start_new_session=True,
        )
        already = len(list((disturbed / "out").glob("[0-9]*")))
        deadline = time.monotonic() + 60
        while len(list((disturbed / "out").glob("[0-9]*"))) < already + 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    whole = {int(path.name): read_facts(path) for path in (disturbed / "out").glob("[0-9]*")}
    before = (disturbed / "log").read_text().splitlines()
    with executor_for("local", 2) as pool:
        run_tasks(tasks_in(disturbed), pool)
    after = (disturbed / "log").read_text().splitlines()[len(before) :]
    begun = {int(line.split()[1]) for line in after if line.startswith("begin")}
    assert begun == set(range(COUNT)) - whole.keys()
    assert content(disturbed / "out") == content(undisturbed / "out")
    assert not list((disturbed / "out").glob(".*"))


if __name__ == "__main__":
    tasks._WORTH_IT = 0
    with executor_for("local", 2) as two:
        run_tasks(tasks_in(Path(sys.argv[1]), pause=0.1), two)
    assert (Path(sys.argv[1]) / "out" / "000" / FACTS).is_file()
