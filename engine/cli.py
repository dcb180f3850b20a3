"""The command line: `trivium train --config file key=value ...`, the same under torchrun.

Everything that can be judged without torch is judged first, so that a mistake costs a second and
one line. That line comes from rank 0, for every rank judges the same configuration; every rank
leaves with status 2. torch and megatron-core are imported only once a run may start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from trivium.data_pipeline.config_tree import dump_yaml, load
from trivium.data_pipeline.errors import EXIT_STATUS, InputError
from trivium.engine import layout, parameters
from trivium.engine.config import resolve
from trivium.engine.limits import TRAINED_TOKENIZERS
from trivium.engine.schema import RunConfig

if TYPE_CHECKING:
    from trivium.engine.serve.config import ServeConfig

QUIET_SECONDS = 1.0


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are InputErrors: one line, from one rank."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 2 for what the user can put right."""
    try:
        arguments = _parse(argv)
        if arguments.command == "kernels":
            from trivium.engine import operators

            operators.describe()
            return 0
        if arguments.command == "serve":
            from trivium.engine.serve.config import ServeConfig

            asked = load(ServeConfig, arguments.config, arguments.overrides)
            return _run(lambda: _serve(asked))
        world_size = _world_size(arguments.world_size, arguments.dry_run)
        config = resolve(load(RunConfig, arguments.config, arguments.overrides), world_size)
        if arguments.dry_run:
            if _rank() == "0":
                describe(config, world_size)
            return 0
    except InputError as error:
        return _refuse(error)
    return _run(lambda: _train(config))


def _serve(asked: ServeConfig) -> int:
    from trivium.engine.serve import serve

    return serve.main(asked)


def _train(config: RunConfig) -> int:
    from trivium.engine import train

    return train.main(config)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="trivium", description="3D-parallel training of language models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    train = commands.add_parser(
        "train",
        help="train a model, or go on with a run that was stopped",
        description="Train a model. Several processes: torchrun --nproc-per-node N "
        "-m trivium.engine train --config FILE key=value ...",
        allow_abbrev=False,
    )
    train.add_argument("--config", metavar="FILE", help="YAML file; defaults alone without one")
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved configuration, layout and parameter counts; do not train",
    )
    train.add_argument(
        "--world-size", type=int, metavar="N", help="number of ranks to assume in a dry run"
    )
    train.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as in optimizer.lr=1e-3, model.moe=null"
    )
    serve = commands.add_parser(
        "serve",
        help="put a model behind OpenAI's HTTP API, with a page to talk to it",
        description="Serve a Hugging Face folder, a checkpoint or a run: model=FOLDER key=value "
        "... Several processes: torchrun -m trivium.engine serve ...",
        allow_abbrev=False,
    )
    serve.add_argument("--config", metavar="FILE", help="YAML file of the same keys")
    serve.add_argument("overrides", nargs="*", metavar="key=value", help="as in port=8001")
    commands.add_parser("kernels", help="show what runs for each operator on this machine, and why")
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "kernels":
        if rest:
            parser.error(f"kernels takes no arguments: {rest[0]}")
        return arguments
    for extra in rest:  # argparse takes positionals that follow a later option as unknown
        if extra.startswith("-") and "=" in extra:
            parser.error(f"{extra}: configuration keys take no dashes: {extra.lstrip('-')}")
        if extra.startswith("-"):
            parser.error(f"unknown option {extra}")
    arguments.overrides += rest
    return arguments


def _world_size(given: int | None, dry_run: bool) -> int:
    if given is None:
        return _environment("WORLD_SIZE", 1)
    if not dry_run:
        raise InputError(
            "--world-size: only a dry run can assume one; start that many processes with torchrun "
            "--nproc-per-node, or add --dry-run"
        )
    if given < 1:
        raise InputError(f"--world-size {given}: must be at least 1")
    return given


def _environment(name: str, default: int) -> int:
    """A count that torchrun leaves in the environment."""
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdigit():
        raise InputError(f"{name}={text} in the environment: must be a number; start with torchrun")
    return int(text)


def _refuse(error: InputError) -> int:
    """Print an error that every rank has, once, and give the exit status.

    torchrun sends SIGTERM to every other rank as soon as one has failed: the others hold it off
    until rank 0 has had its time to print, so that they too leave with the status.
    """
    if _rank() == "0":
        _print(f"error: {error}")
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(QUIET_SECONDS)
    return EXIT_STATUS


def _run(work: Callable[[], int]) -> int:
    """Hand over to what needs torch. What only this rank may have seen, it says itself."""
    from trivium.engine.agreement import AgreedError

    try:
        return work()
    except AgreedError as error:
        return _refuse(error)
    except InputError as error:
        rank = _rank()
        _print(f"error: {error}" if rank == "0" else f"error (rank {rank}): {error}")
        return EXIT_STATUS


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _print(line: str) -> None:
    """To stderr, and to where torchrun's closing summary looks for the root cause."""
    print(line, file=sys.stderr, flush=True)
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        extra = {"timestamp": str(int(time.time())), "py_callstack": line}
        message = json.dumps({"message": {"message": line, "extraInfo": extra}})
        with contextlib.suppress(OSError):
            Path(file).write_text(message, encoding="utf-8")


# --- Dry run ------------------------------------------------------------------


def vocabulary(config: RunConfig) -> tuple[int, str]:
    """The vocabulary size of a run, and where it comes from, without preparing any data.

    Raises InputError where the tokenizer that is named cannot be read.
    """
    if config.model.vocab_size is not None:
        return config.model.vocab_size, "model.vocab_size"
    if config.data.tokenizer in TRAINED_TOKENIZERS:
        return config.data.vocab_size, f"at most, of the {config.data.tokenizer} tokenizer to train"
    from trivium.data_pipeline.tokenizer import load_tokenizer

    return load_tokenizer(config.data.tokenizer).vocab_size, f"of {config.data.tokenizer}"


def describe(config: RunConfig, world_size: int) -> None:
    """Print a resolved run to stdout: configuration, layout table, sizes."""
    from rich.console import Console

    vocab_size, source = vocabulary(config)
    known = replace(config, model=replace(config.model, vocab_size=vocab_size))
    print(dump_yaml(config))
    print(layout.summary(layout.ParallelLayout.of(config.parallel, world_size)))
    # a pipe or a file has no width to keep to
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(layout.layout_table(known, world_size))
    for line in _sizes(known, world_size, source):
        print(line)


def _sizes(config: RunConfig, world_size: int, source: str) -> list[str]:
    """Vocabulary, parameters and tokens of a run whose vocabulary is known, a line each."""
    model, train, length = config.model, config.train, config.data.sequence_length
    total, active = parameters.count(model)
    rank, most = layout.largest_rank(config, world_size)
    dp = layout.ParallelLayout.of(config.parallel, world_size).dp
    each = train.global_batch // (train.micro_batch * dp)
    tokens = train.global_batch * length
    batch = f"{train.global_batch} x {length} = {tokens:,} tokens a step"
    batch += f"; each dp rank: {each} micro-batch{'es' * (each > 1)} of {train.micro_batch}"
    held = [f"{total:,} in all"]
    if active != total:
        held.append(f"{active:,} active for a token")
    if world_size > 1:
        held.append(f"at most {most:,} on a rank (rank {rank})")
    return [
        f"vocabulary  {model.vocab_size:,} ({source}), {model.padded_vocab_size:,} embedding rows",
        f"parameters  {', '.join(held)}",
        f"batch       {batch}",
        f"run         {train.steps:,} steps, {train.steps * tokens:,} tokens",
    ]
