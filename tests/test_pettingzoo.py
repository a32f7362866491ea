"""The PettingZoo adapter: masks, agents that come and go, rewards between turns, seeding, and every scenario."""

import importlib
import itertools
import os
import pkgutil
import sys

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import parallel_to_aec

from malib_lite.config import ConfigError
from malib_lite.envs.pettingzoo import PettingZooEnv, adapt, env_desc_gen, env_ids
from malib_lite.envs.pettingzoo.scenario_configs_ref import SCENARIO_CONFIGS
from malib_lite.rollout.vector_env import DictVectorEnv, EnvironmentFault

PACKAGES = {"mpe": "mpe2"} | {d: f"pettingzoo.{d}" for d in ("atari", "butterfly", "classic", "sisl")}
NEEDS = {"atari": "multi_agent_ale_py", "butterfly": "pymunk", "classic": "rlcard", "mpe": "mpe2", "sisl": "Box2D"}


def made(env_id, **scenario_configs):
    """A PettingZooEnv, or a skip where the domain is not installed."""
    pytest.importorskip(NEEDS[env_id.partition(".")[0]])
    return PettingZooEnv(env_id=env_id, scenario_configs=scenario_configs)


def choose(env, step, rng):
    """A random legal action of each agent that is observed and has one."""
    actions = {}
    for agent in step.observations:
        mask, space = step.action_masks.get(agent), env.action_spaces[agent]
        if mask is None:
            actions[agent] = (
                int(rng.integers(space.n))
                if isinstance(space, spaces.Discrete)
                else rng.uniform(space.low, space.high).astype(space.dtype)
            )
        elif mask.any():
            actions[agent] = int(rng.choice(np.flatnonzero(mask)))
    return actions


def episode(env, rng=0, **begin):
    """The steps of one random episode and the actions that led from each to the next."""
    rng = np.random.default_rng(rng)
    steps, played = [env.begin(**begin)], []
    while not env.finished:
        played.append(choose(env, steps[-1], rng))
        steps.append(env.advance(played[-1]))
    return steps, played


def plain(steps):
    """What can be compared of steps."""
    return [(s.observations, s.rewards, s.terminated, s.truncated, s.action_masks) for s in steps]


