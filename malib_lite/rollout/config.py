"""How experience is gathered."""

from __future__ import annotations

from typing import Literal

from malib_lite.config import ConfigError, NonNegativeInt, PositiveInt, config, option


@config
class RolloutConfig:
    """The ``rollout_config`` of MALib's documents."""

    fragment_length: PositiveInt = option(1024, "decisions that a worker sends at a time, over all its environments")
    max_step: PositiveInt | None = option(None, "longest episode, in environment steps; longer ones are truncated")
    num_eval_episodes: PositiveInt = option(20, "episodes of one evaluation")
    num_threads: NonNegativeInt = option(1, "rollout worker processes; 0 runs everything in this process (serial mode)")
    num_env_per_thread: PositiveInt = option(16, "environments that each worker steps together")
    num_eval_threads: PositiveInt = option(1, "workers that share an evaluation")
    use_subproc_env: bool = option(False, "step environments in processes of their own (not available yet)")
    batch_mode: Literal["auto", "time_step", "episode"] = option(
        "auto", "what a fragment ends with: any step, whole episodes, or what the trainer asks for"
    )
    postprocessor_types: list[Literal["defaults"]] = option(["defaults"], "kept for programs written for MALib")
    eval_interval: PositiveInt = option(5, "reports between two evaluations")
    inference_server: Literal["local", "pipe", "ray"] = option("local", "who runs the policies: each worker its own")
    worker_restarts: NonNegativeInt = option(3, "how often a rollout worker that was killed is started again")
    hang_timeout_s: PositiveInt = option(300, "a process that shows no sign of life for so long is taken for hung")

    def __post_init__(self) -> None:
        if self.inference_server != "local":
            raise ConfigError(
                f"rollout.inference_server = '{self.inference_server}' is not available: this version has 'local' "
                "(every rollout worker runs its own copy of the policies)"
            )
        if self.use_subproc_env:
            raise ConfigError(
                "rollout.use_subproc_env is not available yet: set it to false and raise rollout.num_threads"
            )

    @property
    def num_decisions(self) -> int:
        """T: decisions per stream in a fragment."""
        return max(1, -(-self.fragment_length // self.num_env_per_thread))

    @property
    def num_workers(self) -> int:
        """K: rollout workers, of which serial mode has one, in the main process."""
        return max(1, self.num_threads)
