"""What all scenarios have in common: who learns what, with what, on what, and until when."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gymnasium.spaces import Space
from gymnasium.spaces.utils import flatdim

from malib_lite import registry
from malib_lite.agent.agent_interface import AgentInterface
from malib_lite.agent.async_agent import AsyncAgent
from malib_lite.agent.independent_agent import IndependentAgent
from malib_lite.agent.sync_config import SyncConfig
from malib_lite.agent.team_agent import TeamAgent
from malib_lite.config import ConfigError, PositiveInt, build, config, option, suggest, to_dict
from malib_lite.contracts.devices import known_devices
from malib_lite.contracts.trainer import TeamShape
from malib_lite.environments import Creator, describe_environment
from malib_lite.models.actions import array_action_space
from malib_lite.models.distributions import StateDependentHead
from malib_lite.models.normaliser import RunningNormaliser
from malib_lite.models.preprocessor import array_space
from malib_lite.rollout.config import RolloutConfig
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.rollout.uniform_agents import uniform_spaces
from malib_lite.scenarios.run import Run
from malib_lite.scenarios.stopping import StoppingConditions

if TYPE_CHECKING:
    from malib_lite.contracts.policy import Policy
    from malib_lite.contracts.trainer import Trainer


AgentClass = type[AgentInterface]  # an alias: the field below is itself called "type"
AGENTS: dict[str, AgentClass] = {cls.__name__: cls for cls in (IndependentAgent, TeamAgent, AsyncAgent)}
_FEWEST_ROUNDS = 4  # of a training, unless the user asks for longer ones
_SHORTEST_ROUND = 1024  # decisions of a worker: as few as replay needs to begin, and one such round learns
TEAM = "team"  # the runtime id of all agents together


@config
class TrainingConfig(SyncConfig):
    """The ``training_config`` of MALib's documents."""

    type: AgentClass | str | None = option(
        None, "IndependentAgent, TeamAgent, AsyncAgent, or a class of your own; None: the one that the algorithm needs"
    )
    device: str = option("cpu", "where policies learn: cpu, cuda (the first GPU), cuda:1; they play on the CPU")
    keep_checkpoints: PositiveInt = option(
        20,
        "checkpoints whose policies stay on disk; what a population, a league or a best mixture refers to stays anyway",
    )
    trainer_config: Any = option(None, "fields of the trainer's configuration; the algorithm documents them")
    custom_config: dict[str, Any] = option({}, "kept for programs written for MALib")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device != "cpu" and self.device not in known_devices():
            raise ValueError(f"'training.device' = '{self.device}': what there is here: {', '.join(known_devices())}")


