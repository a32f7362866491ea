"""Equilibria of two-player zero-sum games in sequence form, by one linear program.

See Koller, Megiddo and von Stengel 1996, Efficient computation of equilibria for extensive two-person games.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array, csr_array, hstack

if TYPE_CHECKING:
    from malib_lite.envs.open_spiel.exact import Sequences


def solve(
    first: Sequences, second: Sequences, payoff: csr_array, allowed_first: np.ndarray, allowed_second: np.ndarray
) -> list[np.ndarray]:
    """An equilibrium of the game in which the players take only some of their actions.

    The first player chooses a plan x and for each information set of the second what is to be had there at least, q,
    so that no sequence of the second player costs more than x takes: max q_root with F^T q <= A^T x, E x = e, x >= 0.
    E and F say that a sequence weighs what is played after it. The dual variables of the inequalities are the second
    player's plan.

    Args:
        payoff: A, what the first player gets, by both players' sequences, (S_1, S_2).
        allowed_first: (I_1, A) bool, at least one legal action of each information set.
        allowed_second: (I_2, A) bool, likewise.

    Returns:
        Both players' policies (I, A). Where a player itself never goes, its allowed actions are alike.

    Raises:
        ValueError: of some information set no legal action is allowed, or a shape is wrong.
    """
    from scipy.optimize import linprog  # takes a good part of a second to import

    reachable = [_reachable(own, allowed) for own, allowed in ((first, allowed_first), (second, allowed_second))]
    (rows, of_first), (columns, of_second) = (
        (sequences, _flows(own, sequences)) for own, sequences in zip((first, second), reachable, strict=True)
    )
    gain = payoff[rows][:, columns].T
    num_plan, num_q = len(rows), of_second.shape[0]
    solution = linprog(
        c=np.append(np.zeros(num_plan), [-1.0, *[0.0] * (num_q - 1)]),  # x, then q with the root's first
        A_ub=hstack([-gain, of_second.T]).tocsr(),
        b_ub=np.zeros(len(columns)),
        A_eq=hstack([of_first, coo_array((of_first.shape[0], num_q))]).tocsr(),
        b_eq=np.append(1.0, np.zeros(of_first.shape[0] - 1)),
        bounds=[(0.0, None)] * num_plan + [(None, None)] * num_q,
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solution.status != 0:
        raise RuntimeError(f"the linear program for the restricted game was not solved: {solution.message}")
    policies = []
    for own, sequences, allowed, weights in (
        (first, rows, allowed_first, solution.x[:num_plan]),
        (second, columns, allowed_second, -solution.ineqlin.marginals),
    ):
        plan = np.zeros(own.count)
        plan[sequences] = np.where(weights > 1e-9, weights, 0.0)  # what rounding leaves would be blown up
        policies.append(own.behaviour(plan, otherwise=allowed & own.legal))
    return policies


def _reachable(own: Sequences, allowed: np.ndarray) -> np.ndarray:
    """The sequences, in ascending order, that consist of allowed actions alone; the empty one is the last."""
    allowed = np.asarray(allowed, bool)
    if allowed.shape != own.legal.shape or not (allowed & own.legal).any(axis=1).all():
        raise ValueError(f"allowed actions must be (I, A) = {own.legal.shape}, some legal one in each row")
    reached = np.zeros(own.count, bool)
    reached[-1] = True
    by_infoset = reached[:-1].reshape(own.legal.shape)  # a view
    for infosets in own.depths:
        by_infoset[infosets] = (allowed & own.legal)[infosets] & reached[own.parent[infosets], None]
    return np.flatnonzero(reached)


def _flows(own: Sequences, sequences: np.ndarray) -> coo_array:
    """The matrix of the constraints on a plan, with columns for ``sequences`` alone.

    The first row stands for the empty sequence, which weighs 1; every other one for an information set that can be
    reached, where the actions together weigh what leads there.
    """
    number = np.full(own.count, -1)
    number[sequences] = np.arange(len(sequences))
    infosets = np.flatnonzero(number[own.parent] >= 0)
    row = np.full(len(own.legal), -1)
    row[infosets] = 1 + np.arange(len(infosets))
    taken = sequences[:-1]
    rows = np.concatenate([[0], row[infosets], row[taken // own.legal.shape[1]]])
    columns = np.concatenate([[len(sequences) - 1], number[own.parent[infosets]], np.arange(len(taken))])
    entries = np.concatenate([[1.0], -np.ones(len(infosets)), np.ones(len(taken))])
    return coo_array((entries, (rows, columns)), (1 + len(infosets), len(sequences)))
