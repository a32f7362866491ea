"""Alpha-rank: the share of time that evolution spends in every joint choice of strategies (Omidshafiei et al. 2019).

A Markov chain over joint pure profiles, one population per player: one player at a time tries another strategy, and it
takes over that player's population with the fixation probability rho of :func:`_log_fixation`. The stationary
distribution ranks profiles, its marginals rank strategies.

Everything is computed in logarithms, so that the answer is right at every alpha: rates that are e^-5000 still say from
which of two equilibria evolution escapes sooner.

Deviations: alpha multiplies payoffs in units of the payoff range of what is not strictly dominated
(:func:`~malib_lite.population.dominance.unit`), so that one bad member does not make selection weak among all others.
An alpha of infinity is
the paper's infinite-alpha chain, in which every harmful change has the same tiny rate: not what ever larger ones come
to, as these still tell greater harm from less. The paper's other chain, for a symmetric game in which one population
plays itself, is not here: its members are ranked by their share in either seat.
"""

from __future__ import annotations

import numpy as np

from malib_lite.config import ConfigError
from malib_lite.population.dominance import ROUNDING, unit
from malib_lite.population.normal_form import check_table, distribution, marginals

# Joint profiles that the chain may have (two pools of 32): time grows with the cube, a few seconds here.
MAX_JOINT_PROFILES = 1024
# Logarithm of the rate of harmful changes where alpha is infinite: 1e-100.
HARMFUL_LOG_RATE = -230.0


def alpha_rank(payoffs: np.ndarray, *, alpha: float = 4.0, population_size: int = 50) -> list[np.ndarray]:
    """Marginals of the alpha-rank distribution, one population per player: a meta-solver.

    Args:
        payoffs: (N, P_1, ..., P_N).
        alpha: intensity of selection, per payoff range; may be infinite.
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
    game = check_table(payoffs)
    shape = game.shape[1:]
    if game[0].size > MAX_JOINT_PROFILES:
        raise ConfigError(
            f"meta-solver 'alpha_rank' takes up to {MAX_JOINT_PROFILES} joint profiles, not {game[0].size}: "
            "choose prd, replicator_dynamics, fictitious_play or uniform"
        )
    game = game / unit(game)
    profiles = np.arange(game[0].size).reshape(shape)
    log_rates = np.full((profiles.size, profiles.size), -np.inf)
    for player in range(len(game)):
        payoff = np.moveaxis(game[player], player, -1)  # (other players' strategies, P_n)
        index = np.moveaxis(profiles, player, -1)
        gain = payoff[..., None, :] - payoff[..., :, None]  # [..., from, to]
        log_rates[index[..., :, None], index[..., None, :]] = _log_fixation(gain, alpha, population_size)
    np.fill_diagonal(log_rates, -np.inf)
    return _stationary(log_rates).reshape(shape)


def _log_fixation(gain: np.ndarray, alpha: float, population_size: int) -> np.ndarray:
    """Logarithm of the probability that one mutant takes over a population of size m (Omidshafiei et al. 2019).

    rho = (1 - e^(-alpha gain)) / (1 - e^(-m alpha gain)), and 1/m where the gain is 0. With s = alpha |gain|, a loss
    gives e^(-(m-1) s) times what the same gain would: no exponential can overflow.
    """
    gain = np.where(np.abs(gain) > ROUNDING, gain, 0.0)
    if np.isinf(alpha):
        return np.choose(np.sign(gain).astype(int) + 1, [HARMFUL_LOG_RATE, -np.log(population_size), 0.0])
    selection = np.maximum(alpha * np.abs(gain), 1e-12)  # at 1e-12 the ratio below is 1/m to twelve digits
    log_rho = np.log(np.expm1(-selection) / np.expm1(-population_size * selection))
    return log_rho - np.where(gain < 0.0, (population_size - 1) * selection, 0.0)


def _stationary(log_rates: np.ndarray) -> np.ndarray:
    """Stationary distribution (S,) of the Markov chain with rates e^``log_rates[i, j]`` from i to j, 0 on the diagonal.

    Elimination of states one by one without a subtraction (Grassmann, Taksar and Heyman 1985), on logarithms: nothing
    cancels, and nothing underflows.
    """
    log_rates = log_rates.copy()
    for state in range(len(log_rates) - 1, 0, -1):
        # Who comes through this state goes on to an earlier one, in proportion to the rates.
        log_rates[:state, state] -= np.logaddexp.reduce(log_rates[state, :state])
        through = log_rates[:state, state, None] + log_rates[state, :state]
        np.logaddexp(log_rates[:state, :state], through, out=log_rates[:state, :state])
        np.fill_diagonal(log_rates[:state, :state], -np.inf)
    log_mass = np.zeros(len(log_rates))
    for state in range(1, len(log_rates)):
        log_mass[state] = np.logaddexp.reduce(log_mass[:state] + log_rates[:state, state])
    return distribution(np.exp(log_mass - log_mass.max()))
