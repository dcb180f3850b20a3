"""What every objective returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Loss:
    """A numerator to differentiate and the weight that will divide it.

    sum: 0-dim, differentiable. weight: 0-dim integer, the number of units (tokens, sequences) that
    `sum` runs over. metrics: name -> (sum, weight), detached, reported as sum / weight of a step.
    """

    sum: torch.Tensor
    weight: torch.Tensor
    metrics: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
