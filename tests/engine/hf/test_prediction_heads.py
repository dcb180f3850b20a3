"""MTP heads in a folder, as DeepSeek-V3 and GLM-4.5 have them: one more layer behind the last.

transformers does not run them; the reference is its own layer, fed as the paper has it (arXiv
2412.19437, section 2.2): the next token's embedding, then the trunk's output.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from tests.distributed.pool import run_distributed
from tests.engine.hf.tiny_models import opened, tokens

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'trivium[parity]'",
)
LAYERS = 4


def with_head(folder, out):
    """The model of `folder` with an MTP head, and the head's logits, in `out`."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    weights = load_file(Path(folder) / "model.safetensors")
    torch.manual_seed(5)
    ours, last = f"model.layers.{LAYERS}.", f"model.layers.{LAYERS - 1}."
    layer = {
        name.replace(last, ours): value + 0.05 * torch.randn_like(value)
        for name, value in weights.items()
        if name.startswith(last)
    }
    width = weights["model.norm.weight"].shape[0]
    head = {
        f"{ours}{name}.weight": 1 + 0.1 * torch.randn(width)
        for name in ("enorm", "hnorm", "shared_head.norm")
    }
    head[f"{ours}eh_proj.weight"] = 0.15 * torch.randn(width, 2 * width)
    # what is the trunk's, written out once more
    head[f"{ours}embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
    head[f"{ours}shared_head.head.weight"] = weights["lm_head.weight"].clone()
    out.mkdir()
    config = json.loads((Path(folder) / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    save_file(weights | layer | head, out / "model.safetensors", {"format": "pt"})

    trunk = AutoModelForCausalLM.from_pretrained(folder).eval()
    longer = AutoModelForCausalLM.from_pretrained(out, num_hidden_layers=LAYERS + 1).eval()
    norm = type(trunk.model.norm)(width, trunk.config.rms_norm_eps)

    def normed(name, x):
        norm.weight.copy_(head[f"{ours}{name}.weight"])
        return norm(x)

    with torch.no_grad():
        ids = tokens()
        hidden = trunk.model(ids).last_hidden_state[:, :-1]
        embedded = trunk.model.embed_tokens(ids[:, 1:])
        joined = torch.cat([normed("enorm", embedded), normed("hnorm", hidden)], -1)
        x = joined @ head[f"{ours}eh_proj.weight"].T
        positions = torch.arange(x.shape[1]).unsqueeze(0)
        angles = longer.model.rotary_emb(x, positions)
        x = longer.model.layers[LAYERS](x, position_embeddings=angles, position_ids=positions)
        logits = trunk.lm_head(normed("shared_head.norm", x))
    torch.save(logits, out / "expected.pt")
    return weights | layer | head


def there_and_back(folder, out, parallel):
    """Logits of the MTP head [rows, length - 1, vocabulary] on the last stage, else None."""
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    from trivium.engine.forward import forward
    from trivium.engine.hf.save import Export
    from trivium.engine.hf.save_model import save

    chunks, mesh, config = opened(folder, parallel)
    save(Path(out), chunks, mesh, config.model, "fp32", Export(tokenizer=None))
    ids = tokens()
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    with torch.no_grad():
        heads = forward(chunks, mesh, ids, positions)
        if heads is None:
            return None
        logits = heads.logits(1)
        whole = gather_from_tensor_model_parallel_region(logits, group=mesh.groups.tp)
    return whole.transpose(0, 1)[:, :-1, : config.model.vocab_size]


@pytest.mark.parametrize("parallel", [{}, {"tp": 2, "pp": 2}], ids=["one rank", "tp2 pp2"])
@pytest.mark.parametrize("name", ["glm4 moe", "deepseek-v3"])
def test_a_head_is_read_run_and_written(folders, tmp_path, name, parallel):
    from safetensors.torch import load_file

    given, out = tmp_path / "given", tmp_path / "out"
    before = with_head(folders[name], given)
    expected = torch.load(given / "expected.pt")
    world = parallel.get("tp", 1) * parallel.get("pp", 1)
    results = run_distributed(there_and_back, world, str(given), str(out), parallel)
    found = [logits for logits in results if logits is not None]
    assert found
    for logits in found:
        assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    after = load_file(out / "model.safetensors")
    copies = {name for name in before if name.endswith(("embed_tokens.weight", ".head.weight"))}
    assert before.keys() - copies <= after.keys() <= before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert json.loads((out / "config.json").read_text())["num_nextn_predict_layers"] == 1
