"""Every family trains with the same command."""

import json

import pytest

from malib_lite import registry
from malib_lite.train import main

FAMILIES = [
    ("open_spiel/goofspiel(num_cards=3)", "pyspiel", {}),  # simultaneous moves, compiled
    ("open_spiel/leduc_poker(players=3)", "pyspiel", {"compiled": "false"}),
    ("open_spiel/coin_game", "pyspiel", {}),  # observed as text
    ("gym/CartPole-v1", "gymnasium", {}),
    ("gym/Pendulum-v1", "gymnasium", {}),
    ("gym/Taxi-v4", "gymnasium", {}),  # masks
    ("gym/Blackjack-v1", "gymnasium", {}),  # a Tuple
    ("mdp/two_round_nmdp", "malib_lite", {}),
    ("matrix/climbing", "malib_lite", {}),
    ("matrix/two_step", "malib_lite", {}),
    ("pettingzoo/mpe.simple_speaker_listener_v4", "mpe2", {}),  # agents that differ
    ("pettingzoo/classic.connect_four_v3", "pettingzoo.classic.connect_four_v3", {}),
    ("pettingzoo/butterfly.knights_archers_zombies_v11", "pettingzoo.butterfly.knights_archers_zombies_v11", {}),
    ("pettingzoo/sisl.multiwalker_v9", "pettingzoo.sisl.multiwalker_v9", {}),
    ("pettingzoo/atari.pong_v3", "multi_agent_ale_py", {"scenario_configs.obs_type": "ram"}),
    ("lbf/Foraging-8x8-2p-3f-v3", "lbforaging", {}),
    ("rware/rware-tiny-2ag-v2", "rware", {}),
    ("magent2/adversarial_pursuit_v4", "magent2", {"scenario_configs.map_size": "10"}),
    ("mamujoco/HalfCheetah-2x3", "gymnasium_robotics", {}),
    ("vmas/balance", "vmas", {}),
    ("gr_football/academy_empty_goal_close", "gfootball", {}),
    pytest.param("smax/3m", "jaxmarl", {}, marks=pytest.mark.slow),  # compiles for seconds
]


@pytest.mark.parametrize("env, package", [(env, package) for env, package, config in FAMILIES[:-1] if not config])
def test_the_id_may_be_given_by_position(env, package):
    pytest.importorskip(package, exc_type=ImportError)
    family, _, env_id = env.partition("/")
    module = registry.load(registry.ENVIRONMENTS, family, "family")
    assert module.env_desc_gen(env_id)["config"]["env_id"] == env_id


@pytest.mark.parametrize(("env", "package", "env_config"), FAMILIES)
def test_the_same_command_trains_every_family(tmp_path, monkeypatch, env, package, env_config):
    pytest.importorskip(package, exc_type=ImportError)
    monkeypatch.chdir(tmp_path)  # some simulators leave files where they are started
    command = [
        "marl",
        "--env",
        env,
        "--algorithm",
        "ppo",
        "--workers",
        "0",
        "--steps",
        "64",
        "--logdir",
        "run",
        "--quiet",
    ]
    options = {
        "rollout.num_env_per_thread": 2, "rollout.fragment_length": 32, "rollout.max_step": 20,
        "rollout.num_eval_episodes": 2, "trainer.num_epochs": 1, "model.hidden_sizes": "[16]",
        **{f"env_config.{key}": value for key, value in env_config.items()},
    }  # fmt: skip
    assert main([*command, *(part for key, value in options.items() for part in (f"--{key}", str(value)))]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "completed" and summary["env_steps"] >= 64 and summary["updates"] > 0
