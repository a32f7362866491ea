"""check_env: it finds what each of these environments does wrong, and nothing else, and nothing in ours."""

import threading

import gymnasium
import numpy as np
import pytest
from fakes import AGENT, CountingEnv, LoopEnv, MaskedEnv, SlowEnv, TurnEnv
from gymnasium import spaces

from malib_lite.config import ConfigError
from malib_lite.envs import EnvCheckError, Environment, GroupWrapper, TimeStep, Wrapper, check_env
from malib_lite.envs.check_step import explain, same
from malib_lite.envs.gym import GymEnv
from malib_lite.envs.matrix import MatrixGame


class Good(Environment):
    """Two agents at once with masks, chance, a state and a resumable stream; "b" leaves a step before "a"."""

    possible_agents = ["a", "b"]
    observation_spaces = {agent: spaces.Box(0.0, 1.0, (2,), np.float32) for agent in "ab"}
    action_spaces = {"a": spaces.Discrete(3), "b": spaces.Box(-1.0, 1.0, (1,), np.float32)}
    state_space = spaces.Discrete(10)

    def __init__(self, length=4):
        super().__init__(length=length)
        self.length = length
        self.rng = np.random.default_rng()
        self.count = 0

    def reset_episode(self, seed):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.count = 0
        return TimeStep(self.see("ab"), action_masks=self.masks())

    def time_step(self, actions):
        self.count += 1
        seen = "ab" if self.count < self.length else "a"
        return TimeStep(
            self.see(seen),
            dict.fromkeys(seen, 1.0),
            {"a": self.count == self.length, "b": self.count >= self.length - 1},
            action_masks=self.masks(),
        )

    def see(self, agents):
        return {agent: self.rng.random(2, np.float32) for agent in agents}

    def masks(self):
        return {"a": np.arange(3) != self.count % 3}

    def state(self):
        return self.count

    def state_dict(self):
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.rng.bit_generator.state = state["rng"]


def breaking(**members):
    """A subclass of Good with other members."""
    return type("Bad", (Good,), members)


def stepping(change, at=2):
    """A subclass whose step ``at`` (0: the reset) is changed."""

    def reset_episode(self, seed):
        step = Good.reset_episode(self, seed)
        return change(self, step) if at == 0 else step

    def time_step(self, actions):
        step = Good.time_step(self, actions)
        return change(self, step) if self.count == at else step

    return breaking(reset_episode=reset_episode, time_step=time_step)


def seeing(value):
    return stepping(lambda env, step: step._replace(observations={**step.observations, "a": value}))


def with_(**fields):
    return stepping(lambda env, step: step._replace(**fields))


def violations(env, **kwargs):
    with pytest.raises(EnvCheckError) as caught:
        check_env(env, **kwargs)
    return caught.value.violations


# -- what is right ----------------------------------------------------------------------------------------------------


def test_an_agent_may_be_flagged_once_and_no_more():
    class Once(Good):
        def time_step(self, actions):
            step = super().time_step(actions)
            leaves = self.count == self.length - 1
            return step._replace(terminated={"b": True} if leaves else {"a": step.terminated["a"]})

    assert check_env(Once) == []


def test_a_good_environment_has_nothing_to_be_told():
    assert check_env(Good) == [] == check_env(Good()) == check_env(Good, config={"length": 7})


@pytest.mark.parametrize(
    "env, config",
    [
        ("open_spiel/kuhn_poker", {}),
        ("open_spiel/tic_tac_toe", {}),
        ("open_spiel/goofspiel(num_cards=3)", {}),
        ("mdp/multi_round_nmdp", {}),
        ("mdp/two_round_dmdp", {}),
        ("gym/CartPole-v1", {}),
        ("gym/Pendulum-v1", {}),
        ("gym/FrozenLake-v1", {}),
        ("matrix/rock_paper_scissors", {}),
        ("matrix/two_step", {}),
        ("matrix/matching_pennies_3p", {"rounds": 4, "observe": ["last_actions"]}),
    ],
)
def test_the_families_keep_the_contract(env, config):
    check_env(env, config=config)


@pytest.mark.parametrize("env", [CountingEnv, MaskedEnv, TurnEnv(length=6), lambda: Wrapper(Good()), Wrapper(Good())])
def test_other_environments_that_keep_it(env):
    check_env(env)


