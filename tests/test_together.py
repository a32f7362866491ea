"""All agents as one: fully centralised training, by one policy that plays everybody."""

import json

import numpy as np
import pytest
from fakes import TurnEnv
from gymnasium import spaces

from malib_lite.config import ConfigError
from malib_lite.environments import describe_environment
from malib_lite.envs import Environment, SingleChoice, TimeStep, check_env, together
from malib_lite.train import main


class Parts(Environment):
    """One agent, whose action has two parts; what was done is told."""

    possible_agents = ["agent"]
    observation_spaces = {"agent": spaces.Box(0.0, 9.0, (2,), np.float32)}
    action_spaces = {"agent": spaces.MultiDiscrete([3, 2])}

    def __init__(self, mask=None, action_space=None):
        super().__init__()
        self.mask = mask
        if action_space is not None:
            self.action_spaces = {"agent": action_space}

    def reset_episode(self, seed):
        masks = {} if self.mask is None else {"agent": np.array(self.mask, bool)}
        return TimeStep({"agent": np.zeros(2, np.float32)}, action_masks=masks)

    def time_step(self, actions):
        self.done = actions["agent"]
        assert self.action_spaces["agent"].contains(self.done)
        return TimeStep({"agent": np.zeros(2, np.float32)}, {"agent": 0.0}, {"agent": True})


def test_every_combination_is_one_choice():
    env = SingleChoice(Parts())
    assert env.action_spaces == {"agent": spaces.Discrete(6)}
    for action, parts in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]):
        env.begin(seed=0)
        env.advance({"agent": action})
        assert tuple(env.env.done) == parts


def test_a_combination_is_legal_where_its_parts_are():
    step = SingleChoice(Parts(mask=[1, 0, 1, 0, 1])).begin(seed=0)
    assert step.action_masks["agent"].tolist() == [False, True, False, False, False, True]
    assert SingleChoice(Parts()).begin(seed=0).action_masks == {}


@pytest.mark.parametrize(
    ("space", "size", "last"),
    [
        (spaces.Discrete(3, start=2), 3, 4),
        (spaces.MultiBinary(2), 4, np.array([1, 1], np.int8)),
        (spaces.Tuple([spaces.Discrete(2), spaces.MultiDiscrete([2, 3])]), 12, (1, np.array([1, 2]))),
    ],
    ids=str,
)
def test_all_that_is_discrete_can_be_combined(space, size, last):
    env = SingleChoice(Parts(action_space=space))
    assert env.action_spaces["agent"].n == size
    env.begin(seed=0)
    env.advance({"agent": size - 1})
    assert str(env.env.done) == str(last)


@pytest.mark.parametrize(
    ("space", "words"),
    [(spaces.Box(-1, 1, (2,)), r"'agent'.*Box.*no choices"), (spaces.MultiDiscrete([30] * 3), r"27,000 .*10,000")],
    ids=str,
)
def test_what_cannot_be_combined_is_refused(space, words):
    with pytest.raises(ConfigError, match=words):
        SingleChoice(Parts(action_space=space))


@pytest.mark.parametrize("single_choice", [False, True])
@pytest.mark.parametrize("env", ["matrix/two_step", "open_spiel/kuhn_poker", TurnEnv], ids=str)
def test_all_agents_of_any_environment_are_one(env, single_choice):
    description = describe_environment(together, {"env": env, "single_choice": single_choice})
    assert description["possible_agents"] == ["team"]
    assert isinstance(description["action_spaces"]["team"], spaces.Discrete) == single_choice
    check_env(together, config={"env": env, "single_choice": single_choice})


def test_mistakes_inside_are_told():
    with pytest.raises(ConfigError, match="did you mean 'climbing'"):
        together("matrix/clmbing")
    with pytest.raises(ConfigError, match="round"):
        together("matrix/climbing", round=3)


@pytest.mark.parametrize("learning_rate", [5e-3, 0.0])
def test_one_policy_finds_the_optimum(tmp_path, learning_rate):
    """The optimum of the climbing game, 11 for each, is next to what costs 30 as soon as one agent errs."""
    command = ["marl", "--env", "malib_lite.envs:together", "--algorithm", "dqn", "--steps", "600", "--workers", "0"]
    options = {
        "env_config.env": "matrix/climbing", "env_config.rounds": 1, "env_config.single_choice": True, "seed": 1,
        "trainer.learning_rate": learning_rate, "trainer.batch_size": 32, "trainer.learning_starts": 100,
        "rollout.num_eval_episodes": 2, "logdir": tmp_path / "run",
    }  # fmt: skip
    assert main([*command, "--quiet", *(f"--{key}={value}" for key, value in options.items())]) == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["return_mean"]
    assert (found == 22.0) == (learning_rate > 0)
