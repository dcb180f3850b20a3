"""Where a run stands: what a checkpoint must remember besides tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TrainState:
    """Counters of a run. `sequences` is the data cursor: sample i of the training split is next."""

    step: int = 0  # steps taken, refused updates included
    sequences: int = 0  # training sequences consumed
    tokens: int = 0  # training tokens consumed
    bad_steps: int = 0  # updates refused because the loss or a gradient was not finite
    bad_streak: int = 0  # of those, how many since the last good one
    updates: int = 0  # updates applied: the optimizer's own step count
