"""Our environments in the hands of others, and the official tests of their interfaces."""

import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pettingzoo
import pytest
from fakes import AGENT, CountingEnv, LoopEnv, MaskedEnv, TurnEnv
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import api_test, parallel_api_test

from malib_lite import registry
from malib_lite.config import ConfigError
from malib_lite.contracts.environment import Environment, TimeStep
from malib_lite.envs.export import to_aec_env, to_gymnasium, to_parallel_env

# Families that are not installed are skipped.
ONE_AGENT = ["gym/CartPole-v1", "gym/Taxi-v4", "gym/Blackjack-v1", "gym/Pendulum-v1", "mdp/multi_round_nmdp"]
TURN_BASED = ["open_spiel/kuhn_poker", "open_spiel/kuhn_poker(players=3)", "open_spiel/leduc_poker"]
TURN_BASED += ["open_spiel/tic_tac_toe", "open_spiel/pig", "open_spiel/backgammon"]
SIMULTANEOUS = ["open_spiel/goofspiel(num_cards=4)", "open_spiel/matrix_rps", "open_spiel/markov_soccer"]
SIMULTANEOUS += ["matrix/rock_paper_scissors", "matrix/prisoners_dilemma"]
TURN_BASED += ["pettingzoo/classic.connect_four_v3", "pettingzoo/classic.leduc_holdem_v4"]
SIMULTANEOUS += ["pettingzoo/mpe.simple_spread_v3", "pettingzoo/mpe.simple_crypto_v3", "pettingzoo/classic.rps_v2"]
SIMULTANEOUS += ["pettingzoo/butterfly.knights_archers_zombies_v11", "pettingzoo/sisl.multiwalker_v9"]
SIMULTANEOUS += ["lbf/Foraging-8x8-2p-3f-v3", "rware/rware-tiny-2ag-v2"]
SLOW = ["magent2/battle_v4", "mamujoco/HalfCheetah-2x3", "vmas/balance"]
SIMULTANEOUS += [pytest.param(env, marks=pytest.mark.slow) for env in SLOW]  # their packages take long to import
TUPLES = ["gym/Blackjack-v1"]  # PettingZoo's test asks observations for a dtype


def make(env: str) -> Environment:
    family, _, env_id = env.partition("/")
    try:
        module = registry.load(registry.ENVIRONMENTS, family, "family")
        description = module.env_desc_gen(env_id=env_id)
    except ConfigError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))
    return description["creator"](**description["config"])