class Scenario(ABC):
    """A training as a whole: configuration, checked when it is made, and the outer loop, run by ``run(scenario)``."""

    rollout_defaults: ClassVar[Mapping[str, Any]] = {}
    trains_best_responses: ClassVar[bool] = False  # many short trainings: the trainer's best_response_defaults hold
    outer_config: ClassVar[type | None] = None  # fields of the outer loop, made with malib_lite.config.config
    default_steps: ClassVar[int]  # environment steps of one training, where nothing else ends it

    def __init__(
        self,
        name: str,
        log_dir: str | Path,
        algorithms: Mapping[str, tuple[Any, ...]],
        env_description: Any,
        training_config: Mapping[str, Any] | None = None,
        rollout_config: Mapping[str, Any] | None = None,
        agent_mapping_func: Callable[[str], str] | None = None,
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
            agent_mapping_func: runtime id of each environment agent; agents of one runtime id share one learner. None:
                every agent learns by itself, but with an algorithm for teams all are one.
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
        self.interfaces: dict[str, type[AgentInterface]] = {}  # by runtime id
        if seed < 0:
            raise ConfigError(f"'seed' = {seed}: must not be negative")
        self.seed = seed
        self.groups = self._group_agents(agent_mapping_func or _default_mapping(algorithms))  # by player
        self.seats = self.make_seats()
        for name in algorithms:
            if name != "default" and name not in self.seats:
                raise ConfigError(f"algorithms: there is no runtime id '{name}': {suggest(name, self.seats)}")
        chosen = {runtime_id: self._find_algorithm(runtime_id, algorithms) for runtime_id in self.seats}
        recommended: Mapping[str, Any] = next((entry[1].rollout_defaults for entry in chosen.values()), {})
        self.rollout = build(
            RolloutConfig, {**recommended, **self.rollout_defaults, **(rollout_config or {})}, "rollout"
        )
        if self.num_workers % self.training.learners:
            raise ConfigError(
                f"'training.learners' = {self.training.learners}: 'rollout.num_threads' = {self.rollout.num_threads} "
                "must be a multiple of it, each gradient worker has as many rollout workers"
            )
        self._spaces = uniform_spaces(
            self.groups,
            {agent: array_space(space) for agent, space in self.env_description["observation_spaces"].items()},
            {agent: array_action_space(space) for agent, space in self.env_description["action_spaces"].items()},
            self.rollout.agent_ids,
        )
        self.policies: dict[str, PolicySpec] = {}
        self.trainers: dict[str, tuple[type[Trainer[Any, Any]], Any]] = {}  # class and configuration by runtime id
        for runtime_id, entry in chosen.items():
            self._set_up(runtime_id, *entry)
        self.rollout = self._several_rounds(rollout_config or {})

    @abstractmethod
    def execute(self, run: Run) -> dict[str, Any]:
        """The outer loop; returns the final metrics for ``summary.json``."""

    def make_seats(self) -> dict[str, str]:
        """Who learns: the runtime ids, and the player for which each of them plays. By default every player does."""
        return {player: player for player in self.groups}

    @property
    def title(self) -> str:
        """What the run is, for plots and reports: scenario, environment, algorithm and seed."""
        named = self.names.get("algorithm")
        classes = {spec.policy_class.__name__.removesuffix("Policy") for spec in self.policies.values()}
        algorithm = named or (", ".join(sorted(classes)) if self.seats else "exact best responses")
        return f"{self.name}, {algorithm}, seed {self.seed}"

    @property
    def scripted(self) -> Mapping[str, PolicySpec]:
        """Policies that do not learn, for members that rollout workers are to play, by the members' kind."""
        return {}

    def spaces(self, agent: str) -> tuple[Space, Space]:
        """Observation and action space of an agent, as policies see them."""
        observation_spaces, action_spaces = self._spaces
        return observation_spaces[agent], action_spaces[agent]

    @property
    def plays(self) -> bool:
        """Whether anything is played at all; if not, there are no workers and no learners."""
        return True

    def algorithm_defaults(self, trainer_class: type[Trainer[Any, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """What the trainer's and the model's configuration are here, where the user sets nothing: by these names."""
        return trainer_class.best_response_defaults if self.trains_best_responses else {}

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
    def num_workers(self) -> int:
        """Rollout workers; every gradient worker has the same number of them."""
        return max(self.rollout.num_workers, self.training.learners)

    @property
    def num_gradient_workers(self) -> int:
        """Of each learner; 0 where learners compute their gradients themselves."""
        return max((kind.num_gradient_workers(self.training) for kind in self.interfaces.values()), default=0)

    @property
    def rollout_lead(self) -> int | None:
        """How many rounds the rollout may be ahead of the learners; None: it never waits for them."""
        return self.training.rollout_lead(self.num_gradient_workers)

    @property
    def whole_episodes(self) -> bool:
        """Whether fragments end with whole episodes."""
        if self.rollout.batch_mode == "auto":
            return any(trainer.batch_mode == "episode" for trainer, _ in self.trainers.values())
        return self.rollout.batch_mode == "episode"

    @property
    def teams(self) -> frozenset[str]:
        """The players who learn from joint trajectories."""
        return frozenset(self.seats[rid] for rid, (trainer, _) in self.trainers.items() if trainer.joint)

    @property
    def state_size(self) -> int | None:
        """S, of the environment's global state, flat; None where it has none."""
        state_space = self.env_description.get("state_space")
        return None if state_space is None else flatdim(state_space)

    def resolved_config(self) -> dict[str, Any]:
        """Every setting with its final value, for ``config.yaml``."""
        creator = self.env_description["creator"]
        names = self.names or {
            "scenario": type(self).__name__,
            "env": creator.source if isinstance(creator, Creator) else creator,
            "env_config": self.env_description["config"],
            "algorithm": {rid: spec.policy_class for rid, spec in self.policies.items()},
        }
        trainers = {rid: to_dict(settings) for rid, (_, settings) in self.trainers.items()}
        for section in trainers.values():
            if "total_timesteps" in section:
                section["total_timesteps"] = self.total_steps
        batch_mode = "episode" if self.whole_episodes else "time_step"
        models = {rid: dict(spec.model_config) for rid, spec in self.policies.items()}
        return {
            **names,
            "seed": self.seed,
            "rollout": {**to_dict(self.rollout), "batch_mode": batch_mode},
            "trainer": _one_or_all(trainers),
            "model": _one_or_all(models),
            "training": {
                "type": getattr(self.training.type, "__name__", self.training.type),
                **{field.name: getattr(self.training, field.name) for field in dataclasses.fields(SyncConfig)},
                "device": self.training.device,
                "keep_checkpoints": self.training.keep_checkpoints,
            },
            "stopping": to_dict(self.stopping),
        }

    # -- inside -------------------------------------------------------------------------------------------------

    def _several_rounds(self, chosen: Mapping[str, Any]) -> RolloutConfig:
        """The rollout's configuration, with shorter rounds where the budget would be used up by a few: what is played
        in a round comes from one version of the policy. What the user has ``chosen`` stays as it is."""
        agents = len(self.env_description["possible_agents"])  # between two decisions of an agent all others may act
        longest = max(_SHORTEST_ROUND, self.total_steps // (_FEWEST_ROUNDS * agents * self.num_workers))
        changes: dict[str, Any] = {}
        if "fragment_length" not in chosen and longest < self.rollout.fragment_length:
            changes["fragment_length"] = longest
            # not more environments than leave each as many decisions in a round as before
            envs = max(1, self.rollout.num_env_per_thread * longest // self.rollout.fragment_length)
            if "num_env_per_thread" not in chosen:
                changes["num_env_per_thread"] = envs
        return dataclasses.replace(self.rollout, **changes)

    def _group_agents(self, agent_mapping_func: Callable[[str], str]) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for agent in self.env_description["possible_agents"]:
            groups.setdefault(str(agent_mapping_func(agent)), []).append(agent)
        return groups

    def _find_algorithm(self, runtime_id: str, algorithms: Mapping[str, tuple[Any, ...]]) -> tuple[Any, Any, Any, Any]:
        """Policy class, trainer class, model config and custom config of a runtime id."""
        entry = algorithms.get(runtime_id, algorithms.get("default"))
        if entry is None:
            raise ConfigError(f"no algorithm for runtime id '{runtime_id}': {suggest(runtime_id, algorithms)}")
        policy_class, trainer_class, *configs = entry
        model_config, custom_config = [*configs, {}, {}][:2]
        return policy_class, trainer_class, model_config or {}, custom_config or {}

    def _set_up(
        self,
        runtime_id: str,
        policy_class: type[Policy],
        trainer_class: type[Trainer[Any, Any]],
        model_config: Mapping[str, Any],
        custom_config: Mapping[str, Any],
    ) -> None:
        agents = self.groups[self.seats[runtime_id]]
        observation_space, action_space = self.spaces(agents[0])
        registry.check_spaces(policy_class, observation_space, action_space)
        team: dict[str, Any] = {}
        if trainer_class.joint:
            size = len(agents) * flatdim(observation_space) if self.state_size is None else self.state_size
            team = {"team": TeamShape(len(agents), size)}
        defaults = self.algorithm_defaults(trainer_class)
        self.policies[runtime_id] = PolicySpec(
            policy_class,
            observation_space,
            action_space,
            to_dict(build(policy_class.model_class, {**defaults.get("model", {}), **model_config}, "model")),
            {**custom_config, **team},
        )
        trainer_config = self.training.trainer_config
        if trainer_config is None or isinstance(trainer_config, Mapping):
            trainer_config = {**defaults.get("trainer", {}), **(trainer_config or {})}
        settings = build(trainer_class.config_class, trainer_config, "trainer")
        self.trainers[runtime_id] = (trainer_class, settings)
        self.interfaces[runtime_id] = self._interface(trainer_class)
        modules = list(self.policies[runtime_id].outline().modules())
        if self.num_gradient_workers and any(isinstance(module, RunningNormaliser) for module in modules):
            raise ConfigError(
                f"'training.learners' = {self.training.learners}: gradient workers share no running statistics (the "
                "model's normalise_...), which are for one learner (1, and no AsyncAgent)"
            )
        stateful = any(isinstance(module, StateDependentHead) for module in modules)
        if self.rollout.inference_server == "pipe" and stateful:
            raise ConfigError(
                "'model.exploration' = 'state_dependent' keeps its noise from one decision to the next, which a policy "
                "that acts for all workers cannot: it takes 'rollout.inference_server' = 'local'"
            )

    def _interface(self, trainer_class: type[Trainer[Any, Any]]) -> type[AgentInterface]:
        """The kind of agent interface that feeds a trainer."""
        fitting = TeamAgent if trainer_class.joint else IndependentAgent
        chosen = self.training.type or fitting
        if isinstance(chosen, str):
            if chosen not in AGENTS:
                raise ConfigError(f"'training.type' = '{chosen}': {suggest(chosen, AGENTS)}")
            chosen = AGENTS[chosen]
        chosen.num_gradient_workers(self.training)  # raises where it does not go with the sync mode
        if issubclass(chosen, TeamAgent) != trainer_class.joint:
            raise ConfigError(
                f"'training.type' = {chosen.__name__}: {trainer_class.__name__} learns from "
                f"{'whole teams' if trainer_class.joint else 'single agents'}, which takes a {fitting.__name__}"
            )
        return chosen


def _default_mapping(algorithms: Mapping[str, tuple[Any, ...]]) -> Callable[[str], str]:
    """All agents in one team where that is what the default algorithm trains; every agent for itself elsewhere."""
    joint = "default" in algorithms and algorithms["default"][1].joint
    return (lambda agent: TEAM) if joint else (lambda agent: agent)


def _one_or_all(sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The section that all runtime ids share, or all of them by runtime id."""
    first = next(iter(sections.values()), {})
    return first if all(section == first for section in sections.values()) else sections
