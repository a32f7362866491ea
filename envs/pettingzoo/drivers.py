"""PettingZoo's two rhythms, all agents at once and one after another, both read as :class:`TimeStep`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

from malib_lite.contracts.environment import AgentID, TimeStep

MASK = "action_mask"


class ObservationReader:
    """Takes the action masks out of observations.

    PettingZoo has two customs: a Dict observation with an entry "action_mask", whose other entry is mostly called
    "observation" and then becomes the observation itself; or an entry "action_mask" of the agent's info.

    Args:
        observation_spaces: PettingZoo's spaces by agent.
    """

    def __init__(self, observation_spaces: Mapping[AgentID, spaces.Space]) -> None:
        self.spaces: dict[AgentID, spaces.Space] = {}  # without the masks
        self._only_observation: dict[AgentID, bool] = {}  # of the agents whose observations hold masks
        for agent, space in observation_spaces.items():
            if isinstance(space, spaces.Dict) and MASK in space.spaces:
                rest = {key: part for key, part in space.spaces.items() if key != MASK}
                self._only_observation[agent] = only = list(rest) == ["observation"]
                space = rest["observation"] if only else spaces.Dict(rest)
            self.spaces[agent] = space

    def read(self, agent: AgentID, observation: Any, info: Mapping[str, Any]) -> tuple[Any, np.ndarray | None]:
        """The observation without the mask, and the mask: (A,) bool, or None where PettingZoo gives none."""
        mask = None
        if agent in self._only_observation:
            mask = observation[MASK]
            if self._only_observation[agent]:
                observation = observation["observation"]
            else:
                observation = {key: part for key, part in observation.items() if key != MASK}
        elif info and MASK in info:
            mask = info[MASK]
        if mask is None:
            return observation, None
        if isinstance(mask, tuple):  # of a MultiDiscrete: a mask for each part
            mask = np.concatenate(mask)
        return observation, np.asarray(mask).astype(bool)


class ParallelDriver:
    """Steps a ``ParallelEnv``: every live agent acts in every step.

    PettingZoo answers with dictionaries of the agents that *acted*, those included that ended with it, while
    ``env.agents`` already lists those that go on, and those that joined.
    """

    def __init__(self, env: ParallelEnv, reader: ObservationReader) -> None:
        self.over = True
        self._env = env
        self._reader = reader
        self._acting: list[AgentID] = []
        self._ended: set[AgentID] = set()

    def reset(self, seed: int) -> TimeStep:
        """Begin an episode."""
        observations, infos = self._env.reset(seed=seed)
        self._acting = list(self._env.agents)
        self._ended = set()
        self.over = not self._acting
        seen, masks = self._read(self._acting, observations, infos)
        return TimeStep(seen, infos=infos, action_masks=masks)

    def step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Apply the actions of the agents that were to act; others' are ignored.

        Raises:
            RuntimeError: the environment breaks PettingZoo's rules; the message says how.
        """
        acted = self._acting
        observations, rewards, terminated, truncated, infos = self._env.step({agent: actions[agent] for agent in acted})
        if any(truncated.values()):  # an end by the rules is none by the time limit, though PettingZoo may say both
            truncated = {agent: cut and not terminated.get(agent) for agent, cut in truncated.items()}
        acting = [agent for agent in self._env.agents if not (terminated.get(agent) or truncated.get(agent))]
        shown = acted
        if acting != acted:
            shown = acted + self._joined(acting, [*terminated.items(), *truncated.items()])
            self._acting = acting
            self.over = not acting
        seen, masks = self._read(shown, observations, infos)
        return TimeStep(seen, rewards, terminated, truncated, infos, masks)

    def _joined(self, acting: list[AgentID], flags: Iterable[tuple[AgentID, bool]]) -> list[AgentID]:
        """The agents that are new among ``acting``; those that left must have been flagged."""
        self._ended.update(agent for agent, flag in flags if flag)
        for agent in self._acting:
            if agent not in acting and agent not in self._ended:
                raise RuntimeError(f"{agent!r} left 'agents' but is neither terminated nor truncated")
        joined = [agent for agent in acting if agent not in self._acting]
        for agent in joined:
            if agent in self._ended:
                raise RuntimeError(f"{agent!r} is back in 'agents', but its part in the episode was over")
        return joined

    def _read(
        self, agents: list[AgentID], observations: Mapping[AgentID, Any], infos: Mapping[AgentID, Any]
    ) -> tuple[dict[AgentID, Any], dict[AgentID, np.ndarray]]:
        """Observations and masks of ``agents``; one that ended may be left without."""
        seen, masks = {}, {}
        for agent in agents:
            if agent in observations:
                seen[agent], mask = self._reader.read(agent, observations[agent], infos.get(agent) or {})
                if mask is not None:
                    masks[agent] = mask
            elif agent in self._acting:
                raise RuntimeError(f"{agent!r} is in 'agents', so it must act, but it has no observation")
        return seen, masks


