"""Equilibria of matrix games: two players, one gets what the other loses."""

from __future__ import annotations

import numpy as np

from malib_lite.population.normal_form import distribution, normalise

# What may be left to gain, as a part of what the game is about: see solve_matrix.
ACCURACY = 1e-8


def solve_matrix(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An equilibrium: mixtures (P_1,) and (P_2,) of who gets ``matrix`` (P_1, P_2) and of who pays it.

    By one linear program, whose answer is judged: what both players together could still gain is compared with the
    distance between what the first can have for certain with a single strategy and what the second can hold it to
    with one. Between these lies the value, however large the entries are that nobody ever comes to. A program's
    tolerances are absolute, and beside entries a billion times as large as that distance its answer may be no
    equilibrium at all. Then the program is grown as in the double oracle algorithm (McMahan, Gordon and Blum 2003):
    best responses enter, and the entries that matter to nobody stay out.

    Raises:
        RuntimeError: the linear program was not solved.
    """
    floor, ceiling = matrix.min(axis=1).max(), matrix.max(axis=0).min()
    enough = ACCURACY * max(0.0, ceiling - floor)
    mine, theirs = normalise(np.stack([matrix, -matrix]))
    solution = _program((mine - theirs) / 2.0)
    if solution is None:
        solution = _grow(matrix, enough)
        if solution is None:
            raise RuntimeError("the linear program for the Nash equilibrium was not solved")
    elif _gap(matrix, *solution) > enough:
        grown = _grow(matrix, enough)
        if grown is not None and _gap(matrix, *grown) < _gap(matrix, *solution):
            solution = grown
    return solution


def _gap(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """What both players together gain by best responses, beyond rounding."""
    of_rows, of_columns = matrix @ y, x @ matrix
    row, column = of_rows.argmax(), of_columns.argmin()
    rounding = 16.0 * np.finfo(np.float64).eps * (np.abs(matrix[row]) @ y + x @ np.abs(matrix[:, column]))
    return float(of_rows[row] - of_columns[column] - rounding)


def _program(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The first player maximises the value v that its mixture x guarantees: max v with x^T A >= v, sum(x) = 1, x >= 0.
    The dual variables of the guarantees are the second player's mixture. None if the program was not solved."""
    from scipy.optimize import linprog  # takes a good part of a second to import, and only this solver needs it

    rows, columns = matrix.shape
    solution = linprog(
        c=np.append(np.zeros(rows), -1.0),  # variables: x_1 .. x_P, v; linprog minimises
        A_ub=np.column_stack([-matrix.T, np.ones(columns)]),
        b_ub=np.zeros(columns),
        A_eq=np.append(np.ones(rows), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0.0, None)] * rows + [(None, None)],
        method="highs",
        # A full table leaves nothing to presolve, and looking for it takes a quarter of the time.
        options={"presolve": False, "primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solution.status != 0:
        return None
    x, y = np.clip(solution.x[:-1], 0.0, None), np.clip(-solution.ineqlin.marginals, 0.0, None)
    return (distribution(x), distribution(y)) if x.sum() > 0.0 and y.sum() > 0.0 else None


def _grow(matrix: np.ndarray, enough: float) -> tuple[np.ndarray, np.ndarray] | None:
    """The best of the equilibria of ever larger parts of the game, until no more than ``enough`` is left to gain."""
    rows, columns = [int(matrix.min(axis=1).argmax())], [int(matrix.max(axis=0).argmin())]
    best, least = None, np.inf
    while True:
        part = matrix[np.ix_(rows, columns)]
        floor, ceiling = part.min(axis=1).max(), part.max(axis=0).min()
        if floor >= ceiling:  # single strategies hold each other to the value
            solution: tuple[np.ndarray, np.ndarray] | None = (
                np.eye(len(rows))[part.min(axis=1).argmax()],
                np.eye(len(columns))[part.max(axis=0).argmin()],
            )
        else:
            solution = _program((part - floor) / (ceiling - floor))
        if solution is None:
            return best
        x, y = np.zeros(len(matrix)), np.zeros(matrix.shape[1])
        x[rows], y[columns] = solution
        if (gap := _gap(matrix, x, y)) < least:
            best, least = (x, y), gap
        row, column = int((matrix @ y).argmax()), int((x @ matrix).argmin())
        if least <= enough or (row in rows and column in columns):
            return best
        rows += [row] * (row not in rows)
        columns += [column] * (column not in columns)