def test_what_stands_for_an_environment_may_be_checked():
    check_env(gymnasium.make("CartPole-v1"))
    check_env(lambda: gymnasium.make("FrozenLake-v1"))
    check_env({"creator": MatrixGame, "config": {"env_id": "chicken"}})
    check_env("test_check_env:Good")
    check_env(lambda length: GroupWrapper(Good(length), {"a": "x", "b": "y"}), config={"length": 3})
    with pytest.raises(ConfigError, match="there is no such game"):
        check_env("matrix/nothing")
    with pytest.raises(ConfigError, match="give its class"):
        check_env(Good(), config={"length": 3})


def test_every_kind_of_action_is_chosen_legally():
    class ManyActions(CountingEnv):
        action_spaces = {
            AGENT: spaces.Dict(
                first=spaces.Discrete(3, start=-1), more=spaces.MultiDiscrete([2, 4]), bits=spaces.MultiBinary(2)
            )
        }

        def time_step(self, actions):
            action = actions[AGENT]
            assert self.action_spaces[AGENT].contains(action)
            assert self.count == 0 or (
                action["more"][0] == 1 and action["more"][1] == self.count % 4 and not action["bits"].any()
            )
            step = super().time_step(actions)
            # first; both of more; both of bits, of which 1 is not legal
            legal = [[1, 1, 1], [0, 1], np.arange(4) == self.count % 4, [1, 0], [1, 0]]
            return step._replace(action_masks={AGENT: np.concatenate(legal).astype(bool)})

    check_env(ManyActions)


def test_deterministic_and_slow_environments_are_noted():
    assert check_env(CountingEnv) == ["every seed gives the same episode, which is right if nothing is left to chance"]
    notes = check_env(SlowEnv, num_episodes=1, config={"delay_s": 0.025, "length": 1})
    assert "ms on average; rollout.use_subproc_env may help" in notes[0]


def test_episodes_that_chance_repeats_are_no_replay():
    class Coin(Good):
        def see(self, agents):
            value = np.full(2, self.coin, np.float32)
            return dict.fromkeys(agents, value)

        def reset_episode(self, seed):
            if seed is not None:
                self.rng = np.random.default_rng(seed)
            self.coin = int(self.rng.integers(2))
            return super().reset_episode(None)

    for seed in range(8):
        assert check_env(Coin, seed=seed) == []


def test_the_given_environment_stays_open():
    class Closing(Good):
        closed = 0

        def close(self):
            self.closed += 1

    env = Closing()
    check_env(env)
    assert env.closed == 0


# -- what is wrong ----------------------------------------------------------------------------------------------------

