"""How the gradient workers of a learner, and their rollout workers, keep step."""

from __future__ import annotations

from typing import Literal

from malib_lite.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, config, option


@config
class SyncConfig:
    """Distributed strategies, as in the seed's chapter of that name."""

    learners: PositiveInt = option(1, "K, gradient workers of each learner, with rollout workers of their own")
    sync: Literal["bsp", "asp", "bap", "ssp"] = option(
        "bsp", "bsp: all in lockstep; asp: nobody waits; bap and ssp: nobody gets too far ahead"
    )
    staleness: NonNegativeInt = option(2, "S of bap and ssp: iterations that the fastest may be ahead of the slowest")
    longest_iteration_s: PositiveFloat | None = option(
        None, "an iteration that lasts longer is interrupted and its gradient ignored (not bsp); None: never"
    )
    max_lag: NonNegativeInt | None = option(
        None, "fragments played by a policy more versions old are dropped and counted (not bsp); None: none are"
    )
    delays: tuple[NonNegativeFloat, ...] = option(
        (), "seconds that each gradient worker sleeps in every iteration: to see what uneven workers do in each mode"
    )

    @property
    def lockstep(self) -> bool:
        """Whether everybody waits for everybody: the numbers are then those of one process."""
        return self.sync == "bsp"

    @property
    def num_gradient_workers(self) -> int:
        """0 where learners learn themselves."""
        return 0 if self.lockstep and self.learners == 1 else self.learners
