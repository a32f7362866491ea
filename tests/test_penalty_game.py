"""QMIX in the penalty game, which takes both agents to agree; COMA's, MADDPG's and MAPPO's tests have it, too."""

import pytest

from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario


@pytest.mark.slow
@pytest.mark.parametrize("learns", [True, False])
def test_without_a_penalty_two_ways_are_best(tmp_path, learns):
    """25 rounds at 10 are 250; uniform play earns 61. No mixture of QMIX's fits the payoffs, its play does."""
    settings = {
        "scenario": "marl", "algorithm": "qmix", "env": "matrix/custom", "steps": 4000 if learns else 1000,
        "env_config": {"payoffs": [[10, 0, 0], [0, 2, 0], [0, 0, 10]], "form": "identical", "rounds": 25},
        "rollout": {"eval_interval": 1000}, "trainer": {} if learns else {"learning_rate": 0.0},
        "workers": 0, "logdir": str(tmp_path),
    }  # fmt: skip
    summary = run(make_scenario(build(TrainConfig, settings)), Console(quiet=True))
    assert (summary["return_mean"] >= 240) == learns
