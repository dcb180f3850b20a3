"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math

from trivium.engine.schema import OptimizerConfig, ScheduleConfig


def learning_rate(
    step: int, steps: int, schedule: ScheduleConfig, optimizer: OptimizerConfig
) -> float:
    """The rate of update `step` (1-based) of a run of `steps`.

    Linear warm-up reaches `optimizer.lr` at `warmup_steps`; the decay reaches `schedule.min_lr` at
    `decay_steps` (default: the last step) and stays there. `constant` stays at the peak. WSD
    (arXiv 2405.18392) holds the peak for `stable_fraction` of the steps, warm-up included.
    """
    peak, low = optimizer.lr, schedule.min_lr
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    if schedule.kind == "constant":
        return peak
    end = schedule.decay_steps or steps
    begin = schedule.warmup_steps
    if schedule.kind == "wsd":
        begin = max(begin, math.floor(schedule.stable_fraction * end))
    done = 1.0 if end <= begin else min(1.0, max(0.0, (step - begin) / (end - begin)))
    shape = schedule.wsd_decay if schedule.kind == "wsd" else schedule.kind
    left = {
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        "linear": 1.0 - done,
        "sqrt": 1.0 - math.sqrt(done),
    }[shape]
    return low + (peak - low) * left
