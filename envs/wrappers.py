"""Wrappers: an environment with a change to what goes in or comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from malib_lite.contracts.environment import AgentID, Environment, TimeStep


class Wrapper(Environment):
    """An environment that does as another one does; override what shall be different::

        class HalfPay(Wrapper):
            def time_step(self, actions):
                step = super().time_step(actions)
                return step._replace(rewards={agent: reward / 2 for agent, reward in step.rewards.items()})

        def make(**config):          # what trains with it: --env my_module:make, or describe(make)
            return HalfPay(GymEnv(**config))

    Every layer keeps books of its own: ``cnt``, ``finished`` and ``episode_returns`` of the wrapper count what comes
    out of it, those of ``env`` what goes in. Only the outermost layer applies the engine's time limit, so that a
    wrapper that repeats actions, say, is limited in its own steps.

    A wrapped environment is stepped singly: the native vector form and the exact values of the class inside belong to
    the game without the change.

    Args:
        env: the environment inside.
    """

    def __init__(self, env: Environment) -> None:
        super().__init__(**env.configs)
        self.env = env

    @property
    def unwrapped(self) -> Environment:
        """The environment inside all wrappers."""
        return self.env.unwrapped if isinstance(self.env, Wrapper) else self.env

    @property
    def possible_agents(self) -> list[AgentID]:
        """Those of the environment inside."""
        return self.env.possible_agents

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """Those of the environment inside."""
        return self.env.observation_spaces

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """Those of the environment inside."""
        return self.env.action_spaces

    @property
    def state_space(self) -> spaces.Space | None:
        """That of the environment inside."""
        return self.env.state_space

    def state(self) -> Any:
        """The global state of the environment inside."""
        return self.env.state()

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Begin an episode inside, without a time limit."""
        return self.env.begin(seed=seed)

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """One step inside."""
        return self.env.advance(actions)

    def env_done_check(self, step: TimeStep) -> bool:
        """Over when the episode inside is, or when every agent is flagged here."""
        return self.env.finished or super().env_done_check(step)

    def seed(self, seed: int | None = None) -> None:
        """Restart the random stream inside."""
        self.env.seed(seed)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """Show the environment inside."""
        return self.env.render(*args, **kwargs)

    def close(self) -> None:
        """Close the environment inside."""
        self.env.close()

    def state_dict(self) -> dict[str, Any] | None:
        """The random state inside."""
        return self.env.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a random state inside."""
        self.env.load_state_dict(state)
