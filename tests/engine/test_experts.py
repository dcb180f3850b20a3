"""Experts at once against megatron-core's, one after another: values, gradients, checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.distributed.pool import distributed, run_distributed
from tests.parity.layouts import place
from tests.parity.models import MODELS, run_of, tiny
from trivium.engine.schema import MoEConfig

HIDDEN = 64  # of the tiny models


def run_named(layout, dtype="fp32", **fields):
    model = replace(MODELS["moe"], num_layers=1, **fields)
    run = run_of(model)
    return place(replace(run, train=replace(run.train, dtype=dtype)), layout)[0]


def one_after_another():
    """The backend with megatron-core's `SequentialMLP`, as it was."""
    from megatron.core.transformer.moe.experts import SequentialMLP

    from trivium.engine.model.specs import TorchBackend

    class Sequential(TorchBackend):
        def grouped_mlp_modules(self, *args):
            return SequentialMLP, super().grouped_mlp_modules(*args)[1]

    return Sequential()


def built(config, backend=None):
    """The model of `config` on this rank, and its mesh."""
    import torch.distributed as dist

    from trivium.engine.layout import ParallelLayout
    from trivium.engine.mesh import create_mesh
    from trivium.engine.model.gpt import build

    layout = ParallelLayout.of(config.parallel, dist.get_world_size())
    mesh = create_mesh(layout, config.seed)
    return build(config, mesh, backend), mesh


def experts_of(chunk):
    chunk = getattr(chunk, "module", chunk)
    return chunk.decoder.layers[0].mlp.experts


