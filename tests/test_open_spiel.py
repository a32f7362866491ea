"""The OpenSpiel adapter: stepped one by one and compiled, and that both play the same game."""

import collections
import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import pyspiel
import pytest
from fakes import seeds
from scipy import stats

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import TimeStep
from malib_lite.envs.open_spiel import OpenSpielEnv, env_desc_gen, env_ids, observers, survey_ids
from malib_lite.envs.open_spiel.compiled import CompiledVector
from malib_lite.envs.open_spiel.game_tree import BUDGET, CHANCE, TERMINAL, expand_game
from malib_lite.envs.open_spiel.games import next_choices
from malib_lite.rollout.subproc_env import SubprocVectorEnv
from malib_lite.rollout.vector_env import DictVectorEnv, vectorise

GOOFSPIEL_3 = "goofspiel(num_cards=3,imp_info=True,points_order=descending)"
GOOFSPIEL_RANDOM = "goofspiel(num_cards=3,imp_info=True)"  # chance turns the point cards up
LIARS_DICE_3 = "liars_dice(dice_sides=3)"
OSHI_ZUMO = "oshi_zumo(coins=3,size=1,horizon=4)"
SECRETIVE = "misere(game=cached_tree(game=negotiation()))"  # draws within its rules, two games deep
CLIFF = "cliff_walking(height=2,width=3,horizon=5)"  # small, and pays at every step


def choose(step, rng):
    """Random legal actions of the agents that are to act."""
    return {agent: int(rng.choice(np.flatnonzero(step.action_masks[agent]))) for agent in step.observations}


def play(env, rng, **begin):
    """All steps of one random episode, and the actions between them."""
    steps, actions = [env.begin(**begin)], []
    while not env.finished:
        actions.append(choose(steps[-1], rng))
        steps.append(env.advance(actions[-1]))
    return steps, actions


def vector(env_id, num_envs, seed=0, max_step=None, **configs):
    venv = OpenSpielEnv.make_vector(seeds(num_envs, seed), max_step, env_id=env_id, **configs)
    assert isinstance(venv, CompiledVector)
    return venv


def everywhere(venv):
    return np.ones(venv.num_envs, bool)


def draw(views, rng):
    """A random legal action per environment where the agent acts, and nonsense elsewhere."""
    actions = {}
    for agent, view in views.items():
        legal = (rng.random(view.action_mask.shape) * view.action_mask).argmax(axis=1)
        actions[agent] = np.where(view.acting, legal, -99)
    return actions


def same(a, b):
    """Whether two nested structures of steps hold the same."""
    if isinstance(a, TimeStep):
        return all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b)


# -- one environment ---------------------------------------------------------------------------------------------


def test_kuhn_by_hand():
    env = OpenSpielEnv(env_id="kuhn_poker")
    assert env.possible_agents == ["player_0", "player_1"]
    for agent in env.possible_agents:
        space = env.observation_spaces[agent]
        assert space.shape == (11,) and space.dtype == np.float32
        assert env.action_spaces[agent].n == 2
    step = env.begin(seed=0)
    assert list(step.observations) == ["player_0"] and step.rewards == {"player_0": 0.0, "player_1": 0.0}
    assert step.action_masks["player_0"].tolist() == [True, True]
    assert step.action_masks["player_0"].dtype == bool
    step = env.advance({"player_0": 1})
    assert list(step.observations) == ["player_1"] and not any(step.terminated.values())
    step = env.advance({"player_1": np.int64(0)})  # folds
    assert env.finished and step.rewards == {"player_0": 1.0, "player_1": -1.0}
    assert step.terminated == {"player_0": True, "player_1": True} and not any(step.truncated.values())
    assert set(step.observations) == {"player_0", "player_1"}
    for agent, observation in step.observations.items():
        assert env.observation_spaces[agent].contains(observation) and observation.any()
        assert step.action_masks[agent].all()
    assert env.collect_info() == {"env_step": 2, "agent_reward": {"player_0": 1.0, "player_1": -1.0}}
    assert "1" in env.render()


@pytest.mark.parametrize(
    "env_id",
    [
        "kuhn_poker(players=3)",
        "tic_tac_toe",
        "catch",
        "backgammon",
        "2048",  # shows rewards at the chance nodes after a move, too
        "hanabi",
        "cliff_walking",
        "deep_sea",
        "coop_box_pushing",  # simultaneous, with chance and rewards at every step
        "pathfinding",
        "goofspiel",
        "matrix_rps",
        "oshi_zumo",
        "markov_soccer",
        "python_tic_tac_toe",
        "misere(game=kuhn_poker())",
        "negotiation",
        "python_iterated_prisoners_dilemma",
        "repeated_game(stage_game=matrix_rps(),num_repetitions=10)",
        "turn_based_simultaneous_game(game=goofspiel(num_cards=3))",
    ],
)
def test_rewards_add_up_to_the_returns(env_id):
    env, rng = OpenSpielEnv(env_id=env_id), np.random.default_rng(0)
    for episode in range(4):
        steps, _ = play(env, rng, seed=episode)
        returns = env._state.returns()
        sums = np.sum([[step.rewards[agent] for agent in env.possible_agents] for step in steps], axis=0)
        np.testing.assert_allclose(sums, returns, atol=1e-9)
        np.testing.assert_allclose(list(env.episode_returns.values()), returns, atol=1e-9)
        assert all(steps[-1].terminated.values()) and set(steps[-1].observations) == set(env.possible_agents)
        for step in steps:
            for agent, observation in step.observations.items():
                assert env.observation_spaces[agent].contains(observation)
                assert step.action_masks[agent].shape == (env.action_spaces[agent].n,)


def test_rewards_come_when_they_are_earned():
    steps, _ = play(OpenSpielEnv(env_id="cliff_walking"), np.random.default_rng(0))
    assert all(step.rewards["player_0"] < 0 for step in steps[1:])


def test_simultaneous_moves():
    env = OpenSpielEnv(env_id=GOOFSPIEL_3)
    step = env.begin(seed=0)
    assert set(step.observations) == {"player_0", "player_1"}
    env.advance({"player_0": 2, "player_1": 0})
    with pytest.raises(ValueError, match=r"illegal action 2 of player_0; legal are \[0, 1\]"):
        env.advance({"player_0": 2, "player_1": 1})
    with pytest.raises(ValueError, match="player_1 is to act and has no action"):
        env.advance({"player_0": 1})
    step = env.advance({"player_0": 1, "player_1": 1})
    # The last card plays itself.
    assert env.finished and step.rewards == {"player_0": 1.0, "player_1": -1.0}


