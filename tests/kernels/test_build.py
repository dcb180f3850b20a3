"""The kernels compile without a GPU, spill no register, and load on a torch without CUDA."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trivium.kernels import build

IMPLEMENTED = re.compile(r'm\.impl\(\s*"(\w+)"')

LOOK = """
import sys
import torch
from trivium.kernels import catalogue, library
assert not torch.cuda.is_available()
reason = library.load()
assert reason is None, reason
for name, operator in catalogue.operators().items():
    print(name, operator.compiled, *operator.references)
"""


def implemented() -> set[str]:
    """Names that the sources register a kernel under."""
    texts = (source.read_text(encoding="utf-8") for source in build.SOURCES.glob("*.cu"))
    return {name for text in texts for name in IMPLEMENTED.findall(text)}


def spilled(usages: list[build.Usage]) -> list[str]:
    return [
        f"{one.arch} {one.kernel}: {one.spill_stores} bytes stored, {one.spill_loads} loaded"
        for one in usages
        if one.spill_stores or one.spill_loads
    ]


def test_no_kernel_spills(built):
    assert built.usages
    assert {one.arch for one in built.usages} == {"sm_90a"}
    assert spilled(built.usages) == []


def test_the_library_loads_without_cuda_and_has_every_kernel(built):
    """On this torch, in a process of its own: what is loaded stays."""
    environment = {**os.environ, "TRIVIUM_KERNELS": str(built.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    known, without = set(), set()
    for line in done.stdout.splitlines():
        name, compiled, *references = line.split()
        known |= set(references)
        if compiled == "False":
            without.add(name)
    assert without == set(), "operators whose every torch name should have a kernel, and has not"
    assert implemented() <= known, "kernels under names that no operator defines"


@pytest.mark.slow
def test_every_architecture(tmp_path, built):
    """What a wheel carries."""
    usages = build.build(tmp_path / build.FILE, cache=tmp_path)
    arches = {one.arch for one in usages}
    assert arches == {arch for arch in build.ARCHITECTURES if arch in arches} >= {"sm_90a"}
    assert len(usages) == len(built.usages) * len(arches)
    assert spilled(usages) == []


def test_a_wheel_without_nvcc_is_pure_and_says_how_to_compile(tmp_path):
    wheel, said = make_wheel(tmp_path, {"TRIVIUM_KERNELS": "off"})
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "built without CUDA kernels (TRIVIUM_KERNELS=off)" in said
    assert "python -m trivium.kernels.build" in said


def test_a_wheel_carries_a_library_that_is_named(tmp_path):
    library = tmp_path / "compiled.so"
    library.write_bytes(b"\x7fELF")
    wheel, said = make_wheel(tmp_path, {"TRIVIUM_KERNELS": str(library)})
    assert re.search(r"-py3-none-(linux|macosx|win)\w+\.whl$", wheel.name)
    assert "built without" not in said
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True
    ).stdout
    assert "\ntrivium/kernels/libtrivium_kernels.so " in listed
    assert "\ntrivium/kernels/csrc/stable.cuh " in listed


def make_wheel(folder: Path, environment: dict[str, str]) -> tuple[Path, str]:
    """The wheel of a copy of what setup.py reads, and what building it said."""
    root = Path(__file__).parents[2]
    copy = folder / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((root / name).read_bytes())
    for room in ("engine", "kernels", "data_pipeline"):
        (copy / room).symlink_to(root / room)
    done = subprocess.run(
        [sys.executable, "setup.py", "bdist_wheel"],
        cwd=copy,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel, done.stderr


def test_usage_is_read_from_what_ptxas_says():
    log = """
ptxas info    : Compiling entry function '_Z3addPf' for 'sm_90a'
ptxas info    : Function properties for _Z3addPf
    0 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
ptxas info    : Compiling entry function '_Z3mulPf' for 'sm_80'
ptxas info    : Function properties for _Z3mulPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers, 384 bytes cmem[0]
"""
    add, mul = build.parse_usage(log)
    assert add == build.Usage("_Z3addPf", "sm_90a", 32, 8, 16)
    assert mul == build.Usage("_Z3mulPf", "sm_80", 18, 0, 0)
    assert spilled([add, mul]) == ["sm_90a _Z3addPf: 8 bytes stored, 16 loaded"]


def test_what_is_missing_is_said_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    assert build.main(["--out", str(tmp_path / "x.so")]) == 2
    assert capsys.readouterr().err == (
        "error: nvcc: not found; install the CUDA toolkit, or set CUDA_HOME\n"
    )
