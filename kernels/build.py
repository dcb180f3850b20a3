"""Compile csrc/*.cu into one library, with nvcc and torch's stable headers alone.

    python -m trivium.kernels.build [--arch sm_90a ...] [--out FILE] [--report] [--cache FOLDER]

No ninja, no torch CUDA headers, no GPU. The result is used by every torch from 2.11 on: it touches
torch through its stable ABI only. `--report` prints registers and spills of every kernel, `--arch
native` compiles for the GPU at hand, `--cache` keeps objects for the next time.

setup.py runs this file by its path, so it imports nothing of Trivium.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FILE = "libtrivium_kernels.so"
SOURCES = Path(__file__).parent / "csrc"
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")
LEAST_TORCH = (2, 11)  # its stable ABI has what csrc/stable.cuh uses


class BuildError(Exception):
    """Something is missing, or nvcc refuses a file; the text says what, or is nvcc's own."""


@dataclass(frozen=True)
class Usage:
    """What ptxas says of one kernel for one architecture; bytes for spills."""

    kernel: str
    arch: str
    registers: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class Toolchain:
    """nvcc, the torch it compiles against, and the flags of every file."""

    nvcc: str
    torch: Path
    flags: tuple[str, ...]
    identity: str  # versions: objects of another toolchain are not taken from a cache


def find_nvcc() -> str | None:
    """nvcc: on the path, under CUDA_HOME, or where it is usually installed."""
    homes = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"]
    places = [Path(home, "bin", "nvcc") for home in homes if home]
    return shutil.which("nvcc") or next((str(p) for p in places if p.is_file()), None)


def toolchain(architectures: Sequence[str]) -> Toolchain:
    """What compiles for those of `architectures` that nvcc knows. Raises BuildError."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("nvcc: not found; install the CUDA toolkit, or set CUDA_HOME")
    try:
        import torch
    except ImportError:
        raise BuildError("torch: not installed here (pip: --no-build-isolation)") from None
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < LEAST_TORCH:
        least = ".".join(map(str, LEAST_TORCH))
        raise BuildError(f"torch {torch.__version__}: kernels need {least} or newer")
    wanted = [_native() if arch == "native" else arch for arch in architectures]
    known = set(_run([nvcc, "--list-gpu-code"]).split())
    targets = [arch for arch in wanted if arch.rstrip("af") in known]
    if not targets:
        raise BuildError(f"nvcc knows none of {', '.join(wanted)}")
    root = Path(torch.__file__).parent
    codes = [f"-gencode=arch=compute_{arch[3:]},code={arch}" for arch in targets]
    plain = ["-O3", "-std=c++20", "-DUSE_CUDA", "-Xcompiler", "-fPIC", "-Xptxas", "-v"]
    identity = f"{torch.__version__} {_run([nvcc, '--version'])}"
    return Toolchain(nvcc, root, (*plain, *codes), identity)


def _native() -> str:
    """The architecture of the GPU at hand."""
    import torch

    if not torch.cuda.is_available():
        raise BuildError("--arch native: no GPU here; name an architecture")
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}" + ("a" if (major, minor) == (9, 0) else "")


def build(
    out: Path,
    architectures: Sequence[str] = ARCHITECTURES,
    jobs: int | None = None,
    cache: Path | None = None,
) -> list[Usage]:
    """Compile every kernel for `architectures` into the library `out`; what ptxas said of each.

    Objects whose source, headers, flags and toolchain are unchanged are taken from `cache`. Raises
    BuildError. `out` is replaced at the end, at once.
    """
    tools = toolchain(architectures)
    sources = sorted(SOURCES.glob("*.cu"), key=lambda source: -source.stat().st_size)
    with tempfile.TemporaryDirectory() as folder:
        objects = cache or Path(folder)
        objects.mkdir(parents=True, exist_ok=True)
        made = [objects / f"{source.stem}-{_key(source, tools)}.o" for source in sources]
        with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
            logs = list(pool.map(_compile, sources, made, [tools] * len(sources)))
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
        link = ["-shared", f"-L{tools.torch}/lib", "-ltorch_cpu", "-lc10", "-o", str(partial)]
        _run([tools.nvcc, *map(str, made), *link])
        os.replace(partial, out)
    return [usage for log in logs for usage in parse_usage(log)]


def _compile(source: Path, out: Path, tools: Toolchain) -> str:
    """Compile a file, or find it compiled; what nvcc said."""
    log = out.with_suffix(".log")
    if out.is_file() and log.is_file():
        return log.read_text(encoding="utf-8")
    partial = out.with_name(f"{out.stem}.{os.getpid()}.o")
    include = [f"-I{tools.torch}/include", f"-I{SOURCES}"]
    said = _run([tools.nvcc, *tools.flags, *include, "-c", str(source), "-o", str(partial)])
    log.write_text(said, encoding="utf-8")
    os.replace(partial, out)
    return said


def _key(source: Path, tools: Toolchain) -> str:
    """A name for all that decides what `source` compiles to."""
    digest = hashlib.sha256(repr((tools.flags, tools.identity)).encode())
    for file in sorted(set(_with_headers(source))):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _with_headers(file: Path) -> Iterator[Path]:
    """The file and the headers of its folder that it includes, however deep."""
    yield file
    for name in re.findall(r'#include "([\w./]+)"', file.read_text(encoding="utf-8")):
        if (SOURCES / name).is_file():
            yield from _with_headers(SOURCES / name)


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
    parser.add_argument("--cache", type=Path, help="folder of objects for the next time")
    parsed = parser.parse_args(arguments)
    try:
        usages = build(parsed.out, parsed.arch, cache=parsed.cache)
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