@pytest.mark.parametrize("action", [2, -1, 0.0, "1", [0, 1], True, None])
def test_illegal_actions_are_refused(action):
    env = OpenSpielEnv(env_id="kuhn_poker")
    env.begin(seed=0)
    with pytest.raises(ValueError, match=r"kuhn_poker.*player_0.*legal are \[0, 1\]"):
        env.advance({"player_0": action})
    env.advance({"player_0": np.array([1])})  # nothing has happened to the game


def test_legality_is_that_of_the_state():
    env, rng = OpenSpielEnv(env_id="leduc_poker"), np.random.default_rng(0)
    illegal = 0
    for _ in range(100):
        step = env.begin()
        while not env.finished:
            (agent,) = step.observations
            legal = env._state.legal_actions()
            assert np.flatnonzero(step.action_masks[agent]).tolist() == legal
            for action in set(range(3)) - set(legal):
                illegal += 1
                with pytest.raises(ValueError, match="illegal"):
                    env.advance({agent: action})
            step = env.advance(choose(step, rng))
    assert illegal > 50


def test_time_limit():
    env = OpenSpielEnv(env_id="leduc_poker")
    env.begin(seed=0, max_step=2)
    step = env.advance({"player_0": 1})
    assert list(step.observations) == ["player_1"] and not env.finished
    step = env.advance({"player_1": 1})
    assert env.finished and step.truncated == {"player_0": True, "player_1": True}
    assert not any(step.terminated.values())
    assert set(step.observations) == {"player_0", "player_1"}  # the final ones, of both
    env.begin(seed=0, max_step=2)
    env.advance({"player_0": 2})
    step = env.advance({"player_1": 0})  # the end of the game itself
    assert all(step.terminated.values()) and not any(step.truncated.values())


@pytest.mark.parametrize("env_id", ["leduc_poker", "2048", GOOFSPIEL_RANDOM, "negotiation", "tarok", SECRETIVE])
def test_a_seed_begins_the_same_episodes(env_id):
    def episodes(seed):
        env, rng = OpenSpielEnv(env_id=env_id), np.random.default_rng(1)
        return [play(env, rng, seed=seed if i == 0 else None, max_step=20)[0] for i in range(3)]

    first = episodes(7)
    assert same(first, episodes(7))
    assert any(not same(first, episodes(seed)) for seed in range(3))
    assert not same(first[0], first[1]) or not same(first[0], first[2])  # None goes on in the stream


def test_without_a_seed_episodes_differ():
    cards = {
        tuple(OpenSpielEnv(env_id="leduc_poker").begin().observations["player_0"]) for _ in range(40)
    }  # each its own
    assert len(cards) > 1


@pytest.mark.parametrize("env_id", ["leduc_poker", "negotiation", SECRETIVE])
def test_the_random_state_goes_on_where_it_stood(env_id):
    def episodes(env):
        rng = np.random.default_rng(4)
        return [play(env, rng, max_step=20)[0] for _ in range(3)]

    env, other = OpenSpielEnv(env_id=env_id), OpenSpielEnv(env_id=env_id)
    assert env.state_dict() is None  # nothing has been drawn
    play(env, np.random.default_rng(0), seed=5)
    state = pickle.loads(pickle.dumps(env.state_dict()))
    after = episodes(env)
    other.begin(seed=6)
    other.load_state_dict(state)
    assert other.finished
    assert same(episodes(other), after)
    other.begin(seed=6)
    assert not same(episodes(other), after)


def test_vectors_of_ordinary_environments_go_on_where_they_stood():
    def make(root):
        return vectorise(env_desc_gen(env_id="leduc_poker", compiled=False), 4, root)

    venv, other = make(0), make(1)
    assert isinstance(venv, DictVectorEnv)
    rows_of(venv, range(4), 10)
    state = pickle.loads(pickle.dumps(venv.state_dict()))
    after = rows_of(venv, range(4), 10)
    assert rows_of(other, range(4), 10) != after
    other.load_state_dict(state)
    assert rows_of(other, range(4), 10) == after


def test_the_form_of_the_documents():
    env, rng = OpenSpielEnv(env_id="kuhn_poker"), np.random.default_rng(0)
    env.seed(3)
    _, observations = env.reset()
    dones = {"__all__": False}
    while not dones["__all__"]:
        _, observations, rewards, dones, _ = env.step({agent: int(rng.integers(2)) for agent in observations})
    assert sum(rewards.values()) == 0 and any(rewards.values())


def test_environments_and_descriptions_travel():
    description = env_desc_gen(env_id="leduc_poker(players=3)", compiled=False)
    assert description["creator"] is OpenSpielEnv
    assert description["possible_agents"] == ["player_0", "player_1", "player_2"]
    assert description["config"] == {"env_id": "leduc_poker(players=3)", "compiled": False}  # no more than was said
    copy = pickle.loads(pickle.dumps(description))
    assert copy["observation_spaces"] == description["observation_spaces"]
    env = copy["creator"](**copy["config"])
    env.begin(seed=0)
    step = pickle.loads(pickle.dumps(env)).advance({"player_0": 1})
    assert list(step.observations) == ["player_1"]


def test_every_game_can_be_played_or_says_why_not(tmp_path):
    registered = {game_type.short_name: game_type for game_type in pyspiel.registered_games()}
    names = survey_ids()
    assert [name.split("(")[0] for name in names] == sorted(registered)
    assert set(env_ids()) < set(names)
    assert all(registered[name].default_loadable for name in env_ids())
    refused, rng = {}, np.random.default_rng(0)
    for name in names:
        if name == "bridge_uncontested_bidding":  # seconds for a move
            continue
        try:
            env = OpenSpielEnv(env_id=name)
        except ConfigError as error:
            refused[name] = str(error)
            continue
        steps, _ = play(env, rng, seed=0, max_step=5)
        for agent, observation in itertools.chain(*(step.observations.items() for step in steps)):
            assert env.observation_spaces[agent].contains(observation), name
    mean_field = {name for name in registered if name.startswith("mfg_")}
    assert set(refused) == mean_field | {"chat_game", "crossword", "efg_game", "nfg_game"}
    assert not set(refused) & set(env_ids())
    assert "filename" in refused["efg_game"]


