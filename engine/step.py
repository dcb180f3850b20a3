"""One optimizer step's forward and backward passes; the only place that divides a loss.

Megatron-core runs the schedule. Each micro-batch gives a numerator and a weight; the weights are
summed over the whole step (every micro-batch, every data-parallel rank) and the gradients divided
by that sum once, in `finalize_model_grads`; reported values are divided once, here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.moe import moe_utils

from trivium.engine.batch import Batch
from trivium.engine.mesh import Mesh
from trivium.engine.model.gpt import Heads
from trivium.engine.objectives.language import TokenScores, head_shares, language_modelling
from trivium.engine.objectives.loss import Loss
from trivium.engine.schema import RunConfig
from trivium.kernels.cross_entropy import weighted_cross_entropy


class LanguageStep:
    """Forward step of language modelling, as megatron's schedules call it."""

    def __init__(self, config: RunConfig, mesh: Mesh) -> None:
        assert config.model.vocab_size is not None
        self.config = config
        self.vocab_size = config.model.vocab_size
        self.mtp_weight = config.model.mtp.loss_weight
        self.z_weight = config.train.z_loss
        self.group = mesh.groups.tp

    def __call__(self, batches: Iterator[Batch], model: Any) -> tuple[Any, Any]:
        batch = next(batches)
        output = model(
            input_ids=batch.tokens,
            position_ids=batch.positions,
            attention_mask=None,
            packed_seq_params=batch.documents,
        )
        return output, partial(self._loss, batch)

    def _loss(self, batch: Batch, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, Any]:
        loss = self.objective(batch, heads)
        return loss.sum, loss.weight, loss.metrics

    def objective(self, batch: Batch, heads: Heads) -> Loss:
        """Score every head's labels and hand them to the objective."""
        scores, weights = [], []
        shares = head_shares(len(heads.hidden) - 1, self.mtp_weight, self.z_weight)
        for depth, (factor, z_weight) in enumerate(shares):
            labels, mask = batch.targets(depth)
            scores.append(self._score(heads, depth, labels, factor * mask, z_weight))
            weights.append(mask)
        return language_modelling(scores, weights, self.mtp_weight, self.z_weight)

    def _score(
        self,
        heads: Heads,
        depth: int,
        labels_BS: torch.Tensor,
        weights_BS: torch.Tensor,
        z_weight: float,
    ) -> TokenScores:
        """Flatten [S, B] rows in the order of the logits, score, and turn back to [B, S].

        Each token's weight is known here, so the gradient is taken along with the scores.
        """
        rows, columns = labels_BS.shape
        labels_R, weights_R = (each_BS.t().reshape(-1) for each_BS in (labels_BS, weights_BS))
        if self.config.train.head == "chunked":
            share, *scores = heads.linear_cross_entropy(
                depth, labels_R, weights_R, self.vocab_size, z_weight
            )
        else:
            logits_RV = heads.logits(depth).flatten(0, 1)
            share, *scores = weighted_cross_entropy(
                logits_RV, labels_R, weights_R, self.group, self.vocab_size, z_weight
            )
        nll_BS, logsumexp_BS = (score.view(columns, rows).t() for score in scores)
        return TokenScores(nll_BS, logsumexp_BS, share)


def run_microbatches(
    step: LanguageStep,
    chunks: Sequence[Any],
    batches: Sequence[Batch],
    mesh: Mesh,
    forward_only: bool = False,
) -> dict[str, float]:
    """`launch_microbatches`, and wait for its metrics."""
    return read(launch_microbatches(step, chunks, batches, mesh, forward_only))


def read(values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Numbers on the device, as floats: one wait for all of them."""
    numbers = torch.stack([value.double() for value in values.values()]).tolist() if values else []
    return dict(zip(values, numbers, strict=True))


def launch_microbatches(
    step: LanguageStep,
    chunks: Sequence[Any],
    batches: Sequence[Batch],
    mesh: Mesh,
    forward_only: bool = False,
) -> dict[str, torch.Tensor]:
    """Run forward (and backward) over this rank's micro-batches of one global batch.

    Returns every metric of the step, the same numbers on every rank, still on the device.
    Gradients, reduced and divided by the global weight, are left in the parameters' main_grad.
    Collective over the world.
    """
    schedule = get_forward_backward_func(
        pp_size=mesh.layout.pp, vp_size=mesh.layout.vpp if mesh.layout.vpp > 1 else None
    )
    iterators: list[Iterator[Batch]] = [iter(batches) for _ in chunks]
    outputs = schedule(
        forward_step_func=step,
        data_iterator=iterators if len(chunks) > 1 else iterators[0],
        model=list(chunks),
        num_microbatches=len(batches),
        seq_length=batches[0].row_length,
        micro_batch_size=batches[0].tokens.shape[0],
        forward_only=forward_only,
    )
    metrics = reduce_metrics(outputs, mesh)
    if not forward_only:
        metrics |= _router_losses(step.config, len(batches), mesh)
    return metrics


def reduce_metrics(outputs: Sequence[dict[str, Any]], mesh: Mesh) -> dict[str, torch.Tensor]:
    """Add (sum, weight) pairs over micro-batches and the ranks of dp and cp, then divide: once."""
    names: list[str] = list(outputs[0]) if outputs else []
    received = [names]
    if mesh.layout.pp > 1:
        source = dist.get_process_group_ranks(mesh.groups.pp)[-1]
        dist.broadcast_object_list(received, src=source, group=mesh.groups.pp)
        names = received[0]
    device = torch.cuda.current_device()
    totals = torch.zeros(len(names), 2, dtype=torch.float64, device=device)
    for output in outputs:
        for index, name in enumerate(names):
            totals[index] += torch.stack(output[name])
    dist.all_reduce(totals, group=mesh.groups.dp_cp)
    if mesh.layout.pp > 1:
        dist.broadcast(totals, src=source, group=mesh.groups.pp)
    return dict(zip(names, totals[:, 0] / totals[:, 1].clamp(min=1.0), strict=True))


def _router_losses(config: RunConfig, num_microbatches: int, mesh: Mesh) -> dict[str, torch.Tensor]:
    """Means over MoE layers and micro-batches of the router's losses, before their weights.

    megatron-core keeps them per layer on the rank that computed them: a part of the balancing loss
    on every rank of tp x cp, a local mean of the z-loss.
    """
    moe = config.model.moe
    if moe is None:
        return {}
    layout = mesh.layout
    ranks = layout.tp * layout.cp
    kept = {}  # megatron's name -> (ours, what the sum over ranks must be divided by)
    if moe.balance == "aux":
        kept["load_balancing_loss"] = ("moe_load_balancing_loss", layout.dp)
    if moe.balance == "sequence":
        kept["seq_load_balancing_loss"] = ("moe_load_balancing_loss", layout.dp)
    if moe.z_loss_weight:
        kept["z_loss"] = ("moe_z_loss", layout.dp * ranks)
    if not kept:
        return {}
    tracker = moe_utils.get_moe_layer_wise_logging_tracker()
    device = torch.cuda.current_device()
    totals = torch.stack(
        [
            tracker[name]["values"].sum() if name in tracker else torch.zeros((), device=device)
            for name in kept
        ]
    )
    dist.all_reduce(totals)
    moe_utils.clear_aux_losses_tracker()
    pattern = config.model.moe_pattern
    layers = sum(pattern) + config.model.mtp.num_heads * pattern[-1]
    return {
        ours: total / (divisor * layers * num_microbatches)
        for (ours, divisor), total in zip(kept.values(), totals, strict=True)
    }