WRONG_STEPS = {
    "not a TimeStep": (
        stepping(lambda env, step: tuple(step)),
        "'time_step' returned a tuple, not a TimeStep (in step 2 of episode 0)",
    ),
    "not a TimeStep at first": (stepping(lambda env, step: step.observations, at=0), "'reset_episode' returned a dict"),
    "not a dictionary": (with_(rewards=[1.0, 2.0]), "returned rewards that are a list, not a dictionary"),
    "unknown agent": (
        stepping(lambda env, step: step._replace(observations={**step.observations, "c": np.zeros(2, np.float32)})),
        "observations name 'c', no possible agent",
    ),
    "reward of an unknown agent": (with_(rewards={"c": 1.0}), "rewards name 'c', no possible agent"),
    "__all__": (with_(terminated={"__all__": False}), "name '__all__', no possible agent; an episode is over when"),
    "list observed": (seeing([0.0, 0.0]), "the observation of 'a' is a list, not an array of float32"),
    "shape": (seeing(np.zeros(3, np.float32)), "the observation of 'a' has shape (3,), the space (2,)"),
    "dtype": (seeing(np.zeros(2)), "the observation of 'a' has dtype float64, the space float32"),
    "bounds": (
        seeing(np.array([0.5, 1.5], np.float32)),
        "the observation of 'a' holds 1.5 at index (1,), where the space goes from 0.0 to 1.0",
    ),
    "NaN": (seeing(np.array([0.5, np.nan], np.float32)), "the observation of 'a' holds NaN"),
    "no final observation": (
        stepping(lambda env, step: step._replace(observations={}, action_masks={}), at=4),
        "agent 'a' ends, but is not in 'observations'",
    ),
    "final observation of one that leaves": (
        stepping(lambda env, step: step._replace(observations={"a": step.observations["a"]}), at=3),
        "agent 'b' ends, but is not in 'observations'",
    ),
    "observed after its end": (
        stepping(lambda env, step: step._replace(observations=env.see("ab")), at=4),
        "agent 'b' is observed again, though its part in the episode is over",
    ),
    "nobody to act": (with_(observations={}, action_masks={}), "no agent is observed, so none can act"),
    "reward is no number": (with_(rewards={"a": "1"}), "the reward of 'a' is '1', not a number"),
    "reward is an array": (with_(rewards={"a": np.ones(1)}), "the reward of 'a' is an array of shape (1,)"),
    "reward is infinite": (with_(rewards={"a": np.inf}), "the reward of 'a' is inf"),
    "reward is NaN": (with_(rewards={"a": np.float32("nan")}), "the reward of 'a' is nan"),
    "reward at first": (
        stepping(lambda env, step: step._replace(rewards={"a": 1.0}), at=0),
        "'reset_episode' returned rewards",
    ),
    "flag is no bool": (with_(terminated={"a": 0}), "terminated of 'a' is 0, not a bool"),
    "flag at first": (
        stepping(lambda env, step: step._replace(truncated={"b": True}), at=0),
        "'reset_episode' returned 'b' as truncated",
    ),
    "both flags": (
        stepping(lambda env, step: step._replace(truncated={"a": True}), at=4),
        "'a' is terminated and truncated in one step",
    ),
    "mask is a list": (with_(action_masks={"a": [True] * 3}), "the action mask of 'a' is no array of bool, but list"),
    "mask of numbers": (with_(action_masks={"a": np.ones(3, np.int8)}), "no array of bool, but dtype int8"),
    "mask of another length": (with_(action_masks={"a": np.ones(4, bool)}), "has shape (4,); its actions make it (3,)"),
    "mask that allows nothing": (
        with_(action_masks={"a": np.zeros(3, bool)}),
        "the action mask of 'a' allows nothing; who is not to act stays out of 'observations'",
    ),
    "mask of a Box": (with_(action_masks={"b": np.ones(1, bool)}), "for 'b', whose actions are not discrete"),
    "mask of one that is not observed": (
        stepping(lambda env, step: step._replace(observations={"b": step.observations["b"]})),
        "there is an action mask for 'a', which is not observed",
    ),
    "an exception": (
        stepping(lambda env, step: 1 / 0),
        "'time_step' raised ZeroDivisionError: division by zero (in step 2 of episode 0)",
    ),
    "an exception at first": (
        stepping(lambda env, step: 1 / 0, at=0),
        "'begin' raised ZeroDivisionError: division by zero (when episode 0 began)",
    ),
}


@pytest.mark.parametrize("name", WRONG_STEPS)
def test_a_wrong_step_is_explained(name):
    env, sentence = WRONG_STEPS[name]
    found = violations(env)
    assert len(found) == 1 and sentence in found[0], found


BOX, DISCRETE = spaces.Box(0.0, 1.0, (2,), np.float32), spaces.Discrete(3)
WRONG_SPACES = {
    "no list": ({"possible_agents": ("a", "b")}, "'possible_agents' must be a list of at least one string"),
    "no strings": ({"possible_agents": [0, 1]}, "'possible_agents' must be a list of at least one string"),
    "no agents": ({"possible_agents": []}, "'possible_agents' must be a list of at least one string, not []"),
    "twice": ({"possible_agents": ["a", "b", "a"]}, "'possible_agents' holds an agent twice"),
    "no dictionary": ({"observation_spaces": BOX}, "'observation_spaces' must be a dictionary"),
    "missing": ({"observation_spaces": {"a": BOX}}, "'observation_spaces' has no space for agent 'b'"),
    "too many": ({"action_spaces": {"a": DISCRETE, "b": DISCRETE, "c": DISCRETE}}, "'action_spaces' names 'c'"),
    "no space": ({"action_spaces": {"a": 3, "b": DISCRETE}}, "'action_spaces' of 'a' is 3, no gymnasium space"),
    "no array form": (
        {"action_spaces": {"a": spaces.Tuple([BOX, DISCRETE]), "b": DISCRETE}},
        "'action_spaces' of 'a' cannot be used: actions of",
    ),
    "no fixed size": (
        {"observation_spaces": {"a": spaces.Sequence(BOX), "b": BOX}},
        "'observation_spaces' of 'a' cannot be used",
    ),
    "fails": ({"action_spaces": property(lambda self: 1 / 0)}, "'action_spaces' fails: ZeroDivisionError"),
    "state without a space": ({"state_space": None}, "'state' and 'state_space' must both be there, or both be None"),
    "state not in its space": ({"state_space": spaces.Discrete(1)}, "'state' returned what is not in 'state_space'"),
}