class Relay(ParallelEnv):
    """Three runners: ``a`` runs 3 steps and is terminated, ``b`` all 5 and is truncated, ``c`` joins after 2.

    Observation: [steps so far]. Reward: the action, plus 100 for ``a`` at its end. Masks come in infos: the number
    of the step so far is illegal.
    """

    metadata = {"name": "relay_v0", "render_modes": ["ansi"]}
    render_mode = None
    possible_agents = ["a", "b", "c"]

    def __init__(self, breach=None):
        self.breach = breach
        self.seeds, self.num_closed = [], 0

    def observation_space(self, agent):
        return spaces.Box(0.0, 10.0, (1,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(5)

    def see(self, agents):
        mask = np.ones(5, np.int8)
        mask[self.t % 5] = 0
        observations = {agent: np.array([self.t], np.float32) for agent in agents}
        return observations, {agent: {"action_mask": mask.copy()} for agent in agents}

    def reset(self, seed=None, options=None):
        self.seeds.append(seed)
        self.t, self.agents = 0, ["a", "b"]
        return self.see(self.agents)

    def step(self, actions):
        assert set(actions) == set(self.agents)
        acted, self.t = list(self.agents), self.t + 1
        rewards = {agent: float(actions[agent]) for agent in acted}
        terminated, truncated = dict.fromkeys(acted, False), dict.fromkeys(acted, self.t == 5)
        if self.t == 2:
            self.agents = [*self.agents, "c"]
        if self.t == 3:
            rewards["a"] += 100.0
            terminated["a"] = self.breach != "silent"
            self.agents = ["b", "c"]
        if self.t == 4 and self.breach == "revenant":
            self.agents = ["a", "b", "c"]
        if self.t == 5:
            self.agents = []
        observations, infos = self.see(dict.fromkeys([*acted, *self.agents]))
        if self.breach == "blind":
            observations.pop("b")
        return observations, rewards, terminated, truncated, infos

    def close(self):
        self.num_closed += 1


def test_agents_of_a_parallel_environment_end_and_join():
    env = adapt(Relay())
    assert env.parallel_simulate and env.possible_agents == ["a", "b", "c"] and env.state() is env.state_space is None
    step = env.begin(seed=0)
    assert list(step.observations) == ["a", "b"] and not env.finished
    np.testing.assert_equal(step.action_masks["a"], [False, True, True, True, True])
    step = env.advance({"a": 1, "b": 2})
    assert dict(step.rewards) == {"a": 1.0, "b": 2.0}
    step = env.advance({"a": 2, "b": 3})
    assert list(step.observations) == ["a", "b", "c"]
    step = env.advance({"a": 3, "b": 0, "c": 4})
    assert dict(step.rewards) == {"a": 103.0, "b": 0.0, "c": 4.0}
    assert step.terminated["a"] and not step.truncated["a"] and step.observations["a"] == 3  # its last
    step = env.advance({"a": 0, "b": 1, "c": 2})  # nobody asks the one that has ended
    assert list(step.observations) == ["b", "c"] and not env.finished
    step = env.advance({"b": 1, "c": 2})
    assert env.finished and not any(step.terminated.values()) and dict(step.truncated) == {"b": True, "c": True}
    assert step.observations["b"] == step.observations["c"] == 5
    assert env.episode_returns == {"a": 106.0, "b": 7.0, "c": 8.0}


class Both(ParallelEnv):
    """One agent that PettingZoo calls terminated and truncated at once, as MAgent2 does."""

    metadata = {"name": "both"}
    possible_agents = ["a"]

    def observation_space(self, agent):
        return spaces.Discrete(2)

    action_space = observation_space

    def reset(self, seed=None, options=None):
        self.agents = ["a"]
        return {"a": 0}, {"a": {}}

    def step(self, actions):
        self.agents = []
        return {"a": 1}, {"a": 1.0}, {"a": True}, {"a": True}, {"a": {}}


@pytest.mark.parametrize("convert", [lambda env: env, parallel_to_aec])
def test_who_is_terminated_is_not_truncated_too(convert):
    env = adapt(convert(Both()))
    env.begin(seed=0)
    step = env.advance({"a": 0})
    assert env.finished and dict(step.terminated) == {"a": True} and dict(step.truncated) == {"a": False}


def test_the_rollout_sees_who_acts_and_what_is_legal():
    venv = DictVectorEnv(lambda: adapt(Relay()), {}, [1, 2], max_step=4)
    views = venv.reset(np.ones(2, bool))
    acting, flags = [], []
    while not venv.finished.all():
        acting.append([agent for agent, view in views.items() if view.acting.all()])
        legal = {agent: view.action_mask for agent, view in views.items()}
        views = venv.step({agent: np.full(2, 1 if mask is None else mask[0].argmax()) for agent, mask in legal.items()})
        flags.append({agent: (bool(v.terminated[0]), bool(v.truncated[0])) for agent, v in views.items()})
    assert acting == [["a", "b"], ["a", "b"], ["a", "b", "c"], ["b", "c"]]
    assert flags[2] == {"a": (True, False), "b": (False, False), "c": (False, False)}
    assert flags[3] == {"a": (False, False), "b": (False, True), "c": (False, True)}  # our time limit
    assert views["a"].observation[0] == 3 and views["b"].observation[0] == 4


@pytest.mark.parametrize(
    "breach, message",
    [
        ("silent", "'a' left 'agents' but is neither terminated nor truncated"),
        ("revenant", "'a' is back in 'agents'"),
        ("blind", "'b' is in 'agents', so it must act, but it has no observation"),
    ],
)
def test_breaches_of_pettingzoos_rules_are_named(breach, message):
    env = adapt(Relay(breach))
    with pytest.raises(RuntimeError, match=message):
        episode(env, seed=0)
    with pytest.raises(EnvironmentFault, match=message):
        venv = DictVectorEnv(lambda: adapt(Relay(breach)), {}, [0])
        venv.reset(np.ones(1, bool))
        for _ in range(5):
            venv.step({agent: np.zeros(1, int) for agent in "abc"})


class Idle(Relay):
    """A Relay that flags its agents when it is over, but never takes them off the list."""

    def step(self, actions):
        self.t += 1
        observations, infos = self.see(self.agents)
        no = dict.fromkeys(self.agents, False)
        return observations, dict.fromkeys(self.agents, 1.0), no, dict.fromkeys(self.agents, self.t == 3), infos


def test_agents_that_are_flagged_have_ended_though_the_environment_lists_them():
    env = adapt(Idle())
    steps, _ = episode(env, seed=0)
    assert len(steps) == 4 and steps[-1].truncated == {"a": True, "b": True}


class Market(AECEnv):
    """Players p, q, r in turn. A move of value v pays 10 v to the mover and v to everybody else, at once.

    ``q`` is terminated by its second move, and everybody else is truncated when ``r`` has moved for the third time.
    The observation has a clock, the number of moves so far, and a mask that forbids action 0.
    """

    metadata = {"name": "market_v0"}
    possible_agents = ["p", "q", "r"]

    def __init__(self, stuck=False):
        super().__init__()
        self.stuck = stuck

    def observation_space(self, agent):
        parts = {"clock": spaces.Box(0, 99, (1,), np.int64), "last": spaces.Discrete(4)}
        return spaces.Dict({**parts, "action_mask": spaces.Box(0, 1, (4,), np.int8)})

    def action_space(self, agent):
        return spaces.Discrete(4)

    def observe(self, agent):
        return {"clock": np.array([self.clock]), "last": self.value, "action_mask": np.array([0, 1, 1, 1], np.int8)}

    def reset(self, seed=None, options=None):
        self.clock = self.value = 0
        self.agents = list(self.possible_agents)
        self.agent_selection = "p"
        self.rewards, self._cumulative_rewards = dict.fromkeys(self.agents, 0.0), dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos = {agent: {"name": agent} for agent in self.agents}
        self.moves = dict.fromkeys(self.agents, 0)

    def step(self, action):
        mover = self.agent_selection
        if self.terminations[mover] or self.truncations[mover]:
            if not self.stuck:
                self._was_dead_step(action)
            return
        self.clock, self.value = self.clock + 1, action
        self.moves[mover] += 1
        self._cumulative_rewards[mover] = 0.0
        for agent in self.agents:
            self.rewards[agent] = (10.0 if agent == mover else 1.0) * action
        self._accumulate_rewards()
        if self.moves["q"] == 2 and mover == "q":
            self.terminations["q"] = True
        if self.moves["r"] == 3:
            self.truncations = dict.fromkeys(self.agents, True)
        order = [agent for agent in self.agents if not self.terminations[agent]]
        after = [agent for agent in order if agent > mover]
        self.agent_selection = (after or order)[0]
        self._deads_step_first()

    def state(self):
        return np.array([self.clock, self.value], np.int32)


def test_an_aec_environment_is_one_decision_a_step_and_pays_everybody_once():
    env = adapt(Market())
    assert not env.parallel_simulate
    assert env.observation_spaces["p"] == spaces.Dict(
        {"clock": spaces.Box(0, 99, (1,), np.int64), "last": spaces.Discrete(4)}
    )
    assert env.state_space == spaces.Box(-np.inf, np.inf, (2,), np.int32)
    step, movers, expected = env.begin(seed=0), [], {"p": 0.0, "q": 0.0, "r": 0.0}
    while not env.finished:
        (mover,) = (agent for agent in step.observations if not step.terminated.get(agent))
        movers.append(mover)
        assert set(step.observations[mover]) == {"clock", "last"} and step.infos[mover] == {"name": mover}
        np.testing.assert_equal(step.action_masks[mover], [False, True, True, True])
        value = 1 + env.cnt % 3
        for agent in "pqr" if env.cnt < 5 else "pr":  # q has left by then
            expected[agent] += (10 if agent == mover else 1) * value
        step = env.advance({mover: value, "p": value})
        np.testing.assert_equal(env.state(), [env.cnt, value])
        if env.cnt == 5:  # the second move of q
            assert step.terminated == {"q": True} and step.truncated == {"q": False}
            assert list(step.observations) == ["q", "r"] and step.observations["q"]["clock"] == 5
    assert movers == ["p", "q", "r", "p", "q", "r", "p", "r"]
    assert step.terminated == {"p": False, "r": False} and step.truncated == {"p": True, "r": True}
    assert set(step.observations) == {"p", "r"} and step.observations["r"]["clock"] == 8
    assert env.episode_returns == expected


class PaysLearnersAlone(Market):
    """The market, whose ``rewards`` stay zero: only what ``last()`` hands out has been earned."""

    def step(self, action):
        super().step(action)
        self.rewards = dict.fromkeys(self.agents, 0.0)


class TellsLater(PaysLearnersAlone):
    """Adds a bonus that only ``last()`` shows."""

    def last(self, observe=True):
        observation, reward, *rest = super().last(observe)
        return observation, reward + 0.5, *rest


@pytest.mark.parametrize("kind", [Market, PaysLearnersAlone, TellsLater])
def test_rewards_are_those_that_last_hands_to_a_learner(kind):
    zoo, values, expected = kind(), itertools.cycle([1, 3, 2, 1]), dict.fromkeys("pqr", 0.0)
    zoo.reset(seed=0)
    acted = set()
    for agent in zoo.agent_iter():
        _, reward, terminated, truncated, _ = zoo.last()
        if agent in acted or kind is not TellsLater:  # before it has acted, TellsLater's bonus is for nothing
            expected[agent] += reward
        else:
            expected[agent] += reward - (0.5 if agent == "p" else 0.0)  # the first turn's comes with the reset
        acted.add(agent)
        zoo.step(None if terminated or truncated else next(values))
    env, values = adapt(kind()), itertools.cycle([1, 3, 2, 1])
    step = env.begin(seed=0)
    assert not step.rewards
    while not env.finished:
        (mover,) = (agent for agent in step.observations if not step.terminated.get(agent))
        step = env.advance({mover: next(values)})
    assert env.episode_returns == expected


def test_pending_rewards_are_paid_when_the_time_is_up():
    env = adapt(Market())
    step = env.begin(seed=0, max_step=2)
    for value in (2, 3):
        step = env.advance({next(iter(step.observations)): value})
    assert env.finished and step.truncated == {"p": True, "q": True, "r": True}
    assert env.episode_returns == {"p": 23.0, "q": 32.0, "r": 5.0}  # r never had a turn


def test_an_agent_that_does_not_leave_is_an_error_not_an_endless_loop():
    env = adapt(Market(stuck=True))
    with pytest.raises(RuntimeError, match="'q' was over and was stepped with None, but did not leave"):
        episode(env, seed=0)


class Switches(Relay):
    """Masks of a MultiDiscrete: one for each part, within the observation."""

    possible_agents = ["a"]

    def observation_space(self, agent):
        masks = spaces.Tuple([spaces.MultiBinary(2), spaces.MultiBinary(3)])
        return spaces.Dict({"observation": spaces.Discrete(4), "action_mask": masks})

    def action_space(self, agent):
        return spaces.MultiDiscrete([2, 3])

    def reset(self, seed=None, options=None):
        self.agents = ["a"]
        return {"a": {"observation": 3, "action_mask": (np.array([1, 0]), np.array([0, 1, 1]))}}, {"a": {}}


def test_masks_of_several_parts_are_joined():
    env = adapt(Switches())
    step = env.begin()
    assert env.observation_spaces == {"a": spaces.Discrete(4)} and step.observations == {"a": 3}
    np.testing.assert_equal(step.action_masks["a"], [True, False, False, True, True])


def test_every_episode_gets_a_seed_and_they_are_repeated_and_resumed():
    def seeds(env, *resets):
        for seed in resets:
            env.begin(seed=seed)
        return env._env.seeds[-len(resets) :]

    first = seeds(adapt(Relay()), 7, None, None, None)
    assert first[0] == 7 and len(set(first)) == 4 and None not in first
    assert seeds(adapt(Relay()), 7, None, None, None) == first
    assert seeds(adapt(Relay()), 8, None, None, None)[1:] != first[1:]
    assert seeds(adapt(Relay()), None) != seeds(adapt(Relay()), None)  # unseeded: from the system's entropy
    env = adapt(Relay())
    seeds(env, 7, None)
    later = adapt(Relay())
    later.load_state_dict(env.state_dict())
    assert seeds(later, None, None) == first[2:]


def test_a_rollout_goes_on_where_its_saved_state_stood():
    pytest.importorskip("mpe2")

    def returns(venv, episodes):
        rows = []
        for _ in range(episodes):
            views = venv.reset(np.ones(2, bool))
            total = 0.0
            while not venv.finished.all():
                total = total + views["agent_0"].reward
                views = venv.step({agent: np.zeros(2, int) for agent in venv.possible_agents})
            rows.append(total)
        return np.array(rows)

    config = {"env_id": "mpe.simple_spread_v3", "scenario_configs": {"max_cycles": 5}}
    whole = returns(DictVectorEnv(PettingZooEnv, config, [3, 4]), 4)
    assert len(np.unique(whole)) == 8
    half = DictVectorEnv(PettingZooEnv, config, [3, 4])
    np.testing.assert_equal(returns(half, 2), whole[:2])
    rest = DictVectorEnv(PettingZooEnv, config, [3, 4])
    rest.load_state_dict(half.state_dict())
    np.testing.assert_equal(returns(rest, 2), whole[2:])


def bare(env_id, constructor, **keywords):
    domain, _, scenario = env_id.partition(".")
    module = importlib.import_module(f"{PACKAGES[domain]}.{scenario}")
    return getattr(module, constructor)(**keywords)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "env_id, configs",
    [
        ("mpe.simple_spread_v3", {}),
        ("mpe.simple_world_comm_v3", {"continuous_actions": True}),
        ("butterfly.knights_archers_zombies_v11", {"spawn_delay": 2, "max_zombies": 30}),
        ("classic.rps_v2", {}),
        ("sisl.multiwalker_v9", {}),
    ],
)
def test_a_parallel_episode_is_pettingzoos_own(env_id, configs):
    env = made(env_id, **configs)
    zoo = bare(env_id, "parallel_env", **configs)
    assert env.parallel_simulate
    steps, played = episode(env, seed=3, max_step=300)
    observations, _ = zoo.reset(seed=3)
    np.testing.assert_equal(steps[0].observations, observations)
    counts = []
    for step, actions in zip(steps[1:], played, strict=True):
        counts.append(len(zoo.agents))
        observations, rewards, terminated, truncated, _ = zoo.step({agent: actions[agent] for agent in zoo.agents})
        np.testing.assert_equal(step.observations, observations)
        assert step.rewards == rewards and step.terminated == terminated and step.truncated == truncated
    assert not zoo.agents
    if "zombies" in env_id:
        assert len(set(counts)) > 1  # some died while others went on


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "env_id, configs",
    [
        ("classic.connect_four_v3", {}),
        ("classic.leduc_holdem_v4", {}),
        ("classic.texas_holdem_v4", {"num_players": 3}),
        ("classic.hanabi_v5", {}),
        ("classic.rps_v2", {}),
        ("mpe.simple_tag_v3", {}),
        ("butterfly.knights_archers_zombies_v11", {"spawn_delay": 2, "max_zombies": 30}),
    ],
)
def test_an_episode_in_turns_is_pettingzoos_own(env_id, configs):
    env = made(env_id, parallel_simulate=False, **configs)
    zoo = bare(env_id, "env", **configs)
    assert not env.parallel_simulate
    for seed in range(3):
        steps, played = episode(env, seed=seed)
        zoo.reset(seed=seed)
        earned, seen, ended = dict.fromkeys(zoo.possible_agents, 0.0), 0, {}
        for agent in zoo.agent_iter():
            observation, reward, terminated, truncated, _ = zoo.last()
            earned[agent] += reward
            shown = steps[seen]
            if terminated or truncated:
                ended[agent] = (terminated, truncated, observation)
                zoo.step(None)
                continue
            mask = shown.action_masks.get(agent)
            if isinstance(observation, dict):
                np.testing.assert_equal(mask, observation["action_mask"].astype(bool))
                observation = observation["observation"]
            np.testing.assert_equal(shown.observations[agent], observation)
            zoo.step(played[seen][agent])
            seen += 1
        assert seen == len(played)
        for agent, total in earned.items():
            assert sum(step.rewards.get(agent, 0.0) for step in steps) == pytest.approx(total, abs=1e-9)
        flags = {a: (s.terminated[a], s.truncated[a], s.observations[a]) for s in steps for a in s.terminated}
        assert set(flags) == set(ended) == set(zoo.possible_agents)
        for agent, (terminated, truncated, observation) in ended.items():
            assert flags[agent][:2] == (terminated, truncated)
            final = observation["observation"] if isinstance(observation, dict) else observation
            np.testing.assert_equal(flags[agent][2], final)


