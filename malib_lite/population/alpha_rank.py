"""Alpha-rank: the share of time that evolution spends in every joint choice of strategies (Omidshafiei et al. 2019).

A Markov chain over joint pure profiles, one population per player: one player at a time tries another strategy, and it
takes over that player's population with the fixation probability rho of :func:`_log_fixation`. The stationary
distribution ranks profiles, its marginals rank strategies.

Deviations: alpha multiplies payoffs that were scaled to span one unit. A very large alpha comes to the paper's
infinite-alpha chain, in which every harmful change has the same tiny rate. The paper's other chain, for a symmetric
game in which one population plays itself, is not here: its members are ranked by their share in either seat.
"""

from __future__ import annotations

import numpy as np

from malib_lite.config import ConfigError
from malib_lite.population.normal_form import distribution, marginals, normalise

# Joint profiles that the chain may have (two pools of 32): time grows with the cube, about a second here.
MAX_JOINT_PROFILES = 1024
# Rates of the chain stay above e^-230 = 1e-100, so that products of three of them are still numbers.
LOWEST_LOG_RATE = -230.0


def alpha_rank(payoffs: np.ndarray, *, alpha: float = 4.0, population_size: int = 50) -> list[np.ndarray]:
    """Marginals of the alpha-rank distribution, one population per player: a meta-solver.

    Args:
        payoffs: (N, P_1, ..., P_N).
        alpha: intensity of selection, per payoff range.
        population_size: individuals per population, m in the paper; at least 2.

    Returns:
        One distribution (P_n,) per player. The product of the marginals need not be the joint distribution.

    Raises:
        ConfigError: more than ``MAX_JOINT_PROFILES`` joint profiles.
    """
    return marginals(alpha_rank_joint(payoffs, alpha=alpha, population_size=population_size))


def alpha_rank_joint(payoffs: np.ndarray, *, alpha: float = 4.0, population_size: int = 50) -> np.ndarray:
    """The alpha-rank distribution (P_1, ..., P_N) itself; arguments and errors as of :func:`alpha_rank`.

    It is no (coarse) correlated equilibrium, and so none of the joint meta-solvers.
    """
    game = normalise(payoffs)
    shape = game.shape[1:]
    if game[0].size > MAX_JOINT_PROFILES:
        raise ConfigError(
            f"meta-solver 'alpha_rank' takes up to {MAX_JOINT_PROFILES} joint profiles, not {game[0].size}: "
            "choose prd, replicator_dynamics, fictitious_play or uniform"
        )
    profiles = np.arange(game[0].size).reshape(shape)
    rates = np.zeros((profiles.size, profiles.size))
    for player in range(len(game)):
        payoff = np.moveaxis(game[player], player, -1)  # (other players' strategies, P_n)
        index = np.moveaxis(profiles, player, -1)
        gain = payoff[..., None, :] - payoff[..., :, None]  # [..., from, to]
        rates[index[..., :, None], index[..., None, :]] = np.exp(_log_fixation(gain, alpha, population_size))
    np.fill_diagonal(rates, 0.0)
    return _stationary(rates).reshape(shape)


def _log_fixation(gain: np.ndarray, alpha: float, population_size: int) -> np.ndarray:
    """Logarithm of the probability that one mutant takes over a population of size m (Omidshafiei et al. 2019).

    rho = (1 - e^(-alpha gain)) / (1 - e^(-m alpha gain)), and 1/m where the gain is 0. With s = alpha |gain|, a loss
    gives e^(-(m-1) s) times what the same gain would: no exponential can overflow.
    """
    selection = np.maximum(alpha * np.abs(gain), 1e-12)  # at 1e-12 the ratio below is 1/m to twelve digits
    log_rho = np.log(np.expm1(-selection) / np.expm1(-population_size * selection))
    log_rho -= np.where(gain < 0.0, (population_size - 1) * selection, 0.0)
    return np.maximum(log_rho, LOWEST_LOG_RATE)


def _stationary(rates: np.ndarray) -> np.ndarray:
    """Stationary distribution (S,) of the Markov chain with ``rates[i, j]`` from state i to j, diagonal 0.

    Elimination of states one by one without a subtraction (Grassmann, Taksar and Heyman 1985): each entry keeps its
    relative accuracy even where rates differ by 200 orders of magnitude and an eigenvector solver returns noise.
    Taking the most quickly left state first keeps every ratio between 0 and 1.
    """
    rates = rates.copy()
    order = np.arange(len(rates))
    last = len(rates) - 1
    while last > 0:
        outflow = rates[: last + 1, : last + 1].sum(axis=1)
        pivot = outflow.argmax()
        if outflow[pivot] == 0.0:  # what is left differs by less than the smallest number: a tie
            break
        rates[[pivot, last]] = rates[[last, pivot]]
        rates[:, [pivot, last]] = rates[:, [last, pivot]]
        order[[pivot, last]] = order[[last, pivot]]
        rates[:last, last] /= outflow[pivot]
        rates[:last, :last] += np.outer(rates[:last, last], rates[last, :last])
        np.fill_diagonal(rates[:last, :last], 0.0)
        last -= 1
    mass = np.ones(len(rates))
    for state in range(last + 1, len(rates)):
        mass[state] = mass[:state] @ rates[:state, state]
    return distribution(mass[np.argsort(order)])
