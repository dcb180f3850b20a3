"""Heads for a tp that does not divide them."""

from __future__ import annotations

import math
from dataclasses import replace

from trivium.engine.schema import RunConfig


def fit_groups(config: RunConfig) -> RunConfig:
    """The run, its key/value groups padded where tp neither divides them nor is a multiple.

    What pads is zero and changes nothing (`model.group_multiple`). Left as it is where it cannot
    be padded, so that the check of the layout says why.
    """
    model, tp = config.model, config.parallel.tp
    heads = model.padded_heads
    groups = model.padded_groups
    fits = heads % tp == 0 and (groups % tp == 0 or tp % groups == 0)
    whole = model.qk_norm and model.qk_norm_over == "all"
    if fits or model.mla is not None or whole:
        return config
    multiple = math.lcm(model.group_multiple, tp)
    return replace(config, model=replace(model, group_multiple=multiple))
