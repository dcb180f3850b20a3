"""Merging: formulas of the papers in numpy, properties, and folders that do not fit together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trivium.engine.hf.safetensors_files import Folder, Writer, create, plan

ROOT = Path(__file__).parents[2]
SHAPES = {"a.weight": (6, 5), "b.weight": (7,), "c.weight": (3, 4)}


def make(path, seed, shapes=SHAPES, dtype="F32", most=1 << 30, **fields):
    """A folder of random tensors."""
    path.mkdir()
    chance = torch.Generator().manual_seed(seed)
    placed = plan(path, {name: (dtype, shape) for name, shape in shapes.items()}, most)
    create(placed)
    writer = Writer(placed)
    for name, shape in shapes.items():
        writer.put(name, 0, 0, torch.randn(shape, generator=chance))
    writer.close()
    (path / "config.json").write_text(json.dumps({"model_type": "llama"} | fields))
    return path


def read(path):
    """name -> float64 array."""
    folder = Folder(path)
    found = {
        name: torch.cat([values for _, values in folder.rows(entry, 0, entry.shape[0])])
        for name, entry in folder.entries.items()
    }
    folder.close()
    return {name: tensor.double().numpy() for name, tensor in found.items()}


def run(*words):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "merge_models.py"), *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def method(**fields):
    from tools.merge_models import Asked, _method

    return _method(Asked(out="x", **fields))


def merged(tmp_path, **fields):
    """(a, b, base, result) of a merge of two random models."""
    from trivium.engine.merging.folders import merge

    a, b = make(tmp_path / "a", 1), make(tmp_path / "b", 2)
    base = make(tmp_path / "base", 3) if "base" in fields else None
    made = method(models=("a", "b"), **fields)
    merge([a, b], base, tmp_path / "out", made, 1 << 30, lambda done, total: None)
    return read(a), read(b), read(base) if base else None, read(tmp_path / "out")


def close(found, name, expected):
    np.testing.assert_allclose(found[name], expected, rtol=2e-7, atol=2e-7)


def test_linear(tmp_path):
    a, b, _, found = merged(tmp_path, weights=(3.0, 1.0))
    for name in SHAPES:
        close(found, name, 0.75 * a[name] + 0.25 * b[name])


def test_slerp(tmp_path):
    a, b, _, found = merged(tmp_path, method="slerp", t=0.3)
    for name in SHAPES:
        x, y = a[name], b[name]
        angle = np.arccos((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
        point = (np.sin(0.7 * angle) * x + np.sin(0.3 * angle) * y) / np.sin(angle)
        close(found, name, point)


def test_task_arithmetic(tmp_path):
    a, b, base, found = merged(
        tmp_path, method="task_arithmetic", base="o", weights=(1.0, 0.5), scale=0.4
    )
    for name in SHAPES:
        o = base[name]
        close(found, name, o + 0.4 * ((a[name] - o) + 0.5 * (b[name] - o)))


def test_ties(tmp_path):
    a, b, base, found = merged(tmp_path, method="ties", base="o", density=0.5, scale=0.8)
    for name in SHAPES:
        o = base[name].ravel()
        tasks = []
        for model in (a, b):
            task = model[name].ravel() - o
            kept = np.argsort(-np.abs(task))[: round(task.size * 0.5)]
            tasks.append(np.where(np.isin(np.arange(task.size), kept), task, 0))
        sign = np.sign(sum(tasks))
        expected = o.copy()
        for i in range(o.size):
            agree = [task[i] for task in tasks if task[i] != 0 and np.sign(task[i]) == sign[i]]
            expected[i] += 0.8 * np.mean(agree) if agree else 0
        close(found, name, expected.reshape(SHAPES[name]))


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_exact_ends_and_equal_models(tmp_path, dtype):
    from trivium.engine.merging.folders import merge

    a, b = (make(tmp_path / name, seed, dtype=dtype) for name, seed in (("a", 1), ("b", 2)))
    cases = [
        ([a, b], {"method": "slerp", "t": 0.0}, a),
        ([a, b], {"method": "slerp", "t": 1.0}, b),
        ([a, a, a], {"weights": (0.3, 0.5, 0.9)}, a),
    ]
    for index, (models, fields, same) in enumerate(cases):
        out = tmp_path / f"out{index}"
        made = method(models=tuple(map(str, models)), **fields)
        merge(models, None, out, made, 64, lambda done, total: None)  # a file for each tensor
        found = read(out)
        assert all(np.array_equal(found[name], value) for name, value in read(same).items())


def test_ties_of_one_is_its_trimmed_task_vector():
    from trivium.engine.merging.methods import Ties, trim

    base, model = torch.randn(2, 50, dtype=torch.float64)
    found = Ties((1.0,), 0.2)("x", [model], base)
    torch.testing.assert_close(found - base, trim(model - base, 0.2))
    assert trim(model - base, 0.2).count_nonzero() == 10


def test_dare_keeps_a_share_and_the_mean_and_is_reproducible():
    from trivium.engine.merging.methods import Dare, TaskArithmetic

    base = torch.zeros(200, 200, dtype=torch.float64)
    model = torch.ones_like(base)
    made = [Dare(0.1, seed, TaskArithmetic((1.0,)))("x", [model], base) for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert set(made[0].unique().tolist()) == {0.0, 10.0}
    assert abs(made[0].mean() - 1) < 0.1  # 6 standard errors


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"shapes": SHAPES | {"b.weight": (8,)}}, "b.weight has the shape"),
        ({"shapes": {"a.weight": (6, 5)}}, "has no tensor b.weight"),
        ({"vocab_size": 7}, "vocab_size=7"),
        ({"model_type": "qwen2"}, "model_type"),
    ],
)
def test_models_that_do_not_fit(tmp_path, second, words):
    a, b = make(tmp_path / "a", 1), make(tmp_path / "b", 2, **second)
    ended = run(f"models=[{a}, {b}]", f"out={tmp_path / 'out'}")
    assert ended.returncode == 2
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_other_vocabulary(tmp_path):
    from trivium.data_pipeline.errors import InputError
    from trivium.engine.merging.folders import merge

    folders = [make(tmp_path / name, 1) for name in "ab"]
    for index, folder in enumerate(folders):
        words = {"model": {"vocab": {"x": index, "y": 1 - index}}}
        (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(InputError, match="vocabulary"):
        merge(folders, None, tmp_path / "out", method(models=("a", "b")), 99, lambda d, t: None)
