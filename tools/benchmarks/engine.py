"""Trivium's own step: model, schedule, gradient buffers and optimizer, as a run has them."""

from __future__ import annotations

from typing import Any

from trivium.engine import device

DEVICE = device.prepare()  # before anything imports megatron-core

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from tools.benchmarks.workload import Stopwatch, Workload  # noqa: E402
from trivium.engine import config as configuration  # noqa: E402
from trivium.engine import optimizer as optimizers  # noqa: E402
from trivium.engine.batch import Batch  # noqa: E402
from trivium.engine.layout import ParallelLayout  # noqa: E402
from trivium.engine.mesh import create_mesh  # noqa: E402
from trivium.engine.model.gpt import build  # noqa: E402
from trivium.engine.schema import RunConfig  # noqa: E402
from trivium.engine.step import LanguageStep, run_microbatches  # noqa: E402


def run_config(work: Workload) -> RunConfig:
    """The workload as a run."""
    settings = {
        "train.global_batch": work.rows,
        "train.micro_batch": work.micro_batch,
        "train.steps": work.all_steps,
        "data.sequence_length": work.sequence,
        "data.corpus": "python-docs",  # a run must name one; it is not read here
        "model.num_layers": work.layers,
        "model.hidden_size": work.hidden,
        "model.num_attention_heads": work.heads,
        "model.num_query_groups": work.groups,
        "model.ffn_hidden_size": work.ffn,
        "model.vocab_size": work.vocab,
        "model.norm_epsilon": work.norm_epsilon,
        "model.rope.theta": work.rope_theta,
        "optimizer.lr": work.lr,
        "optimizer.beta1": work.betas[0],
        "optimizer.beta2": work.betas[1],
        "optimizer.weight_decay": work.weight_decay,
        "optimizer.clip_grad": work.clip,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return configuration.resolve(configuration.load(RunConfig, None, overrides), work.world)


@torch.no_grad()
def load(model: Any, work: Workload) -> None:
    """Write the workload's initial weights; megatron-core keeps each group's q, k, v together."""
    hidden, ffn, dim = work.hidden, work.ffn, work.head_dim
    model.embedding.word_embeddings.weight.copy_(work.weight("embedding", work.vocab, hidden))
    model.output_layer.weight.copy_(work.weight("head", work.vocab, hidden))
    for index, layer in enumerate(model.decoder.layers):
        grouped = [part.view(work.groups, -1, dim, hidden) for part in work.qkv(index)]
        layer.self_attention.linear_qkv.weight.copy_(torch.cat(grouped, 1).view(-1, hidden))
        layer.self_attention.linear_proj.weight.copy_(work.weight(f"{index}.out", hidden, hidden))
        gate_up = [work.weight(f"{index}.{name}", ffn, hidden) for name in ("gate", "up")]
        layer.mlp.linear_fc1.weight.copy_(torch.cat(gate_up))
        layer.mlp.linear_fc2.weight.copy_(work.weight(f"{index}.down", hidden, ffn))


def batches(work: Workload, step: int) -> list[Batch]:
    """This rank's micro-batches of a global batch."""
    return [
        Batch(
            tokens=rows[:, :-1].contiguous(),
            labels=rows[:, 1:].contiguous(),
            weights=torch.ones(work.micro_batch, work.sequence),
            positions=torch.arange(work.sequence).expand(work.micro_batch, -1),
        )
        for rows in work.micro_batch_rows(step)
    ]


def run(work: Workload) -> None:
    """Train and report."""
    watch = Stopwatch()
    store = dist.FileStore(work.store, work.world) if work.world > 1 else dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=work.rank, world_size=work.world)
    config = run_config(work)
    mesh = create_mesh(ParallelLayout.of(config.parallel, work.world), config.seed)
    model = build(config, mesh)
    load(model[0], work)
    parameters = sum(p.numel() for p in model[0].parameters())
    chunks = optimizers.wrap(model, config, mesh)
    optimizer = optimizers.create_optimizer(chunks, config, mesh)
    language = LanguageStep(config, mesh)
    total = 0.0
    watch.mark()
    for step in range(work.all_steps):
        for chunk in chunks:
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        metrics = run_microbatches(language, chunks, batches(work, step), mesh)
        optimizers.apply_update(optimizer, config, work.lr, True)
        total += metrics["loss"]
        watch.mark()
    watch.report(work, parameters, total / work.all_steps)
    dist.destroy_process_group()
