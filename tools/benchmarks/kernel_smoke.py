"""Each kernel once, on small inputs, for compute-sanitizer: python -m tools.benchmarks.kernel_smoke

What is run is "ours" of every case in the kernels' benchmark, tiny. Ends with status 1 where one
raises. Parts may be named.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import torch

from tools.benchmarks.kernel_timing import on_stream
from tools.benchmarks.kernels import OURS, PART, known_parts
from trivium.kernels import library


def main(parts: Sequence[str]) -> int:
    """Run the cases of `parts` (all, if none is named); the exit status."""
    reason = library.load()
    if reason is not None:
        print(f"kernels are not loaded: {reason}")
    failed = 0
    for part in parts or known_parts():
        module = part if "." in part else f"tools.benchmarks.{PART}{part}"
        try:
            with on_stream():
                for case in importlib.import_module(module).cases(True):
                    case.contestants[OURS](*case.inputs())
                    if torch.cuda.is_available():
                        torch.cuda.synchronize()
                    print(f"{part}: {case.name}: ran", flush=True)
        except Exception as error:
            failed += 1
            print(f"{part}: failed: {type(error).__name__}: {error}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