@pytest.mark.parametrize("name", WRONG_SPACES)
def test_wrong_agents_and_spaces_are_explained(name):
    members, sentence = WRONG_SPACES[name]
    found = violations(breaking(**members))
    assert sentence in found[0], found


def test_spaces_must_stay():
    class Growing(Good):
        @property
        def action_spaces(self):
            return {**Good.action_spaces, "a": spaces.Discrete(3 if self.cnt < 2 and self.count < 2 else 4)}

        def masks(self):
            return {}

    assert "agents or spaces changed while the environment was played: they must stay" in violations(Growing)


def test_episodes_must_end():
    (sentence,) = violations(LoopEnv)
    assert "had not ended after 10,000 steps" in sentence and "check_env(..., max_step=...)" in sentence
    check_env(LoopEnv, max_step=20)


def test_arrays_must_not_be_changed_later():
    class Recycling(Good):
        buffer = None

        def see(self, agents):
            if self.buffer is None:
                self.buffer = np.zeros((2, 2), np.float32)
            self.rng.random(out=self.buffer, dtype=np.float32)
            return {agent: self.buffer["ab".index(agent)] for agent in agents}

    class RecyclingMasks(Good):
        mask = None

        def masks(self):
            if self.mask is None:
                self.mask = np.ones(3, bool)
            self.mask[:] = np.arange(3) != self.count % 3
            return {"a": self.mask}

    (sentence,) = violations(Recycling)
    assert "the observation of 'a' was changed after it had been returned: return a new array every time" in sentence
    (sentence,) = violations(RecyclingMasks)
    assert "the action mask of 'a' was changed" in sentence


def test_a_seed_must_decide_all_chance():
    class Unseeded(Good):
        def reset_episode(self, seed):
            return super().reset_episode(None)

    class Worn(Good):
        """The first episode from a seed is unlike the later ones."""

        num_episodes = 0

        def see(self, agents):
            return {agent: np.full(2, self.num_episodes > 3, np.float32) for agent in agents}

        def reset_episode(self, seed):
            self.num_episodes += 1
            return super().reset_episode(seed)

    (sentence,) = violations(Unseeded)
    assert "two environments with the same seed (0) play different episodes" in sentence
    (sentence,) = violations(Worn)
    assert "with the same seed (0), an environment plays another episode than before" in sentence


def test_without_a_seed_chance_must_go_on():
    class Replaying(Good):
        last = 0

        def reset_episode(self, seed):
            self.last = self.last if seed is None else seed
            return super().reset_episode(self.last)

    sentence, another = violations(Replaying)
    assert "without a seed, it replays the episode of the last seed" in sentence
    assert "'state_dict'" in another  # which the seed that is replayed is not part of


def test_a_state_dict_must_make_others_go_on_alike():
    (sentence,) = violations(breaking(load_state_dict=lambda self, state: None))
    assert "does not go on as the other does" in sentence
    (sentence,) = violations(breaking(load_state_dict=Environment.load_state_dict))
    assert "'load_state_dict' failed: NotImplementedError" in sentence
    (sentence,) = violations(breaking(state_dict=lambda self: 1 / 0))
    assert "'state_dict' failed: ZeroDivisionError" in sentence


def test_an_environment_must_be_sent_to_other_processes():
    class Locked(Good):
        def __init__(self, lock):
            super().__init__()
            self.configs = {"lock": lock}

    (sentence,) = violations(Locked, config={"lock": threading.Lock()})
    assert "cloudpickle cannot send it to other processes" in sentence and "lock" in sentence
    (sentence,) = violations(Locked(threading.Lock()))
    assert "give the class and its config instead of an object" in sentence