def cheap(env_id):
    return not env_id.startswith("atari") or env_id in ("atari.pong_v3", "atari.warlords_v3")


@pytest.mark.parametrize(
    "env_id", [pytest.param(i, marks=() if cheap(i) else pytest.mark.slow) for i in sorted(SCENARIO_CONFIGS)]
)
def test_every_scenario_plays_twice_the_same_and_within_its_spaces(env_id):
    domain = env_id.partition(".")[0]
    limit = {"atari": 5, "butterfly": 5, "sisl.multiwalker_v9": 60, "sisl": 10}
    limit = limit.get(env_id, limit.get(domain, 100))
    env = made(env_id, **SCENARIO_CONFIGS[env_id])
    first, _ = episode(env, seed=11, max_step=limit)
    for step in first:
        for agent, observation in step.observations.items():
            assert env.observation_spaces[agent].contains(observation)
    state = env.state()
    assert state is None if env.state_space is None else env.state_space.contains(state)
    episode(env, rng=1, max_step=limit)
    state_dict = env.state_dict()
    third, _ = episode(env, rng=2, max_step=limit)
    np.testing.assert_equal(plain(episode(env, seed=11, max_step=limit)[0]), plain(first))
    other = made(env_id, **SCENARIO_CONFIGS[env_id])
    other.load_state_dict(state_dict)
    np.testing.assert_equal(plain(episode(other, rng=2, max_step=limit)[0]), plain(third))
    env.close()
    env.close()


