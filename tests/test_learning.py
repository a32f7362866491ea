"""It learns: thresholds well below what is reached, each with a twin that must fail them.

The twins' learning rate is zero, and they get by with fewer steps: more of nothing changes nothing.
"""

import dataclasses
import json

import pytest
import torch
from safetensors.numpy import load_file

from malib_lite.algorithms import ppo, random_policy
from malib_lite.envs.mdp import MDPEnvironment, optimal_values, policy_values
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.scenarios.marl_scenario import MARLScenario
from malib_lite.train import TrainConfig, build, make_scenario


def train(folder, **settings):
    scenario = make_scenario(build(TrainConfig, {"workers": 0, **settings, "logdir": str(folder)}))
    return run(scenario, Console(quiet=True))


KUHN = {"scenario": "psro", "env": "open_spiel/kuhn_poker"}
CARTPOLE = {"scenario": "marl", "env": "gym/CartPole-v1"}


@pytest.mark.parametrize("learns", [True, False])
def test_psro_approaches_the_equilibrium_of_kuhn_poker(tmp_path, learns):
    """Uniform play has NashConv 11/12; the value of the game is -1/18."""
    short = {"fragment_length": 64, "num_env_per_thread": 16}
    twin = {"steps": 300, "trainer": {"learning_rate": 0.0}, "rollout": short}
    settings = {"steps": 15_000} if learns else twin
    assert (train(tmp_path, **KUHN, iterations=8, **settings)["nash_conv"] <= 0.25) == learns


@pytest.mark.parametrize("learns", [True, False])
def test_ppo_balances_the_pole(tmp_path, learns):
    """Random play lasts 22.7 steps."""
    settings = {"steps": 30_000} if learns else {"steps": 1000, "trainer": {"learning_rate": 0.0}}
    summary = train(tmp_path, **CARTPOLE, algorithm="ppo", **settings, rollout={"eval_interval": 100})
    assert (summary["return_mean"] >= 200) == learns


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("env", ["two_round_dmdp", "two_round_nmdp"])
def test_dqn_solves_the_decision_processes(tmp_path, env, learns):
    """Against noisy rewards too, whose mean decides: 9 with probability 1/3 is worth 3."""
    # one step: sums over several are those of the exploring policy that made them, not the best one's
    trainer = {"discount": 1.0, "n_step": 1, "learning_rate": 5e-3 if learns else 0.0, "batch_size": 256}
    summary = train(
        tmp_path, scenario="marl", env=f"mdp/{env}", algorithm="dqn", steps=2000 if learns else 200, trainer=trainer,
        rollout={"num_eval_episodes": 400, "eval_interval": 1000}, seed=3,
    )  # fmt: skip
    assert (abs(summary["return_mean"] - 3.0) < 0.5) == learns


@pytest.mark.parametrize("learns", [True, False])
def test_ppo_finds_the_optimum_that_the_discount_makes(tmp_path, learns):
    """multi_round_nmdp: discounted by 1/2 its first action is worth 6 and best, undiscounted its second, worth 9."""
    spec = MDPEnvironment("multi_round_nmdp").spec
    solved = []
    for discount, optimum in ((0.5, 6.0), (1.0, 9.0)):
        folder = tmp_path / f"discount-{discount}"
        trainer = {"discount": discount} if learns else {"discount": discount, "learning_rate": 0.0}
        train(
            folder, scenario="marl", env="mdp/multi_round_nmdp", algorithm="ppo", steps=8192 if learns else 512,
            trainer=trainer, rollout={"eval_interval": 100},
        )  # fmt: skip
        (digest,) = json.loads((folder / "checkpoints" / "state.json").read_text())["policies"].values()
        env = MDPEnvironment("multi_round_nmdp")
        policy = ppo.PPOPolicy(env.observation_spaces["agent"], env.action_spaces["agent"])
        policy.import_state(load_file(folder / "checkpoints" / "policies" / f"{digest}.safetensors"))
        with torch.no_grad():
            greedy = policy.action_probs(torch.arange(2), None, evaluate=True).numpy()
        assert optimal_values(spec, discount)[0] == pytest.approx(optimum)
        solved.append(policy_values(spec, greedy, discount)[0] == pytest.approx(optimum))
    assert all(solved) == learns


def against_random(folder, env, steps, learns, **rollout):
    """What PPO as the first player earns from a random second one."""
    trainer = {"total_timesteps": steps}
    scenario = MARLScenario(
        name="against random",
        log_dir=folder,
        algorithms={"player_0": ppo.ALGORITHM, "player_1": random_policy.ALGORITHM},
        env_description=env,
        training_config={"trainer_config": trainer},
        rollout_config={"num_threads": 0, "num_eval_episodes": 200, "eval_interval": 100, **rollout},
    )
    if not learns:
        trainer_class, settings = scenario.trainers["player_0"]
        scenario.trainers["player_0"] = trainer_class, dataclasses.replace(settings, learning_rate=0.0)
    return run(scenario, Console(quiet=True))["eval/return/player_0"]


@pytest.mark.parametrize("learns", [True, False])
def test_ppo_beats_random_play_at_tic_tac_toe(tmp_path, learns):
    """Of two random players the first wins 0.30 more often than it loses."""
    steps = 30_000 if learns else 1000
    assert (against_random(tmp_path / "run", "open_spiel/tic_tac_toe", steps, learns) >= 0.7) == learns


@pytest.mark.slow
@pytest.mark.parametrize("learns", [True, False])
def test_ppo_beats_random_play_at_connect_four(tmp_path, learns):
    """Of two random players the first wins 0.11 more often than it loses."""
    pytest.importorskip("pettingzoo.classic.connect_four_v3")
    assert (against_random(tmp_path / "run", "pettingzoo/classic.connect_four_v3", 100_000, learns) >= 0.8) == learns


@pytest.mark.slow
@pytest.mark.parametrize("learns", [True, False])
def test_ppo_spreads_over_the_landmarks(tmp_path, learns):
    """Random play earns -26.4 per agent."""
    pytest.importorskip("mpe2")
    trainer = {} if learns else {"learning_rate": 0.0}
    summary = train(
        tmp_path / "run", scenario="marl", env="pettingzoo/mpe.simple_spread_v3", algorithm="ppo", steps=200_000,
        trainer=trainer, workers=1, rollout={"num_eval_episodes": 100},
    )  # fmt: skip
    assert (summary["return_mean"] >= -24.0) == learns


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("algorithm", "threshold"), [("ppo", 475), ("dqn", 400)])
def test_cartpole_at_full_length(tmp_path, algorithm, threshold, seed):
    assert train(tmp_path, **CARTPOLE, algorithm=algorithm, seed=seed, workers=1)["return_mean"] >= threshold


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kuhn_poker_at_full_length(tmp_path, seed):
    summary = train(tmp_path, **KUHN, iterations=12, seed=seed, workers=1)
    assert summary["nash_conv"] <= 0.10 and summary["wall_s"] <= 60
