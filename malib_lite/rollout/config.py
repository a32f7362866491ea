"""How experience is gathered."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from malib_lite.config import ConfigError, NonNegativeFloat, NonNegativeInt, PositiveInt, config, option


class Subproc(NamedTuple):
    """Environments in processes of their own, see :class:`~malib_lite.rollout.subproc_env.SubprocVectorEnv`."""

    num_processes: int
    restarts: int
    timeout_s: float


@config
class RolloutConfig:
    """The ``rollout_config`` of MALib's documents."""

    fragment_length: PositiveInt = option(1024, "decisions that a worker sends at a time, over all its environments")
    max_step: PositiveInt | None = option(None, "longest episode, in environment steps; longer ones are truncated")
    num_eval_episodes: PositiveInt = option(20, "episodes of one evaluation")
    num_threads: NonNegativeInt = option(1, "rollout worker processes; 0 runs everything in this process (serial mode)")
    num_env_per_thread: PositiveInt = option(16, "environments that each worker steps together")
    num_eval_threads: PositiveInt = option(1, "workers that share an evaluation")
    agent_ids: bool = option(False, "agents that share a policy see, beside their observation, which of them they are")
    use_subproc_env: bool = option(False, "step environments in processes of their own: for slow or unsafe simulators")
    num_env_processes: PositiveInt | None = option(None, "these processes, per worker; None: its share of the cores")
    env_restarts: NonNegativeInt = option(100, "how many of them may crash or hang and be replaced, per worker")
    env_timeout_s: PositiveInt = option(60, "longest that one of them may take for a step or a reset")
    batch_mode: Literal["auto", "time_step", "episode"] = option(
        "auto", "what a fragment ends with: any step, whole episodes, or what the trainer asks for"
    )
    postprocessor_types: list[Literal["defaults"]] = option(["defaults"], "kept for programs written for MALib")
    eval_interval: PositiveInt = option(5, "reports between two evaluations")
    inference_server: Literal["local", "pipe", "ray"] = option(
        "local",
        "who runs the learners' policies: each worker its own, or (pipe) one process for all workers, in batches",
    )
    inference_batch: PositiveInt | None = option(
        None, "of pipe: workers whose requests make a full batch, acted on by one forward pass; None: all"
    )
    inference_deadline_s: NonNegativeFloat = option(
        0.002, "of pipe: how long a request waits for its batch to fill; in lockstep (bsp) it waits until it is full"
    )
    worker_restarts: NonNegativeInt = option(3, "how often a rollout worker that was killed is started again")
    hang_timeout_s: PositiveInt = option(300, "a process that shows no sign of life for so long is taken for hung")

    def __post_init__(self) -> None:
        if self.inference_server == "ray":
            raise ConfigError(
                "rollout.inference_server = 'ray' is not available: this version has 'local' (every rollout worker "
                "runs its own copy of the policies) and 'pipe' (one process runs them for all workers, in batches)"
            )
        if self.inference_server == "local" and self.inference_batch is not None:
            raise ConfigError(
                f"rollout.inference_batch = {self.inference_batch}: only rollout.inference_server = 'pipe' has "
                "batches, not 'local'"
            )
        if self.use_subproc_env and self.env_timeout_s >= self.hang_timeout_s:
            raise ConfigError(
                f"rollout.env_timeout_s = {self.env_timeout_s}: must be below rollout.hang_timeout_s = "
                f"{self.hang_timeout_s}, or the worker that waits is taken for hung itself"
            )

    @property
    def num_decisions(self) -> int:
        """T: decisions per stream in a fragment."""
        return max(1, -(-self.fragment_length // self.num_env_per_thread))

    @property
    def subproc(self) -> Subproc | None:
        """Processes of environments, if they are wanted."""
        if not self.use_subproc_env:
            return None
        share = max(1, (os.cpu_count() or 1) // self.num_workers)
        return Subproc(self.num_env_processes or share, self.env_restarts, float(self.env_timeout_s))

    @property
    def num_workers(self) -> int:
        """K: rollout workers, of which serial mode has one, in the main process."""
        return max(1, self.num_threads)
