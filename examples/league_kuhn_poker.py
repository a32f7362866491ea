"""A league on Kuhn poker: a main agent, a main exploiter and a league exploiter, each with a PPO learner per seat.

python examples/league_kuhn_poker.py
"""

import time

from malib_lite.algorithms.ppo import PPOPolicy, PPOTrainer
from malib_lite.envs.open_spiel import env_desc_gen
from malib_lite.runner import run
from malib_lite.scenarios.league_scenario import LeagueScenario

scenario = LeagueScenario(
    name="league_kuhn_poker",
    log_dir=f"./logs/league_kuhn_poker/{time.time():.0f}",
    algorithms={"default": (PPOPolicy, PPOTrainer, {}, {})},
    env_description=env_desc_gen(env_id="kuhn_poker"),
    # environment steps of each learner in each seat, in one generation
    training_config={"trainer_config": {"total_timesteps": 20_000}},
    rollout_config={"num_threads": 1},
    league_config={"max_iteration": 10, "main": 1, "main_exploiters": 1, "league_exploiters": 1},
    seed=0,
)

if __name__ == "__main__":
    summary = run(scenario)
    rating = summary["ratings"]["main-0"]
    print(f"NashConv {summary['nash_conv']:.4f}, of the average of all generations {summary['nash_conv_average']:.4f}")
    print(f"{rating['elo']:.0f} Elo ({rating['low']:.0f} to {rating['high']:.0f}) above where the main agent began")
