"""It learns: thresholds well below what is reached, each with a twin that must fail them."""

import pytest

from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario


def train(folder, **settings):
    scenario = make_scenario(build(TrainConfig, {"workers": 0, **settings, "logdir": str(folder)}))
    return run(scenario, Console(quiet=True))


KUHN = {"scenario": "psro", "env": "open_spiel/kuhn_poker", "iterations": 8}
CARTPOLE = {"scenario": "marl", "env": "gym/CartPole-v1"}


@pytest.mark.parametrize("learns", [True, False])
def test_psro_approaches_the_equilibrium_of_kuhn_poker(tmp_path, learns):
    """Uniform play has NashConv 11/12; the value of the game is -1/18."""
    summary = train(tmp_path, **KUHN, trainer={} if learns else {"learning_rate": 0.0})
    assert (summary["nash_conv"] <= 0.25) == learns


@pytest.mark.parametrize("learns", [True, False])
def test_ppo_balances_the_pole(tmp_path, learns):
    """Random play lasts 22.7 steps."""
    trainer = {} if learns else {"learning_rate": 0.0}
    summary = train(
        tmp_path, **CARTPOLE, algorithm="ppo", steps=30_000, trainer=trainer, rollout={"eval_interval": 100}
    )
    assert (summary["return_mean"] >= 200) == learns


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("env", ["two_round_dmdp", "two_round_nmdp"])
def test_dqn_solves_the_decision_processes(tmp_path, env, learns):
    """Against noisy rewards too, whose mean decides: 9 with probability 1/3 is worth 3."""
    # one step: sums over several are those of the exploring policy that made them, not the best one's
    trainer = {"discount": 1.0, "n_step": 1, "learning_rate": 5e-3 if learns else 0.0, "batch_size": 256}
    summary = train(
        tmp_path, scenario="marl", env=f"mdp/{env}", algorithm="dqn", steps=2000, trainer=trainer,
        rollout={"num_eval_episodes": 400, "eval_interval": 1000}, seed=3,
    )  # fmt: skip
    assert (abs(summary["return_mean"] - 3.0) < 0.5) == learns


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("algorithm", "threshold"), [("ppo", 475), ("dqn", 400)])
def test_cartpole_at_full_length(tmp_path, algorithm, threshold, seed):
    assert train(tmp_path, **CARTPOLE, algorithm=algorithm, seed=seed, workers=1)["return_mean"] >= threshold


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kuhn_poker_at_full_length(tmp_path, seed):
    summary = train(tmp_path, **{**KUHN, "iterations": 12}, seed=seed, workers=1)
    assert summary["nash_conv"] <= 0.10 and summary["wall_s"] <= 60
