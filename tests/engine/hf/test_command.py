"""`tools/convert_checkpoint.py` both ways, and what it says of damaged folders."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.pool import run_distributed

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'trivium[parity]'",
)
ROOT = Path(__file__).parents[3]


def convert(*arguments):
    """(status, last line of standard error)."""
    done = subprocess.run(
        [sys.executable, "tools/convert_checkpoint.py", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, lines[-1] if lines else ""


@pytest.fixture(scope="module")
def stages(folders, tmp_path_factory):
    """(folder, checkpoint, folder again): padding, experts, a bias that is kept in fp32."""
    root = tmp_path_factory.mktemp("converted")
    first = Path(folders["deepseek-v3"])
    assert convert("from-hf", f"hf={first}", f"out={root}/checkpoint") == (0, "")
    more = f"out={root}/again", "max_file_gb=0.0002"
    assert convert("to-hf", f"checkpoint={root}/checkpoint", *more) == (0, "")
    return first, root / "checkpoint", root / "again"


def test_there_and_back_is_the_same_folder(stages):
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    first, _, again = stages
    index = json.loads((again / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3
    after = {}
    for file in files:
        after |= load_file(again / file)
    before = load_file(first / "model.safetensors")
    assert before.keys() == after.keys() == index["weight_map"].keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    ours, theirs = (AutoConfig.from_pretrained(path).to_dict() for path in (again, first))
    different = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    written = {"scoring_func", "topk_method"}  # for the family's own code, which names them
    # transformers counts a head that it has left out of the file
    missing = {"num_nextn_predict_layers"}
    assert different - written - missing <= {"_name_or_path", "transformers_version"}
    ids = torch.tensor([[3, 5, 7]])
    answers = [
        AutoModelForCausalLM.from_pretrained(path).generate(
            ids, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        for path in (first, again)
    ]
    assert torch.equal(*answers)


def loaded(checkpoint, expected, parallel):
    """The largest difference of the logits of a checkpoint, cut in this way, from transformers'."""
    from dataclasses import replace

    import torch.distributed as dist

    from tests.engine.hf.test_conversion import logits_of
    from trivium.data_pipeline.config_tree import load
    from trivium.engine.checkpoint import load_weights
    from trivium.engine.config import fill
    from trivium.engine.layout import ParallelLayout
    from trivium.engine.mesh import create_mesh, destroy_mesh
    from trivium.engine.model.gpt import assemble
    from trivium.engine.schema import ParallelConfig, RunConfig

    destroy_mesh()
    config = fill(load(RunConfig, Path(checkpoint) / "config.yaml"))
    config = replace(config, parallel=ParallelConfig(**parallel, sp=False))
    mesh = create_mesh(ParallelLayout.of(config.parallel, dist.get_world_size()), 1)
    chunks = assemble(config, mesh)
    load_weights(Path(checkpoint), chunks, mesh)
    for chunk in chunks:
        chunk.eval()
    wanted = torch.load(expected)
    found = logits_of(chunks, mesh, wanted.shape[-1])
    return None if found is None else float((found - wanted).abs().max())


@pytest.mark.parametrize("parallel", [{}, {"ep": 2}, {"pp": 2}], ids=str)
def test_the_checkpoint_between_them_loads_under_any_layout(stages, parallel):
    first, checkpoint, _ = stages
    world = parallel.get("ep", 1) * parallel.get("pp", 1)
    expected = str(first / "expected.pt")
    errors = run_distributed(loaded, world, str(checkpoint), expected, parallel)
    assert max(error for error in errors if error is not None) < 1e-4


def test_a_model_that_two_families_can_say_keeps_its_own(folders, tmp_path):
    from trivium.engine.hf.checkpoints import from_folder, to_folder

    folder = tmp_path / "folder"
    shutil.copytree(folders["mistral"], folder)
    edit(folder, sliding_window=None)  # so it could be a Llama
    told = lambda done, total: None  # noqa: E731
    from_folder(folder, tmp_path / "checkpoint", None, told)
    to_folder(tmp_path / "checkpoint", tmp_path / "again", None, None, "keep", 10**9, told)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["model_type"] == "mistral"


def rewrite(folder, change):
    """Change the tensors of a folder's one file."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def only_pickles(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")


def missing_file(folder):
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


KEY = "model.layers.1.mlp.up_proj.weight"
DAMAGES = {
    "truncated": (truncate, "truncated"),
    "no safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"x"), "safetensors"),
    "shape": (lambda f: rewrite(f, lambda t: t.update({KEY: t[KEY][:-1].clone()})), "the shape"),
    "missing tensor": (lambda f: rewrite(f, lambda t: t.pop(KEY)), f"tensor {KEY} is missing"),
    "extra": (
        lambda f: rewrite(f, lambda t: t.update({"x.y": torch.ones(2)})),
        "tensor x.y has no",
    ),
    "quantised": (
        lambda f: rewrite(f, lambda t: t.update({KEY: t[KEY].to(torch.int8)})),
        "quantised",
    ),
    "missing file": (missing_file, "is missing, which"),
    "pickle": (only_pickles, "pickled weights only"),
    "unknown rope": (
        lambda f: edit(f, rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
        'rope_type="dynamic" is not supported',
    ),
    "unknown field": (lambda f: edit(f, residual_multiplier=0.2), "residual_multiplier=0.2"),
    "activation": (lambda f: edit(f, hidden_act="relu"), 'hidden_act="relu"'),
    "family": (lambda f: edit(f, model_type="mamba"), 'model_type="mamba" is not known'),
    "quantisation": (lambda f: edit(f, quantization_config={"bits": 4}), "quantization_config"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "config.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line_and_leaves_nothing(folders, tmp_path, damage):
    from trivium.data_pipeline.errors import InputError
    from trivium.engine.hf.checkpoints import from_folder

    folder = tmp_path / "folder"
    shutil.copytree(folders["llama"], folder)
    work, said = DAMAGES[damage]
    work(folder)
    with pytest.raises(InputError) as error:
        from_folder(folder, tmp_path / "out", None, lambda done, total: None)
    assert said in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


def test_the_command_leaves_with_status_2(folders, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(folders["llama"], folder)
    truncate(folder)
    status, line = convert("from-hf", f"hf={folder}", f"out={tmp_path}/out")
    assert status == 2
    assert line.startswith("error: ")
    assert "truncated" in line
    assert convert("from-hf", f"out={tmp_path}/out")[0] == 2
    assert convert("to-hf", f"checkpoint={tmp_path}/none", f"out={tmp_path}/out")[0] == 2
    assert not (tmp_path / "out").exists()
