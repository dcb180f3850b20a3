"""Where a rank of a training run begins: join the world, run, and leave together."""

from __future__ import annotations

from trivium.engine.schema import RunConfig
from trivium.engine.world import world


def main(config: RunConfig) -> int:
    """Train as `config` (resolved, checked) says, on this rank; gives the exit status.

    Raises AgreedError, on every rank, for what the user can put right, and InputError for what only
    this rank has seen. Expects torchrun's environment, or none for a world of one.
    """
    with world(config.parallel.timeout_minutes) as place:
        from trivium.engine.run import run

        run(config, place)
    return 0
