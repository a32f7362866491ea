"""Groups of agents as agents: for algorithms that see and decide for several agents at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import utils

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import AgentID, Environment, TimeStep
from malib_lite.environments import describe_environment
from malib_lite.envs.single_choice import SingleChoice
from malib_lite.envs.wrappers import Wrapper
from malib_lite.models.actions import array_action_space, num_choices

GroupID = str


class GroupWrapper(Wrapper):
    """The environment inside, with every group of its agents as one agent.

    A group observes a dictionary of its members' observations and acts by a dictionary of their actions, both
    :class:`gymnasium.spaces.Dict` in the order of ``agent_groups``; the rollout makes arrays of them.

    *Members that are not to act* are observed as zeros (:func:`blank`), and their part of the action is ignored; their
    mask allows the first action alone, so that nothing is learnt from it. So a turn-based environment works as well: a
    group acts whenever one of its members does. The same goes for members whose part in the episode is over.

    *Rewards* of the members are added up, see :meth:`group_rewards`. A group *ends* with the last of its members:
    truncated if any of those that end in this step is, else terminated.

    *States* are a group's own, see :meth:`build_state_from_observation`; :meth:`state` is a dictionary of them.

    Args:
        env: the environment inside.
        aid_to_gid: the group of every agent.
        agent_groups: the members of every group, in order; None: as ``aid_to_gid`` says, in the environment's order.

    Raises:
        ConfigError: an agent is in no group or in two, or the arguments contradict each other.
    """

    def __init__(
        self,
        env: Environment,
        aid_to_gid: Mapping[AgentID, GroupID],
        agent_groups: Mapping[GroupID, Sequence[AgentID]] | None = None,
    ) -> None:
        super().__init__(env)
        self._groups = _check_groups(env.possible_agents, aid_to_gid, agent_groups)
        self._group_of = {agent: group for group, members in self._groups.items() for agent in members}
        inside, acts = env.observation_spaces, env.action_spaces
        self._observation_spaces: dict[GroupID, spaces.Space] = {
            group: spaces.Dict([(agent, inside[agent]) for agent in members]) for group, members in self._groups.items()
        }
        self._action_spaces: dict[GroupID, spaces.Space] = {
            group: spaces.Dict([(agent, acts[agent]) for agent in members]) for group, members in self._groups.items()
        }
        self._blanks = {agent: blank(inside[agent]) for agent in self._group_of}
        self._idle_masks = {agent: _first_alone(acts[agent]) for agent in self._group_of}
        self._state_spaces: dict[GroupID, spaces.Space] | None = None
        self._ended: set[AgentID] = set()
        self._to_act: set[AgentID] = set()
        self._seen: Mapping[AgentID, Any] = {}

    @property
    def possible_agents(self) -> list[GroupID]:
        """The groups."""
        return list(self._groups)

    @property
    def observation_spaces(self) -> dict[GroupID, spaces.Space]:
        """Each group's Dict of its members' spaces."""
        return self._observation_spaces

    @property
    def action_spaces(self) -> dict[GroupID, spaces.Space]:
        """Each group's Dict of its members' spaces."""
        return self._action_spaces

    @property
    def agent_groups(self) -> dict[GroupID, list[AgentID]]:
        """The members of every group, in order."""
        return {group: list(members) for group, members in self._groups.items()}

    def agent_to_group(self, agent_id: AgentID) -> GroupID:
        """The group of an agent."""
        return self._group_of[agent_id]

    # -- what a subclass may change -----------------------------------------------------------------------------

    def build_state_spaces(self) -> dict[GroupID, spaces.Space]:
        """The space of each group's state; asked once. By default Box, the members' observations flat, in a row."""
        return {
            group: spaces.Box(
                np.concatenate([_flat_bounds(self.env.observation_spaces[agent])[0] for agent in members]),
                np.concatenate([_flat_bounds(self.env.observation_spaces[agent])[1] for agent in members]),
                dtype=np.float32,
            )
            for group, members in self._groups.items()
        }

    def build_state_from_observation(self, agent_observation: Mapping[AgentID, Any]) -> dict[GroupID, np.ndarray]:
        """Each group's state, a value of its state space.

        Args:
            agent_observation: the observation of *every* agent inside; zeros where it is not observed now.
        """
        return {
            group: np.concatenate(
                [
                    np.asarray(utils.flatten(self.env.observation_spaces[agent], agent_observation[agent]), np.float32)
                    for agent in members
                ]
            )
            for group, members in self._groups.items()
        }

    def action_mask_extract(
        self, raw_observations: Mapping[AgentID, Any], action_masks: Mapping[AgentID, np.ndarray]
    ) -> dict[GroupID, np.ndarray]:
        """Each group's action mask: (sum of its members' A,) bool, the members' masks one after another.

        Groups without an entry may do anything. By default a member's own mask is taken where it has one, all actions
        are legal where not, and the first alone where it is not to act; a group whose members all act and have no
        masks has none, nor has one with a member whose actions are not discrete.

        Args:
            raw_observations: of the agents inside that are to act.
            action_masks: theirs, as far as the environment gives them.
        """
        masks = {}
        for group, members in self._groups.items():
            parts = []
            for agent in members:
                mask = self._idle_masks[agent]
                if mask is not None:
                    legal = action_masks.get(agent, np.ones_like(mask))
                    parts.append(np.asarray(legal, bool) if agent in raw_observations else mask)
            unmasked = all(agent in raw_observations and agent not in action_masks for agent in members)
            if not unmasked and len(parts) == len(members):
                masks[group] = np.concatenate(parts)
        return masks

    def group_rewards(self, rewards: Mapping[AgentID, float]) -> dict[GroupID, float]:
        """Each group's reward, from those that agents inside got in a step: by default the sum of its members'."""
        total: dict[GroupID, float] = {}
        for agent, reward in rewards.items():
            group = self._group_of[agent]
            total[group] = total.get(group, 0.0) + float(reward)
        return total

    # -- states -------------------------------------------------------------------------------------------------

    @property
    def state_spaces(self) -> dict[GroupID, spaces.Space]:
        """The space of each group's state."""
        if self._state_spaces is None:
            self._state_spaces = self.build_state_spaces()
        return self._state_spaces

    @property
    def state_space(self) -> spaces.Space:
        """Dict of the groups' state spaces."""
        return spaces.Dict([(group, self.state_spaces[group]) for group in self._groups])

    def state(self) -> dict[GroupID, np.ndarray]:
        """Each group's state."""
        return self.build_state_from_observation({**self._blanks, **self._seen})

    # -- the episode --------------------------------------------------------------------------------------------

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Begin an episode inside."""
        self._ended = set()
        return self._group(super().reset_episode(seed))

    def time_step(self, actions: Mapping[GroupID, Mapping[AgentID, Any]]) -> TimeStep:
        """One step inside, with the actions of those members that are to act."""
        chosen = {agent: actions[self._group_of[agent]][agent] for agent in self._group_of if agent in self._to_act}
        return self._group(super().time_step(chosen))

    def _group(self, step: TimeStep) -> TimeStep:
        """What the groups see of a step inside."""
        ending = self._ending(step)
        self._ended |= ending.keys()
        self._seen = step.observations
        self._to_act = set(step.observations) - self._ended
        over = {
            group: any(ending.get(agent, False) for agent in members)
            for group, members in self._groups.items()
            if self._ended.issuperset(members) and not ending.keys().isdisjoint(members)
        }
        observations = {}
        for group, members in self._groups.items():
            here = step.observations.keys() if group in over else self._to_act
            if not here.isdisjoint(members):
                observations[group] = {agent: step.observations.get(agent, self._blanks[agent]) for agent in members}
        # A truncated group's value depends on what it could still have done; after a termination nothing does.
        cut = {agent for group, truncated in over.items() if truncated for agent in self._groups[group]}
        shown = step.observations.keys() & (self._to_act | cut)
        raw = {agent: step.observations[agent] for agent in self._group_of if agent in shown}
        masks = self.action_mask_extract(raw, {a: step.action_masks[a] for a in raw if a in step.action_masks})
        infos: dict[GroupID, dict[AgentID, Any]] = {}
        for agent, info in step.infos.items():
            infos.setdefault(self._group_of[agent], {})[agent] = info
        return TimeStep(
            observations,
            self.group_rewards(step.rewards) if step.rewards else {},
            {group: True for group, truncated in over.items() if not truncated},
            {group: True for group, truncated in over.items() if truncated},
            infos,
            {group: mask for group, mask in masks.items() if group in observations and over.get(group, True)},
        )

    def _ending(self, step: TimeStep) -> dict[AgentID, bool]:
        """The agents whose part ends in this step, and whether it is truncated."""
        cut = any(step.truncated.values())
        ending = {}
        for agent in self._group_of.keys() - self._ended:
            if step.terminated.get(agent, False):
                ending[agent] = False
            elif step.truncated.get(agent, False):
                ending[agent] = True
            elif self.env.finished:  # left without a flag: it ends as the others do
                ending[agent] = cut
        return ending


def together(env: Any, single_choice: bool = False, **config: Any) -> Environment:
    """An environment with all its agents as one, "team", for fully centralised training: one policy plays them all.

    ``python -m malib_lite.train marl --env malib_lite.envs:together --env_config.env matrix/climbing``

    Args:
        env: all that ``--env`` takes.
        single_choice: the policy chooses among all combinations of the agents' actions, see
            :class:`~malib_lite.envs.single_choice.SingleChoice`; False: it chooses for each of them.
        config: keyword arguments of ``env``.

    Raises:
        ConfigError: there is no such environment, or it cannot be grouped.
    """
    description = describe_environment(env, config)
    agents = description["possible_agents"]
    grouped = GroupWrapper(description["creator"](**description["config"]), dict.fromkeys(agents, "team"))
    return SingleChoice(grouped) if single_choice else grouped


def blank(space: spaces.Space) -> Any:
    """The value of ``space`` that stands for nothing: zeros, or what is next to zero within the bounds.

    Raises:
        ConfigError: the space's values have no fixed size.
    """
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high).astype(space.dtype, copy=False)
    if isinstance(space, spaces.Discrete):
        return space.start
    if isinstance(space, spaces.MultiDiscrete):
        return space.start.copy()
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape, space.dtype)
    if isinstance(space, spaces.Dict):
        return {name: blank(part) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(blank(part) for part in space.spaces)
    raise ConfigError(f"agents that see {space} cannot be grouped: its values have no fixed size")


def _first_alone(space: spaces.Space) -> np.ndarray | None:
    """The mask (A,) bool that allows one action, the first; None where actions are not discrete."""
    array_space = array_action_space(space)
    size = num_choices(array_space)
    if size is None:
        return None
    mask = np.zeros(size, bool)
    parts = array_space.nvec if isinstance(array_space, spaces.MultiDiscrete) else [size]
    mask[np.cumsum([0, *parts[:-1]])] = True
    return mask


def _flat_bounds(space: spaces.Space) -> tuple[np.ndarray, np.ndarray]:
    flat = utils.flatten_space(space)
    assert isinstance(flat, spaces.Box)  # blank() has refused all others
    with np.errstate(over="ignore"):  # a bound beyond float32 becomes infinite, which it was in all but name
        return flat.low.astype(np.float32), flat.high.astype(np.float32)


def _check_groups(
    agents: Sequence[AgentID],
    aid_to_gid: Mapping[AgentID, GroupID],
    agent_groups: Mapping[GroupID, Sequence[AgentID]] | None,
) -> dict[GroupID, tuple[AgentID, ...]]:
    """The members of every group."""
    for agent in aid_to_gid:
        if agent not in agents:
            raise ConfigError(f"'aid_to_gid': there is no agent {agent!r}, {suggest(str(agent), agents)}")
    for agent in agents:
        if agent not in aid_to_gid:
            raise ConfigError(f"'aid_to_gid': agent {agent!r} is in no group")
    if agent_groups is None:
        agent_groups = {}
        for agent in agents:
            agent_groups = {**agent_groups, aid_to_gid[agent]: [*agent_groups.get(aid_to_gid[agent], ()), agent]}
    listed = [agent for members in agent_groups.values() for agent in members]
    if sorted(listed) != sorted(agents):
        wrong = sorted(set(listed) ^ set(agents)) or sorted({agent for agent in listed if listed.count(agent) > 1})
        raise ConfigError(f"'agent_groups' must hold every agent once; look at {', '.join(map(repr, wrong))}")
    for group, members in agent_groups.items():
        for agent in members:
            if aid_to_gid[agent] != group:
                raise ConfigError(
                    f"agent {agent!r} is in group {group!r} by 'agent_groups', in {aid_to_gid[agent]!r} by 'aid_to_gid'"
                )
    return {group: tuple(members) for group, members in agent_groups.items()}
