"""Who fills the slots: what is asked for, what there is, and Transformer Engine by doubles.

Transformer Engine cannot be installed on the machines these tests run on. The doubles take exactly
the arguments that megatron-core's wrappers of it take (read from their source) and compute as
megatron-core's own layers do, so the model around them is whole.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from tests.distributed.pool import distributed
from tests.parity.models import MODELS, run_of
from trivium.data_pipeline.errors import InputError
from trivium.engine.config import resolve
from trivium.engine.schema import KernelsConfig, ParallelConfig


def arguments_of(name: str) -> tuple[set[str], set[str]]:
    """(all, required) arguments of a wrapper's constructor, from megatron-core's source."""
    origin = importlib.util.find_spec("megatron.core")
    assert origin is not None
    assert origin.submodule_search_locations is not None
    file = Path(origin.submodule_search_locations[0], "extensions", "transformer_engine.py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    wrapper = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == name)
    makers = {"__init__", "__new__"}
    made = next(n for n in wrapper.body if isinstance(n, ast.FunctionDef) and n.name in makers).args
    positional = [a.arg for a in made.args][1:]
    free = positional[: len(positional) - len(made.defaults)]
    pairs = zip(made.kwonlyargs, made.kw_defaults, strict=True)
    required = {a.arg for a, default in pairs if default is None} | set(free)
    return required | set(positional) | {a.arg for a in made.kwonlyargs}, required


@contextlib.contextmanager
def doubles() -> Iterator[list[tuple[str, dict[str, object]]]]:
    """Transformer Engine in name only; gives the list of what was built, and how."""
    import megatron.core.extensions.transformer_engine as wrappers
    from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

    from trivium.engine.model import backend
    from trivium.engine.model.norm import Norm

    built: list[tuple[str, dict[str, object]]] = []

    def double(name: str, parent: type) -> type:
        known, required = arguments_of(name)

        class Double(parent):
            def __init__(self, *args: object, **kwargs: object) -> None:
                names = ("input_size", "output_size") if len(args) == 2 else ("config",)
                given = set(kwargs) | set(names[: len(args)])
                assert given <= known, f"{name} takes no {sorted(given - known)}"
                assert required <= given, f"{name} lacks {sorted(required - given)}"
                built.append((name, kwargs))
                super().__init__(*args, **kwargs)

        return Double

    patches = {
        "TEColumnParallelLinear": double("TEColumnParallelLinear", ColumnParallelLinear),
        "TERowParallelLinear": double("TERowParallelLinear", RowParallelLinear),
        "TENorm": double("TENorm", Norm),
    }
    with contextlib.ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch.object(wrappers, name, value))
        finder = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: object()))
        finder.import_module = importlib.import_module
        stack.enter_context(mock.patch.object(backend, "importlib", finder))
        yield built


def gradients(model: str, settings: KernelsConfig, parallel: ParallelConfig, world: int):
    """Loss and gradients of one step by name."""
    from dataclasses import replace

    from tests.parity.ranks import Run

    config = replace(run_of(MODELS[model]), kernels=settings, parallel=parallel)
    run = Run(resolve(config, world))
    metrics = run.accumulate(0)
    grads = {
        f"{index}.{name}": parameter.main_grad.clone()
        for index, chunk in enumerate(run.chunks)
        for name, parameter in chunk.module.named_parameters()
    }
    from trivium.engine.mesh import destroy_mesh

    destroy_mesh()
    return metrics["loss"], grads


def compare(model: str, parallel: ParallelConfig, world: int) -> None:
    ours_loss, ours = gradients(model, KernelsConfig(), parallel, world)
    with doubles() as built:
        settings = KernelsConfig(backend="transformer_engine")
        loss, theirs = gradients(model, settings, parallel, world)
    kinds = {name for name, _ in built}
    assert kinds == {"TEColumnParallelLinear", "TERowParallelLinear", "TENorm"}
    assert loss == ours_loss
    assert theirs.keys() == ours.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(theirs[name], grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("model", ["dense", "deepseek"])
@distributed(1)
def test_transformer_engine_fills_the_slots(model):
    compare(model, ParallelConfig(), 1)


@distributed(2)
def test_transformer_engine_under_sequence_parallelism():
    compare("dense", ParallelConfig(tp=2, sp=True), 2)


@distributed(1)
def test_user_buffers_are_asked_for():
    from trivium.engine.model import backend

    engine = mock.Mock()
    with mock.patch.object(backend.importlib, "import_module", return_value=engine):
        backend.start_overlap(rows=8192, hidden_size=4096, tp=4, fp8=True)
    engine.initialize_ub.assert_called_once_with(
        shape=[8192, 4096], tp_size=4, use_fp8=True, bootstrap_backend="nccl"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (KernelsConfig(backend="transformer_engine"), "not installed"),
        (KernelsConfig(fp8="hybrid"), "kernels.fp8=hybrid"),
    ],
)
@distributed(1)
def test_what_is_missing_is_named(settings, words):
    from trivium.engine.model.backend import choose_backend

    if importlib.util.find_spec("transformer_engine") is not None:
        pytest.skip("Transformer Engine is installed")
    with pytest.raises(InputError, match=words):
        choose_backend(settings)


def test_operators_are_chosen_by_name():
    from trivium.engine.operators import choose, table

    assert choose(KernelsConfig(), on_cuda=False).startswith("kernels: plain torch")
    with pytest.raises(InputError, match=r"kernels\.off: no operator 'nrom'; known: .*norm"):
        choose(KernelsConfig(off=("nrom",)), on_cuda=True)
    assert {choice.path for choice in table()} == {"torch"}
