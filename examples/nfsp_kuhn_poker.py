"""Neural fictitious self-play on Kuhn poker: best responses by DQN, and the average policies that imitate them.

python examples/nfsp_kuhn_poker.py
"""

import time

from malib_lite.algorithms.average_policy import AveragePolicy, AveragePolicyTrainer
from malib_lite.algorithms.dqn import DQNPolicy, DQNTrainer
from malib_lite.envs.open_spiel import env_desc_gen
from malib_lite.runner import run
from malib_lite.scenarios.nfsp_scenario import NFSPScenario

scenario = NFSPScenario(
    name="nfsp_kuhn_poker",
    log_dir=f"./logs/nfsp_kuhn_poker/{time.time():.0f}",
    # the best responses: policy and trainer classes, model configuration, custom configuration
    algorithms={"default": (DQNPolicy, DQNTrainer, {}, {})},
    average=(AveragePolicy, AveragePolicyTrainer),
    env_description=env_desc_gen(env_id="kuhn_poker"),
    training_config={"trainer_config": {"total_timesteps": 200_000}},  # of the best responses
    nfsp_config={"trainer": {"batch_size": 256}, "model": {"hidden_sizes": (64, 64)}},  # of the average policies
    seed=0,
)

if __name__ == "__main__":
    summary = run(scenario)
    print(f"exploitability {summary['exploitability']:.4f} after {summary['env_steps']} steps: {scenario.log_dir}")
