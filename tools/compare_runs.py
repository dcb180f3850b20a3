"""How far two runs are apart, field by field, over the steps that both have.

    python tools/compare_runs.py runs/a runs/b --tolerance 1e-5

Takes run folders or metrics.jsonl files. Clocks and memory are not compared. Exit status: 0 within
the tolerance (0 by default: bit-identical), 1 beyond it, 2 when a file cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trivium.data_pipeline.errors import InputError, fail_clean
from trivium.engine.metrics import Comparison, compare, read_metrics


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("a", metavar="A", help="run folder or metrics.jsonl")
    parser.add_argument("b", metavar="B", help="the other one")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="largest relative difference allowed (default 0: every bit the same)",
    )
    arguments = parser.parse_args(argv)
    found = compare(read_metrics(arguments.a), read_metrics(arguments.b))
    if not found.steps:
        raise InputError(f"{arguments.a} and {arguments.b} have no step in common")
    print_table(found)
    return 0 if print_verdict(found, arguments.tolerance) else 1


def print_table(found: Comparison) -> None:
    """A line for every field: where it differs most, and how."""
    width = max(map(len, found.fields), default=5)
    print(f"{'field':{width}}  largest relative difference")
    for name, (relative, step, a, b) in found.fields.items():
        where = f"{relative:.2e} at step {step}: {a!r} and {b!r}" if relative else "none"
        print(f"{name:{width}}  {where}")


def print_verdict(found: Comparison, tolerance: float) -> bool:
    """The last line, for people and for grep; returns whether the runs agree."""
    common = f"{len(found.steps)} common steps ({found.steps[0]} to {found.steps[-1]})"
    if found.missing:
        print(f"differ: {len(found.missing)} steps are in one run only, first {found.missing[0]}")
    elif found.identical:
        print(f"bit-identical over {common}")
    else:
        agree = found.largest <= tolerance
        verdict = "agree" if agree else "differ"
        print(f"{verdict}: {found.largest:.2e} over {common}, tolerance {tolerance:g}")
        return agree
    return found.identical


if __name__ == "__main__":
    sys.exit(fail_clean(main))