def test_games_from_files(tmp_path):
    (tmp_path / "game.efg").write_text(
        'EFG 2 R "game" { "A" "B" }\n'
        'p "" 1 1 "" { "l" "r" } 0\n'
        't "" 1 "" { 1 2 }\n'
        'p "" 2 1 "" { "a" "b" } 0\n'
        't "" 2 "" { 0 0 }\n'
        't "" 3 "" { 3 1 }\n'
    )
    (tmp_path / "game.nfg").write_text('NFG 1 R "game" { "A" "B" } { 2 2 }\n\n1 1 0 2 2 0 1 1\n')
    for name in ("efg", "nfg"):
        env_id = f"{name}_game(filename={tmp_path / 'game'}.{name})"
        steps, _ = play(OpenSpielEnv(env_id=env_id), np.random.default_rng(0), seed=0)
        assert all(steps[-1].terminated.values())
        assert vector(env_id, 2).reset(np.ones(2, bool))["player_0"].acting.all()


# -- what is seen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id, kind, length",
    [
        ("kuhn_poker", None, 11),
        ("kuhn_poker", "information_state", 11),
        ("kuhn_poker", "observation", 7),
        ("tic_tac_toe", None, 27),
        ("tic_tac_toe", "observation", 27),
        ("python_dynamic_routing", None, 66),  # claims a tensor of the information state, which is empty
    ],
)
def test_what_is_seen_can_be_chosen(env_id, kind, length):
    env = OpenSpielEnv(env_id=env_id, observation=kind)
    step = env.begin(seed=0)
    for agent, seen in step.observations.items():
        assert env.observation_spaces[agent].shape == seen.shape == (length,)
    state, method = env._state, (kind or "information_state") if env_id == "kuhn_poker" else "observation"
    agent = next(iter(step.observations))
    player = env.possible_agents.index(agent)
    np.testing.assert_array_equal(step.observations[agent], getattr(state, f"{method}_tensor")(player))


@pytest.mark.parametrize(
    "env_id, kind",
    [
        ("coin_game", "observation"),
        ("cribbage", "information_state"),
        ("cribbage", "observation"),
        ("liars_dice_ir", "information_state"),
        ("tarok", "information_state"),
    ],
)
def test_games_without_tensors_are_spelt(env_id, kind):
    env, rng = OpenSpielEnv(env_id=env_id, observation=kind), np.random.default_rng(0)
    step = env.begin(seed=0, max_step=50)
    while not env.finished:
        for agent, seen in step.observations.items():
            text = getattr(env._state, f"{kind}_string")(env.possible_agents.index(agent))
            assert bytes(np.rint(seen * 255).astype(np.uint8)).rstrip(b"\0") == text.encode()
        step = env.advance(choose(step, rng))


def test_what_is_spelt_by_an_observer_of_the_game():
    env = OpenSpielEnv(env_id="python_iterated_prisoners_dilemma")
    env.begin(seed=1)
    step = env.advance({"player_0": 0, "player_1": 1})
    texts = [bytes(np.rint(seen * 255).astype(np.uint8)).rstrip(b"\0") for seen in step.observations.values()]
    assert texts == [b"us:C op:D", b"us:D op:C"]


def test_of_what_is_too_long_the_end_is_seen():
    game = pyspiel.load_game("coin_game")
    state = game.new_initial_state()
    while state.is_chance_node():
        state.apply_action(state.legal_actions()[0])
    text = state.observation_string(0).encode()
    whole, part = (observers.Observer("observation", length, True)(state, 0) for length in (1000, 10))
    assert bytes(np.rint(whole * 255).astype(np.uint8)) == text + bytes(1000 - len(text))
    assert bytes(np.rint(part * 255).astype(np.uint8)) == text[-10:]
    assert whole.dtype == part.dtype == np.float32 and whole.max() <= 1


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, message",
    [
        ({"env_id": "kuhn_pocker"}, "did you mean 'kuhn_poker'"),
        ({"env_id": "leduc(players=3)"}, "no game 'leduc'"),
        ({"env_id": "python_kuhn_pokre"}, "did you mean 'python_kuhn_poker'"),
        ({"env_id": "leduc_poker(plyers=3)"}, "no parameter 'plyers': did you mean 'players'"),
        ({"env_id": "leduc_poker(players=3"}, "brackets"),
        ({"env_id": "misere"}, "needs parameters.*game"),
        ({"env_id": "mfg_garnet"}, "mean-field"),
        ({"env_id": "crossword"}, "structures"),
        ({"env_id": "misere(game=kuhn_pocker())"}, "no game 'kuhn_pocker': did you mean 'kuhn_poker'"),
        ({"env_id": "misere(game=kuhn_poker(plyers=3))"}, "'kuhn_poker' has no parameter 'plyers'.*'players'"),
        ({"env_id": "misere(game=kuhn_poker)"}, r"'game' must be a game; write 'game=kuhn_poker\(\)'"),
        ({"env_id": "efg_game"}, "needs parameters.*filename"),
        ({"env_id": "chat_game"}, "more actions than it declares"),
        ({"env_id": "kuhn_poker", "observation": "tensor"}, "must be one of information_state, observation$"),
        ({"env_id": "kuhn_poker", "observation": 1}, "must be one of information_state, observation"),
        ({"env_id": "tic_tac_toe", "observation": "information_state"}, "does not offer it, only 'observation'"),
        ({"env_id": "hearts", "observation": "observation"}, "does not offer it, only 'information_state'"),
        ({"env_id": "coin_game", "observation": "information_state"}, "does not offer it, only 'observation'"),
        ({"env_id": ""}, "must be the name"),
        ({"env_id": 3}, "must be the name"),
        ({"env_ids": "kuhn_poker"}, "unknown key 'env_ids': did you mean 'env_id'"),
        ({"env_id": "kuhn_poker", "compiled": "yes"}, "True, False or None"),
    ],
)
def test_settings_that_cannot_be(config, message, capfd):
    with pytest.raises(ConfigError, match=message):
        OpenSpielEnv(**config)
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""


def test_a_subclass_is_stepped_by_its_own_rules():
    class HalfPay(OpenSpielEnv):
        def time_step(self, actions):
            step = super().time_step(actions)
            return step._replace(rewards={agent: reward / 2 for agent, reward in step.rewards.items()})

    assert HalfPay.make_vector([0], None) is None and HalfPay.make_exact() is None
    venv = vectorise({"creator": HalfPay, "config": {"env_id": "matrix_rps"}}, 1, seed=0)
    venv.reset(everywhere(venv))
    views = venv.step({"player_0": np.array([1]), "player_1": np.array([0])})
    assert [view.reward[0] for view in views.values()] == [0.5, -0.5]


