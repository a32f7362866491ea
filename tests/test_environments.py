"""Whatever stands for an environment: names, classes, functions, modules and objects of three kinds."""

import functools
import json
import sys
import types

import gymnasium
import numpy as np
import pytest
import yaml
from fakes import CountingEnv, TurnEnv
from gymnasium import spaces
from pettingzoo import ParallelEnv

from malib_lite.algorithms import ppo, random_policy
from malib_lite.config import ConfigError
from malib_lite.contracts.environment import Environment, describe
from malib_lite.environments import describe_environment
from malib_lite.envs.gym import GymEnv
from malib_lite.rollout.vector_env import vectorise
from malib_lite.runner import run
from malib_lite.runtime.run_folder import RunFolder
from malib_lite.scenarios.marl_scenario import MARLScenario
from malib_lite.train import main


class Hill(gymnasium.Env):
    """Terminates after ``height`` steps."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, height: int = 3) -> None:
        self.height = height

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.at += 1
        return np.float32([self.at]), 1.0, self.at == self.height, False, {}


class Pair(ParallelEnv):
    """Two agents, two steps."""

    metadata = {"name": "pair"}
    possible_agents = ["left", "right"]

    def __init__(self, length=2):
        self.length = length

    def observation_space(self, agent):
        return spaces.Discrete(9)

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents, self.at = list(self.possible_agents), 0
        return dict.fromkeys(self.agents, 0), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.at += 1
        acted, over = self.agents, self.at == self.length
        if over:
            self.agents = []
        each = functools.partial(dict.fromkeys, acted)
        return each(self.at), each(1.0), each(over), each(False), {agent: {} for agent in acted}


@pytest.fixture
def house(monkeypatch):
    """A user's module."""
    module = types.ModuleType("house")
    module.Hill, module.Pair, module.Counting, module.answer = Hill, Pair, CountingEnv, 42
    module.rooms = types.SimpleNamespace(Turn=TurnEnv)
    monkeypatch.setitem(sys.modules, "house", module)


def length_of(description):
    """How many steps an episode of it has, through the rollout's own vectorisation."""
    venv = vectorise(description, 2, 0)
    venv.reset(np.ones(2, bool))
    steps = 0
    while not venv.finished.any():
        venv.step({agent: np.zeros(2, int) for agent in venv.possible_agents})
        steps += 1
    assert venv.finished.all()
    return steps


@pytest.mark.parametrize(
    "env, config, agents, length",
    [
        (CountingEnv, {"length": 4}, ["agent"], 4),
        ("house:Counting", {"length": 4}, ["agent"], 4),
        ("house:rooms.Turn", {}, ["player_0", "player_1"], 5),
        (lambda length=6: CountingEnv(length), {}, ["agent"], 6),
        (Hill, {"height": 2}, ["agent"], 2),
        ("house:Hill", {}, ["agent"], 3),
        (Hill(height=7), {}, ["agent"], 7),
        (gymnasium.wrappers.TimeLimit(Hill(height=7), 4), {}, ["agent"], 4),
        (Pair, {"length": 3}, ["left", "right"], 3),
        ("house:Pair", {}, ["left", "right"], 2),
        (Pair(length=5), {}, ["left", "right"], 5),
        (functools.partial(Pair, length=4), {}, ["left", "right"], 4),
        (CountingEnv(length=3), {}, ["agent"], 3),
    ],
)
def test_any_environment_becomes_a_description(house, env, config, agents, length):
    description = describe_environment(env, config)
    assert description["possible_agents"] == agents and length_of(description) == length


def test_a_pettingzoo_module_is_an_environment():
    rps_v2 = pytest.importorskip("pettingzoo.classic.rps_v2")
    description = describe_environment(rps_v2, {"max_cycles": 4})
    assert description["possible_agents"] == ["player_0", "player_1"]
    assert length_of(description) == 4


def test_names_and_descriptions():
    described = describe_environment("gym/CartPole-v1", {"scenario_configs": {"sutton_barto_reward": True}})
    assert described["creator"] is GymEnv
    assert described["config"] == {"env_id": "CartPole-v1", "scenario_configs": {"sutton_barto_reward": True}}
    assert describe_environment(described) == described
    assert describe_environment({"creator": CountingEnv}) == describe(CountingEnv)
    partial = describe_environment({"creator": Hill, "config": {"height": 2}, "note": "mine"})
    assert length_of(partial) == 2 and partial["note"] == "mine" and partial["possible_agents"] == ["agent"]


