"""The command line of a script: `[--config FILE.yaml] key=value ...`, the fields of a dataclass.

Scripts of this folder are run by their path, which puts this folder on Python's path and not the
repository that holds it: they put that there before they import from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TypeVar

from trivium.data_pipeline.config_tree import load

T = TypeVar("T")


def read(form: type[T], doc: str | None, argv: Sequence[str] | None = None) -> T:
    """The `form` that the command line asks for (`argv`, or the process's); `--help` prints `doc`.

    Raises InputError where a key or a value is none of the form's.
    """
    return parse(parser(doc), form, argv)[1]


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with `--config`, for what else a script takes."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--config", help="YAML file of the same keys")
    return made


def parse(
    given: argparse.ArgumentParser, form: type[T], argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, T]:
    """What the arguments of `given` are, and the `form` of the `key=value` behind them."""
    given.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = given.parse_intermixed_args(argv)
    return arguments, load(form, arguments.config, arguments.overrides)