@pytest.mark.parametrize("env_id", ["classic.tictactoe_v3", "mpe.simple_v3", "butterfly.knights_archers_zombies_v11"])
def test_the_loop_of_the_documents(env_id):
    env = made(env_id, **SCENARIO_CONFIGS[env_id])
    action_spaces = env.action_spaces
    _, observations = env.reset(max_step=50)
    done = False
    while not done:  # heedless of masks: an illegal move ends the game
        actions = {k: action_spaces[k].sample() for k in observations}
        _, observations, _rewards, dones, _infos = env.step(actions)
        done = dones["__all__"]
    assert 0 < env.collect_info()["env_step"] <= 50


def test_the_table_names_every_scenario_that_is_installed():
    for needed in NEEDS.values():
        pytest.importorskip(needed)
    installed = {
        f"{domain}.{module.name}"
        for domain, package in PACKAGES.items()
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__)
        if "_v" in module.name
    }
    assert installed == set(SCENARIO_CONFIGS) == set(env_ids())


@pytest.mark.slow
@pytest.mark.parametrize("env_id", sorted(SCENARIO_CONFIGS))
def test_the_table_holds_the_defaults(env_id):
    given, _ = episode(made(env_id, **SCENARIO_CONFIGS[env_id]), seed=1, max_step=20)
    default, _ = episode(made(env_id), seed=1, max_step=20)
    np.testing.assert_equal(plain(given), plain(default))