@pytest.mark.parametrize(
    "env, config, message",
    [
        ("gymm/CartPole-v1", {}, r"unknown environment 'gymm/CartPole-v1': .*did you mean 'gym'\?"),
        ("CartPole-v1", {}, "did you mean 'gym/CartPole-v1'"),
        ("gymm/ale_py:ALE/Pong-v5", {}, r"unknown environment 'gymm/ale_py:ALE/Pong-v5': .*did you mean 'gym'\?"),
        ("gym", {}, "unknown environment 'gym': .*--list gym shows the names"),
        (":Hill", {}, "'' is not the name of a module"),
        (".house:Hill", {}, "'.house' is not the name of a module"),
        (types.ModuleType("empty"), {}, "the module empty has no 'parallel_env' and no 'env'"),
        (types.ModuleType("empty"), {"size": 3}, "the module empty has no 'parallel_env' and no 'env'"),
        ({}, {}, "needs a 'creator', this one has nothing"),
        ({"creator": 3}, {}, "3 gives a builtins.int, which is neither"),
        ("nowhere.at_all:Env", {}, "cannot import 'nowhere.at_all'"),
        ("json:loads", {}, "'env_config.s' is missing"),
        ("house:Hil", {}, "there is no 'Hil' in house: did you mean 'Hill'"),
        ("house:answer", {}, r"gives a builtins.int, which is neither .* gymnasium or pettingzoo"),
        ("house:Hill", {"hight": 3}, "unknown key 'env_config.hight': did you mean 'height'"),
        (Hill(), {"height": 3}, "made already"),
        (lambda size: CountingEnv(size), {}, "'env_config.size' is missing"),
        (describe(CountingEnv), {"length": 3}, "configuration in itself"),
        (object(), {}, "neither"),
    ],
)
def test_what_is_no_environment_is_refused(house, env, config, message):
    with pytest.raises(ConfigError, match=message):
        describe_environment(env, config)


@pytest.mark.parametrize("algorithm", [random_policy, ppo])
def test_a_box_of_whole_numbers_is_refused_for_actions(tmp_path, algorithm):
    class Whole(CountingEnv):
        @property
        def action_spaces(self):
            return {"agent": spaces.Box(0, 3, (1,), np.int32)}

    with pytest.raises(ConfigError, match=r"real.*Box\(0, 3, \(1,\), int32\)"):
        MARLScenario("whole", tmp_path, {"default": algorithm.ALGORITHM}, Whole)


def test_an_object_that_cannot_be_copied_is_refused():
    class Stuck(Hill):
        def __deepcopy__(self, memo):
            raise TypeError("it holds a window")

    with pytest.raises(ConfigError, match=r"cannot be copied \(it holds a window\): give the class"):
        describe_environment(Stuck())


def test_every_copy_is_its_own():
    description = describe_environment(Hill())
    first, second = (description["creator"]() for _ in range(2))
    assert isinstance(first, Environment) and first is not second
    assert first.reset()[1] == second.reset()[1] and first.step({"agent": 0})[1] != second.reset()[1]


@pytest.mark.parametrize(
    "env, name",
    [
        (CountingEnv, "fakes.CountingEnv"),
        (Hill, "test_environments.Hill"),
        (Hill(), "<test_environments.Hill object at "),
    ],
)
def test_the_configuration_says_what_the_environment_was(tmp_path, env, name):
    scenario = MARLScenario("named", tmp_path, {"default": random_policy.ALGORITHM}, env)
    with RunFolder(tmp_path / "run") as folder:
        folder.write_config(scenario.resolved_config())
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["env"].startswith(name)


@pytest.mark.parametrize("num_threads", [0, 1])
def test_a_foreign_object_trains_as_it_is(tmp_path, no_leaks, num_threads):
    scenario = MARLScenario(
        name="foreign",
        log_dir=tmp_path / "run",
        algorithms={"default": random_policy.ALGORITHM},
        env_description=Pair(length=4),
        training_config={"trainer_config": {"total_timesteps": 64}},
        rollout_config={"fragment_length": 32, "num_env_per_thread": 4, "num_threads": num_threads},
    )
    summary = run(scenario)
    assert summary["status"] == "completed" and summary["return_mean"] == 4.0


def test_the_command_line_takes_a_users_module(tmp_path, monkeypatch, capsys):
    (tmp_path / "yard.py").write_text("from fakes import CountingEnv\n\n\nclass Yard(CountingEnv):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command = ["marl", "--env", "yard:Yard", "--algorithm", "random", "--steps", "64", "--workers", "1"]
    assert main([*command, "--env_config.length", "3", "--rollout.fragment_length", "32"]) == 0
    assert "return" in capsys.readouterr().out
    (first,) = (tmp_path / "logs").iterdir()
    again = ["--config", str(first / "config.yaml"), "--logdir", str(tmp_path / "again")]
    assert main(again) == 2 and "--trust" in capsys.readouterr().err  # a file does not say whose it is
    assert main([*again, "--trust"]) == 0
    ours, theirs = ((folder / "metrics.jsonl").read_text().splitlines() for folder in (first, tmp_path / "again"))
    assert [without_times(line) for line in ours] == [without_times(line) for line in theirs] != []


def without_times(line):
    return {name: value for name, value in json.loads(line).items() if name != "time"}
