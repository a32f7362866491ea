"""The adapter for Google Research Football (gfootball 2.10.2): one or both sides of a match, an agent per player."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from malib_lite.config import ConfigError, NonNegativeInt, build, config, option, suggest
from malib_lite.contracts.environment import AgentID, Environment, TimeStep, describe
from malib_lite.envs.gr_football import features
from malib_lite.envs.gr_football.scenarios import SCENARIOS

_DEFAULT = "academy_3_vs_1_with_keeper"
_NUM_ACTIONS = {"default": 19, "v2": 20}
_SIDES = ("left", "right")
_MAX_SEED = 2_000_000_000  # the simulator's own bound

_INSTALL = """Google Research Football is not installed ({error}). It is compiled, in about 6 minutes:
  apt-get install -y cmake g++ libsdl2-dev libsdl2-image-dev libsdl2-ttf-dev libsdl2-gfx-dev libboost-dev \
libboost-python-dev libboost-system-dev libboost-thread-dev libboost-filesystem-dev libgl1-mesa-dev mesa-utils xvfb
  pip install -U setuptools wheel psutil
  pip install --no-build-isolation gfootball==2.10.2 six gym==0.26.2"""


@config
class FootballConfig:
    """The ``scenario_configs`` of :class:`GRFootballEnv`."""

    left_players: NonNegativeInt | None = option(None, "agents on the left; none given: all but the goalkeeper")
    right_players: NonNegativeInt = option(0, "agents on the right; both sides controlled is self-play")
    representation: Literal["simple115v2", "extracted"] = option("simple115v2", "115 numbers, or 72 x 96 x 4 planes")
    rewards: Literal["scoring", "scoring,checkpoints"] = option("scoring", "goals, or also ground won towards the goal")
    action_set: Literal["default", "v2"] = option("default", "19 actions, or a 20th that leaves it to the built-in AI")


class GRFootballEnv(Environment):
    """A match or drill of Google Research Football, with an agent for each controlled player.

    The agents are "left_0", "left_1", ..., "right_0", ...; players without an agent are the simulator's own. The right
    side sees the field turned by 180 degrees, so that everybody plays from left to right. Where a side has as many
    agents as players that can be controlled, agent i has the same player throughout; where it has fewer, the simulator
    hands them the players who matter, mostly those near the ball, and changes them in the course of play.

    Rewards are a side's, and the same for all its agents: 1 for a goal, -1 for one of the other side. "checkpoints"
    adds 0.1 for each of ten distances to the other goal that the side comes within, ball at foot, for the first time in
    the episode; a goal collects those that are left (Kurach et al. 2020, https://arxiv.org/abs/1907.11180). The
    package's own wrapper counts each agent's checkpoints apart, which pays a pass less than a run.

    A goal, the ball out of play or a change of possession end the drills: these are terminations. That the time is up,
    in drills after 401 steps and in matches after 3001, is a truncation: the agents do not see the clock, so no value
    of what they see can know that the end is near (Pardo et al. 2018, https://arxiv.org/abs/1712.00378). Only a goal in
    the last step, where goals end the episode, terminates it all the same. All actions are always legal; those that do
    nothing where a player stands are the simulator's to ignore.

    A seed fixes all episodes that follow, whatever else was played before in the process. Many environments live in
    one process, at about 60 MB and 0.2 s of start each; but the simulator is native code, and should it crash, it takes
    its process with it: ``rollout.use_subproc_env`` steps environments in processes of their own, which are replaced.

    Args:
        env_id: a scenario, see :func:`env_ids`.
        scenario_configs: see :class:`FootballConfig`.

    Raises:
        ConfigError: there is no such scenario, it has not so many players, or the simulator is not installed.
    """

    def __init__(
        self, env_id: str = _DEFAULT, scenario_configs: Mapping[str, Any] | None = None, **unknown: Any
    ) -> None:
        for key in unknown:
            raise ConfigError(f"unknown key '{key}': " + suggest(key, ["env_id", "scenario_configs"]))
        if not isinstance(env_id, str) or env_id not in SCENARIOS:
            raise ConfigError(f"'env_id' = {env_id!r}: there is no such scenario, {suggest(str(env_id), SCENARIOS)}")
        settings = build(FootballConfig, scenario_configs, "scenario_configs")
        super().__init__(env_id=env_id, scenario_configs=dict(scenario_configs or {}))
        counts = _count_agents(env_id, settings)
        self._agents = {side: [f"{side}_{i}" for i in range(n)] for side, n in zip(_SIDES, counts, strict=True)}
        self._num_actions = _NUM_ACTIONS[settings.action_set]
        self._space, self._represent = _representation(settings.representation)
        self._with_checkpoints = settings.rewards == "scoring,checkpoints"
        self._rng = np.random.default_rng()
        self._config, self._core = _simulator(env_id, settings.action_set, counts)
        self._raw: Mapping[str, Any] = self._core.observation()
        self._collected = dict.fromkeys(_SIDES, 0)  # checkpoints of this episode

    @property
    def possible_agents(self) -> list[AgentID]:
        """The left side's agents, then the right side's."""
        return self._agents["left"] + self._agents["right"]

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """Box (115,) float32, or (72, 96, 4) uint8; see :mod:`malib_lite.envs.gr_football.features`."""
        return dict.fromkeys(self.possible_agents, self._space)

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """Discrete(19): idle, 8 directions, 3 passes, shot, sprint, stop, stop sprint, slide, dribble, stop dribble."""
        return {agent: spaces.Discrete(self._num_actions) for agent in self.possible_agents}

    @property
    def state_space(self) -> spaces.Space:
        """Box (187,) float32."""
        return spaces.Box(-np.inf, np.inf, (features.STATE_SIZE,), np.float32)

    def state(self) -> np.ndarray:
        """The whole match with clock and score from the left side's view: (187,) float32."""
        return features.global_state(self._raw)

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Kick off, with the simulator's chance drawn from this environment's stream."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
            self._config["episode_number"] = 0  # matches let the sides kick off in turns
        engine_seed = int(self._rng.integers(_MAX_SEED))
        self._config["game_engine_random_seed"] = engine_seed
        # which side's actions come first; the simulator would keep the choice of its first seed for ever
        self._config["reverse_team_processing"] = bool(engine_seed % 2)
        self._core.reset()
        self._raw = self._core.observation()
        self._collected = dict.fromkeys(_SIDES, 0)
        observations, _, infos = self._look(score_change=0)
        return TimeStep(observations, infos=infos)

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """One step of the game, a tenth of a second."""
        left = [int(actions[agent]) for agent in self._agents["left"]]
        right = [features.turned_action(int(actions[agent])) for agent in self._agents["right"]]
        self._raw, score_change, done, _ = self._core.step(left + right)
        observations, rewards, infos = self._look(score_change)
        if not done:
            return TimeStep(observations, rewards, infos=infos)
        decided = score_change != 0 and self._config.ScenarioConfig().end_episode_on_score
        ended = dict.fromkeys(observations, True)
        if self._raw["steps_left"] > 0 or decided:
            return TimeStep(observations, rewards, terminated=ended, infos=infos)
        return TimeStep(observations, rewards, truncated=ended, infos=infos)

    def render(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """The picture that a spectator sees: (720, 1280, 3) uint8, drawn without a display, in about a second.

        To draw is to play on in another engine: the rest of the episode is not what it would be without the picture.
        Only one environment in a process may be drawn.
        """
        frame = np.asarray(self._core.render("rgb_array"))
        self._core.disable_render()
        return frame

    def close(self) -> None:
        """Hand the engine back; the simulator keeps it for the next environment in this process."""
        self._core.close()

    def state_dict(self) -> dict[str, Any]:
        """The random generator's state and the number of episodes played, from which later episodes follow."""
        return {"rng": self._rng.bit_generator.state, "episode": self._config["episode_number"]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a state that :meth:`state_dict` gave."""
        self._rng.bit_generator.state = state["rng"]
        self._config["episode_number"] = state["episode"]

    def _look(
        self, score_change: int
    ) -> tuple[dict[AgentID, np.ndarray], dict[AgentID, float], dict[AgentID, dict[str, Any]]]:
        """Observations, rewards and infos of all agents. ``score_change``: goals of the left minus of the right."""
        observations: dict[AgentID, np.ndarray] = {}
        rewards: dict[AgentID, float] = {}
        infos: dict[AgentID, dict[str, Any]] = {}
        for side, agents in self._agents.items():
            if not agents:
                continue
            view = features.left_view(self._raw) if side == "left" else features.right_view(self._raw)
            goals = score_change if side == "left" else -score_change
            reward = goals + (self._ground_won(side, view, goals > 0) if self._with_checkpoints else 0.0)
            info = {"score": view.score, "steps_left": self._raw["steps_left"]}
            for agent, observation in zip(agents, self._represent(view), strict=True):
                observations[agent], rewards[agent], infos[agent] = observation, float(reward), info
        return observations, rewards, infos

    def _ground_won(self, side: str, view: features.SideView, scored: bool) -> float:
        """The reward for checkpoints that the side had not collected in this episode."""
        before = self._collected[side]
        reached = features.NUM_CHECKPOINTS if scored else features.checkpoints_reached(view)
        self._collected[side] = max(before, reached)
        return (self._collected[side] - before) / features.NUM_CHECKPOINTS


def env_desc_gen(env_id: str = _DEFAULT, **config: Any) -> dict[str, Any]:
    """The ``env_description`` of a football scenario; arguments and errors as of :class:`GRFootballEnv`."""
    return describe(GRFootballEnv, env_id=env_id, **config)


def env_ids() -> list[str]:
    """The scenarios; they are known without the simulator."""
    return sorted(SCENARIOS)


def _count_agents(env_id: str, settings: FootballConfig) -> tuple[int, int]:
    """Agents on the left and on the right, within what the scenario lets be controlled."""
    scenario = SCENARIOS[env_id]
    left = scenario.left_field if settings.left_players is None else settings.left_players
    for side, wanted, most in (("left", left, scenario.left), ("right", settings.right_players, scenario.right)):
        if wanted > most:
            raise ConfigError(
                f"'scenario_configs.{side}_players' = {wanted}: {env_id} has {most} on that side that can be controlled"
            )
    if left + settings.right_players == 0:
        raise ConfigError("'scenario_configs': with 0 players on the left and on the right there is no agent")
    return left, settings.right_players


def _representation(name: str) -> tuple[spaces.Box, Any]:
    """The space of one agent's observations, and what computes those of a side from its view."""
    if name == "extracted":
        return spaces.Box(0, 255, features.MINIMAP_SHAPE, np.uint8), features.minimap
    return spaces.Box(-np.inf, np.inf, (features.SIMPLE115_SIZE,), np.float32), features.simple115


def _simulator(env_id: str, action_set: str, counts: tuple[int, int]) -> tuple[Any, Any]:
    """The simulator's configuration and core.

    The core is what the package's FootballEnv wraps. That one copies the raw observation twice a step for each player,
    which takes a fifth of the time with 3 players, and a third with 22.
    """
    try:
        from gfootball.env import config as simulator_config
        from gfootball.env import football_env_core
    except ImportError as error:
        raise ConfigError(_INSTALL.format(error=error)) from error
    settings = simulator_config.Config(
        {
            "level": env_id,
            "action_set": action_set,
            "players": [f"agent:left_players={counts[0]},right_players={counts[1]}"],
            "game_engine_random_seed": 0,  # until the first reset
        }
    )
    return settings, football_env_core.FootballEnvCore(settings)
