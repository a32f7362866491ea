"""DQN on CartPole: reinforcement learning without a population, from MALib's documents.

python examples/dqn_cartpole.py
"""

import time

from malib_lite.agent import IndependentAgent
from malib_lite.algorithms.dqn import DEFAULT_CONFIG, DQNPolicy, DQNTrainer
from malib_lite.envs.gym import env_desc_gen
from malib_lite.runner import run
from malib_lite.scenarios.marl_scenario import MARLScenario

trainer_config = DEFAULT_CONFIG["training_config"].copy()
trainer_config["total_timesteps"] = 100_000

scenario = MARLScenario(
    name="dqn_cartpole",
    log_dir=f"./logs/gym/{time.time():.0f}",
    algorithms={"default": (DQNPolicy, DQNTrainer, {}, {})},
    env_description=env_desc_gen(env_id="CartPole-v1", scenario_configs={}),
    training_config={"type": IndependentAgent, "trainer_config": trainer_config, "custom_config": {}},
    rollout_config={"num_threads": 1, "num_eval_episodes": 20},
    stopping_conditions={"rollout": {"max_iteration": 1000, "minimum_reward_improvement": 1.0}},
)

if __name__ == "__main__":
    print(f"mean return {run(scenario)['return_mean']:.1f}: {scenario.log_dir}")
