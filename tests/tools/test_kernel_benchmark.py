"""The benchmarks of kernels and of training steps, on a CPU: they outlive what fails."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

from tools import benchmark
from tools.benchmarks import kernel_timing, kernels, train
from tools.benchmarks.kernel_case import Case
from trivium.data_pipeline.errors import InputError

PART = "tests.tools.kernel_part"


@pytest.mark.slow
def test_a_fault_a_refusal_and_a_hang_are_lines_and_the_rest_is_measured(tmp_path, capfd):
    out = tmp_path / "kernels.json"
    given = ["kernels", f"parts=[{PART}]", "tiny=true", "patience=4", f"out={out}"]
    with pytest.raises(InputError, match=r"no figures of ours for .*lost; .*ours hangs"):
        benchmark.main(given)
    printed = capfd.readouterr().out
    assert "no GPU" in printed
    assert f"failed: {PART}: product / refuse: ValueError: (64, 64) is refused\n" in printed
    assert f"failed: {PART}: product / fall: ended with status 9\n" in printed
    assert f"failed: {PART}: lost: inputs: MemoryError: no room\n" in printed
    assert f"failed: {PART}: ours hangs / ours: gave no sign for 4 s\n" in printed
    assert f"| {PART}: product (target: as fast as torch) | ours | " in printed
    found = json.loads(out.read_text())
    assert {"copy", "product", "name"} <= found["device"].keys()
    product, hangs = found["cases"]
    assert list(product["contestants"]) == ["ours", "torch"]
    assert list(hangs["contestants"]) == ["torch"]
    assert all(len(one["rounds"]) == 2 for one in product["contestants"].values())
    assert found["late"] == []


def test_no_time_leaves_cases_out_and_a_module_that_does_not_import_is_a_line(capfd):
    missing = "tests.tools.no_such_part"
    given = kernels.Asked(parts=(PART, missing), tiny=True, seconds=0.0)
    measured = kernels.compare(given)
    assert measured["late"] == [f"{PART}: {name}" for name in ("product", "lost", "ours hangs")]
    (failure,) = measured["failures"]
    assert failure["case"] == missing
    assert "ModuleNotFoundError" in failure["why"]
    assert "left out for lack of time" in capfd.readouterr().out


def test_parts_that_nobody_knows_are_refused():
    with pytest.raises(InputError, match="parts: no 'nrom'; known:"):
        kernels.Asked(parts=("nrom",))
    with pytest.raises(InputError, match="rounds 0: 1 or more"):
        kernels.Asked(rounds=0)


def test_sizes_count_shared_storage_once():
    @dataclass
    class Pair:
        left: torch.Tensor
        right: dict[str, torch.Tensor]

    x = torch.zeros(10)
    assert kernel_timing.size_of((x, [x.view(2, 5)], Pair(x[:3], {"a": torch.zeros(5)}), 3)) == 60


def test_contestants_rotate_their_inputs():
    case = Case("add", lambda: (torch.randn(4),), {"ours": lambda x: x})
    sets = kernel_timing.rotation(case.inputs)
    ready = kernel_timing.Contestant(case.contestants["ours"], sets)
    assert len(sets) == 2
    assert ready.seconds() > 0
    assert [kept is given for kept, (given,) in zip(ready.kept, sets, strict=True)] == [True, True]


def test_ratios_are_taken_round_by_round():
    contestants = {
        "ours": {"ms": 2.0, "rounds": [1.0, 2.0, 4.0], "peak": 0, "how": "graph"},
        "liger": {"ms": 4.0, "rounds": [2.0, 4.0, 12.0], "peak": 5_000_000, "how": "events"},
    }
    row = {"case": "c", "target": "", "bytes": 4_000_000, "flops": 0, "contestants": contestants}
    ours, liger = kernels._cells(row, {"copy": 4e9, "product": 1e12})
    assert ours == ["c", "ours", "2 [1, 4]", "2", "50.0%", "", "", "", "0", "graph"]
    assert liger[7:] == ["2 [2, 3]", "5", "events"]


@pytest.mark.parametrize(
    "peers",
    [
        pytest.param(["engine", "megatron"], marks=pytest.mark.slow),
        pytest.param(["engine", "megatron_attention"], marks=pytest.mark.slow),
    ],
)
def test_training_peers_start_and_go_on_alike(peers, tmp_path, capfd):
    """Two updates later their losses still agree: gradients and optimizers do the same work."""
    out = tmp_path / "train.json"
    asked = [f"peers=[{', '.join(peers)}]", "tiny=true", "profile=true", f"out={out}"]
    benchmark.main(["train", *asked])
    printed = capfd.readouterr().out
    assert "tokens/s, engine / megatron" in printed
    assert "one step of Trivium, profiled" in printed
    found = json.loads(out.read_text())["tiny"]
    assert list(found) == peers
    turns = [turn for (turn,) in found.values()]
    assert all(len(turn["seconds"]) == 2 for turn in turns)
    for step in range(3):
        losses = [turn["losses"][step] for turn in turns]
        assert max(losses) - min(losses) < 1e-3
    assert len(found["engine"][0]["profile"]["top"]) == 25


def test_a_training_peer_that_fails_or_disagrees_is_a_line(capsys):
    def turn(loss: float, seconds: float) -> dict[str, object]:
        shared = {"device": "NVIDIA H200", "tokens": 16384, "first": 9.0, "peak": 10}
        return {**shared, "losses": [loss, 1.0], "seconds": [seconds] * 2}

    found: train.Found = {
        "llama-3.2-1b": {
            "engine": [turn(12.0, 0.3), turn(12.0, 0.3)],
            "megatron": [{"error": "torch.OutOfMemoryError: CUDA out of memory"}, None],
            "megatron_attention": [turn(13.0, 0.45), None],
            "megatron_liger": [None, None],
        }
    }
    wrong = train.report(found)
    printed = capsys.readouterr().out
    assert wrong == [
        "llama-3.2-1b: megatron_attention starts at a loss of 13.0, engine at 12.0",
    ]
    assert "| Trivium | 54,613 [54,613, 54,613] | 300 [300, 300] | 45.4% | 49.8% |" in printed
    assert "| megatron-core local + torch AdamW | torch.OutOfMemoryError: CUDA out of" in printed
    assert "left out for lack of time" in printed
    assert "tokens/s, engine / megatron_attention: 1.5\n" in printed
    assert "tokens/s, engine: 5.46e+04 [5.46e+04, 5.46e+04] (bar: at least 52000)" in printed


def test_a_model_too_large_for_the_device_is_tried_once():
    error = {"error": "MemoryError: 82 GB of weights"}
    found: train.Found = {"tiny": {"engine": [error, None], "megatron": [None, None]}}
    for peer in ("engine", "megatron"):
        assert not train._runs(found, train.Turn(1, "tiny", peer, train.TINY))
    with pytest.raises(InputError, match="peers: no 'bare'; known: engine, "):
        train.Asked(peers=("bare",))