def test_an_environment_must_be_made_anew_from_its_configs():
    class Forgetful(Good):
        def __init__(self, length=4, size=3):
            super(Good, self).__init__(length=length)
            self.length, self.rng, self.count = length, np.random.default_rng(), 0
            self.action_spaces = {**Good.action_spaces, "a": spaces.Discrete(size)}

        def masks(self):
            return {}

    class Misspelt(Good):
        def __init__(self, length=4):
            super().__init__(length)
            self.configs = {"lenght": length}

    class Bare(Good):
        def __init__(self):
            self.length, self.rng, self.count = 4, np.random.default_rng(), 0

    rule = "hand all arguments of the constructor to 'super().__init__' by their names"
    assert violations(Forgetful, config={"size": 5}) == [f"'env.configs' lacks 'size': {rule}"]
    assert violations(Forgetful(size=5))[0] == f"'type(env)(**env.configs)' makes another environment: {rule}"
    assert "'type(env)(**env.configs)' fails" in violations(Misspelt)[0]
    assert violations(Bare) == [f"there is no dictionary 'env.configs': {rule}"]


def test_an_environment_that_cannot_be_made_or_closed():
    (sentence,) = violations(breaking(__init__=lambda self: 1 / 0))
    assert sentence == "it cannot be made: ZeroDivisionError: division by zero"
    (sentence,) = violations(breaking(close=lambda self: 1 / 0))
    assert sentence == "'close' failed: ZeroDivisionError: division by zero"
    with pytest.raises(ConfigError, match="neither"):
        check_env(lambda: 3)


def test_all_violations_are_listed_once_each():
    def change(env, step):
        return step._replace(rewards={"a": np.nan, "c": 0.0}, truncated={"b": None})

    with pytest.raises(EnvCheckError) as caught:
        check_env(stepping(change))
    assert len(caught.value.violations) == 3
    assert str(caught.value).startswith("Bad breaks the contract of environments:\n- ")
    assert str(caught.value).count("\n- ") == 3


# -- sentences about values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space, value, sentence",
    [
        (DISCRETE, 3, "is 3, which is not in Discrete(3)"),
        (DISCRETE, np.int64(2), None),
        (spaces.Dict(x=BOX, n=DISCRETE), {"x": np.ones(2, np.float32), "n": 1}, None),
        (
            spaces.Dict(x=BOX, n=DISCRETE),
            {"x": np.ones(2, np.float32)},
            "has the parts ['x'], the space has ['x', 'n']",
        ),
        (spaces.Dict(n=DISCRETE), {"n": 7}, "has a part 'n' that is 7, which is not in Discrete(3)"),
        (spaces.Dict(n=DISCRETE), 7, "is a int, the space is Dict('n': Discrete(3))"),
        (
            spaces.Tuple([DISCRETE, BOX]),
            (1, np.zeros(3, np.float32)),
            "has a part 1 that has shape (3,), the space (2,)",
        ),
        (spaces.Tuple([DISCRETE]), [1], "is a list, the space is Tuple(Discrete(3))"),
        (spaces.Box(0, 255, (), np.uint8), np.uint8(3), None),
        (spaces.Box(-np.inf, np.inf, (1,), np.float64), np.ones(1, np.float32), None),
    ],
)
def test_why_a_value_is_not_in_its_space(space, value, sentence):
    assert explain(space, value) == sentence


def test_structures_are_compared_by_value():
    a = {"x": [np.array([1.0, np.nan]), (1, "s")], "y": None}
    assert same(a, {"y": None, "x": [np.array([1.0, np.nan]), (1, "s")]})
    assert not same(a, {"y": None, "x": [np.array([1.0, 2.0]), (1, "s")]})
    assert not same(np.zeros(2), np.zeros(2, np.float32)) and not same([1], [1, 2]) and not same(1, "1")
    assert same(float("nan"), float("nan")) and same(True, np.bool_(True))


def test_gym_is_checked_as_the_adapter_has_it():
    assert check_env(GymEnv, config={"env_id": "CartPole-v1"}) == []