def test_what_open_spiel_refuses_is_a_setting_error():
    with pytest.raises(ConfigError, match="OpenSpiel refuses it"):
        OpenSpielEnv(env_id="kuhn_poker(players=30)")
    with pytest.raises(ConfigError, match="OpenSpiel refuses it"):
        OpenSpielEnv(env_id="kuhn_poker(players=many)")


@pytest.mark.parametrize("env_id", ["tic_tac_toe", "bridge"])
def test_games_that_must_be_compiled_and_cannot(env_id):
    message = f"'{env_id}' cannot be compiled.*{BUDGET:,}"
    with pytest.raises(ConfigError, match=message):
        OpenSpielEnv(env_id=env_id, compiled=True)
    with pytest.raises(ConfigError, match=message):
        OpenSpielEnv.make_vector(range(2), None, env_id=env_id, compiled=True)


def test_the_fast_path_is_chosen_by_itself():
    def kind(**config):
        return type(vectorise({"creator": OpenSpielEnv, "config": config}, 2, 0, max_step=10))

    assert kind(env_id="kuhn_poker") is kind(env_id="kuhn_poker", compiled=True) is CompiledVector
    assert kind(env_id=GOOFSPIEL_3, observation="observation") is CompiledVector
    assert kind(env_id="start_at(game=tic_tac_toe(),history=4;0)") is CompiledVector  # perfect information
    assert kind(env_id="kuhn_poker", compiled=False) is DictVectorEnv
    assert kind(env_id="tic_tac_toe") is kind(env_id="catch") is DictVectorEnv


def test_where_there_is_no_compiled_form():
    assert OpenSpielEnv.make_vector(range(2), None, env_id="kuhn_poker", compiled=False) is None
    assert OpenSpielEnv.make_vector(range(2), None, env_id="tic_tac_toe") is None
    assert OpenSpielEnv.make_exact(env_id="tic_tac_toe") is None
    assert OpenSpielEnv.make_exact(env_id="kuhn_poker", compiled=False) is not None  # exactness is another matter
    with pytest.raises(ConfigError, match="unknown key 'compile'"):
        OpenSpielEnv.make_vector(range(2), None, env_id="kuhn_poker", compile=True)


# -- the compiled game -------------------------------------------------------------------------------------------


def test_compiled_kuhn_by_hand():
    venv = vector("kuhn_poker", 3)
    assert venv.finished.all()
    views = venv.reset(everywhere(venv))
    first, second = views["player_0"], views["player_1"]
    assert first.acting.all() and not second.acting.any() and not venv.finished.any()
    assert np.all(first.observation[:, 0] == 1)  # "I am the first player"
    views = venv.step({"player_0": np.array([1, 0, 0]), "player_1": np.array([9, 9, 9])})
    first, second = views["player_0"], views["player_1"]
    assert second.acting.all() and not first.acting.any()
    assert not first.reward.any() and not second.reward.any()
    views = venv.step({"player_1": np.array([0, 1, 0])})  # whoever need not act may be left out
    first, second = views["player_0"], views["player_1"]
    assert venv.finished.tolist() == [True, False, True] == first.terminated.tolist()
    assert first.acting.tolist() == [False, True, False] and not second.acting.any()
    assert first.reward[0] == 1 and second.reward[0] == -1 and abs(first.reward[2]) == 1
    assert first.reward[1] == second.reward[1] == 0
    assert first.reward.dtype == np.float32 and not first.truncated.any()
    views = venv.step({"player_0": np.array([7, 0, 7])})  # one folds, the others are finished
    assert views["player_0"].reward.tolist() == [0, -1, 0] and views["player_1"].reward.tolist() == [0, 1, 0]
    assert views["player_0"].terminated.tolist() == [False, True, False]
    assert venv.finished.all()
    views = venv.reset(np.array([True, False, False]))
    assert venv.finished.tolist() == [False, True, True]
    assert views["player_0"].acting.tolist() == [True, False, False]
    assert views["player_0"].terminated.tolist() == [False, True, False]
    assert views["player_0"].reward.tolist() == [0, -1, 0]
    views = venv.reset(venv.finished)
    assert not venv.finished.any() and views["player_0"].acting.all()
    assert not views["player_0"].terminated.any() and not views["player_0"].reward.any()


def test_compiled_goofspiel_by_hand():
    venv = vector(GOOFSPIEL_3, 3, max_step=2)
    views = venv.reset(everywhere(venv))
    assert all(view.acting.all() and view.action_mask.all() for view in views.values())
    views = venv.step({"player_0": np.array([2, 1, 0]), "player_1": np.array([0, 1, 2])})
    assert all(view.acting.all() and not view.reward.any() for view in views.values())  # one step for both moves
    assert views["player_0"].action_mask.tolist() == [[True, True, False], [True, False, True], [False, True, True]]
    assert views["player_1"].action_mask.tolist() == [[False, True, True], [True, False, True], [True, True, False]]
    assert np.array_equal(views["player_0"].observation[1, :3], views["player_1"].observation[1, :3])
    with pytest.raises(ValueError, match=r"illegal action 0 of player_1 in environment 0; legal are \[1, 2\]"):
        venv.step({"player_0": np.array([0, 0, 1]), "player_1": np.array([0, 0, 0])})
    with pytest.raises(ValueError, match="player_1 is to act and has no action"):
        venv.step({"player_0": np.array([0, 0, 1])})
    views = venv.step({"player_0": np.array([1, 0, 1]), "player_1": np.array([1, 2, 1])})  # the last card plays itself
    assert venv.finished.all() and views["player_0"].terminated.all() and not views["player_0"].truncated.any()
    assert views["player_0"].reward.tolist() == [1, -1, -1] and views["player_1"].reward.tolist() == [-1, 1, 1]


LOCKSTEP = [
    ("kuhn_poker(players=3)", None, None),
    ("kuhn_poker", "observation", 2),
    ("leduc_poker", None, None),
    ("leduc_poker", "observation", 3),
    (LIARS_DICE_3, None, 4),
    ("liars_dice_ir(dice_sides=3)", None, 4),  # seen as text
    (GOOFSPIEL_3, None, None),
    (GOOFSPIEL_3, None, 1),
    (GOOFSPIEL_RANDOM, "observation", 1),
    ("goofspiel(num_cards=3,players=3)", None, 1),
    ("turn_based_simultaneous_game(game=goofspiel(num_cards=3))", None, 3),
    ("matching_pennies_3p", None, None),
    (OSHI_ZUMO, None, 2),
    ("start_at(game=tic_tac_toe(),history=4;0)", None, 5),
    ("restricted_nash_response(fixed_player=0,game=kuhn_poker(),p=0.5)", None, None),
    ("tiny_hanabi", None, None),
    ("sheriff", None, 3),
    (CLIFF, None, 3),
]


