"""The engine on a GPU: the same runs as on the CPU, to rounding; resumed, and in low precision."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.runs.killing import command, kill, steps_logged, write_config
from trivium.engine.metrics import compare, deterministic, read_metrics

pytestmark = pytest.mark.gpu

DENSE = ["model.moe=null", "model.mtp.num_heads=0"]
LATENT = (
    "model.mla={q_lora_rank: 32, kv_lora_rank: 32, qk_nope_head_dim: 16, "
    "qk_rope_head_dim: 8, v_head_dim: 16}"
)
DEEPSEEK = (
    "model.moe={num_experts: 8, top_k: 2, ffn_hidden_size: 32, shared_ffn_hidden_size: 64, "
    "layers: [0, 1, 1, 1], score: sigmoid, balance: bias, num_groups: 4, groups_top_k: 2, "
    "scaling_factor: 2.5}"
)
MODELS = {
    "moe, mtp": [],
    "dense": DENSE,
    "deepseek": [LATENT, DEEPSEEK, "model.num_query_groups=null"],
    "layernorm, geglu, biases": [
        *DENSE,
        "model.normalization=layernorm",
        "model.activation=geglu",
        "model.linear_bias=true",
        "model.qkv_bias=true",
        "model.position=learned",
    ],
    "zero-centred, qk-norm, tied, yarn": [
        *DENSE,
        "model.norm_zero_centered=true",
        "model.qk_norm=true",
        "model.tie_embeddings=true",
        "model.rope={scaling: yarn, factor: 4.0, original_max_position: 16}",
    ],
    "interleaved, window": [*DENSE, "model.rope={interleaved: true}", "model.window=9"],
    "partial rotation, documents": [*DENSE, "model.rope.percent=0.5", "data.document_mask=true"],
    "recomputed": ["train.recompute=full"],
    "partly recomputed, overlapped": [
        "train.recompute=selective",
        "parallel.overlap_grad_reduce=true",
        "parallel.overlap_param_gather=true",
    ],
    "without ZeRO": ["parallel.zero=0"],
    "dense, without ZeRO": [*DENSE, "parallel.zero=0"],
}
# AdamW magnifies rounding where gradients are near 0
TOLERANCE = 2e-4
LOW_PRECISION = 3e-2


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose corpus is prepared."""
    config = write_config(tmp_path_factory.mktemp("prepared"))
    train(config, config.parent / "first", "cpu", ["train.steps=1", "validation.batches=0"])
    return config


def start(config: Path, run: Path, device: str, overrides: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRIVIUM_DEVICE": device}
    return subprocess.Popen(
        command(config, run, 1, overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=environment,
    )


def train(config: Path, run: Path, device: str, overrides: list[str]) -> list[dict[str, object]]:
    """What a run on `device` recorded, apart from clocks."""
    process = start(config, run, device, overrides)
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        kill(process)
    assert process.returncode == 0, output[-4000:]
    return [deterministic(record) for record in read_metrics(run / "metrics.jsonl")]


def difference(a: list[dict[str, object]], b: list[dict[str, object]], name: str) -> float:
    """The largest relative difference of metric `name`."""
    assert len(a) == len(b) > 0
    pairs = [(float(x[name]), float(y[name])) for x, y in zip(a, b, strict=True)]  # type: ignore[arg-type]
    return max(abs(x - y) / max(abs(x), 1e-9) for x, y in pairs)


@pytest.mark.parametrize("model", MODELS)
def test_equals_the_cpu(prepared, tmp_path, model):
    on_cpu = train(prepared, tmp_path / "cpu", "cpu", MODELS[model])
    on_gpu = train(prepared, tmp_path / "gpu", "cuda", MODELS[model])
    found = {name: difference(on_cpu, on_gpu, name) for name in ("loss", "grad_norm")}
    steps = [(a["grad_norm"], b["grad_norm"]) for a, b in zip(on_cpu, on_gpu, strict=True)]
    assert max(found.values()) < TOLERANCE, f"{found}; gradient norms by step: {steps}"


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("model", ["moe, mtp", "dense", "deepseek"])
def test_low_precision(prepared, tmp_path, model, dtype):
    exact = train(prepared, tmp_path / "cpu", "cpu", MODELS[model])
    scale = ["train.loss_scale=1024.0"] if dtype == "fp16" else []
    overrides = [*MODELS[model], f"train.dtype={dtype}", *scale]
    low = train(prepared, tmp_path / "gpu", "cuda", overrides)
    found = difference(exact, low, "loss")
    assert found < LOW_PRECISION


def test_resumes_bit_for_bit(prepared, tmp_path):
    whole = train(prepared, tmp_path / "whole", "cuda", [])
    process = start(prepared, tmp_path / "run", "cuda", [])
    while steps_logged(tmp_path / "run") < 5 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == 0, process.communicate()[0]
    assert train(prepared, tmp_path / "run", "cuda", []) == whole


def test_goes_on_on_the_other_device(prepared, tmp_path):
    """A checkpoint of the GPU is one of the CPU as well."""
    whole = train(prepared, tmp_path / "whole", "cpu", [])
    half = ["train.steps=6", "schedule.decay_steps=12"]
    train(prepared, tmp_path / "run", "cuda", half)
    found = train(prepared, tmp_path / "run", "cpu", ["schedule.decay_steps=12"])
    comparison = compare(whole, found)
    assert comparison.steps
    assert difference(whole, found, "loss") < TOLERANCE


def test_writes_text(prepared, tmp_path):
    overrides = ["sample.prompts=['def ']", "sample.max_new_tokens=8", "sample.temperature=0"]
    train(prepared, tmp_path / "run", "cuda", overrides)
    assert (tmp_path / "run" / "report.html").exists()
    shutil.rmtree(tmp_path / "run")