def test_how_agents_move_is_chosen_by_the_game_unless_one_says():
    assert made("mpe.simple_v3").parallel_simulate
    assert not made("mpe.simple_v3", parallel_simulate=False).parallel_simulate
    assert not made("classic.tictactoe_v3").parallel_simulate
    assert made("atari.pong_v3", obs_type="ram").observation_spaces["first_0"].shape == (128,)


def test_description():
    pytest.importorskip("mpe2")
    description = env_desc_gen(env_id="mpe.simple_spread_v3", scenario_configs={"N": 2})
    assert description["creator"] is PettingZooEnv and description["possible_agents"] == ["agent_0", "agent_1"]
    assert description["config"] == {"env_id": "mpe.simple_spread_v3", "scenario_configs": {"N": 2}}
    assert description["observation_spaces"]["agent_0"].shape == (12,)
    assert PettingZooEnv(**description["config"]).state_space.shape == (24,)


def test_rendering_and_closing():
    picture = made("classic.connect_four_v3", render_mode="rgb_array")
    picture.begin(seed=0)
    assert picture.render().ndim == 3
    with pytest.raises(ConfigError, match=r"render_mode' is not set; connect_four_v3 offers 'human', 'rgb_array'"):
        made("classic.connect_four_v3").render()
    relay = Relay()
    env = adapt(relay)
    env.close()
    env.close()
    assert relay.num_closed == 1


