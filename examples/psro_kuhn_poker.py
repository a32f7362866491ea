"""PSRO on Kuhn poker with DQN best responses: the Quick Start of MALib's documents.

python examples/psro_kuhn_poker.py
"""

import time

from malib_lite.agent import IndependentAgent
from malib_lite.algorithms.dqn import DQNPolicy, DQNTrainer
from malib_lite.envs.open_spiel import env_desc_gen
from malib_lite.runner import run
from malib_lite.scenarios.psro_scenario import PSROScenario

scenario = PSROScenario(
    name="psro_kuhn_poker",
    log_dir=f"./logs/psro_kuhn_poker/{time.time():.0f}",
    # policy and trainer classes, model configuration, custom configuration; "default" serves every player
    algorithms={"default": (DQNPolicy, DQNTrainer, {}, {})},
    env_description=env_desc_gen(env_id="kuhn_poker"),
    # environment steps of one best response; the trainer's other fields keep their defaults
    training_config={"type": IndependentAgent, "trainer_config": {"total_timesteps": 50_000}},
    rollout_config={"num_threads": 1, "num_env_per_thread": 256, "fragment_length": 4096},
    agent_mapping_func=lambda agent: agent,  # every player is a population of its own
    global_stopping_conditions={"max_iteration": 12},
    psro_config={"meta_solver": "nash"},
    seed=0,
)

if __name__ == "__main__":
    summary = run(scenario)
    print(f"NashConv {summary['nash_conv']:.4f} after {summary['iteration']} iterations: {scenario.log_dir}")
