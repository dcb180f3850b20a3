"""The pool itself: results in order, the right rank blamed, nobody left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.distributed.pool import RankError, distributed, run_distributed


def _sum_of_ranks(scale: int) -> tuple[int, int]:
    import torch
    import torch.distributed as dist

    total = torch.tensor(dist.get_rank() * scale)
    dist.all_reduce(total)
    return dist.get_rank(), int(total)


def _note_pid_then(folder: Path, fault: str) -> None:
    import torch.distributed as dist

    rank = dist.get_rank()
    (folder / str(rank)).write_text(str(os.getpid()))
    dist.barrier()
    if rank == 1:
        if fault == "raise":
            raise ValueError("told to fail")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    dist.barrier()


def test_results_come_back_in_rank_order() -> None:
    assert run_distributed(_sum_of_ranks, 4, scale=10) == [(rank, 60) for rank in range(4)]
    assert run_distributed(_sum_of_ranks, 1, 10) == [(0, 0)]


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("raise", "ValueError", "told to fail"),
        ("kill", "ended by SIGKILL", "without a traceback"),
        ("hang", "timeout", "in barrier"),
    ],
)
def test_a_failed_rank_is_named_and_the_others_are_killed(
    tmp_path: Path, fault: str, kind: str, text: str
) -> None:
    with pytest.raises(RankError) as failure:
        run_distributed(_note_pid_then, 3, tmp_path, fault, timeout=2 if fault == "hang" else 30)
    assert failure.value.kind == kind
    assert text in failure.value.report
    assert fault == "hang" or failure.value.rank == 1
    for rank in range(3):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / str(rank)).read_text()), 0)
    assert run_distributed(_sum_of_ranks, 2, 1) == [(0, 1), (1, 1)]


@distributed(2)
@pytest.mark.parametrize("number", [3])
def test_a_body_runs_on_every_rank(number: int) -> None:
    import torch.distributed as dist

    assert dist.get_world_size() == 2
    assert number == 3


def test_this_process_stays_clean() -> None:
    import torch

    assert torch.cuda.current_device.__module__ == "torch.cuda"
    assert not torch.distributed.is_initialized()


def test_a_function_that_ranks_cannot_find_is_refused() -> None:
    with pytest.raises(ValueError, match="top of its module"):
        run_distributed(lambda: None, 1)