def differentiated(experts, counts, dtype):
    """Output, and the gradients of tokens, probabilities and every weight."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(sum(counts), HIDDEN, generator=generator).to(dtype).requires_grad_()
    probs = torch.rand(sum(counts), generator=generator).requires_grad_()
    upstream = torch.randn(sum(counts), HIDDEN, generator=generator).to(dtype)
    output, bias = experts(tokens, torch.tensor(counts), probs)
    assert bias is None
    output.backward(upstream)
    return {"output": output, "tokens": tokens.grad, "probs": probs.grad} | {
        name: parameter.grad for name, parameter in experts.named_parameters()
    }


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("activation", ["swiglu", "geglu", "geglu_tanh", "silu", "relu2"])
@distributed(1)
def test_values_and_gradients(activation, dtype):
    from trivium.engine.mesh import destroy_mesh

    config = run_named("", dtype, activation=activation)
    [ours], _ = built(config)
    destroy_mesh()
    [theirs], _ = built(config, one_after_another())
    assert experts_of(ours).grouped
    for counts in ([5, 0, 8, 3], [0, 0, 0, 7], [0, 0, 0, 0]):
        for model in (ours, theirs):
            model.zero_grad()
        torch_dtype = next(ours.parameters()).dtype
        found = differentiated(experts_of(ours), counts, torch_dtype)
        expected = differentiated(experts_of(theirs), counts, torch_dtype)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            bound = 1e-6 if dtype == "fp32" else 1e-2
            assert found[name].dtype == value.dtype
            assert (found[name] - value).norm() <= bound * value.norm(), (name, counts)


def described(config, sequential):
    """In a rank: every shard of the model: key, global shape, offset, replica, sum of values."""
    from trivium.engine.mesh import destroy_mesh
    from trivium.engine.model.init import _shards

    chunks, mesh = built(config, one_after_another() if sequential else None)
    found = {
        (
            shard.key,
            tuple(shard.global_shape),
            tuple(shard.global_offset),
            shard.replica_id,
            shard.data.double().sum().item(),
        )
        for shard in _shards(chunks, {"dp_cp_group": mesh.groups.dp_cp})
    }
    destroy_mesh()
    return found


@pytest.mark.parametrize("layout", ["ep2 dp2", "tp2 sp etp2"])
def test_names_shards_and_initial_weights_are_megatrons(layout):
    config = run_named(layout)
    ours, theirs = (run_distributed(described, 2, config, which) for which in (False, True))
    assert ours == theirs


def spacing(config):
    """In a rank: do weights and gradients ascend, equally spaced, once they are wrapped?"""
    from tests.parity.ranks import Run
    from trivium.kernels.grouped_mm import stacked

    run = Run(config)
    experts = experts_of(run.chunks[0])
    return [
        stacked(tensors) is not None
        for name in ("linear_fc1", "linear_fc2")
        for weights in [experts._weights(name)]
        for tensors in (weights, [weight.main_grad for weight in weights])
    ]


@pytest.mark.parametrize("layout", ["", "dp2 zero", "ep2 dp2 zero overlap"])
def test_weights_lie_where_the_grouped_kernel_takes_them(layout):
    config, world_size = place(run_of(tiny(moe=MODELS["moe"].moe)), layout)
    assert run_distributed(spacing, world_size, config) == [[True] * 4] * world_size


def trained(config, folder, backend, steps, load):
    """In a rank: train `steps`, from a checkpoint if `load`; save; metrics of each step."""
    from pathlib import Path

    from tests.parity import ranks
    from trivium.engine.checkpoint import Checkpointer
    from trivium.engine.mesh import destroy_mesh
    from trivium.engine.state import TrainState

    if backend == "sequential":
        build = ranks.build
        ranks.build = lambda *args: build(*args, one_after_another())
    config = replace(config, run=replace(config.run, dir=str(folder)))
    run = ranks.Run(config)
    saver = Checkpointer(config, run.mesh, run.chunks, run.optimizer, "data")
    first = 1
    if load:
        state = saver.load(Path(folder) / "checkpoints" / "step-00000002")
        first = state.step + 1
    history = [run.take_step(step) for step in range(first, first + steps)]
    if not load:
        saver.save(TrainState(step=steps, updates=steps))
    destroy_mesh()
    return history


@pytest.mark.parametrize(
    ("writer", "reader"),
    [("sequential", "grouped"), ("grouped", "sequential")],
    ids=["theirs to ours", "ours to theirs"],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_checkpoints_are_exchanged_across_layouts(tmp_path, writer, reader, dtype):
    """Weights, moments and fp32 masters: what the other writes under ep is read under etp."""
    moe = MoEConfig(num_experts=4, top_k=2, ffn_hidden_size=64, balance="none")  # no mean of means
    there, here = (run_named(name, dtype, moe=moe) for name in ("ep2 dp2 zero", "tp2 sp etp2"))
    run_distributed(trained, 2, there, tmp_path, writer, 2, False)
    [expected, _] = run_distributed(trained, 2, there, tmp_path, writer, 2, True)
    [found, _] = run_distributed(trained, 2, here, tmp_path, reader, 2, True)
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("loss", "grad_norm"):
            bound = 1e-5 if dtype == "fp32" else 1e-2
            assert ours[name] == pytest.approx(theirs[name], rel=bound), name


@distributed(1)
def test_gradients_go_straight_to_main_grad():
    from tests.parity.ranks import Run

    run = Run(run_named(""))
    experts = experts_of(run.chunks[0])
    for _ in range(2):
        differentiated(experts, [5, 0, 8, 3], torch.float32)
    doubled = {n: p.main_grad.clone() for n, p in experts.named_parameters()}
    assert all(p.grad is None and p.grad_added_to_main_grad for p in experts.parameters())
    run.chunks[0].zero_grad_buffer()
    differentiated(experts, [5, 0, 8, 3], torch.float32)
    for name, parameter in experts.named_parameters():
        torch.testing.assert_close(doubled[name], 2 * parameter.main_grad)
    assert experts.local_experts[1].linear_fc1.weight.main_grad.count_nonzero() == 0


@distributed(1)
def test_what_it_does_not_do_itself_runs_one_after_another():
    from trivium.engine.model.experts import _supported
    from trivium.engine.model.megatron_config import transformer_config

    config = transformer_config(run_named(""))
    assert _supported(config)
    for name, value in {
        "add_bias_linear": True,
        "moe_apply_probs_on_input": True,
        "fp8": "e4m3",
        "activation_func": torch.tanh,
        "activation_func_clamp_value": 7.0,
        "glu_linear_offset": 1.0,
    }.items():
        before = getattr(config, name)
        setattr(config, name, value)
        assert not _supported(config), name
        setattr(config, name, before)
