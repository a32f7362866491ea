"""The scenarios of Google Research Football 2.10.2 and whom one may control in them; read off the simulator."""

from __future__ import annotations

from typing import NamedTuple


class Sides(NamedTuple):
    """How many players each side lets be controlled, and how many of the left are without its goalkeeper."""

    left: int
    right: int
    left_field: int


_ELEVEN = Sides(11, 11, 10)

# The scenarios below gfootball.scenarios.tests, with which the package tests its engine, are left out.
SCENARIOS = {
    "11_vs_11_competition": _ELEVEN,
    "11_vs_11_easy_stochastic": _ELEVEN,
    "11_vs_11_hard_stochastic": _ELEVEN,
    "11_vs_11_kaggle": _ELEVEN,
    "11_vs_11_stochastic": _ELEVEN,
    "1_vs_1_easy": Sides(1, 1, 1),
    "5_vs_5": Sides(4, 4, 4),  # both goalkeepers always play by themselves
    "academy_3_vs_1_with_keeper": Sides(4, 2, 3),
    "academy_corner": _ELEVEN,
    "academy_counterattack_easy": _ELEVEN,
    "academy_counterattack_hard": _ELEVEN,
    "academy_empty_goal": Sides(2, 1, 1),
    "academy_empty_goal_close": Sides(2, 1, 1),
    "academy_pass_and_shoot_with_keeper": Sides(3, 2, 2),
    "academy_run_pass_and_shoot_with_keeper": Sides(3, 2, 2),
    "academy_run_to_score": Sides(2, 6, 1),
    "academy_run_to_score_with_keeper": Sides(2, 6, 1),
    "academy_single_goal_versus_lazy": _ELEVEN,
    "test_example_multiagent": Sides(4, 2, 3),
}