@pytest.mark.parametrize("env_id, observation, max_step", LOCKSTEP)
def test_both_paths_show_the_same_at_the_same_histories(env_id, observation, max_step):
    env, rng = OpenSpielEnv(env_id=env_id, observation=observation), np.random.default_rng(0)
    tree = expand_game(env_id, observation)
    venv = vector(env_id, 1, max_step=max_step, observation=observation)
    assert venv.possible_agents == env.possible_agents
    assert venv.observation_spaces == env.observation_spaces and venv.action_spaces == env.action_spaces
    # Chance leads both to the same node.
    venv._chance.draw_first = venv._chance.draw = lambda *_: np.array([walk(tree, env._state)])
    truncations = 0
    for _ in range(60):
        step = env.begin(max_step=max_step)
        views = venv.reset(everywhere(venv))
        check_equal(env, step, venv, views)
        while not env.finished:
            actions = choose(step, rng)
            step = env.advance(actions)
            views = venv.step({agent: np.array([action]) for agent, action in actions.items()})
            check_equal(env, step, venv, views)
        truncations += any(step.truncated.values())
    assert (truncations > 0) == (max_step is not None)


def check_equal(env, step, venv, views):
    """Whether a compiled game shows what the ordinary one has just shown, which no other row does."""
    assert venv.finished[0] == env.finished
    for agent, view in views.items():
        assert view.acting[0] == (agent in step.observations and not env.finished)
        assert view.reward[0] == pytest.approx(step.rewards[agent], abs=1e-6)
        assert view.terminated[0] == step.terminated[agent] and view.truncated[0] == step.truncated[agent]
        if view.acting[0] or view.truncated[0]:
            np.testing.assert_array_equal(view.observation[0], step.observations[agent])
            np.testing.assert_array_equal(view.action_mask[0], step.action_masks[agent])
            table, masks = venv.observation_table(agent)
            np.testing.assert_array_equal(table[view.observation_index[0]], step.observations[agent])
            np.testing.assert_array_equal(masks[view.observation_index[0]], step.action_masks[agent])


def walk(tree, state):
    """The node of a state of the ordinary path."""
    node = 0
    for move in state.full_history():
        if move.player != (-1 if tree.player[node] == CHANCE else tree.player[node]):
            continue  # of somebody who had nothing to choose
        children = tree.first_child[node] + np.arange(tree.num_children[node])
        (node,) = children[tree.action[children] == move.action]
    return node


def exact_outcomes(tree, max_step=None):
    """Probabilities of (steps, truncated, returns) under uniformly random legal play."""
    reach, steps = np.ones(tree.num_nodes), tree.num_steps()
    for level in tree.levels():
        parent = tree.parent[level]
        uniform = np.where(tree.player[parent] >= 0, 1.0 / np.maximum(tree.num_children[parent], 1), 1.0)
        reach[level] = reach[parent] * tree.probability[level] * uniform
    outcomes = collections.Counter()
    for node in np.flatnonzero((tree.player != CHANCE) & ~tree.inner):
        terminal, cut = tree.player[node] == TERMINAL, steps[node] == max_step
        if (terminal and (max_step is None or steps[node] <= max_step)) or cut:
            outcomes[(int(steps[node]), bool(not terminal), *tree.returns[node])] += reach[node]
    return outcomes


def p_value(expected, seen):
    """Of the chi-square test; rare outcomes are thrown together."""
    total = sum(seen.values())
    assert set(seen) <= set(expected)
    frequent = [outcome for outcome, p in expected.items() if p * total >= 10]
    observed = [seen[outcome] for outcome in frequent]
    predicted = [expected[outcome] * total for outcome in frequent]
    rest = total - sum(predicted)
    if rest > 10:
        observed.append(total - sum(observed))
        predicted.append(rest)
    predicted = np.array(predicted) * sum(observed) / sum(predicted)
    return stats.chisquare(observed, predicted).pvalue


