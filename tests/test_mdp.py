"""Small MDPs: their optima, what is sampled of them, and how users bring their own."""

import copy
import pickle

import numpy as np
import pytest
from fakes import seeds

from malib_lite.config import ConfigError
from malib_lite.envs.mdp import (
    SCENARIOS,
    MDPEnvironment,
    MDPSpec,
    action_values,
    env_desc_gen,
    env_ids,
    load_spec,
    optimal_values,
    policy_values,
)
from malib_lite.rollout.vector_env import DictVectorEnv

# Every kind of entry: a drawn start, missing actions, weights on rewards and next states, a number as a name.
YAML = """
discount: 0.9
start: {left: 1, right: 3}
states:
  left:
    go: {reward: {0: 2, 9: 1}, next: {right: 1, 0: 3}}
    stay: {next: left}
  right:
    go: {reward: -1.5, next: 0}
  0:
"""


# -- exact values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id, optimum",
    [
        ("one_round_dmdp", 1.0),
        ("two_round_dmdp", 3.0),
        ("one_round_nmdp", 2.5),
        ("two_round_nmdp", 3.0),
        ("multi_round_nmdp", 6.0),
    ],
)
def test_the_optima_of_the_documents(env_id, optimum):
    spec = load_spec(SCENARIOS[env_id])
    values = optimal_values(spec)
    assert spec.tables.start @ values == pytest.approx(optimum, rel=1e-12)
    greedy = np.eye(len(spec.tables.actions))[action_values(spec, values).argmax(axis=1)]
    np.testing.assert_allclose(policy_values(spec, greedy), values, rtol=1e-12)


def test_discounting_turns_the_order_of_multi_round_nmdp():
    spec = SCENARIOS["multi_round_nmdp"]
    always = {action: {"start": action} for action in ("a0", "a1")}
    assert [policy_values(spec, always[a])[0] for a in ("a0", "a1")] == pytest.approx([6.0, 4.5])
    assert [policy_values(spec, always[a], discount=1.0)[0] for a in ("a0", "a1")] == pytest.approx([7.5, 9.0])
    assert optimal_values(spec, discount=1.0).tolist() == pytest.approx([9.0, 0.0])


def test_values_of_a_mixed_policy_by_hand():
    spec = SCENARIOS["two_round_nmdp"]
    policy = {"start": {"a0": 0.5, "a1": 0.5}, "A": {"a0": 0.25, "a1": 0.75}, "B": "a1"}
    assert policy_values(spec, policy).tolist() == pytest.approx([0.5 * 2.25 + 0.5 * 2.5, 2.25, 2.5, 0.0])


def test_without_discount_what_never_ends_has_no_value():
    for reward in (1, {-1: 1, 2: 1}):
        loop = {"states": {"s": {"stay": {"reward": reward, "next": "s"}, "leave": {"next": "end"}}, "end": None}}
        with pytest.raises(ArithmeticError, match="settle"):
            optimal_values(loop)
        with pytest.raises(ArithmeticError, match="never ends from 's'"):
            policy_values(loop, {"s": "stay"})
    assert optimal_values(loop, discount=0.75)[0] == pytest.approx(2.0)
    loop["states"]["s"]["stay"]["reward"] = -1  # staying is possible, but never pays
    assert optimal_values(loop).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "policy, message",
    [
        ({"strat": "a0"}, "did you mean 'start'"),
        ({"start": "a2"}, "'a2' is unknown: known: a0, a1"),
        ({}, "no distribution over the legal actions of 'start'"),
        ({"start": {"a0": 0.7}}, "no distribution"),
        ({"start": {"a0": 1.5, "a1": -0.5}}, "no distribution"),
        (np.ones((2, 3)), "shape"),
    ],
)
def test_a_policy_must_fit(policy, message):
    with pytest.raises(ConfigError, match=message):
        policy_values(SCENARIOS["one_round_nmdp"], policy)


