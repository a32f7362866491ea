"""The OpenSpiel adapter: stepped one by one and compiled, and that both play the same game."""

import collections
import itertools
import pickle

import numpy as np
import pyspiel
import pytest
from fakes import seeds
from scipy import stats

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import TimeStep
from malib_lite.envs.open_spiel import OpenSpielEnv, env_desc_gen, env_ids
from malib_lite.envs.open_spiel.compiled import CompiledVector
from malib_lite.envs.open_spiel.game_tree import BUDGET, TERMINAL, expand_game

GOOFSPIEL_3 = "goofspiel(num_cards=3,imp_info=True,points_order=descending)"
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


def vector(env_id, num_envs, seed=0, max_step=None):
    venv = OpenSpielEnv.make_vector(seeds(num_envs, seed), max_step, env_id=env_id)
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


@pytest.mark.parametrize("env_id", ["leduc_poker", "negotiation", "2048", GOOFSPIEL_3.replace("descending", "random")])
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
    assert description["config"] == {"env_id": "leduc_poker(players=3)", "compiled": False}
    copy = pickle.loads(pickle.dumps(description))
    assert copy["observation_spaces"] == description["observation_spaces"]
    env = copy["creator"](**copy["config"])
    env.begin(seed=0)
    step = pickle.loads(pickle.dumps(env)).advance({"player_0": 1})
    assert list(step.observations) == ["player_1"]


def test_every_listed_game_can_be_played():
    rng = np.random.default_rng(0)
    names = env_ids()
    assert {"kuhn_poker", "leduc_poker", "tic_tac_toe", "goofspiel", "python_kuhn_poker"} <= set(names)
    assert not {"misere", "mfg_garnet", "chat_game", "coin_game", "crossword"} & set(names)
    assert names == sorted(names)
    for name in names:
        if name == "bridge_uncontested_bidding":  # seconds for a move
            continue
        env = OpenSpielEnv(env_id=name)
        steps, _ = play(env, rng, seed=0, max_step=5)
        for agent, observation in itertools.chain(*(step.observations.items() for step in steps)):
            assert env.observation_spaces[agent].contains(observation), name


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
        ({"env_id": "coin_game"}, "no tensor"),
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


@pytest.mark.parametrize("env_id", ["kuhn_poker(players=3)", "leduc_poker", GOOFSPIEL_3, "tiny_hanabi", CLIFF])
def test_both_paths_show_the_same_at_the_same_histories(env_id):
    env, tree, rng = OpenSpielEnv(env_id=env_id), expand_game(env_id), np.random.default_rng(0)
    venv = vector(env_id, 1)
    assert venv.possible_agents == env.possible_agents
    assert venv.observation_spaces == env.observation_spaces and venv.action_spaces == env.action_spaces
    simultaneous = tree.skip > 0
    for _ in range(150):
        step = env.begin()
        venv.reset(everywhere(venv))
        venv._node[0] = walk(tree, env._state)  # deal the same cards
        venv._look()
        while not env.finished:
            for player, agent in enumerate(env.possible_agents):
                view = venv._views[agent]
                assert view.acting[0] == (agent in step.observations) or simultaneous
                if not view.acting[0]:
                    continue
                np.testing.assert_array_equal(view.observation[0], step.observations[agent])
                np.testing.assert_array_equal(view.action_mask[0], step.action_masks[agent])
                table, masks = venv.observation_table(agent)
                np.testing.assert_array_equal(table[view.observation_index[0]], step.observations[agent])
                np.testing.assert_array_equal(masks[view.observation_index[0]], step.action_masks[agent])
                if simultaneous and player == 0:
                    first = {agent: choose(step, rng)[agent]}
                    venv.step({agent: np.array([first[agent]])})
            actions = choose(step, rng) | (first if simultaneous else {})
            step = env.advance(actions)
            venv.step({agent: np.array([action]) for agent, action in actions.items()})
            rewards = [venv._views[agent].reward[0] for agent in env.possible_agents]
            np.testing.assert_allclose(rewards, list(step.rewards.values()), atol=1e-6)
            assert venv.finished[0] == env.finished == venv._views["player_0"].terminated[0]
            if not env.finished:  # whatever chance has done
                venv._node[0] = walk(tree, env._state)
                venv._look()


