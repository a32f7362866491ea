"""How the gradient workers of a learner, and their rollout workers, keep step."""

from __future__ import annotations

from typing import Literal

from malib_lite.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, config, option


@config
class SyncConfig:
    """How learners share their work, and who waits for whom: "Distributed strategies" in MALib's documents."""

    learners: PositiveInt = option(1, "K, gradient workers of each learner, with rollout workers of their own")
    sync: Literal["bsp", "asp", "bap", "ssp"] = option(
        "bsp", "bsp: all in lockstep; asp: nobody waits; bap and ssp: nobody gets too far ahead"
    )
    staleness: NonNegativeInt = option(
        2, "S of bap and ssp: iterations that the fastest may be ahead of the slowest, rounds that the rollout may be"
    )
    longest_iteration_s: PositiveFloat | None = option(
        None, "an iteration that lasts longer is interrupted and its gradient ignored (not bsp); None: never"
    )
    max_lag: NonNegativeInt | None = option(
        None, "fragments of a policy more versions old are dropped and counted; None: S with bap and ssp, any with asp"
    )
    delays: tuple[NonNegativeFloat, ...] = option(
        (), "seconds that each gradient worker sleeps in every iteration: to see what uneven workers do in each mode"
    )

    def __post_init__(self) -> None:
        if self.lockstep and self.max_lag is not None:
            raise ValueError(f"'max_lag' = {self.max_lag}: with 'sync' = 'bsp' no fragment is ever old")
        if self.lockstep and self.longest_iteration_s is not None:
            raise ValueError(
                f"'longest_iteration_s' = {self.longest_iteration_s}: with 'sync' = 'bsp' no iteration is interrupted"
            )
        if not self.is_bounded and self.staleness != type(self).staleness:
            raise ValueError(f"'staleness' = {self.staleness}: has an effect with 'sync' = 'bap' or 'ssp' alone")

    @property
    def lockstep(self) -> bool:
        """Whether everybody waits for everybody: the numbers are then those of one process."""
        return self.sync == "bsp"

    @property
    def is_bounded(self) -> bool:
        """Whether S counts."""
        return self.sync in ("bap", "ssp")

    @property
    def lag_bound(self) -> int | None:
        """The most versions that a policy may be behind when what it played is learnt from; None: any number."""
        return self.staleness if self.is_bounded and self.max_lag is None else self.max_lag

    def rollout_lead(self, num_gradient_workers: int) -> int | None:
        """How many rounds the rollout may be ahead of the learners; None: it never waits for them.

        Gradient workers that are not in lockstep have no rounds: what is too old for them is dropped.
        """
        if self.lockstep:
            return 0
        return self.lag_bound if self.is_bounded and num_gradient_workers == 0 else None
