"""A multi-token prediction head that can be recomputed whatever it is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.transformer.multi_token_prediction import MultiTokenPredictionLayer


class PredictionHead(MultiTokenPredictionLayer):
    """megatron-core's head; full recomputation keeps what is not a tensor aside.

    The parent hands every argument to a function that can save tensors only, so that `Documents`
    (and anything else that is not a tensor) ends in a TypeError.
    """

    def _checkpointed_forward(
        self, forward_func: Callable[..., torch.Tensor], **arguments: Any
    ) -> torch.Tensor:
        tensors = {n: value for n, value in arguments.items() if isinstance(value, torch.Tensor)}
        others = {n: value for n, value in arguments.items() if n not in tensors}

        def forward(*values: torch.Tensor) -> torch.Tensor:
            return forward_func(**dict(zip(tensors, values, strict=True)), **others)

        return tensor_parallel.checkpoint(
            forward, self.config.distribute_saved_activations, *tensors.values()
        )
