"""Which implementation every operator has in this process, chosen once and said once."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from trivium.data_pipeline.errors import InputError
from trivium.engine.schema import KernelsConfig


@dataclass(frozen=True)
class Choice:
    """One operator: what runs for it on a GPU (`cuda` or `torch`), and why it is not `cuda`."""

    operator: str
    path: str
    reason: str
    summary: str


def choose(settings: KernelsConfig, on_cuda: bool) -> str:
    """Load the kernels that `settings` asks for; gives one line that says what runs.

    Raises InputError for a name in `kernels.off` that no operator has.
    """
    from trivium.kernels import catalogue, library

    known = catalogue.operators()
    unknown = sorted(set(settings.off) - known.keys())
    if unknown:
        raise InputError(f"kernels.off: no operator {unknown[0]!r}; known: {', '.join(known)}")
    if not on_cuda:
        return "kernels: plain torch, on a CPU"
    if settings.backend == "torch":
        return "kernels: plain torch (kernels.backend=torch)"
    missing = library.load()
    if missing is not None:
        return f"kernels: plain torch; {missing}"
    catalogue.switch_off(settings.off)
    by_path: dict[str, list[str]] = {"cuda": [], "torch": []}
    for choice in table():
        by_path[choice.path].append(choice.operator)
    ours, plain = ", ".join(by_path["cuda"]), ", ".join(by_path["torch"])
    return f"kernels: {ours}" + (f"; plain torch: {plain}" if plain else "")


def table() -> list[Choice]:
    """Every operator with what runs for it on CUDA tensors in this process, by name."""
    from trivium.kernels import catalogue

    missing = unavailable()
    choices = []
    for name, operator in catalogue.operators().items():
        if missing is None and operator.path == "cuda":
            choices.append(Choice(name, "cuda", "", operator.summary))
        else:
            reason = "switched off" if operator.compiled else "no kernel of its own"
            choices.append(Choice(name, "torch", missing or reason, operator.summary))
    return choices


def unavailable() -> str | None:
    """Why no kernel at all runs in this process, or None. Loads the library."""
    import torch

    from trivium.kernels import library

    missing = library.load()
    if missing is None and not torch.cuda.is_available():
        return "no GPU"
    return missing


def accelerators() -> list[tuple[str, str]]:
    """Optional libraries and their versions, or why they are not used."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package, effect in (
        ("transformer_engine", "linear layers, norms and FP8 (kernels.backend)"),
        ("apex", "optimizer and weight gradients, as megatron-core finds them"),
    ):
        try:
            found.append((package, f"{version(package.replace('_', '-'))}: {effect}"))
        except PackageNotFoundError:
            found.append((package, "not installed"))
    return found


def describe() -> None:
    """Print the table that `trivium kernels` shows."""
    import torch
    from rich.console import Console
    from rich.table import Table

    missing = unavailable()
    shown = Table(box=None, pad_edge=False)
    for heading in ("operator", "runs as", "what it is", "" if missing else "why not cuda"):
        shown.add_column(heading)
    for choice in table():
        reason = "" if missing else choice.reason
        shown.add_row(choice.operator, choice.path, choice.summary, reason)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(shown)
    if missing:
        console.print(f"\nplain torch throughout: {missing}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    console.print(f"\ntorch {torch.__version__}, {device}")
    for package, state in accelerators():
        console.print(f"{package}: {state}")
