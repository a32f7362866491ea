"""A stand-in for the part of gfootball 2.10.2 that the adapter uses, for machines where the simulator is not compiled.

Names, types, shapes, the clock and the ends of episodes are those observed of the real one, and a test compares the two
where it is installed. The football is not: players run, own the ball they are near to, and shoot straight at the goal.
"""

import copy
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

_D = 0.5**0.5
_DIRECTIONS = np.array([(-1, 0), (-_D, -_D), (0, -1), (_D, -_D), (1, 0), (_D, _D), (0, 1), (-_D, _D)])
_NEAR = 0.04
_ELEVEN = [
    (-1.0, 0.0),
    *((-0.4, y) for y in np.linspace(-0.3, 0.3, 5)),
    *((-0.2, y) for y in np.linspace(-0.3, 0.3, 5)),
]
_MATCH, _DRILL = (False, False, False), (True, True, True)
# level: game_duration, ball, left positions, right positions (as if they were the left), ends of an episode
_LEVELS = {
    "1_vs_1_easy": (500, (0.0, 0.0), [(-0.5, 0.0)], [(-0.5, 0.0)], _MATCH),
    "5_vs_5": (3000, (0.0, 0.0), _ELEVEN[:5], _ELEVEN[:5], _MATCH),
    "11_vs_11_stochastic": (3000, (0.0, 0.0), _ELEVEN, _ELEVEN, _MATCH),
    "academy_empty_goal_close": (400, (0.77, 0.0), [(-1.0, 0.0), (0.75, 0.0)], [(-1.0, 0.42)], _DRILL),
    "academy_3_vs_1_with_keeper": (
        400,
        (0.62, 0.0),
        [(-1.0, 0.0), (0.6, 0.0), (0.7, 0.2), (0.7, -0.2)],
        [(-1.0, 0.0), (-0.75, 0.0)],
        _DRILL,
    ),
}


class Config:
    def __init__(self, values):
        self._values = {"action_set": "default", "level": "11_vs_11_stochastic", "episode_number": 0, **values}
        self.NewScenario()

    def __getitem__(self, key):
        return self._values[key]

    def __setitem__(self, key, value):
        self._values[key] = value

    def NewScenario(self, inc=1):
        self._values["episode_number"] += inc
        duration, _, _, _, (on_score, on_out, on_change) = _LEVELS[self["level"]]
        self._scenario = SimpleNamespace(
            game_duration=duration,
            end_episode_on_score=on_score,
            end_episode_on_out_of_play=on_out,
            end_episode_on_possession_change=on_change,
        )

    def ScenarioConfig(self):
        return self._scenario

    def agents(self):
        pairs = dict(pair.split("=") for pair in self["players"][0].removeprefix("agent:").split(","))
        return int(pairs["left_players"]), int(pairs["right_players"])


