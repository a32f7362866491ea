"""The Quick Start programs of MALib's documents, as scripts: no `__main__` guard, lambdas and dictionaries as there."""

import json
import subprocess
import sys

import pytest

COMMON = """
import os, time
from malib_lite.runner import run
from malib_lite.agent import IndependentAgent
from malib_lite.algorithms.dqn import DQNPolicy, DQNTrainer, DEFAULT_CONFIG

trainer_config = DEFAULT_CONFIG["training_config"].copy()
trainer_config["total_timesteps"] = int(1e6)
training_config = {"type": IndependentAgent, "trainer_config": trainer_config, "custom_config": {}}
rollout_config = {
    "fragment_length": 2000, "max_step": 200, "num_eval_episodes": 10, "num_threads": 2, "num_env_per_thread": 10,
    "num_eval_threads": 1, "use_subproc_env": False, "batch_mode": "time_step", "postprocessor_types": ["defaults"],
    "eval_interval": 1, "inference_server": "local",
}
agent_mapping_func = lambda agent: agent
algorithms = {"default": (DQNPolicy, DQNTrainer, {}, {})}
runtime_logdir = os.path.join("./logs", f"run/{time.time()}")
if not os.path.exists(runtime_logdir):
    os.makedirs(runtime_logdir)
"""

PSRO = """
from malib_lite.envs.open_spiel import env_desc_gen
from malib_lite.scenarios.psro_scenario import PSROScenario

scenario = PSROScenario(
    name="psro_kuhn_poker", log_dir=runtime_logdir, algorithms=algorithms,
    env_description=env_desc_gen(env_id="kuhn_poker"), training_config=training_config, rollout_config=rollout_config,
    global_stopping_conditions={"max_iteration": 1}, agent_mapping_func=agent_mapping_func,
    stopping_conditions={"training": {"max_iteration": int(1e2)}, "rollout": {"max_iteration": 2}},
)
run(scenario)
"""

CARTPOLE = """
from malib_lite.envs.gym import env_desc_gen
from malib_lite.scenarios.marl_scenario import MARLScenario

scenario = MARLScenario(
    name="gym", log_dir=runtime_logdir, algorithms=algorithms,
    env_description=env_desc_gen(env_id="CartPole-v1", scenario_configs={}), training_config=training_config,
    rollout_config=rollout_config, agent_mapping_func=agent_mapping_func,
    stopping_conditions={
        "training": {"max_iteration": int(1e10)}, "rollout": {"max_iteration": 2, "minimum_reward_improvement": 1.0},
    },
)
run(scenario)
"""


@pytest.mark.parametrize("program", [pytest.param(PSRO, marks=pytest.mark.slow), CARTPOLE], ids=["psro", "cartpole"])
def test_the_programs_of_the_documents_run(tmp_path, program):
    """Only the numbers of iterations and of steps between them are smaller here."""
    (tmp_path / "program.py").write_text(COMMON.replace("2000", "200") + program)
    result = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    (summary,) = (tmp_path / "logs" / "run").glob("*/summary.json")
    assert json.loads(summary.read_text())["status"] == "completed"
