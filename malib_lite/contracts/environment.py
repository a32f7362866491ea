"""The environment contract: a dictionary of agents, one step at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

if TYPE_CHECKING:
    from malib_lite.contracts.exact import ExactGame
    from malib_lite.contracts.vector import VectorEnvironment

AgentID = str


class TimeStep(NamedTuple):
    """What the agents see after ``reset`` or ``advance``. Every dictionary is keyed by agent id.

    ``observations`` names exactly the agents that must act next; on the last step of an agent it holds the final
    observation instead. ``rewards`` may name any agent: in turn-based games an agent is paid for its last
    action while others move. ``terminated`` and ``truncated`` are kept apart up to the return estimator.
    """

    observations: Mapping[AgentID, Any]
    rewards: Mapping[AgentID, float] = {}
    terminated: Mapping[AgentID, bool] = {}
    truncated: Mapping[AgentID, bool] = {}
    infos: Mapping[AgentID, Any] = {}
    action_masks: Mapping[AgentID, np.ndarray] = {}  # (A,) bool each, for the agents in observations


class Environment(ABC):
    """Base class of environments; subclass it to bring your own.

    Implement the three properties, :meth:`reset_episode` and :meth:`time_step`. The engine's loop::

        step = env.begin(seed=7, max_step=200)
        while not env.finished:
            actions = {agent: choose(step.observations[agent]) for agent in step.observations}
            step = env.advance(actions)

    and the same loop in the form of MALib's documents::

        state, observations = env.reset()
        dones = {"__all__": False}
        while not dones["__all__"]:
            actions = {agent: env.action_spaces[agent].sample() for agent in observations}
            state, observations, rewards, dones, infos = env.step(actions)

    Keyword arguments of the constructor are the environment's configuration (``env_description["config"]``).
    """

    def __init__(self, **configs: Any) -> None:
        self.configs = configs
        self.max_step: int | None = None
        self.cnt = 0  # steps taken in this episode
        self.finished = True
        self.ended: set[AgentID] = set()  # agents whose part in this episode is over
        self.episode_returns: dict[AgentID, float] = {}

    # -- what an environment implements -------------------------------------------------------------------------

    @property
    @abstractmethod
    def possible_agents(self) -> list[AgentID]:
        """All agent ids that can ever take part, in a fixed order."""

    @property
    @abstractmethod
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """The space of each agent's observations."""

    @property
    @abstractmethod
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """The space of each agent's actions."""

    @abstractmethod
    def reset_episode(self, seed: int | None) -> TimeStep:
        """Start an episode. A ``seed`` restarts the environment's random stream; None continues it."""

    @abstractmethod
    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Apply the actions of the agents that were to act, and say what they see and get."""

    # -- capabilities an environment may offer ------------------------------------------------------------------

    @property
    def state_space(self) -> spaces.Space | None:
        """The space of :meth:`state`; None where there is no global state."""
        return None

    def state(self) -> Any:
        """The global state after the last step, which centralised training may look at; None where there is none."""
        return None

    @classmethod
    def make_vector(cls, seeds: Sequence[int], max_step: int | None, **configs: Any) -> VectorEnvironment | None:
        """A native vector form, where there is one that is faster than stepping single environments.

        Args:
            seeds: E integers below 2**31. Row i draws all its chance from a stream that depends on ``seeds[i]``
                alone, whatever the other rows are and do.
            max_step: episodes are truncated after so many steps; None: no limit beside the environment's own.
        """
        return None

    @classmethod
    def make_exact(cls, **configs: Any) -> ExactGame | None:
        """Exact payoffs and best responses, where the game is small enough to be solved."""
        return None

    exact_for: ClassVar[str] = ""  # for messages: the games for which make_exact gives a form

    # -- the engine's loop --------------------------------------------------------------------------------------

    def begin(self, seed: int | None = None, max_step: int | None = None) -> TimeStep:
        """Start an episode that is truncated after ``max_step`` steps (None: no limit beside the environment's own)."""
        self.cnt = 0
        self.max_step = max_step
        self.finished = False
        self.ended = set()
        self.episode_returns = dict.fromkeys(self.possible_agents, 0.0)
        return self.reset_episode(seed)

    def advance(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Take one step, apply the time limit and keep the episode's books."""
        if self.finished:
            raise RuntimeError("the episode is over: begin a new one before advancing")
        step = self.time_step(actions)
        self.cnt += 1
        for agent, reward in step.rewards.items():
            self.episode_returns[agent] += float(reward)
        for flags in (step.terminated, step.truncated):
            self.ended.update([agent for agent, flag in flags.items() if flag])
        over = self.env_done_check(step)
        if not over and self.max_step is not None and self.cnt >= self.max_step:
            truncated = {agent: not step.terminated.get(agent, False) for agent in self.possible_agents}
            step, over = step._replace(truncated=truncated), True
        self.finished = over
        return step

    def env_done_check(self, step: TimeStep) -> bool:
        """Whether the episode is over for everybody: by default, when every possible agent's part in it is."""
        return self.ended.issuperset(self.possible_agents)

    # -- the same loop in the form of MALib's documents ---------------------------------------------------------

    def reset(self, max_step: int | None = None) -> tuple[Any, dict[AgentID, Any]]:
        """Start an episode; returns (state, observations)."""
        step = self.begin(max_step=max_step)
        return self.state(), dict(step.observations)

    def step(
        self, actions: Mapping[AgentID, Any]
    ) -> tuple[Any, dict[AgentID, Any], dict[AgentID, float], dict[AgentID, bool], dict[AgentID, Any]]:
        """Take one step; returns (state, observations, rewards, dones, infos), ``dones["__all__"]`` ends the loop.

        ``dones`` cannot tell termination from truncation; learners are fed by :meth:`advance`, which can.
        """
        step = self.advance(actions)
        dones = {a: step.terminated.get(a, False) or step.truncated.get(a, False) for a in self.possible_agents}
        dones["__all__"] = self.finished
        return self.state(), dict(step.observations), dict(step.rewards), dones, dict(step.infos)

    def collect_info(self) -> dict[str, Any]:
        """The books of the episode so far: its length and each agent's return."""
        return {"env_step": self.cnt, "agent_reward": dict(self.episode_returns)}

    def seed(self, seed: int | None = None) -> None:
        """Restart the random stream: the next :meth:`reset` begins the same episodes as any other with this seed."""
        self.reset_episode(seed)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """Show the environment, where it can."""
        raise NotImplementedError(f"{type(self).__name__} cannot render")

    def close(self) -> None:
        """Free what the environment holds."""

    def state_dict(self) -> dict[str, Any] | None:
        """The random state, for exact resumption between episodes; None where the environment cannot give it."""
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
        raise NotImplementedError(f"{type(self).__name__} has no state_dict")


def describe(creator: Callable[..., Environment], **config: Any) -> dict[str, Any]:
    """The ``env_description`` of MALib's documents: the class, its configuration, its agents and spaces.

    ``creator`` may be any callable that makes an environment, e.g. a function that wraps one.
    """
    env = creator(**config)
    try:
        return {
            "creator": creator,
            "possible_agents": list(env.possible_agents),
            "action_spaces": dict(env.action_spaces),
            "observation_spaces": dict(env.observation_spaces),
            "state_space": env.state_space,
            "config": config,
        }
    finally:
        env.close()
