"""Folders of every family: the logits of transformers under any layout, and the same folder back."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.distributed.pool import run_distributed
from tests.engine.hf.tiny_models import EXPERTS, MODELS, build, tokens

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'trivium[parity]'",
)

LAYOUTS = {
    "one rank": (1, {}),
    "tp2": (2, {"tp": 2}),
    "pp2": (2, {"pp": 2}),
    "tp2 pp2": (4, {"tp": 2, "pp": 2}),
    "ep2": (2, {"ep": 2}),
}
SOME = ("deepseek-v3 yarn", "llama linear", "qwen3 moe sparse")  # one rank and tp 2 only


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """name -> folder of a tiny model."""
    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        build(name, root / name)
    return {name: str(root / name) for name in MODELS}


def opened(folder, parallel):
    """(chunks, mesh, config) on this rank."""
    from trivium.engine import hf
    from trivium.engine.config import fill
    from trivium.engine.hf.load import load_weights
    from trivium.engine.layout import ParallelLayout, check_layout
    from trivium.engine.mesh import create_mesh, destroy_mesh
    from trivium.engine.model.gpt import assemble
    from trivium.engine.schema import DataConfig, ParallelConfig, RunConfig

    import torch.distributed as dist

    destroy_mesh()
    path = Path(folder)
    config = RunConfig(model=hf.model_config(path), data=DataConfig(corpus=("x",)))
    config = replace(config, parallel=ParallelConfig(**parallel))
    config = fill(hf.fit_groups(config))
    check_layout(config, dist.get_world_size())
    config = replace(config, parallel=replace(config.parallel, sp=False))
    mesh = create_mesh(ParallelLayout.of(config.parallel, dist.get_world_size()), 1)
    chunks = assemble(config, mesh)
    with torch.no_grad():
        for chunk in chunks:  # what is not loaded shows
            for parameter in chunk.parameters():
                parameter.fill_(torch.nan)
    assert load_weights(path, chunks, mesh, config) == []
    for chunk in chunks:
        chunk.eval()
    return chunks, mesh, config


def logits_of(chunks, mesh, vocabulary):
    """[rows, length, vocabulary] on the last stage, else None."""
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    from trivium.engine.forward import forward

    ids = tokens()
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    with torch.no_grad():
        heads = forward(chunks, mesh, ids, positions)
        if heads is None:
            return None
        whole = gather_from_tensor_model_parallel_region(heads.logits(), group=mesh.groups.tp)
    return whole.transpose(0, 1)[..., :vocabulary]


def there_and_back(folder, out, parallel):
    """The error of the logits on this rank; with `out`, the folder is written again."""
    from trivium.engine.hf.save import Export, save

    chunks, mesh, config = opened(folder, parallel)
    expected = torch.load(Path(folder) / "expected.pt")
    logits = logits_of(chunks, mesh, expected.shape[-1])
    if out is not None:
        save(Path(out), chunks, mesh, config.model, "fp32", Export(tokenizer=None))
    if logits is None:
        return None
    return float((logits - expected).abs().max()), float(expected.abs().max())


CASES = [
    (name, layout)
    for name in MODELS
    for layout in LAYOUTS
    if (layout != "ep2" or name in EXPERTS)
    and (name not in SOME or layout in ("one rank", "tp2"))
]


@pytest.mark.parametrize(("name", "layout"), CASES, ids=[f"{n}-{l}" for n, l in CASES])
def test_logits_and_the_folder_back(folders, tmp_path, name, layout):
    from safetensors.torch import load_file

    world, parallel = LAYOUTS[layout]
    out = tmp_path / "out"
    results = run_distributed(there_and_back, world, folders[name], str(out), parallel)
    for result in results:
        if result is not None:
            error, largest = result
            assert error < 1e-4, (error, largest)
    before = load_file(Path(folders[name]) / "model.safetensors")
    after = load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
