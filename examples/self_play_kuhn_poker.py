"""Self-play on Kuhn poker with PPO: both players learn on, against frozen snapshots of each other.

python examples/self_play_kuhn_poker.py
"""

import time

from malib_lite.algorithms.ppo import PPOPolicy, PPOTrainer
from malib_lite.envs.open_spiel import env_desc_gen
from malib_lite.runner import run
from malib_lite.scenarios.self_play_scenario import SelfPlayScenario

scenario = SelfPlayScenario(
    name="self_play_kuhn_poker",
    log_dir=f"./logs/self_play_kuhn_poker/{time.time():.0f}",
    algorithms={"default": (PPOPolicy, PPOTrainer, {}, {})},
    env_description=env_desc_gen(env_id="kuhn_poker"),
    # environment steps of each player in a generation; entropy keeps the policies mixed
    training_config={"trainer_config": {"total_timesteps": 10_000, "entropy_coef": 0.1}},
    # naive: the latest snapshot; fictitious: all; delta_uniform: the latest share; pfsp: those that are hard to beat
    self_play_config={"opponents": "delta_uniform", "delta": 0.5, "max_iteration": 20},
    seed=0,
)

if __name__ == "__main__":
    summary = run(scenario)
    print(f"NashConv of the latest {summary['nash_conv']:.4f}, of the average {summary['nash_conv_average']:.4f}")
