"""Folders of every family: the logits of transformers under any layout, and the folder back."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from tests.distributed.pool import run_distributed
from tests.engine.hf.tiny_models import EXPERTS, MODELS, opened, tokens

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
# one rank and tp 2 only
SOME = (
    *("deepseek-v2 groups", "deepseek-v2 yarn", "deepseek-v3 yarn", "gemma3 linear", "glm"),
    *("llama linear", "qwen3 moe sparse"),
)


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
    from trivium.engine.hf.save import Export
    from trivium.engine.hf.save_model import save

    chunks, mesh, config = opened(folder, parallel)
    expected = torch.load(Path(folder) / "expected.pt")
    logits = logits_of(chunks, mesh, expected.shape[-1])
    if out is not None:
        save(Path(out), chunks, mesh, config.model, "fp32", Export(tokenizer=None))
    if logits is None:
        return None
    return float((logits - expected).abs().max()), float(expected.abs().max())


# in the fast tests: every family as it is cut both ways at once, and the first of all layouts
WHOLE = ("llama", "deepseek-v3")
CASES = [
    pytest.param(
        name,
        layout,
        id=f"{name}-{layout}",
        marks=[]
        if name in WHOLE or layout == ("tp2" if name in SOME else "tp2 pp2")
        else [pytest.mark.slow],
    )
    for name in MODELS
    for layout in LAYOUTS
    if (layout != "ep2" or name in EXPERTS) and (name not in SOME or layout in ("one rank", "tp2"))
]


@pytest.mark.parametrize(("name", "layout"), CASES)
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
