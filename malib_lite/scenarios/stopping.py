"""When a training ends."""

from __future__ import annotations

import math

from malib_lite.config import PositiveFloat, PositiveInt, config, option


@config
class TrainingStop:
    """``stopping_conditions["training"]``."""

    max_iteration: PositiveInt | None = option(None, "updates of the trainer")


@config
class RolloutStop:
    """``stopping_conditions["rollout"]``."""

    max_iteration: PositiveInt | None = option(None, "rounds: fragments of every rollout worker")
    minimum_reward_improvement: PositiveFloat | None = option(
        None, "stop when the best evaluation has not risen by so much over the last `patience` evaluations"
    )
    patience: PositiveInt = option(20, "evaluations that the reward is given to improve")


@config
class StoppingConditions:
    """``stopping_conditions``: a training ends with the first of them, or with its ``total_timesteps``."""

    training: TrainingStop = option(TrainingStop, "limits of the learners")
    rollout: RolloutStop = option(RolloutStop, "limits of the rollout")


class RewardImprovement:
    """Notices when evaluations have stopped getting better."""

    def __init__(self, minimum: float | None, patience: int) -> None:
        self._minimum = minimum
        self._patience = patience
        self._best = -math.inf
        self._since = 0

    def should_stop(self, reward: float) -> bool:
        """Take in an evaluation; True when the last ``patience`` of them brought less than the minimum."""
        if self._minimum is None:
            return False
        if reward >= self._best + self._minimum or self._best == -math.inf:
            self._best, self._since = reward, 0
        else:
            self._since += 1
        return self._since >= self._patience