@pytest.fixture(autouse=True)
def advice_is_not_asked_for():
    """The official tests warn of tastes: agents' names, infinite bounds, no specification."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("env", ONE_AGENT)
def test_gymnasiums_official_test(env):
    exported = to_gymnasium(make(env))
    assert isinstance(exported, gymnasium.Env)
    check_env(exported)
    exported.close()


@pytest.mark.parametrize("env", [env for env in ONE_AGENT + TURN_BASED + SIMULTANEOUS if env not in TUPLES])
def test_pettingzoos_official_test_agent_by_agent(env):
    exported = to_aec_env(make(env))
    assert isinstance(exported, pettingzoo.AECEnv)
    api_test(exported, num_cycles=100)
    exported.close()


@pytest.mark.parametrize("env", ONE_AGENT + SIMULTANEOUS)
def test_pettingzoos_official_test_in_parallel(env):
    exported = to_parallel_env(make(env))
    assert isinstance(exported, pettingzoo.ParallelEnv)
    parallel_api_test(exported, num_cycles=100)
    exported.close()


# -- in numbers -------------------------------------------------------------------------------------------------------


class FadingEnv(Environment):
    """Three agents that act together, see [steps so far] and earn their action.

    ``a_1`` is terminated in step 1, the others in step 3. In step 2 only ``a_2`` is to act. The state is [10 steps].
    """

    possible_agents = ["a_1", "a_2", "a_3"]
    observation_spaces = {agent: spaces.Box(0, 9, (1,), np.float64) for agent in possible_agents}
    action_spaces = {agent: spaces.Discrete(5) for agent in possible_agents}
    state_space = spaces.Box(0, 99, (1,), np.float64)

    def reset_episode(self, seed: int | None) -> TimeStep:
        self.count = 0
        return TimeStep(self.see(*self.possible_agents))

    def time_step(self, actions: Mapping[str, Any]) -> TimeStep:
        assert list(actions) == [["a_1", "a_2", "a_3"], ["a_2"], ["a_2", "a_3"]][self.count]
        self.count += 1
        seen = [["a_1", "a_2"], ["a_2", "a_3"], ["a_2", "a_3"]][self.count - 1]
        ended = [["a_1"], [], ["a_2", "a_3"]][self.count - 1]
        infos = {"a_2": {"at": self.count}}
        return TimeStep(
            self.see(*seen), {a: float(x) for a, x in actions.items()}, dict.fromkeys(ended, True), {}, infos
        )

    def env_done_check(self, step: TimeStep) -> bool:
        return self.count == 3

    def see(self, *agents: str) -> dict[str, np.ndarray]:
        return {agent: np.array([float(self.count)]) for agent in agents}

    def state(self) -> np.ndarray:
        return np.array([10.0 * self.count])


def test_agents_leave_and_wait_in_a_parallel_environment():
    env = to_parallel_env(FadingEnv())
    observations, infos = env.reset(seed=1)
    assert env.agents == ["a_1", "a_2", "a_3"] and observations == {a: [0.0] for a in env.agents}
    assert infos == {a: {} for a in env.agents} and env.state() == [0.0] and env.state_space.shape == (1,)
    observations, rewards, terminated, truncated, infos = env.step({"a_1": 1, "a_2": 2, "a_3": 3})
    assert observations == {"a_1": [1.0], "a_2": [1.0], "a_3": [0.0]}  # a_3 is not asked, and sees what it saw
    assert rewards == {"a_1": 1.0, "a_2": 2.0, "a_3": 3.0} and infos == {"a_1": {}, "a_2": {"at": 1}, "a_3": {}}
    assert terminated == {"a_1": True, "a_2": False, "a_3": False} and not any(truncated.values())
    assert env.agents == ["a_2", "a_3"] and env.state() == [10.0]
    observations, rewards, terminated, *_ = env.step({"a_2": 4, "a_3": 4})
    assert observations == {"a_2": [2.0], "a_3": [2.0]} and rewards == {"a_2": 4.0, "a_3": 0.0}
    assert env.agents == ["a_2", "a_3"]
    observations, rewards, terminated, *_ = env.step({"a_2": 1, "a_3": 0})
    assert rewards == {"a_2": 1.0, "a_3": 0.0} and all(terminated.values()) and env.agents == []
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step({})
    env.reset()
    assert len(env.agents) == 3
    parallel_api_test(to_parallel_env(FadingEnv()))


def test_agents_that_act_together_are_asked_one_after_another():
    env = to_aec_env(FadingEnv())
    env.reset()
    asked = []
    for agent in env.agent_iter():
        observation, reward, terminated, truncated, _ = env.last()
        asked.append((agent, observation.item(), reward, terminated or truncated))
        env.step(None if terminated or truncated else int(agent[-1]))
    assert asked == [
        *[("a_1", 0, 0, False), ("a_2", 0, 0, False), ("a_3", 0, 0, False)],
        ("a_1", 1, 1, True),  # leaves at once
        ("a_2", 1, 2, False),
        *[("a_2", 2, 2, False), ("a_3", 2, 3, False)],
        *[("a_2", 3, 2, True), ("a_3", 3, 3, True)],
    ]
    assert env.agents == []
    api_test(to_aec_env(FadingEnv()))


def test_rewards_between_turns_are_kept():
    env = to_aec_env(TurnEnv(length=5))
    env.reset()
    rows: dict[str, list[list[Any]]] = {"player_0": [], "player_1": []}
    played = []
    for k, agent in enumerate(env.agent_iter()):
        observation, reward, terminated, _, _ = env.last()
        if rows[agent]:
            rows[agent][-1].append(reward)
        if terminated:
            env.step(None)
            continue
        played.append(k % 3)
        rows[agent].append([observation.tolist(), played[-1]])
        env.step(played[-1])
    expected = TurnEnv.decisions(played)
    assert {agent: [tuple(row) for row in rows[agent]] for agent in rows} == expected


def test_masks_are_observed_with_pettingzoo_and_told_to_gymnasium():
    for exported in (to_aec_env(MaskedEnv()), to_parallel_env(MaskedEnv())):
        observed = exported.observation_space(AGENT)
        assert observed["observation"] == MaskedEnv().observation_spaces[AGENT]
        assert observed["action_mask"] == spaces.Box(0, 1, (3,), np.int8)
    env = to_aec_env(MaskedEnv(length=2))
    env.reset()
    masks = []
    for _ in env.agent_iter():
        observation, _, terminated, *_ = env.last()
        assert env.observation_space(AGENT).contains(observation)
        masks.append(observation["action_mask"].tolist())
        env.step(None if terminated else env.action_space(AGENT).sample(observation["action_mask"]))
    assert masks == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    env = to_gymnasium(MaskedEnv())
    observation, info = env.reset()
    assert observation.tolist() == [0] and info["action_mask"].tolist() == [0, 1, 1]
    assert env.step(1)[-1]["action_mask"].dtype == np.int8
    late = to_aec_env(MaskedEnv(first_mask=1))
    late.reset()
    with pytest.raises(RuntimeError, match="MaskedEnv gives action masks, but gave none with its first observation"):
        late.step(0)


def test_ends_are_told_apart():
    def ends(env: Environment, max_step: int | None) -> tuple[int, list[bool]]:
        exported = to_gymnasium(env, max_step)
        exported.reset()
        for t in range(1, 100):
            _, reward, *flags, _ = exported.step(0)
            assert reward == (t if isinstance(env, CountingEnv) else 1)
            if any(flags):
                return t, flags
        raise AssertionError

    assert ends(CountingEnv(4), None) == ends(CountingEnv(4), 4) == (4, [True, False])
    assert ends(CountingEnv(4), 3) == ends(LoopEnv(), 3) == (3, [False, True])
    env = to_parallel_env(LoopEnv(), max_step=2)
    env.reset()
    assert env.step({AGENT: 0})[2:4] == ({AGENT: False}, {AGENT: False})
    assert env.step({AGENT: 0})[2:4] == ({AGENT: False}, {AGENT: True}) and env.agents == []
    turns = to_aec_env(TurnEnv(), max_step=3)
    turns.reset()
    for _ in range(3):
        turns.step(0)
    assert turns.truncations == {"player_0": True, "player_1": True} and not any(turns.terminations.values())


def test_episodes_repeat_with_their_seed():
    def play(seed: int) -> list[list[float]]:
        env = to_gymnasium(make("gym/CartPole-v1"))
        seen = []
        for begin in (seed, None):
            seen.append(env.reset(seed=begin)[0].tolist())
            env.step(0)
        return seen

    assert play(3) == play(3) != play(4)
    assert play(3)[0] == gymnasium.make("CartPole-v1").reset(seed=3)[0].tolist()


def test_what_the_other_interface_cannot_express_is_refused():
    with pytest.raises(ConfigError, match=r"TurnEnv is turn-based \(player_1 is not to act.*use to_aec_env"):
        to_parallel_env(TurnEnv())
    with pytest.raises(ConfigError, match=r"leduc_poker is turn-based"):
        to_parallel_env(make("open_spiel/leduc_poker"))
    with pytest.raises(ConfigError, match=r"FadingEnv has 3 agents.*use to_aec_env or to_parallel_env"):
        to_gymnasium(FadingEnv())


class LateGroupMasks(Environment):
    """One agent with two choices to make, as groups have, and a mask for them from the second step on."""

    possible_agents = ["team"]
    observation_spaces = {"team": spaces.Discrete(4)}
    action_spaces = {"team": spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2))}

    def reset_episode(self, seed):
        self.t = 0
        return TimeStep({"team": 0})

    def time_step(self, actions):
        self.t += 1
        masks = {"team": np.array([True, False, True, True])}
        return TimeStep({"team": self.t}, {"team": 1.0}, {"team": self.t == 3}, action_masks=masks)


def test_masks_that_pettingzoo_does_not_know_may_come_late():
    env = to_parallel_env(LateGroupMasks())
    parallel_api_test(env, 10)