@pytest.mark.parametrize(
    "env_id, configs, message",
    [
        ("classic.connect_four_v2", {}, "no such scenario, did you mean 'classic.connect_four_v3'"),
        ("connect_four_v3", {}, "did you mean 'classic.connect_four_v3'"),
        ("mpe.simple_spread", {}, "did you mean 'mpe.simple_spread_v3'"),
        ("classic.all_modules", {}, "no such scenario"),
        ("zzz.zzz_v0", {}, "known: atari.basketball_pong_v3"),
        (7, {}, "'env_id' = 7: must be the id"),
        ("mpe.simple_v3", [], r"'scenario_configs' = \[\]: must map"),
        (
            "mpe.simple_v3",
            {"max_cycle": 3},
            "unknown key 'scenario_configs.max_cycle' for mpe.*did you mean 'max_cycles'",
        ),
        ("mpe.simple_v3", {"parallel_simulate": "yes"}, "'scenario_configs.parallel_simulate' = 'yes': must be true"),
        ("classic.go_v5", {"parallel_simulate": True}, "in classic.go_v5 agents can only move in turn"),
        ("classic.rps_v2", {"num_actions": 4}, "classic.rps_v2 refuses it: The number of actions must be an odd"),
        ("atari.pong_v3", {"auto_rom_install_path": "/nowhere"}, "atari.pong_v3 refuses it: rom pong is not installed"),
    ],
)
def test_what_is_wrong_is_said(env_id, configs, message):
    if isinstance(env_id, str) and env_id.partition(".")[0] in NEEDS:
        pytest.importorskip(NEEDS[env_id.partition(".")[0]])
    with pytest.raises(ConfigError, match=message):
        PettingZooEnv(env_id=env_id, scenario_configs=configs)


