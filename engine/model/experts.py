"""The routed experts of a rank as one computation: two grouped products around one activation.

megatron-core's `SequentialMLP` runs its experts one after another: it splits the tokens, does each
product and each pass of the activation once an expert, and concatenates the results. Parameters,
their names, their sharding and so every checkpoint remain its own here; only `forward` is another,
over all experts at once (`trivium.kernels.grouped_mm`).

Shapes: T tokens sent to this rank's experts, sorted by expert; H hidden; F feed-forward width of
this rank of expert tensor parallelism; a weight is [2F, H] or [F, H], then [H, F].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP

from trivium.engine.model.activation import KINDS, GatedActivation
from trivium.kernels.grouped_mm import (
    Groups,
    add_weight_gradients,
    grouped_input_gradient,
    grouped_linear,
)

_ALIGNMENT = 64  # elements, as megatron-core's ZeRO buffers: every weight at 128 bytes


class GroupedExperts(SequentialMLP):
    """Experts without biases: (tokens [T, H], tokens of each expert, probs [T]) -> [T, H]."""

    local_experts: torch.nn.ModuleList

    def __init__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        submodules: MLPSubmodules,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__(num_local_experts, config, submodules, pg_collection)
        self.grouped = _supported(config)
        gated = self.grouped and config.gated_linear_unit
        self._gate = GatedActivation(config) if gated else None
        self.local_experts = _Experts(self.local_experts)
        for name in ("linear_fc1", "linear_fc2"):
            _lay_side_by_side([getattr(e, name).weight for e in self.local_experts])

    def forward(
        self,
        permuted_local_hidden_states: torch.Tensor,
        tokens_per_expert: torch.Tensor,
        permuted_probs: torch.Tensor,
    ) -> tuple[torch.Tensor, None]:
        """tokens_per_expert: int [experts], on the host or the device. The bias is None."""
        hidden_TH, probs_T = permuted_local_hidden_states, permuted_probs
        if not self.grouped:
            output, bias = super().forward(hidden_TH, tokens_per_expert, probs_T)
            return output, bias
        self._await_parameters()
        groups = Groups.of(tokens_per_expert, hidden_TH.device)
        inner = _linear(hidden_TH, groups, self._weights("linear_fc1"))
        inner = self._activate(inner, probs_T)
        return _linear(inner, groups, self._weights("linear_fc2")), None

    def _activate(self, inner: torch.Tensor, probs_T: torch.Tensor) -> torch.Tensor:
        """act(gate) * value, or act, of every row; times its probability."""
        if self._gate is not None:
            return self._gate(inner, probs_T)
        return (self.config.activation_func(inner) * probs_T.unsqueeze(-1)).to(inner.dtype)

    def _weights(self, name: str) -> list[torch.nn.Parameter]:
        return [getattr(expert, name).weight for expert in self.local_experts]

    def _await_parameters(self) -> None:
        """Wait for parameters that ZeRO still gathers: megatron-core does so in the pre-hooks of
        the modules that hold them, and those modules are not called here."""
        for expert in self.local_experts.children():  # in the order in which they are gathered
            for linear in expert.children():
                for hook in tuple(linear._forward_pre_hooks.values()):
                    hook(linear, ())


class _Experts(torch.nn.ModuleList):
    """Experts registered last first, iterated first to last.

    megatron-core fills the flat buffers of parameters and gradients from the last registered
    parameter to the first. Registered so, the weights of experts ascend there, equally spaced, and
    the grouped kernel takes them without a copy.
    """

    def __init__(self, experts: Iterable[torch.nn.Module]) -> None:
        super().__init__()
        for index, expert in reversed(list(enumerate(experts))):
            self.add_module(str(index), expert)

    def __iter__(self) -> Iterator[Any]:
        return iter([self._modules[str(index)] for index in range(len(self))])


def _supported(config: TransformerConfig) -> bool:
    """Is `config` within what `forward` does itself? If not, experts run one after another."""
    gated = config.gated_linear_unit
    return not (
        config.add_bias_linear
        or config.bias_activation_fusion
        or config.moe_apply_probs_on_input
        or config.fp8
        or config.fp4
        or (gated and config.activation_func not in KINDS)
        or (gated and config.activation_func_clamp_value is not None)
        or (gated and config.glu_linear_offset)
    )


@torch.no_grad()
def _lay_side_by_side(weights: Sequence[torch.nn.Parameter]) -> None:
    """Move the weights into one buffer, in order: where no ZeRO does it (see `_Experts`)."""
    size = weights[0].numel()
    spaced = -(-size // _ALIGNMENT) * _ALIGNMENT
    buffer = weights[0].new_empty(len(weights), spaced)
    for weight, row in zip(weights, buffer, strict=True):
        row[:size].copy_(weight.view(-1))
        weight.data = row[:size].view(weight.shape)


def _linear(x: torch.Tensor, groups: Groups, weights: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """`grouped_linear`, with the gradients of the weights where megatron-core wants them."""
    if all(hasattr(weight, "main_grad") for weight in weights):
        product: torch.Tensor = _Accumulated.apply(x, groups, *weights)
        return product
    return grouped_linear(x, groups, weights)


class _Accumulated(torch.autograd.Function):
    """`grouped_linear` that adds the gradients of the weights to their `main_grad`.

    A parameter is told so by `grad_added_to_main_grad`, and autograd is given a tensor without
    values, because megatron-core's hooks wait for one; as its own linear layers do.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, groups: Groups, *weights: torch.nn.Parameter
    ) -> torch.Tensor:
        ctx.groups = groups
        ctx.weights = weights
        ctx.save_for_backward(x)
        return grouped_linear(x, groups, weights)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grouped_input_gradient(grad, ctx.groups, ctx.weights)
        if not any(ctx.needs_input_grad[2:]):
            return grad_x, None, *[None] * len(ctx.weights)
        add_weight_gradients(grad, x, ctx.groups, [weight.main_grad for weight in ctx.weights])
        first = ctx.weights[0]
        nothing = torch.empty(first.shape, dtype=first.dtype, device=first.device)
        for weight in ctx.weights:
            weight.grad_added_to_main_grad = True
        return grad_x, None, *[nothing.view_as(nothing) for _ in ctx.weights]