def play_compiled(env_id, num_episodes, num_envs=512, max_step=None, actions=draw):
    """Outcomes of random episodes; each environment plays as many, or short ones would come too often."""
    venv, rng = vector(env_id, num_envs, max_step=max_step), np.random.default_rng(1)
    seen, length = collections.Counter(), np.zeros(num_envs, int)
    due = np.full(num_envs, num_episodes // num_envs)
    views = venv.reset(everywhere(venv))
    returns = np.zeros((num_envs, len(views)))
    while not venv.finished.all():
        running = ~venv.finished
        views = venv.step(actions(views, rng))
        length += running
        returns += np.stack([view.reward for view in views.values()], axis=1)
        ended = running & venv.finished
        cut = views["player_0"].truncated
        outcomes = zip(length[ended], cut[ended], returns[ended], strict=True)
        seen.update((int(n), bool(c), *map(float, r)) for n, c, r in outcomes)
        length[ended], returns[ended] = 0, 0
        due -= ended
        if (ended & (due > 0)).any():
            views = venv.reset(ended & (due > 0))
    return seen


def play_ordinary(env_id, num_episodes, max_step=None):
    """Outcomes of random episodes."""
    env, rng = OpenSpielEnv(env_id=env_id, compiled=False), np.random.default_rng(2)
    seen = collections.Counter()
    env.begin(seed=3)
    for _ in range(num_episodes):
        steps, _ = play(env, rng, max_step=max_step)
        seen[(env.cnt, any(steps[-1].truncated.values()), *env.episode_returns.values())] += 1
    return seen


def first_half(views, rng):
    """Prefers low actions: not what the test expects."""
    return {agent: np.where(rng.random(len(a)) < 0.1, 0, a) for agent, a in draw(views, rng).items()}


OUTCOMES = [
    ("kuhn_poker", None),
    ("kuhn_poker", 2),
    ("kuhn_poker(players=3)", None),
    ("leduc_poker", None),
    ("leduc_poker", 4),
    (LIARS_DICE_3, None),
    (GOOFSPIEL_3, None),
    (GOOFSPIEL_RANDOM, None),
    ("matching_pennies_3p", None),
    (OSHI_ZUMO, 3),
    (CLIFF, 4),
]


@pytest.mark.parametrize("env_id, max_step", OUTCOMES)
def test_both_paths_end_as_often_in_every_way_as_they_should(env_id, max_step):
    tree = expand_game(env_id)
    expected = exact_outcomes(tree, max_step)
    assert sum(expected.values()) == pytest.approx(1.0)
    compiled = play_compiled(env_id, 512 * 100, max_step=max_step)
    ordinary = play_ordinary(env_id, 1500, max_step=max_step)
    assert p_value(expected, compiled) > 1e-3
    assert p_value(expected, ordinary) > 1e-3
    values = np.array([outcome[2:] for outcome in expected])
    mean = np.array(list(expected.values())) @ values
    for seen in (compiled, ordinary):
        shares = np.array([seen[outcome] for outcome in expected]) / sum(seen.values())
        error = np.sqrt((shares @ values**2 - (shares @ values) ** 2) / sum(seen.values()))
        assert np.all(np.abs(shares @ values - mean) <= 4.5 * error + 1e-12)
    if max_step is None:
        game = OpenSpielEnv.make_exact(env_id=env_id)
        masks = [game.information_sets(agent)[1] for agent in game.agents]
        payoffs = game.payoffs([(mask / mask.sum(axis=1, keepdims=True))[None] for mask in masks])
        np.testing.assert_allclose(payoffs.ravel(), mean, atol=1e-12)


def test_the_test_of_outcomes_notices_other_play():
    expected = exact_outcomes(expand_game("kuhn_poker"))
    assert p_value(expected, play_compiled("kuhn_poker", 512 * 100, actions=first_half)) < 1e-9


def rows_of(venv, seeds, num_steps):
    """What each row sees and earns in its first ``num_steps`` steps, when it draws its actions from its own seed."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    rows = [[] for _ in seeds]
    views = venv.reset(everywhere(venv))
    for _ in range(num_steps):
        actions = {agent: np.full(len(seeds), -1) for agent in views}
        for i, generator in enumerate(generators):
            for agent, view in views.items():
                rows[i].append(float(view.reward[i]))
                if view.acting[i]:
                    rows[i].append(view.observation[i].tolist())
                    actions[agent][i] = generator.choice(np.flatnonzero(view.action_mask[i]))
        views = venv.step(actions)
        if venv.finished.any():
            views = venv.reset(venv.finished)
    return rows


@pytest.mark.parametrize(
    "env_id, max_step", [("kuhn_poker", None), ("leduc_poker", 3), (GOOFSPIEL_RANDOM, None), ("negotiation", 3)]
)
@pytest.mark.parametrize("compiled", [None, False])
def test_a_row_depends_on_its_seed_alone(env_id, max_step, compiled):
    def rows(*seeds):
        description = {"env_id": env_id, "compiled": compiled}
        venv = OpenSpielEnv.make_vector(seeds, max_step, **description)
        return rows_of(venv or DictVectorEnv(OpenSpielEnv, description, seeds, max_step), seeds, 40)

    together = rows(3, 1, 4, 15, 9)
    assert rows(3, 1) + rows(4, 15, 9) == together  # two vectors
    assert rows(26, 4, 5)[1] == together[2]  # other company, another place
    assert all(a != b for a, b in itertools.combinations(together, 2))


def test_a_hundred_thousand_legal_draws_and_the_whole_table():
    venv, rng = vector("leduc_poker", 512), np.random.default_rng(0)
    tables = {agent: venv.observation_table(agent) for agent in venv.possible_agents}
    game = OpenSpielEnv.make_exact(env_id="leduc_poker")
    met = {agent: np.zeros(len(table), bool) for agent, (table, _) in tables.items()}
    views = venv.reset(everywhere(venv))
    for _ in range(400):
        assert np.array_equal(sum(view.acting for view in views.values()), ~venv.finished)
        for agent, view in views.items():
            table, masks = tables[agent]
            here, index = view.acting, view.observation_index
            assert index.dtype == np.int64 and index.min() >= 0 and index.max() < len(table)
            np.testing.assert_array_equal(view.observation[here], table[index[here]])
            np.testing.assert_array_equal(view.action_mask[here], masks[index[here]])
            met[agent][index[here]] = True
        views = venv.step(draw(views, rng))
        if venv.finished.any():
            views = venv.reset(venv.finished)
    for agent, (table, masks) in tables.items():
        assert met[agent].all()
        for mine, theirs in zip((table, masks), game.information_sets(agent), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        table[:], masks[:] = 0, False  # copies: the game goes on unharmed
        assert venv.observation_table(agent)[1].any()


@pytest.mark.parametrize("env_id", ["leduc_poker", "kuhn_poker", GOOFSPIEL_3])
@pytest.mark.parametrize("bad", [-1, 10**6, None])
def test_compiled_games_refuse_illegal_actions(env_id, bad):
    venv, rng = vector(env_id, 64), np.random.default_rng(0)
    views = venv.reset(everywhere(venv))
    views = venv.step(draw(views, rng))
    agent = next(agent for agent, view in views.items() if view.acting[5])
    actions = draw(views, rng)
    if bad is None:  # in range, but not now
        illegal = ~views[agent].action_mask[5]
        bad = int(illegal.argmax()) if illegal.any() else venv.action_spaces[agent].n
    legal = np.flatnonzero(views[agent].action_mask[5]).tolist()
    before = venv._node.copy()
    wrong = actions | {agent: np.where(np.arange(64) == 5, bad, actions[agent])}
    with pytest.raises(ValueError) as error:
        venv.step(wrong)
    for part in (env_id.split("(")[0], f"illegal action {bad} of {agent}", "environment 5;", f"legal are {legal}"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=f"{agent} is to act and has no action"):
        venv.step({})
    assert np.array_equal(venv._node, before)
    venv.step(actions)


def test_actions_that_are_no_integers_are_refused():
    venv = vector("kuhn_poker", 4)
    venv.reset(everywhere(venv))
    with pytest.raises(TypeError):
        venv.step({"player_0": np.full(4, 0.7)})
    venv.step({"player_0": np.ones(4, np.int32)})


@pytest.mark.parametrize(
    "env_id, max_step",
    [("leduc_poker", 3), ("kuhn_poker", 1), ("kuhn_poker(players=3)", 2), (GOOFSPIEL_3, 1), (GOOFSPIEL_RANDOM, 1)],
)
def test_compiled_time_limit(env_id, max_step):
    """At the limit, everybody gets a final observation: that of the ordinary path, of the same history."""
    env, rng = OpenSpielEnv(env_id=env_id), np.random.default_rng(0)
    expected, may_do = set(), set()
    for _ in range(1500):
        steps, _ = play(env, rng, max_step=max_step)
        if any(steps[-1].truncated.values()):
            expected.add(joint(steps[-1].observations.values()))
            for player, agent in enumerate(env.possible_agents):
                legal = np.flatnonzero(steps[-1].action_masks[agent]).tolist()
                assert legal == next_legal(env._state, player)
            may_do.add(joint(steps[-1].action_masks.values()))
    venv = vector(env_id, 128, max_step=max_step)
    tables = {agent: venv.observation_table(agent) for agent in venv.possible_agents}
    game = OpenSpielEnv.make_exact(env_id=env_id)
    seen, masked, num_truncated, num_terminated = set(), set(), 0, 0
    for _ in range(60):
        views = venv.reset(everywhere(venv))
        for _ in range(max_step):
            assert not any(view.truncated.any() for view in views.values())
            views = venv.step(draw(views, rng))
            num_terminated += views["player_0"].terminated.sum()
        assert venv.finished.all() and not any(view.acting.any() for view in views.values())
        cut = views["player_0"].truncated
        assert not (cut & views["player_0"].terminated).any()
        for agent, view in views.items():
            assert np.array_equal(view.truncated, cut) and not view.reward[cut].any()
            table, masks = tables[agent]
            np.testing.assert_array_equal(view.observation[cut], table[view.observation_index[cut]])
            np.testing.assert_array_equal(view.action_mask[cut], masks[view.observation_index[cut]])
            assert view.action_mask[cut].any(axis=1).all()
        for i in np.flatnonzero(cut):
            num_truncated += 1
            seen.add(joint(view.observation[i] for view in views.values()))
            masked.add(joint(view.action_mask[i] for view in views.values()))
    assert num_truncated + num_terminated == 60 * 128 and num_truncated > 100
    assert len(expected) > 5 and masked == may_do
    if env_id == "leduc_poker":  # too many to meet them all
        assert len(expected - seen) < 0.02 * len(expected)
    else:
        assert expected == seen
    for agent, (table, masks) in tables.items():
        observations, legal = game.information_sets(agent)
        np.testing.assert_array_equal(table[: len(observations)], observations)
        np.testing.assert_array_equal(masks[: len(legal)], legal)
        assert masks[len(legal) :].any(axis=1).all()


def next_legal(state, player):
    """What a player may do at its next decision, over all ways to it; everything where it has none."""

    def search(state):
        if state.is_terminal():
            return set()
        if state.is_simultaneous_node():  # of two players here, who always have a choice
            return set(state.legal_actions(player))
        if state.current_player() == player:
            return set(state.legal_actions())
        return set().union(*(search(state.child(action)) for action in state.legal_actions()))

    return sorted(search(state)) or list(range(state.num_distinct_actions()))


@pytest.mark.parametrize("use_subproc", [False, True])
def test_a_taken_cell_is_not_legal_when_the_time_is_up(use_subproc):
    description = env_desc_gen(env_id="tic_tac_toe")
    venv = (SubprocVectorEnv if use_subproc else vectorise)(description, 1, 0, 3)
    try:
        views = venv.reset(everywhere(venv))
        for player, cell in ((0, 4), (1, 0), (0, 8)):
            views = venv.step({f"player_{each}": np.array([cell if each == player else 0]) for each in (0, 1)})
        for view in views.values():
            assert view.truncated[0] and np.flatnonzero(view.action_mask[0]).tolist() == [1, 2, 3, 5, 6, 7]
    finally:
        venv.close()


def test_whose_part_is_over_has_nothing_legal_to_be_shown():
    env = OpenSpielEnv(env_id="kuhn_poker")
    env.begin(seed=0, max_step=2)
    env.advance({"player_0": 0})
    step = env.advance({"player_1": 1})
    assert step.truncated == {"player_0": True, "player_1": True}
    assert step.action_masks["player_0"].tolist() == [True, True]  # it is to act
    assert step.action_masks["player_1"].tolist() == [True, True]  # it never is again: there is no mask for it
    assert next_choices(env._state, 1) == []


def test_next_choices_of_a_long_game_are_found_by_looking_at_a_bounded_number_of_positions():
    state = pyspiel.load_game("go(board_size=9)").new_initial_state()
    state.apply_action(40)
    assert next_choices(state, 0) == [action for action in range(82) if action != 40]
    state = pyspiel.load_game("backgammon").new_initial_state()
    while state.is_chance_node():
        state.apply_action(state.legal_actions()[0])
    found = next_choices(state, 1 - state.current_player(), most=200)
    assert found and max(found) < state.num_distinct_actions()


def joint(observations):
    return tuple(tuple(observation.tolist()) for observation in observations)


def test_a_limit_that_no_episode_reaches_changes_nothing():
    venv, unlimited, rng = vector("kuhn_poker", 32, max_step=3), vector("kuhn_poker", 32), np.random.default_rng(0)
    assert len(venv.observation_table("player_0")[0]) == 6
    views, others = venv.reset(everywhere(venv)), unlimited.reset(everywhere(venv))
    for _ in range(3):
        actions = draw(views, rng)
        views, others = venv.step(actions), unlimited.step(actions)
        for agent in views:
            assert not views[agent].truncated.any()
            assert np.array_equal(views[agent].reward, others[agent].reward)
    assert venv.finished.all()


def test_final_observations_stay_while_others_begin_anew():
    venv, rng = vector("leduc_poker", 64, max_step=2), np.random.default_rng(0)
    views = venv.reset(everywhere(venv))
    for _ in range(2):
        views = venv.step(draw(views, rng))
    cut = np.flatnonzero(views["player_1"].truncated)
    kept, again = cut[::2], np.zeros(64, bool)
    again[cut[1::2]] = True
    before = {
        agent: (v.observation.copy(), v.observation_index.copy(), v.action_mask.copy()) for agent, v in views.items()
    }
    views = venv.reset(again)
    for agent, view in views.items():
        for old, new in zip(before[agent], (view.observation, view.observation_index, view.action_mask), strict=True):
            np.testing.assert_array_equal(new[kept], old[kept])
        assert view.truncated[kept].all() and not view.truncated[again].any()
    first = views["player_0"]
    table, _ = venv.observation_table("player_0")
    assert first.acting[again].all() and not first.acting[kept].any()
    np.testing.assert_array_equal(first.observation[again], table[first.observation_index[again]])
    views = venv.step(draw(views, rng))
    assert not any(view.truncated.any() for view in views.values())
    assert views["player_1"].acting.sum() == again.sum()
    np.testing.assert_array_equal(
        views["player_1"].observation[again],
        venv.observation_table("player_1")[0][views["player_1"].observation_index[again]],
    )


def test_the_caller_may_park_environments():
    venv, rng = vector("leduc_poker", 16), np.random.default_rng(0)
    views = venv.reset(everywhere(venv))
    venv.finished[3:9] = True
    seen = np.zeros(16, int)
    while not venv.finished.all():
        views = venv.step(draw(views, rng))
        for view in views.values():
            assert not view.acting[3:9].any() and not view.reward[3:9].any() and not view.terminated[3:9].any()
        seen += views["player_0"].terminated
    assert seen.tolist() == [1] * 3 + [0] * 6 + [1] * 7
    views = venv.reset(everywhere(venv))
    assert views["player_0"].acting.all()
    venv.step(draw(views, rng))


def test_rewards_on_the_way_come_on_the_way():
    assert expand_game(CLIFF).pays_on_the_way
    venv, rng = vector(CLIFF, 8), np.random.default_rng(0)
    views = venv.reset(everywhere(venv))
    total = np.zeros(8)
    while not venv.finished.all():
        running = ~venv.finished
        views = venv.step(draw(views, rng))
        assert np.array_equal(views["player_0"].reward < 0, running)
        total += views["player_0"].reward
    assert total.min() >= -600 and total.max() <= -4


def trace(venv, num_steps, seed=5):
    rng, rows = np.random.default_rng(seed), []
    views = venv.reset(everywhere(venv))
    for _ in range(num_steps):
        rows += [np.concatenate([view.observation[view.acting].ravel(), view.reward]) for view in views.values()]
        views = venv.step(draw(views, rng))
        if venv.finished.any():
            views = venv.reset(venv.finished)
    return np.concatenate(rows)


def test_compiled_seeds_and_random_state():
    np.testing.assert_array_equal(
        trace(vector("leduc_poker", 16, seed=1), 50), trace(vector("leduc_poker", 16, seed=1), 50)
    )
    assert not np.array_equal(trace(vector("leduc_poker", 16, seed=1), 9), trace(vector("leduc_poker", 16, seed=2), 9))
    venv = vector("leduc_poker", 16, seed=3)
    trace(venv, 20)
    state = pickle.loads(pickle.dumps(venv.state_dict()))
    after = trace(venv, 20)
    other = vector("leduc_poker", 16, seed=99)
    other.load_state_dict(state)
    np.testing.assert_array_equal(trace(other, 20), after)


def test_chance_is_open_spiels():
    """The ordinary path draws each outcome as often as the game says."""
    env = OpenSpielEnv(env_id="catch")
    columns = collections.Counter()
    for _ in range(2000):
        env.begin()
        columns[env._state.history()[0]] += 1
    game = pyspiel.load_game("catch")
    outcomes = dict(game.new_initial_state().chance_outcomes())
    assert p_value(outcomes, columns) > 1e-3


def test_a_game_whose_states_cannot_be_copied_is_stepped_all_the_same():
    venv = vectorise(env_desc_gen(env_id="python_hangman"), 2, 0)
    assert isinstance(venv, DictVectorEnv)
    view = venv.reset(everywhere(venv))["player_0"]
    ended = np.zeros(2, bool)
    while not ended.all():
        venv.step({"player_0": view.action_mask.argmax(1)})
        ended |= view.terminated


NOISY = "add_noise(epsilon=0.5,game=kuhn_poker(),seed=1)"


def payoffs_by_history(env_id, seed, compiled):
    """What every end that is met pays the first player, by what it showed and did."""
    venv = vectorise(env_desc_gen(env_id=env_id, compiled=compiled), 64, seed)
    rng, paid = np.random.default_rng(seed), {}
    for _ in range(5):
        views, path = venv.reset(everywhere(venv)), [()] * 64
        while not venv.finished.all():
            running, actions = ~venv.finished, {agent: rng.integers(2, size=64) for agent in views}  # all is legal
            for i in np.flatnonzero(running):
                (agent,) = (agent for agent, view in views.items() if view.acting[i])
                path[i] += (views[agent].observation[i].tobytes(), actions[agent][i])
            views = venv.step(actions)
            for i in np.flatnonzero(running & venv.finished):
                paid.setdefault(path[i], set()).add(float(views["player_0"].reward[i]))
    return paid


@pytest.mark.parametrize("env_id", [NOISY, f"misere(game={NOISY})"])
def test_payoffs_that_are_drawn_late_are_drawn_once_for_all(env_id):
    """However and in whatever order it is played, an end pays what it pays in the exact form."""
    first, *others = (payoffs_by_history(env_id, seed, compiled) for seed in (0, 1) for compiled in (True, False))
    assert len(first) == 30 and all(len(payoffs) == 1 for payoffs in first.values())  # 6 deals, 5 ends each
    assert len(set().union(*first.values())) > 25  # the noise is drawn for each end
    for other in others:
        assert other == first
    code = f"from test_open_spiel import *; print(sorted(map(repr, payoffs_by_history({env_id!r}, 3, False).values())))"
    done = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(__file__), capture_output=True, text=True)
    assert done.stdout.strip() == str(sorted(map(repr, first.values())))


def test_noise_of_a_game_that_is_too_large_to_draw_beforehand_is_refused():
    with pytest.raises(ConfigError, match="add_noise draws a payoff when an end of the game is first reached"):
        OpenSpielEnv(env_id="add_noise(epsilon=0.5,game=tic_tac_toe(),seed=1)")


def test_what_repeated_poker_pays_adds_up():
    """It calls itself a game that pays in the end; an episode's rewards add up to its returns all the same."""
    game = pyspiel.load_game("repeated_leduc_poker")
    assert game.get_type().reward_model == pyspiel.GameType.RewardModel.TERMINAL
    env, rng, paid = OpenSpielEnv(env_id="repeated_leduc_poker"), np.random.default_rng(0), 0
    for seed in range(20):
        play(env, rng, seed=seed)
        assert list(env.episode_returns.values()) == pytest.approx(env._state.returns(), abs=1e-9)
        paid += any(env._state.returns())
    assert paid > 10