def test_an_unknown_argument_is_refused():
    with pytest.raises(ConfigError, match="unknown key 'scenarios_configs': did you mean 'scenario_configs'"):
        PettingZooEnv(env_id="mpe.simple_v3", scenarios_configs={})


class Uninstalled:
    """An import hook that hides a package."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named '{self.package}'", name=self.package)


def test_a_package_that_gymnasium_misses_is_named(monkeypatch):
    def cannot(name):
        raise DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr("malib_lite.envs.pettingzoo.making._import", cannot)
    with pytest.raises(ConfigError, match=r"MuJoCo is not installed\nInstall .*'malib_lite\[pettingzoo\]'"):
        PettingZooEnv(env_id="mpe.simple_v3")


@pytest.mark.parametrize("package, env_id", [("mpe2", "mpe.simple_v3"), ("rlcard", "classic.leduc_holdem_v4")])
def test_a_missing_package_is_named(monkeypatch, package, env_id):
    for name in list(sys.modules):
        if name.startswith((package, "pettingzoo.classic.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Uninstalled(package), *sys.meta_path])
    message = rf"No module named '{package}'\nInstall what it needs: pip install 'malib_lite\[pettingzoo\]'"
    with pytest.raises(ConfigError, match=message):
        PettingZooEnv(env_id=env_id)
    assert env_id in env_ids()


def test_only_pettingzoos_environments_with_named_agents_are_adapted():
    with pytest.raises(ConfigError, match="neither a ParallelEnv nor an AECEnv"):
        adapt(object())
    relay = Relay()
    relay.possible_agents = [0, 1]
    with pytest.raises(ConfigError, match="relay_v0 has an agent 0: agent ids must be strings"):
        adapt(relay)
    relay.possible_agents = []
    with pytest.raises(ConfigError, match="does not name its 'possible_agents'"):
        adapt(relay)


def test_without_a_screen_sdl_draws_nowhere_unless_the_user_chose(monkeypatch):
    pytest.importorskip("mpe2")
    if not sys.platform.startswith("linux"):
        pytest.skip("elsewhere there is always a screen")

    def driver(**variables):
        for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        PettingZooEnv(env_id="mpe.simple_v3")
        return os.environ.get("SDL_VIDEODRIVER")

    assert driver() == "dummy"
    assert driver(SDL_VIDEODRIVER="x11") == "x11"
    assert driver(DISPLAY=":0") is None
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # for the tests after this one


@pytest.mark.parametrize("env_id", ["classic.leduc_holdem_v4", "classic.tictactoe_v3"])
def test_only_who_is_to_act_has_a_mask_and_keeps_it_when_the_time_is_up(env_id):
    """Leduc's idle seat is shown the other's legal actions, tic-tac-toe's none at all: neither is its own."""
    env, rng = made(env_id, parallel_simulate=False), np.random.default_rng(0)
    for seed in range(5):
        step = env.begin(seed=seed)
        while not env.finished:
            assert list(step.action_masks) == list(step.observations) == [env._env.agent_selection]
            step = env.advance(choose(env, step, rng))
    config = {"env_id": env_id, "scenario_configs": {"parallel_simulate": False}}
    venv = DictVectorEnv(PettingZooEnv, config, [0], 2)
    views, last = venv.reset(np.ones(1, bool)), {}
    while not venv.finished.all():
        (agent,) = (agent for agent, view in views.items() if view.acting[0])
        last[agent] = (views[agent].observation[0].copy(), views[agent].action_mask[0].copy())
        views = venv.step({agent: np.array([views[agent].action_mask[0].argmax()])})
    idle = views[agent]  # who acted last
    assert idle.truncated[0]
    np.testing.assert_array_equal(idle.observation[0], last[agent][0])
    np.testing.assert_array_equal(idle.action_mask[0], last[agent][1])
