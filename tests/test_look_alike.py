"""Games in which information sets look alike: exact tables go by the information set, not by what is seen there."""

import json

import numpy as np
import pytest
import torch
from fakes import seeds

from malib_lite import evaluate, train
from malib_lite.algorithms.ppo import PPOPolicy
from malib_lite.config import ConfigError
from malib_lite.envs.open_spiel import OpenSpielEnv, env_desc_gen
from malib_lite.population.exploitability import ExactEvaluator
from malib_lite.population.tabular_policy import TabularPolicy, check_playable
from malib_lite.rollout.pool import PoolPlayer
from malib_lite.rollout.vector_env import vectorise

NIM = "nim(pile_sizes=1;2;3)"
LEDUC = {"env_id": "leduc_poker", "observation": "observation"}


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize(
    "arguments",
    [
        ["psro", "--env", f"open_spiel/{NIM}", "--psro.oracle", "exact"],
        ["psro", "--env", "open_spiel/hex(board_size=2)", "--psro.oracle", "exact"],
        ["psro", "--env", "open_spiel/dark_hex(board_size=2,gameversion=cdh)", "--psro.oracle", "exact"],
        ["psro", "--env", f"open_spiel/{NIM}", "--psro.oracle", "exact", "--psro.payoffs", "sampled", "--workers", "0"],
        ["xdo", "--env", "open_spiel/leduc_poker", "--env_config.observation", "observation"],
    ],
)
def test_they_are_solved(arguments, tmp_path):
    assert train.main([*arguments, "--logdir", str(tmp_path / "run")]) == 0
    assert summary(tmp_path / "run")["nash_conv"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("observation", ["observation", "information_state"])
def test_the_equilibrium_is_that_of_players_who_remember(observation):
    """What tables are worth does not depend on what is seen: Leduc's value for the first player is -0.0856."""
    game = OpenSpielEnv.make_exact(env_id="leduc_poker", observation=observation)
    policies = game.restricted_equilibrium([game.information_sets(agent)[1] for agent in game.agents])
    value, _ = game.payoffs([policy[None] for policy in policies]).ravel()
    assert value == pytest.approx(-0.085606424, abs=1e-6)


def tables(game, agent, count, seed=0):
    legal = game.information_sets(agent)[1]
    random = np.random.default_rng(seed).random((count, *legal.shape)) * legal
    return random / random.sum(axis=-1, keepdims=True)


def tabular(game, agent, table, description):
    observations = {"observations": game.information_sets(agent)[0]}
    spaces = description["observation_spaces"][agent], description["action_spaces"][agent]
    policy = TabularPolicy(*spaces, {}, observations)
    policy.table.copy_(torch.from_numpy(table))
    return policy


def test_sampled_payoffs_of_tables_are_the_exact_ones():
    description = env_desc_gen(**LEDUC)
    game = OpenSpielEnv.make_exact(**LEDUC)
    environments = vectorise(description, 2048, 0)
    pools, players, rng = {}, {}, np.random.default_rng(0)
    for number, agent in enumerate(game.agents):
        (pools[agent],) = tables(game, agent, 1, number)
        policy = tabular(game, agent, pools[agent], description)
        check_playable({agent: policy}, environments)
        players[agent] = PoolPlayer(environments, [agent], {"m": policy}.__getitem__, {"m": 1.0}, rng)
        players[agent].draw(np.ones(2048, bool))
    exact = game.payoffs([pools[agent][None] for agent in game.agents]).ravel()
    returns = np.zeros((20, 2048))
    for episode in returns:
        views = environments.reset(np.ones(2048, bool))
        while not environments.finished.all():
            running = ~environments.finished
            actions = {}
            for agent, view in views.items():
                rows = np.flatnonzero(view.acting & running)
                actions[agent] = np.zeros(2048, np.int64)
                if len(rows):
                    actions[agent][rows] = players[agent].act(agent, view, rows)
            views = environments.step(actions)
            episode += np.where(running, views["player_0"].reward, 0.0)
    error = returns.std() / np.sqrt(returns.size)
    assert abs(returns.mean() - exact[0]) < 5 * error


def test_a_table_that_goes_by_what_is_seen_says_where_it_cannot():
    description, game = env_desc_gen(**LEDUC), OpenSpielEnv.make_exact(**LEDUC)
    observations, masks = game.information_sets("player_0")
    policy = tabular(game, "player_0", tables(game, "player_0", 1)[0], description)
    everything = policy.tabulate(torch.from_numpy(observations), torch.from_numpy(masks))
    np.testing.assert_array_equal(everything.numpy(), policy.table.numpy())
    _, first, count = np.unique(observations, axis=0, return_index=True, return_counts=True)
    alone, alike = first[count == 1], first[count > 1]
    assert len(alone) and len(alike)
    np.testing.assert_array_equal(
        policy.action_probs(torch.from_numpy(observations[alone])).numpy(), policy.table.numpy()[alone]
    )
    for ask in (policy.action_probs, policy.compute_action):
        with pytest.raises(KeyError, match="several information sets"):
            ask(torch.from_numpy(observations[alike]))
    stepped = vectorise(env_desc_gen(**LEDUC, compiled=False), 1, 0)
    for environments in (None, stepped):
        with pytest.raises(ConfigError, match="player_0 cannot be played here: some of its information"):
            check_playable({"player_0": policy}, environments)


def test_a_network_does_the_same_wherever_it_sees_the_same():
    description, game = env_desc_gen(**LEDUC), OpenSpielEnv.make_exact(**LEDUC)
    agent = "player_1"
    policy = PPOPolicy(description["observation_spaces"][agent], description["action_spaces"][agent])
    rows_asked = []
    probs = policy.action_probs
    policy.action_probs = lambda observation, *rest: rows_asked.append(len(observation)) or probs(observation, *rest)
    evaluator = ExactEvaluator(game)
    evaluator.add(agent, policy)
    observations, masks = game.information_sets(agent)
    distinct = len(np.unique(np.concatenate([observations, masks], axis=1), axis=0))
    assert rows_asked == [distinct] and distinct < len(observations)
    one_by_one = np.stack(
        [probs(torch.from_numpy(observations[i : i + 1]), torch.from_numpy(masks[i : i + 1])).detach().numpy()[0]
         for i in range(len(observations))]
    )  # fmt: skip
    table = game.behaviour(agent, evaluator.plans(agent)[0])
    # float32 sums over at most 64 terms in each of a few layers, of numbers near 1
    np.testing.assert_allclose(table, one_by_one, atol=64 * 4 * np.finfo(np.float32).eps)
    alike = {}
    for observation, mask, row in zip(observations, masks, table, strict=True):
        alike.setdefault(observation.tobytes() + mask.tobytes(), []).append(row)
    for rows in alike.values():
        np.testing.assert_allclose(rows, np.broadcast_to(rows[0], np.shape(rows)), rtol=1e-12)


@pytest.mark.parametrize("more", [["--env_config.compiled", "false"], ["--rollout.use_subproc_env", "true"]])
def test_what_cannot_be_played_is_refused_before_the_start(more, tmp_path, capsys):
    arguments = ["psro", "--env", f"open_spiel/{NIM}", "--psro.oracle", "exact", "--psro.payoffs", "sampled", *more]
    assert train.main([*arguments, "--logdir", str(tmp_path / "run")]) == 2
    assert "some of its information sets look alike" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_saved_tables_are_evaluated_by_playing_them(tmp_path):
    run = tmp_path / "run"
    assert train.main(["psro", "--env", f"open_spiel/{NIM}", "--psro.oracle", "exact", "--logdir", str(run)]) == 0
    assert evaluate.main([str(run), "--sampled", "--episodes", "50", "--out", str(tmp_path)]) == 0


def test_a_forgetful_player_has_no_exact_form(tmp_path, capsys):
    arguments = ["psro", "--env", "open_spiel/liars_dice_ir(dice_sides=3)", "--psro.oracle", "exact"]
    assert train.main([*arguments, "--logdir", str(tmp_path / "run")]) == 2
    assert "no player forgets" in capsys.readouterr().err


def test_rows_of_compiled_games_begin_with_the_information_sets():
    for max_step in (None, 2):
        environments = OpenSpielEnv.make_vector(seeds(4, 0), max_step, **LEDUC)
        game = OpenSpielEnv.make_exact(**LEDUC)
        for agent in game.agents:
            observations = game.information_sets(agent)[0]
            np.testing.assert_array_equal(environments.observation_table(agent)[0][: len(observations)], observations)
