"""The lines the house is built on, read from its source: who imports whom, what is named how."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
INSTALLED = ("engine", "kernels", "data_pipeline")
FOLDERS = (*INSTALLED, "tools", "examples", "tests")

# Imports flow one way: a room may import the rooms named here, and itself.
MAY_IMPORT = {
    "kernels": {"kernels"},
    "data_pipeline": {"data_pipeline"},
    "engine": {"engine", "kernels", "data_pipeline"},
}

# The rooms of the engine (file or folder) that know megatron-core. All others get what they need
# handed in, so that they outlive its next version. Add a room only with a reason.
MEGATRON_ROOMS = {
    "checkpoint",
    "fixes",
    "forward",  # the type of packed rows
    "generation",  # gathers logits over tp; takes the place of linear layers
    "hf",  # which slice of a tensor a rank holds: megatron-core's sharded state says so
    "host",
    "mesh",
    "model",
    "optimizer",
    "peft",
    "step",
    "train",
    "trainer",
}

# Rooms that answer before torch is loaded: configuration errors, `--dry-run`, reports.
TORCHLESS_ROOMS = {
    "charts",
    "cli",
    "config",
    "flops",
    "layout",
    "limits",
    "metrics",
    "progress",
    "report",
    "schedule",
    "schema",
    "units",
}

# Rooms that are mathematics: one process's tensors in, tensors out.
PURE_ROOMS = {"objectives"}

# Never in a training process: importing them costs seconds in each of thousands of workers.
TOO_HEAVY = {"transformers", "peft"}

NAMELESS = {"utils", "util", "misc", "common", "helpers", "helper"}


class Import(NamedTuple):
    """One imported module, as an absolute dotted name."""

    file: Path
    line: int
    module: str
    at_import_time: bool  # not inside a function

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"

    def within(self, *packages: str) -> bool:
        return any(self.module == p or self.module.startswith(p + ".") for p in packages)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def room_of(file: Path) -> str:
    """`engine/model/gpt.py` and `engine/mesh.py` are in the rooms `model` and `mesh`."""
    return file.relative_to(ROOT).with_suffix("").parts[1]


def imports_of(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    package = ["trivium", *file.relative_to(ROOT).parts[:-1]]
    in_functions = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            parent = ".".join([*base, *([node.module] if node.module else [])])
            modules = [f"{parent}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            yield Import(file, node.lineno, module, id(node) not in in_functions)


def imports_in(*folders: str) -> Iterator[Import]:
    for file in sources(*folders):
        yield from imports_of(file)


def listed(found: Iterator[Import]) -> list[str]:
    return [str(one) for one in found]


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_flow_one_way(room: str):
    allowed = [f"trivium.{name}" for name in MAY_IMPORT[room]]
    backwards = (
        one
        for one in imports_in(room)
        if one.within("trivium", "tools", "examples", "tests") and not one.within(*allowed)
    )
    assert listed(backwards) == []


def test_rooms_are_imported_under_trivium():
    bare = (one for one in imports_in(*FOLDERS) if one.within(*INSTALLED))
    assert listed(bare) == [], (
        "from the repository's root engine.x and trivium.engine.x are two modules"
    )


def test_few_rooms_know_megatron():
    elsewhere = (
        one
        for one in imports_in(*INSTALLED)
        if one.within("megatron")
        and not (one.file.is_relative_to(ROOT / "engine") and room_of(one.file) in MEGATRON_ROOMS)
    )
    assert listed(elsewhere) == []


def test_the_host_adapter_is_imported_lazily():
    """On CUDA it must never load; only a function that knows the device may import it."""
    eager = (
        one
        for one in imports_in("engine")
        if one.within("trivium.engine.host") and one.at_import_time
    )
    assert listed(eager) == []


def test_configuration_and_reports_need_no_torch():
    heavy = (
        one
        for one in imports_in("engine")
        if one.within("torch", "megatron")
        and room_of(one.file) in TORCHLESS_ROOMS
        and one.at_import_time
    )
    assert listed(heavy) == []


def test_data_is_prepared_without_torch():
    assert listed(one for one in imports_in("data_pipeline") if one.within("torch")) == []


def test_objectives_know_no_processes():
    distributed = (
        one
        for one in imports_in("engine")
        if room_of(one.file) in PURE_ROOMS
        and one.within("torch.distributed", "trivium.engine.mesh")
    )
    assert listed(distributed) == []


def test_training_never_imports_transformers():
    heavy = (one for one in imports_in(*INSTALLED) if one.within(*TOO_HEAVY) and one.at_import_time)
    assert listed(heavy) == []


def test_kernels_is_no_regular_package():
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would hide PyPI's `kernels`"


def test_every_file_is_named_after_an_idea():
    nameless = [str(f.relative_to(ROOT)) for f in sources(*FOLDERS) if f.stem in NAMELESS]
    assert nameless == []


def pages() -> list[Path]:
    return sorted(
        [*ROOT.glob("*.md"), *(ROOT / "kernels").glob("*.md"), *ROOT.glob("docs/**/*.md")]
    )


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_readme_opens_with_the_two_commands():
    opening = (ROOT / "README.md").read_text(encoding="utf-8").split("##")[0]
    assert opening.index("make demo") < opening.index("make test")
