"""Rectified Nash: who of a population trains against whom (PSRO_rN; Balduzzi et al. 2019, algorithm 4).

Not a meta-solver but a rule on top of an equilibrium: every member that the equilibrium plays is the start of a best
response of its own, trained against those opponents that it beats or ties with, in the shares that the equilibrium
gives them. Members so grow in what they are good at, and the population in breadth.

Deviations: the paper rectifies the objective, whose positive part changes as the trained policy does; here opponents
are chosen once, by the payoffs of the member that training starts from. The paper's games are symmetric with value 0;
in others, to beat is to earn more than the equilibrium's value.
"""

from __future__ import annotations

import numpy as np

from malib_lite.population.dominance import ROUNDING, restrict, undominated
from malib_lite.population.normal_form import distribution

# Payoffs nearer than this to the value, as a part of the payoff range of what is not strictly dominated, are a tie.
TIE = 1e-6


def rectified_opponents(
    payoffs: np.ndarray, mixtures: list[np.ndarray], player: int, *, min_probability: float = 1e-6
) -> dict[int, np.ndarray]:
    """Whom each member that the equilibrium plays trains against.

    Args:
        payoffs: (2, P_1, P_2) of a zero-sum or constant-sum game.
        mixtures: a Nash equilibrium of it, (P_1,) and (P_2,), as from the meta-solver ``nash``.
        player: 0 or 1, whose members are asked for.
        min_probability: what counts as being played.

    Returns:
        By the member's index: distribution over the other player's members.

    Raises:
        ValueError: a game of other than two players.
    """
    if len(payoffs) != 2:
        raise ValueError(f"rectified Nash is for two players, not {len(payoffs)}")
    own, other = mixtures[player], mixtures[1 - player]
    table = payoffs[0] if player == 0 else payoffs[1].T  # [own, other]
    range_left = np.ptp(restrict(payoffs, undominated(payoffs))[player])
    least = own @ table @ other - max(TIE * range_left, ROUNDING * np.abs(table).max())
    # Against the whole mixture a played member earns the value, so it earns as much against some who are played.
    return {
        member: distribution(np.where(table[member] >= least, other, 0.0))
        for member in np.flatnonzero(own >= min_probability).tolist()
    }
