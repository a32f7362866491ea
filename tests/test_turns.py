"""Players who hardly ever get a turn, or none: nobody plays on and on for their sake."""

import json

import numpy as np
import pytest
from fakes import finish
from gymnasium import spaces
from test_sampler import make

from malib_lite import train
from malib_lite.contracts.environment import Environment, TimeStep, describe


class Seldom(Environment):
    """Episodes of ``length`` steps; "a" moves in each of them, "b" in every ``every``-th alone; 0: never."""

    possible_agents = ["a", "b"]
    observation_spaces = {agent: spaces.Box(-1.0, 1.0, (1,), np.float32) for agent in possible_agents}
    action_spaces = {agent: spaces.Discrete(2) for agent in possible_agents}

    def __init__(self, every=0, length=5):
        super().__init__(every=every, length=length)
        self.every, self.length, self.count, self.of_all = every, length, 0, 0

    def see(self, over):
        turn = self.every and self.of_all % self.every == self.every - 1
        agents = ["b"] if turn and not over else self.possible_agents if over else ["a"]
        return {agent: np.zeros(1, np.float32) for agent in agents}

    def reset_episode(self, seed):
        self.count = 0
        return TimeStep(self.see(False))

    def time_step(self, actions):
        self.count += 1
        self.of_all += 1
        over, reward = self.count >= self.length, float(actions.get("a", 0))
        flags = dict.fromkeys(self.possible_agents, over)
        return TimeStep(self.see(over), {"a": reward, "b": -reward}, flags)


class Idle:
    """A pool whose members do not matter."""

    ids = ("idle",)

    def __init__(self, num_envs):
        self.drawn = np.zeros(num_envs, np.int64)

    def draw(self, mask): ...

    def act(self, agent, view, rows):
        return np.zeros(len(rows), np.int64)


def fragment(every, whole_episodes, num_decisions=10, length=5):
    """Steps that a fragment of the learner "b" takes in one environment, and its rows."""
    sampler, rings = make(describe(Seldom, every=every, length=length), ["b"], 1, num_decisions, whole_episodes)
    sampler.use_pools({"a": Idle(1)})
    rows = finish(sampler.play({"b": rings["b"].try_reserve()}))
    return sampler.books.env_steps, rows["b"]


@pytest.mark.parametrize("whole_episodes", [False, True])
def test_without_any_turn_a_fragment_has_as_many_steps_as_decisions_were_asked_for(whole_episodes):
    assert fragment(0, whole_episodes) == (10, 0)


def test_whole_episodes_are_played_to_their_end():
    steps, rows = fragment(0, True, length=13)
    assert (steps, rows) == (13, 0)


@pytest.mark.parametrize("whole_episodes", [False, True])
@pytest.mark.parametrize("every", [3, 9])
def test_whoever_gets_turns_gets_what_was_asked_for(every, whole_episodes):
    steps, rows = fragment(every, whole_episodes)
    assert rows == 10 and 10 * every <= steps <= 10 * every + 5


@pytest.mark.parametrize("whole_episodes", [False, True])
def test_whoever_hardly_gets_any_keeps_nobody_for_more_than_twenty_steps_each(whole_episodes):
    steps, rows = fragment(50, whole_episodes, num_decisions=60)
    assert steps == 20 * 60 and rows == steps // 50


@pytest.mark.parametrize(
    "scenario, algorithm",
    [("psro", "ppo"), ("psro", "dqn"), ("self_play", "ppo"), ("league", "ppo"), ("nfsp", "dqn"), ("marl", "ppo")],
)
def test_a_player_without_a_turn_costs_the_steps_that_were_asked_for(scenario, algorithm, tmp_path):
    arguments = [
        scenario, "--env", f"{__name__}:Seldom", "--algorithm", algorithm, "--steps", "300", "--workers", "0",
        "--rollout.num_env_per_thread", "1", "--rollout.fragment_length", "20", "--logdir", str(tmp_path / "run"),
    ]  # fmt: skip
    if scenario not in ("marl", "nfsp"):
        arguments += ["--iterations", "1"]
    assert train.main(arguments) == 0
    steps = json.loads((tmp_path / "run" / "summary.json").read_text())["env_steps"]
    learners = {"marl": 1, "nfsp": 1, "league": 6}.get(scenario, 2)
    assert 300 <= steps <= learners * 300
