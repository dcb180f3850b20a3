"""Compile csrc/*.cu into one library, with nvcc and torch's stable headers alone.

    python -m trivium.kernels.build [--arch sm_90a ...] [--out FILE] [--report]

No ninja, no torch CUDA headers, no GPU. The result is used by every torch from 2.11 on: it touches
torch through its stable ABI only. `--report` prints registers and spills of every kernel.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FILE = "libtrivium_kernels.so"
SOURCES = Path(__file__).parent / "csrc"
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")


class BuildError(Exception):
    """nvcc is missing or refuses a file; the text is its own."""


@dataclass(frozen=True)
class Usage:
    """What ptxas says of one kernel for one architecture; bytes for spills."""

    kernel: str
    arch: str
    registers: int
    spill_stores: int
    spill_loads: int


def find_nvcc() -> str | None:
    """nvcc: on the path, under CUDA_HOME, or where it is usually installed."""
    homes = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"]
    places = [Path(home, "bin", "nvcc") for home in homes if home]
    return shutil.which("nvcc") or next((str(p) for p in places if p.is_file()), None)


def build(
    out: Path, architectures: Sequence[str] = ARCHITECTURES, jobs: int | None = None
) -> list[Usage]:
    """Compile every kernel for `architectures` into the library `out`; what ptxas said of each.

    Raises BuildError. `out` is replaced at the end, at once.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("nvcc: not found; install the CUDA toolkit, or set CUDA_HOME")
    import torch

    root = Path(torch.__file__).parent
    known = set(_run([nvcc, "--list-gpu-code"]).split())
    targets = [arch for arch in architectures if arch.rstrip("af") in known]
    if not targets:
        raise BuildError(f"nvcc knows none of {', '.join(architectures)}")
    codes = [f"-gencode=arch=compute_{a[3:]},code={a}" for a in targets]
    flags = ["-O3", "-std=c++20", "-DUSE_CUDA", "-Xcompiler", "-fPIC", "-Xptxas", "-v", *codes]
    with tempfile.TemporaryDirectory() as folder:
        sources = sorted(SOURCES.glob("*.cu"))
        objects = [str(Path(folder, f"{source.stem}.o")) for source in sources]
        commands = [
            [nvcc, *flags, f"-I{root}/include", f"-I{SOURCES}", "-c", str(source), "-o", one]
            for source, one in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            logs = list(pool.map(_run, commands))
        partial = out.with_name(out.name + ".partial")
        library = ["-shared", f"-L{root}/lib", "-ltorch_cpu", "-lc10", "-o", str(partial)]
        _run([nvcc, *objects, *library])
        os.replace(partial, out)
    return [usage for log in logs for usage in parse_usage(log)]


def parse_usage(log: str) -> list[Usage]:
    """ptxas' report (`-v`) of one file, kernel by kernel."""
    pattern = re.compile(
        r"Compiling entry function '(?P<kernel>\S+)' for '(?P<arch>\S+)'.*?"
        r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers",
        re.DOTALL,
    )
    return [
        Usage(m["kernel"], m["arch"], int(m["registers"]), int(m["stores"]), int(m["loads"]))
        for m in pattern.finditer(log)
    ]


def _run(command: Sequence[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise BuildError(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}")
    return ended.stdout + ended.stderr


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the exit status."""
    parser = argparse.ArgumentParser(description="compile the CUDA kernels")
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), metavar="sm_NN")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / FILE)
    parser.add_argument("--report", action="store_true", help="registers and spills, by kernel")
    parsed = parser.parse_args(arguments)
    try:
        usages = build(parsed.out, parsed.arch)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if parsed.report:
        for one in usages:
            spills = f"{one.spill_stores + one.spill_loads} bytes spilled"
            print(f"{one.arch:8} {one.registers:4} registers  {spills:18} {one.kernel}")
    print(f"{len(usages)} kernels in {parsed.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