class AECDriver:
    """Steps an ``AECEnv``: one agent acts in each step, and the observations name the one to act next.

    Rewards are those that PettingZoo's ``last()`` hands to a learner, ``_cumulative_rewards``: what an agent has earned
    since it last acted. They are paid in the step in which they grow, whoever's turn it is, and at an agent's own turn
    what it has been paid is ``last()``'s reward. ``env.rewards`` has no say: not every environment keeps it.
    Agents that are over must be stepped with None before they leave. This happens here, within the step before;
    it is then that they are flagged and see their final observation, for until then they may be paid.
    """

    def __init__(self, env: AECEnv, reader: ObservationReader) -> None:
        self.over = True
        self._env = env
        self._reader = reader
        self._paid: dict[AgentID, float] = {}  # since the agent last acted

    def reset(self, seed: int) -> TimeStep:
        """Begin an episode; what an environment pays before anybody has acted is nobody's reward."""
        self._env.reset(seed=seed)
        self._paid = {}
        step = self._next_decision({})
        self._pay({})
        return step._replace(rewards={})

    def step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Apply the action of the agent that was to act; others' are ignored.

        Raises:
            RuntimeError: the environment breaks PettingZoo's rules; the message says how.
        """
        rewards: dict[AgentID, float] = {}
        self._paid[self._env.agent_selection] = 0.0
        self._env.step(actions[self._env.agent_selection])
        self._pay(rewards)
        return self._next_decision(rewards)

    def _next_decision(self, rewards: dict[AgentID, float]) -> TimeStep:
        """Go on to the next agent that can act, past those that are over."""
        env = self._env
        observations, masks, infos = {}, {}, {}
        terminated: dict[AgentID, bool] = {}
        truncated: dict[AgentID, bool] = {}
        self.over = True
        while env.agents:
            observation, reward, ended, cut, info = env.last()
            agent = env.agent_selection
            self._pay_up_to(agent, reward, rewards)
            if agent in terminated:
                raise RuntimeError(f"{agent!r} was over and was stepped with None, but did not leave 'agents'")
            infos[agent] = info
            if observation is not None:
                observations[agent], mask = self._reader.read(agent, observation, info)
                if mask is not None:
                    masks[agent] = mask
            if not (ended or cut):
                self.over = False
                break
            terminated[agent], truncated[agent] = ended, cut and not ended
            env.step(None)
            self._pay(rewards)
        return TimeStep(observations, rewards, terminated, truncated, infos, masks)

    def _pay(self, rewards: dict[AgentID, float]) -> None:
        """Add to ``rewards`` by how much the agents' cumulative rewards have grown."""
        for agent, total in getattr(self._env, "_cumulative_rewards", {}).items():
            self._pay_up_to(agent, total, rewards)

    def _pay_up_to(self, agent: AgentID, total: float, rewards: dict[AgentID, float]) -> None:
        rewards[agent] = rewards.get(agent, 0.0) + total - self._paid.get(agent, 0.0)
        self._paid[agent] = total
