"""The benchmark's peers do the same work: equal parameters, equal losses. Nothing is timed here."""

from __future__ import annotations

import json

import pytest

from tools import benchmark

TINY = [
    "workload.vocab=256",
    "workload.hidden=32",
    "workload.layers=2",
    "workload.heads=4",
    "workload.groups=2",
    "workload.ffn=64",
    "workload.sequence=16",
    "workload.steps=2",
    "passes=1",
]


@pytest.mark.parametrize(
    "peers", [("bare", "engine"), pytest.param(tuple(benchmark.PEERS), marks=pytest.mark.slow)]
)
def test_peers_agree(peers, tmp_path, capsys):
    out = tmp_path / "step.json"
    benchmark.main(["step", *TINY, f"out={out}", f"peers=[{', '.join(peers)}]"])
    (measured,) = json.loads(out.read_text())
    assert {"bare", "engine"} <= measured.keys()
    assert all(len(one["wall"]) == 2 for one in measured.values())
    assert "tokens/s, engine / bare: " in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_share_a_batch(capsys):
    benchmark.main(["scaling", *TINY])
    assert "tokens/s, two, data parallel / one process: " in capsys.readouterr().out
