"""Games of the literature, by the names under which ``env_id`` finds them. Actions count from 0."""

from __future__ import annotations

from typing import Any

# Three-player matching pennies: who gets +1 is decided by pairs of pennies, entry by entry [a][b][c].
_PENNIES_3P = [
    [[[1 if a == b else -1, 1 if b == c else -1, 1 if c != a else -1] for c in (0, 1)] for b in (0, 1)] for a in (0, 1)
]

GAMES: dict[str, dict[str, Any]] = {
    # -- zero-sum -----------------------------------------------------------------------------------------------------
    # heads, tails. Osborne and Rubinstein 1994, A Course in Game Theory, example 17.1. Equilibrium (1/2, 1/2), value 0
    "matching_pennies": {"form": "zero_sum", "payoffs": [[1, -1], [-1, 1]]},
    # rock, paper, scissors. Equilibrium (1/3, 1/3, 1/3), value 0
    "rock_paper_scissors": {"form": "zero_sum", "payoffs": [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]},
    # -- general-sum --------------------------------------------------------------------------------------------------
    # cooperate, defect. Leibo et al. 2017, Multi-agent Reinforcement Learning in Sequential Social Dilemmas
    # (https://arxiv.org/abs/1702.03037), figure 1, for this game and the next two. Defection dominates: (1, 1)
    "prisoners_dilemma": {"payoffs": [[[3, 3], [0, 4]], [[4, 0], [1, 1]]]},
    # stag, hare. Both pure equilibria are symmetric: (4, 4) pays, (1, 1) is safe
    "stag_hunt": {"payoffs": [[[4, 4], [0, 3]], [[3, 0], [1, 1]]]},
    # swerve, dare. The pure equilibria are (1, 4) and (4, 1); mixed, both swerve with probability 1/2
    "chicken": {"payoffs": [[[3, 3], [1, 4]], [[4, 1], [0, 0]]]},
    # Osborne and Rubinstein, example 15.3 (Bach or Stravinsky). Mixed, everyone goes where it likes in 2 of 3 cases
    "battle_of_the_sexes": {"payoffs": [[[2, 1], [0, 0]], [[0, 0], [1, 2]]]},
    # Shapley 1964, Some topics in two-person games: fictitious play does not converge. Equilibrium uniform, 1/3 each
    "shapley": {
        "payoffs": [
            [[0, 0], [0, 1], [1, 0]],
            [[1, 0], [0, 0], [0, 1]],
            [[0, 1], [1, 0], [0, 0]],
        ]
    },
    # heads, tails. Jordan 1993, Three problems in learning mixed-strategy Nash equilibria: player_0 wants to match
    # player_1, player_1 to match player_2, player_2 not to match player_0. Equilibrium uniform, 0 each
    "matching_pennies_3p": {"payoffs": _PENNIES_3P},
    # -- identical interest -------------------------------------------------------------------------------------------
    # Osborne and Rubinstein, example 16.1: both want to meet, and agree where. Optimum 2
    "coordination": {"form": "identical", "payoffs": [[2, 0], [0, 1]]},
    # Claus and Boutilier 1998, The Dynamics of Reinforcement Learning in Cooperative Multiagent Systems, for this and
    # the next. Optimum 11 at (0, 0), which a partner who explores makes dear
    "climbing": {"form": "identical", "payoffs": [[11, -30, 0], [-30, 7, 0], [0, 6, 5]]},
    # with penalty k = -100. Optimum 10 at (0, 0) and at (2, 2), safe is 2 at (1, 1)
    "penalty": {"form": "identical", "payoffs": [[10, 0, -100], [0, 2, 0], [-100, 0, 10]]},
    # Rashid et al. 2018, QMIX (https://arxiv.org/abs/1803.11485), section 5: player_0's first action leads to state 1,
    # where everything pays 7, or to state 2, whose optimum is 8. Sums of single values choose the safe 7
    "two_step": {
        "form": "identical",
        "payoffs": [[[0, 0], [0, 0]], [[7, 7], [7, 7]], [[0, 1], [1, 8]]],
        "transitions": [[1, 2], "end", "end"],
    },
}
