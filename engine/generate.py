"""Write text with the model under training: KV cache, on the same parallel model and ranks.

Every rank takes part in every token (expert parallelism needs them all); the ranks of cp, which
split rows in training, all hold the whole text. The last pipeline stage samples; one rank's choice
is broadcast to the world, so that no two ranks can disagree on when to stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.models.common.embeddings import RotaryEmbedding

from trivium.engine.mesh import Mesh
from trivium.engine.model.attention import CoreAttention


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 do not cut."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def choose(self, logits_V: torch.Tensor, generator: torch.Generator) -> int:
        """A token id drawn from fp32 logits [V] (top-p: Holtzman et al., arXiv 1904.09751)."""
        if self.temperature == 0:
            return int(logits_V.argmax())
        scores_V = logits_V / self.temperature
        if self.top_k:
            lowest = scores_V.topk(min(self.top_k, scores_V.numel())).values[-1]
            scores_V = scores_V.masked_fill(scores_V < lowest, -torch.inf)
        probabilities_V, order_V = scores_V.softmax(dim=-1).sort(descending=True)
        before_V = probabilities_V.cumsum(dim=-1) - probabilities_V
        probabilities_V[before_V > self.top_p] = 0  # the first is always kept
        return int(order_V[torch.multinomial(probabilities_V, 1, generator=generator)])


@torch.no_grad()
def generate(
    chunks: Sequence[Any],
    mesh: Mesh,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    vocab_size: int,
    stop_id: int | None = None,
    seed: int = 0,
) -> list[int]:
    """Continue `prompt` (token ids, at least one) by up to `max_new_tokens`; returns the new ids.

    chunks: this rank's model chunks, unwrapped. Generation ends after `stop_id`, which is not
    returned. Collective over the world; the same ids on every rank.
    """
    device = torch.cuda.current_device()
    generator = torch.Generator().manual_seed(seed)
    context = StaticInferenceContext(1, len(prompt) + max_new_tokens)
    # the chooser: dp 0, tp 0 of the last pipeline stage
    source = mesh.layout.world_size - mesh.layout.world_size // mesh.layout.pp
    choice = torch.zeros(1, dtype=torch.int64, device=device)
    new: list[int] = []
    tokens = list(prompt)
    with _evaluating(chunks):
        while len(new) < max_new_tokens:
            position = context.sequence_len_offset
            logits = _forward(chunks, mesh, tokens, position, context)
            context.increment_sequence_len_offset(len(tokens))
            if mesh.rank == source:
                choice.fill_(sampling.choose(logits[-1, 0, :vocab_size].float().cpu(), generator))
            dist.broadcast(choice, src=source)
            token = int(choice)
            if token == stop_id:
                break
            new.append(token)
            tokens = [token]
    return new


def _forward(
    chunks: Sequence[Any],
    mesh: Mesh,
    tokens: Sequence[int],
    position: int,
    context: StaticInferenceContext,
) -> torch.Tensor:
    """One pass of `tokens`, which begin at `position`, through the whole pipeline.

    Returns logits [S, 1, V] on the last stage; on the others, what they passed on.
    """
    device = torch.cuda.current_device()
    ids = torch.tensor([list(tokens)], device=device)
    positions = torch.arange(position, position + len(tokens), device=device).unsqueeze(0)
    config = chunks[0].config
    group = mesh.groups.pp
    ranks = dist.get_process_group_ranks(group)
    stages = mesh.layout.pp
    output = torch.empty(0)
    for index, chunk in enumerate(chunks):
        first = mesh.pp_rank == 0 and index == 0
        last = mesh.pp_rank == stages - 1 and index == len(chunks) - 1
        if not first:
            shape = (len(tokens), 1, config.hidden_size)
            hidden = torch.empty(shape, dtype=config.pipeline_dtype, device=device)
            dist.recv(hidden, src=ranks[(mesh.pp_rank - 1) % stages], group=group)
            chunk.set_input_tensor(hidden)
        output = chunk(
            input_ids=ids,
            position_ids=positions,
            attention_mask=None,
            inference_context=context,
            runtime_gather_output=True,
        )
        if not last:
            dist.send(output.contiguous(), dst=ranks[(mesh.pp_rank + 1) % stages], group=group)
    return output


@contextmanager
def _evaluating(chunks: Sequence[Any]) -> Iterator[None]:
    """Evaluation mode, without sequence and context parallelism: one token cannot be split."""
    changed: list[tuple[Any, str, Any]] = []
    configs = {id(chunk.config): chunk.config for chunk in chunks}
    modules = [m for chunk in chunks for m in chunk.modules()]
    rotary = [module for module in modules if isinstance(module, RotaryEmbedding)]

    def change(owner: Any, name: str, value: Any) -> None:
        changed.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    for module in modules + list(configs.values()):
        for name in (
            "sequence_parallel",
            "scatter_to_sequence_parallel",
            "reduce_scatter_embeddings",
        ):
            if getattr(module, name, False) is True:
                change(module, name, False)
        if isinstance(module, CoreAttention):
            change(module, "context", None)
    for config in configs.values():
        change(config, "context_parallel_size", 1)
    for module in rotary:
        change(module, "cp_group", None)
        module.forward.cache_clear()  # angles of a rank's part of a row
    for chunk in chunks:
        chunk.eval()
        chunk.set_input_tensor(None)
    try:
        yield
    finally:
        for chunk in chunks:
            chunk.train()
        for module, name, value in changed:
            setattr(module, name, value)
        for module in rotary:
            module.forward.cache_clear()