# -- the environment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", sorted(SCENARIOS))
def test_what_is_sampled_agrees_with_the_specification(env_id):
    env = MDPEnvironment(env_id=env_id)
    tables = env.spec.tables
    rng = np.random.default_rng(1)
    visits = np.zeros(tables.legal.shape)
    arrivals = np.zeros(tables.transition.shape)
    rewards, joint = {}, {}
    step, seed = None, 0
    for _ in range(6000):
        if env.finished:
            step, seed = env.begin(seed=seed), None
        state, action = step.observations["agent"], int(rng.integers(2))
        step = env.advance({"agent": action})
        after, reward = step.observations["agent"], step.rewards["agent"]
        assert step.terminated["agent"] == tables.absorbing[after] and not step.truncated
        assert reward in tables.reward_values[state, action][tables.reward_probs[state, action] > 0]
        visits[state, action] += 1
        arrivals[state, action, after] += 1
        rewards.setdefault((state, action), []).append(reward)
        joint.setdefault((state, action), []).append((reward, after))
    assert (visits[~tables.absorbing] > 300).all()
    np.testing.assert_allclose(arrivals / np.maximum(visits, 1)[..., None], tables.transition, atol=0.06)
    for (state, action), drawn in rewards.items():
        error = 4 * np.std(drawn) / np.sqrt(len(drawn))
        assert abs(np.mean(drawn) - tables.mean_reward[state, action]) <= error


def test_rewards_and_next_states_are_independent():
    spec = {"states": {"s": {"a": {"reward": {0: 1, 1: 1}, "next": {"s": 1, "end": 1}}}, "end": {}}}
    env = MDPEnvironment(spec=spec)
    pairs, seed = [], 5
    while len(pairs) < 4000:
        if env.finished:
            env.begin(seed=seed)
            seed = None
        step = env.advance({"agent": 0})
        pairs.append((step.rewards["agent"], step.observations["agent"]))
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.06


def test_returns_under_the_optimal_policy_have_the_optimal_mean():
    venv = DictVectorEnv(MDPEnvironment, {"env_id": "multi_round_nmdp"}, seeds(16, 3))
    view = venv.reset(np.ones(16, bool))["agent"]
    total = discount = np.ones(16)
    total, returns = np.zeros(16), []
    for _ in range(800):
        venv.step({"agent": np.zeros(16, int)})
        total, discount = total + discount * view.reward, discount * 0.5
        returns += total[venv.finished].tolist()
        total[venv.finished], discount[venv.finished] = 0.0, 1.0
        venv.reset(venv.finished)
    assert abs(np.mean(returns) - 6.0) < 4 * np.std(returns) / np.sqrt(len(returns))


def test_seeding_repeats_and_states_resume():
    def run(env, seed):
        rows = []
        for _ in range(20):
            rows.append(env.begin(seed=seed).observations)
            seed = None
            while not env.finished:
                rows.append(env.advance({"agent": 1})[:3])
        return rows

    env, other = MDPEnvironment(env_id="multi_round_nmdp"), MDPEnvironment(env_id="multi_round_nmdp")
    assert run(env, 4) == run(other, 4) != run(MDPEnvironment(env_id="multi_round_nmdp"), 5)
    saved = copy.deepcopy(env.state_dict())
    later = run(env, None)
    third = MDPEnvironment(env_id="multi_round_nmdp")
    third.load_state_dict(saved)
    assert run(third, None) == later


def test_a_time_limit_truncates():
    env = MDPEnvironment(spec={"states": {"s": {"a": {"reward": 1, "next": "s"}}}, "discount": 0.9})
    env.begin(seed=0, max_step=3)
    steps = [env.advance({"agent": 0}) for _ in range(3)]
    assert env.finished and steps[-1].truncated == {"agent": True} and not steps[-1].terminated["agent"]
    assert optimal_values(env.spec)[0] == pytest.approx(10.0)


def test_description_and_ids():
    assert set(env_ids()) == set(SCENARIOS)
    description = env_desc_gen(env_id="two_round_nmdp")
    assert description["creator"] is MDPEnvironment and description["config"] == {"env_id": "two_round_nmdp"}
    assert description["observation_spaces"]["agent"].n == 4 and description["action_spaces"]["agent"].n == 2
    assert env_desc_gen()["observation_spaces"]["agent"].n == 2


# -- users' own -------------------------------------------------------------------------------------------------------


