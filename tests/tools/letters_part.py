"""A part of the data benchmark that measures nothing: to test how parts take turns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.benchmarks.turns import (
    Asked,
    Contestant,
    Part,
    Passes,
    Ratio,
    Report,
    Work,
    main,
    quotient,
)

LOG = "log"


def prepare(asked: Asked, folder: Path) -> dict[str, Any]:
    """Where contestants write their names."""
    (folder / LOG).touch()
    return {"texts": list(asked.texts), "log": str(folder / LOG)}


def _contestant(name: str) -> Callable[[Path], Work]:
    def ready(folder: Path) -> Work:
        def work() -> str:
            sum(range(300_000))
            with (folder / LOG).open("a") as log:
                log.write(name)
            return (folder / LOG).read_text()

        return work

    return ready


def _broken(folder: Path) -> Work:
    raise ValueError("it does not run here")


def report(passes: Passes, facts: dict[str, Any]) -> Report:
    """The order of turns so far, as the last of every pass saw it."""
    order = [max((turn.result["order"] for turn in one.values()), key=len) for one in passes]
    slow = Ratio("trivium / b", quotient(passes, "trivium", "b"), bar=1e9)
    return Report(["", "order"], [["all", order[-1]]], [slow], ["a line"])


PART = Part(
    "tests.tools.letters_part",
    {
        "trivium": Contestant(_contestant("t")),
        "b": Contestant(_contestant("b")),
        "broken": Contestant(_broken),
        "missing": Contestant(_contestant("m"), "no_such_module", "pip install it"),
    },
    prepare,
    lambda result, folder: {"order": result},
    report,
)

if __name__ == "__main__":
    sys.exit(main(PART))