class FootballEnvCore:
    def __init__(self, config):
        self._config = config
        self._open = True
        self.reset(inc=0)

    def reset(self, inc=1):
        self._config.NewScenario(inc)
        rng = np.random.default_rng([self._config["game_engine_random_seed"], self._config["episode_number"] % 2])
        _, ball, left, right, _ = _LEVELS[self._config["level"]]
        self._position = [np.array(left) * 1.011, -np.array(right) * 1.011]
        for side in self._position:
            side += rng.normal(0.0, 1e-3, side.shape)
        self._running = [np.zeros_like(side) for side in self._position]
        self._ball, self._ball_direction = np.array([*ball, 0.11]), np.zeros(3)
        self._owner, self._last_team, self._mode, self._score, self._step = (-1, -1), -1, 0, [0, 0], -1
        self._done = False
        return True

    def step(self, actions):
        assert self._open and not self._done, "Cant call step() once episode finished (call reset() instead)"
        assert len(actions) == sum(self._config.agents())
        counts, before = self._config.agents(), self._score[0] - self._score[1]
        for team, own in enumerate((actions[: counts[0]], actions[counts[0] :])):
            for player, action in zip(self._controlled(team), own, strict=True):
                assert type(action) is int and 0 <= action < {"default": 19, "v2": 20}[self._config["action_set"]]
                self._act(team, player, action)
        for position, running in zip(self._position, self._running, strict=True):
            position += 0.01 * running
        self._move_ball()
        self._step += 1
        reward = self._score[0] - self._score[1] - before
        scenario = self._config.ScenarioConfig()
        changed = -1 not in (self._owner[0], self._last_team) and self._owner[0] != self._last_team
        self._done = bool(
            (scenario.end_episode_on_score and any(self._score))
            or (scenario.end_episode_on_out_of_play and self._mode)
            or (scenario.end_episode_on_possession_change and changed)
            or self._step >= scenario.game_duration
        )
        self._last_team = self._owner[0] if self._owner[0] != -1 else self._last_team
        return self._observe(), reward, self._done, {}

    def observation(self):
        return copy.deepcopy(self._observe())

    def close(self):
        self._open = False

    def render(self, mode):
        assert mode == "rgb_array"
        return np.zeros((720, 1280, 3), np.uint8)

    def disable_render(self):
        pass

    def _controlled(self, team):
        """All players in order, or those nearest to the ball if there are fewer agents."""
        number, position = self._config.agents()[team], self._position[team]
        first = 1 if self._config["level"] == "5_vs_5" else 0  # there the keepers cannot be controlled
        free = len(position) - first
        if number > free:
            raise IndexError("Index out of range")
        if number == free:
            return list(range(first, len(position)))
        distance = np.linalg.norm(position - self._ball[:2], axis=1)
        return sorted(np.argsort(distance, kind="stable")[:number].tolist())

    def _act(self, team, player, action):
        if 1 <= action <= 8:
            self._running[team][player] = _DIRECTIONS[action - 1]
        elif action == 14:
            self._running[team][player] = 0.0
        elif action == 12 and self._owner == (team, player):
            goal = np.array([1.02 if team == 0 else -1.02, 0.0]) - self._ball[:2]
            self._ball_direction = np.array([*(0.08 * goal / np.linalg.norm(goal)), 0.0])

    def _move_ball(self):
        self._ball = self._ball + self._ball_direction
        x, y = self._ball[:2]
        if abs(x) > 1.0 and abs(y) < 0.044:
            self._score[0 if x > 0 else 1] += 1
            self._ball, self._ball_direction = np.array([0.0, 0.0, 0.11]), np.zeros(3)
        elif abs(x) > 1.0 or abs(y) > 0.42:
            self._mode = 5
        self._owner = (-1, -1)
        if self._ball_direction.any():
            return
        for team, position in enumerate(self._position):
            distance = np.linalg.norm(position - self._ball[:2], axis=1)
            if distance.min() < _NEAR:
                self._owner = (team, int(distance.argmin()))
                self._ball = np.array([*position[distance.argmin()], 0.11])
                return

    def _observe(self):
        raw = {"ball": self._ball.copy(), "ball_direction": self._ball_direction.copy(), "ball_rotation": np.zeros(3)}
        for team, name in enumerate(("left_team", "right_team")):
            n = len(self._position[team])
            raw[name] = self._position[team].copy()
            raw[name + "_direction"] = 0.01 * self._running[team]
            raw[name + "_tired_factor"] = np.full(n, max(self._step, 0) * 1e-4)
            raw[name + "_active"] = np.ones(n, bool)
            raw[name + "_yellow_card"] = np.zeros(n, bool)
            raw[name + "_roles"] = np.arange(n) % 10
            raw[name + "_designated_player"] = 0
            side = name.removesuffix("team")
            raw[side + "agent_controlled_player"] = self._controlled(team)
            raw[side + "agent_sticky_actions"] = [np.zeros(10, np.uint8) for _ in self._controlled(team)]
        raw["game_mode"] = self._mode
        raw["score"] = list(self._score)
        raw["ball_owned_team"], raw["ball_owned_player"] = self._owner
        raw["steps_left"] = self._config.ScenarioConfig().game_duration - self._step
        return raw


def install(monkeypatch):
    """Let ``import gfootball`` find this."""
    package, env = ModuleType("gfootball"), ModuleType("gfootball.env")
    package.env = env
    env.config, env.football_env_core = (
        ModuleType("gfootball.env.config"),
        ModuleType("gfootball.env.football_env_core"),
    )
    env.config.Config, env.football_env_core.FootballEnvCore = Config, FootballEnvCore
    for module in (package, env, env.config, env.football_env_core):
        monkeypatch.setitem(sys.modules, module.__name__, module)