def walk(tree, state):
    """The node of a state of the ordinary path."""
    node = 0
    for action in state.history():
        children = tree.first_child[node] + np.arange(tree.num_children[node])
        (node,) = children[tree.action[children] == action]
    return node


def exact_outcomes(tree):
    """Probabilities of (decisions, returns) under uniformly random legal play."""
    reach, lengths = np.ones(tree.num_nodes), tree.num_decisions()
    for level in tree.levels():
        parent = tree.parent[level]
        uniform = np.where(tree.player[parent] >= 0, 1.0 / np.maximum(tree.num_children[parent], 1), 1.0)
        reach[level] = reach[parent] * tree.probability[level] * uniform
    outcomes = collections.Counter()
    for leaf in np.flatnonzero(tree.player == TERMINAL):
        outcomes[(int(lengths[leaf]), *tree.returns[leaf])] += reach[leaf]
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


def play_compiled(env_id, num_episodes, num_envs=512, actions=draw):
    """(decisions, returns) of random episodes; each environment plays as many, or short ones would come too often."""
    venv, rng = vector(env_id, num_envs), np.random.default_rng(1)
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
        seen.update((int(n), *map(float, r)) for n, r in zip(length[ended], returns[ended], strict=True))
        length[ended], returns[ended] = 0, 0
        due -= ended
        if (ended & (due > 0)).any():
            views = venv.reset(ended & (due > 0))
    return seen


def first_half(views, rng):
    """Prefers low actions: not what the test expects."""
    return {agent: np.where(rng.random(len(a)) < 0.1, 0, a) for agent, a in draw(views, rng).items()}


@pytest.mark.parametrize("env_id", ["kuhn_poker", "kuhn_poker(players=3)", "leduc_poker", GOOFSPIEL_3])
def test_compiled_games_end_as_often_in_every_way_as_they_should(env_id):
    expected = exact_outcomes(expand_game(env_id))
    assert sum(expected.values()) == pytest.approx(1.0)
    assert p_value(expected, play_compiled(env_id, 512 * 100)) > 1e-3


def test_the_test_of_outcomes_notices_other_play():
    expected = exact_outcomes(expand_game("kuhn_poker"))
    assert p_value(expected, play_compiled("kuhn_poker", 512 * 100, actions=first_half)) < 1e-9


@pytest.mark.parametrize("env_id", ["kuhn_poker", "leduc_poker"])
def test_ordinary_games_end_as_often_in_every_way_as_they_should(env_id):
    env, rng = OpenSpielEnv(env_id=env_id, compiled=False), np.random.default_rng(2)
    seen = collections.Counter()
    env.begin(seed=3)
    for _ in range(5000):
        play(env, rng)
        seen[(env.cnt, *env.episode_returns.values())] += 1
    assert p_value(exact_outcomes(expand_game(env_id)), seen) > 1e-3


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
    (agent,) = (agent for agent, view in views.items() if view.acting[5])
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


@pytest.mark.parametrize("env_id, max_step", [("leduc_poker", 3), ("kuhn_poker", 1), ("kuhn_poker(players=3)", 2)])
def test_compiled_time_limit(env_id, max_step):
    """At the limit, everybody gets a final observation: that of the ordinary path, of the same history."""
    env, rng = OpenSpielEnv(env_id=env_id), np.random.default_rng(0)
    expected = set()
    for _ in range(1500):
        steps, _ = play(env, rng, max_step=max_step)
        if any(steps[-1].truncated.values()):
            expected.add(joint(steps[-1].observations.values()))
    venv = vector(env_id, 128, max_step=max_step)
    tables = {agent: venv.observation_table(agent) for agent in venv.possible_agents}
    game = OpenSpielEnv.make_exact(env_id=env_id)
    seen, num_truncated, num_terminated = set(), 0, 0
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
    assert num_truncated + num_terminated == 60 * 128 and num_truncated > 100
    assert len(expected) > 5
    if env_id == "leduc_poker":  # too many to meet them all
        assert len(expected - seen) < 0.02 * len(expected)
    else:
        assert expected == seen
    for agent, (table, masks) in tables.items():
        observations, legal = game.information_sets(agent)
        np.testing.assert_array_equal(table[: len(observations)], observations)
        np.testing.assert_array_equal(masks[: len(legal)], legal)
        assert masks[len(legal) :].all()


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