def test_yaml_and_python_give_the_same_mdp(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(YAML)
    states = {
        "left": {"go": {"reward": {0: 2, 9: 1}, "next": {"right": 1, "0": 3}}, "stay": {"next": "left"}},
        "right": {"go": {"reward": -1.5, "next": "0"}},
        "0": {},
    }
    python = MDPSpec(states=states, start={"left": 1, "right": 3}, discount=0.9)
    env = MDPEnvironment(env_id=str(path))
    for one, other in zip(env.spec.tables, python.tables, strict=True):
        np.testing.assert_array_equal(one, other)
    tables = python.tables
    assert tables.states == ("left", "right", "0") and tables.actions == ("go", "stay")
    assert tables.start.tolist() == [0.25, 0.75, 0.0] and tables.absorbing.tolist() == [False, False, True]
    assert tables.mean_reward.tolist() == [[3.0, 0.0], [-1.5, 0.0], [0.0, 0.0]]
    assert tables.transition[0].tolist() == [[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]]
    assert optimal_values(python).tolist() == pytest.approx([3.0 - 0.9 * 0.25 * 1.5, -1.5, 0.0])
    revived = pickle.loads(pickle.dumps(env_desc_gen(spec=python)))
    assert revived["creator"](**revived["config"]).spec == python


def test_missing_actions_are_masked(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(YAML)
    venv = DictVectorEnv(MDPEnvironment, {"env_id": str(path)}, range(64))
    view = venv.reset(np.ones(64, bool))["agent"]
    assert {tuple(mask) for mask in view.action_mask[view.observation == 1]} == {(True, False)}
    assert {tuple(mask) for mask in view.action_mask[view.observation == 0]} == {(True, True)}
    assert 35 < (view.observation == 1).sum() < 60
    env = MDPEnvironment(env_id=str(path))
    env.begin(seed=0)
    env._state = 1
    with pytest.raises(ValueError, match="action 1 is not legal in state 'right'"):
        env.advance({"agent": 1})
    assert not MDPEnvironment().begin().action_masks


def changed(key, value):
    """A correct specification in which what stands at the dotted ``key`` is replaced, or left out."""
    spec = copy.deepcopy(dict(SCENARIOS["multi_round_nmdp"]))
    *path, last = key.split(".")
    place = spec
    for name in path:
        place = place[name]
    place[last] = value
    if value is None:
        del place[last]
    return spec


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("states", None, "'spec.states' is missing"),
        ("states", {}, "'spec.states' = {}"),
        ("states", {"s": {}}, "no state has an action"),
        ("state", {}, "unknown key 'spec.state': did you mean 'states'"),
        ("states.start", ["a0"], "'spec.states.start' = "),
        ("states.start.a0", 5, "'spec.states.start.a0' = 5"),
        ("states.start.a0.next", None, "'spec.states.start.a0.next' is missing"),
        (
            "states.start.a0.next",
            "strat",
            "'spec.states.start.a0.next': there is no state 'strat', did you mean 'start'",
        ),
        ("states.start.a0.next", ["end"], "'spec.states.start.a0.next'"),
        ("states.start.a0.next", {}, "'spec.states.start.a0.next' is empty"),
        ("states.start.a0.next.end", 0, "'spec.states.start.a0.next.end' = 0: must be a number, a positive weight"),
        ("states.start.a0.next.end", "x", "'spec.states.start.a0.next.end' = 'x'"),
        ("states.start.a0.reward", "much", "'spec.states.start.a0.reward' = 'much': must be a number"),
        ("states.start.a0.reward", [1, 2], r"'spec.states.start.a0.reward' = \[1, 2\]"),
        ("states.start.a0.reward", float("nan"), "'spec.states.start.a0.reward' = nan"),
        ("states.start.a0.reward", {1: -1}, "'spec.states.start.a0.reward.1' = -1"),
        ("states.start.a0.rewards", 1, "unknown key 'spec.states.start.a0.rewards': did you mean 'reward'"),
        ("discount", 1.5, "'spec.discount' = 1.5: must be a number, between 0 and 1"),
        ("discount", True, "'spec.discount' = True"),
        ("start", "end", "'spec.start' = 'end': the episode is over in 'end'"),
        ("start", "begin", "'spec.start': there is no state 'begin'"),
    ],
)
def test_mistakes_in_a_specification_are_named(key, value, message):
    with pytest.raises(ConfigError, match=message):
        MDPEnvironment(spec=changed(key, value))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"env_id": "one_round_mdp"}, "there is no such MDP, did you mean 'one_round_[dn]mdp'"),
        ({"env_id": 3}, "'env_id' = 3"),
        ({"env_id": "one_round_dmdp", "spec": {}}, "give one of them"),
        ({"enviroment": 1}, "unknown key 'enviroment'"),
        ({"env_id": "nowhere.yaml"}, "nowhere.yaml"),
        ({"spec": 3}, "'spec' must be a mapping"),
    ],
)
def test_mistakes_in_the_configuration_are_named(config, message):
    with pytest.raises(ConfigError, match=message):
        MDPEnvironment(**config)


def test_a_broken_yaml_file_is_named(tmp_path):
    path = tmp_path / "broken.yaml"
    for text, message in [("states: {a: [}", "parsing"), ("discount: 1", "'spec.states' is missing")]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=rf"(?s)broken\.yaml.*{message}"):
            MDPEnvironment(env_id=str(path))
