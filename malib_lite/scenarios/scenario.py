"""What all scenarios have in common: who learns what, with what, on what, and until when."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from malib_lite.agent.agent_interface import AgentInterface
from malib_lite.agent.independent_agent import IndependentAgent
from malib_lite.config import ConfigError, build, config, option, suggest, to_dict
from malib_lite.environments import describe_environment
from malib_lite.models.actions import array_action_space
from malib_lite.models.preprocessor import array_space
from malib_lite.rollout.config import RolloutConfig
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.scenarios.run import Run
from malib_lite.scenarios.stopping import StoppingConditions

if TYPE_CHECKING:
    from malib_lite.contracts.trainer import Trainer


AgentClass = type[AgentInterface]  # an alias: the field below is itself called "type"


@config
class TrainingConfig:
    """The ``training_config`` of MALib's documents."""

    type: AgentClass = dataclasses.field(default=IndependentAgent, metadata={"help": "the kind of agent interface"})
    trainer_config: Any = option(None, "fields of the trainer's configuration; the algorithm documents them")
    custom_config: dict[str, Any] = option({}, "kept for programs written for MALib")


class Scenario(ABC):
    """A training as a whole: configuration, checked when it is made, and the outer loop, run by ``run(scenario)``."""

    rollout_defaults: ClassVar[Mapping[str, Any]] = {}
    trains_best_responses: ClassVar[bool] = False  # many short trainings: the trainer's best_response_defaults hold
    default_steps: ClassVar[int]  # environment steps of one training, where nothing else ends it

    def __init__(
        self,
        name: str,
        log_dir: str | Path,
        algorithms: Mapping[str, tuple[Any, ...]],
        env_description: Any,
        training_config: Mapping[str, Any] | None = None,
        rollout_config: Mapping[str, Any] | None = None,
        agent_mapping_func: Callable[[str], str] = lambda agent: agent,
        stopping_conditions: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            name: of the run, for logs.
            log_dir: the run folder.
            algorithms: (policy class, trainer class, model config, custom config) by runtime id; ``"default"`` serves
                those that are not named. Trailing configs may be left out.
            env_description: what an environment family's ``env_desc_gen`` returns, or anything else that
                :func:`~malib_lite.environments.describe_environment` understands: a name, a class, an object.
            training_config: see :class:`TrainingConfig`.
            rollout_config: see :class:`~malib_lite.rollout.config.RolloutConfig`.
            agent_mapping_func: runtime id of each environment agent; agents of one runtime id share one learner.
            stopping_conditions: see :class:`~malib_lite.scenarios.stopping.StoppingConditions`.
            seed: of everything that is random in the run.

        Raises:
            ConfigError: whatever is wrong with any of this; nothing has been started.
        """
        self.name = name
        self.names: dict[str, Any] = {}  # what the command line called things; config.yaml repeats it
        self.log_dir = Path(log_dir)
        self.env_description = describe_environment(env_description)
        self.training = build(TrainingConfig, training_config, "training")
        self.stopping = build(StoppingConditions, stopping_conditions, "stopping")
        if seed < 0:
            raise ConfigError(f"'seed' = {seed}: must not be negative")
        self.seed = seed
        self.groups = self._group_agents(agent_mapping_func)
        self.policies: dict[str, PolicySpec] = {}
        self.trainers: dict[str, tuple[type[Trainer[Any, Any]], Any]] = {}  # class and configuration by runtime id
        for name in algorithms:
            if name != "default" and name not in self.groups:
                raise ConfigError(f"algorithms: there is no runtime id '{name}': {suggest(name, self.groups)}")
        for runtime_id, agents in self.groups.items():
            self._choose_algorithm(runtime_id, agents[0], algorithms)
        recommended = next(iter(self.trainers.values()))[0].rollout_defaults
        self.rollout = build(
            RolloutConfig, {**recommended, **self.rollout_defaults, **(rollout_config or {})}, "rollout"
        )

    @abstractmethod
    def execute(self, run: Run) -> dict[str, Any]:
        """The outer loop; returns the final metrics for ``summary.json``."""

    @abstractmethod
    def arenas(self) -> list[list[str]]:
        """Runtime ids that learn in the same environments; each inner list gets environments of its own."""

    def plot(self, run: Run) -> None:
        """Draw what the run has to show into its ``plots/``."""

    @property
    def total_steps(self) -> int:
        """Environment steps of one training."""
        lengths = [getattr(settings, "total_timesteps", None) for _, settings in self.trainers.values()]
        return min((length for length in lengths if length), default=self.default_steps)

    @property
    def whole_episodes(self) -> bool:
        """Whether fragments end with whole episodes."""
        if self.rollout.batch_mode == "auto":
            return any(trainer.batch_mode == "episode" for trainer, _ in self.trainers.values())
        return self.rollout.batch_mode == "episode"

    def resolved_config(self) -> dict[str, Any]:
        """Every setting with its final value, for ``config.yaml``."""
        names = self.names or {
            "scenario": type(self).__name__,
            "env": self.env_description["creator"],
            "env_config": self.env_description["config"],
            "algorithm": {rid: spec.policy_class for rid, spec in self.policies.items()},
        }
        trainers = {rid: to_dict(settings) for rid, (_, settings) in self.trainers.items()}
        models = {rid: dict(spec.model_config) for rid, spec in self.policies.items()}
        return {
            **names,
            "seed": self.seed,
            "rollout": to_dict(self.rollout),
            "trainer": _one_or_all(trainers),
            "model": _one_or_all(models),
            "stopping": to_dict(self.stopping),
        }

    # -- inside -------------------------------------------------------------------------------------------------

    def _group_agents(self, agent_mapping_func: Callable[[str], str]) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for agent in self.env_description["possible_agents"]:
            groups.setdefault(str(agent_mapping_func(agent)), []).append(agent)
        for runtime_id, agents in groups.items():
            for key in ("observation_spaces", "action_spaces"):
                kinds = {str(self.env_description[key][agent]) for agent in agents}
                if len(kinds) > 1:
                    raise ConfigError(
                        f"agents {', '.join(agents)} of runtime id '{runtime_id}' have different {key}, so they cannot "
                        f"share a policy: {'; '.join(sorted(kinds))}"
                    )
        return groups

    def _choose_algorithm(self, runtime_id: str, agent: str, algorithms: Mapping[str, tuple[Any, ...]]) -> None:
        entry = algorithms.get(runtime_id, algorithms.get("default"))
        if entry is None:
            raise ConfigError(f"no algorithm for runtime id '{runtime_id}': {suggest(runtime_id, algorithms)}")
        policy_class, trainer_class, *configs = entry
        model_config, custom_config = [*configs, {}, {}][:2]
        defaults = trainer_class.best_response_defaults if self.trains_best_responses else {}
        observation_space = array_space(self.env_description["observation_spaces"][agent])
        action_space = array_action_space(self.env_description["action_spaces"][agent])
        policy_class.check_spaces(observation_space, action_space)
        self.policies[runtime_id] = PolicySpec(
            policy_class,
            observation_space,
            action_space,
            to_dict(build(policy_class.model_class, {**defaults.get("model", {}), **(model_config or {})}, "model")),
            dict(custom_config or {}),
        )
        trainer_config = self.training.trainer_config
        if trainer_config is None or isinstance(trainer_config, Mapping):
            trainer_config = {**defaults.get("trainer", {}), **(trainer_config or {})}
        settings = build(trainer_class.config_class, trainer_config, "trainer")
        self.trainers[runtime_id] = (trainer_class, settings)


def _one_or_all(sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The section that all runtime ids share, or all of them by runtime id."""
    first = next(iter(sections.values()))
    return first if all(section == first for section in sections.values()) else sections
