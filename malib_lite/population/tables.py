"""Tables for people, in Markdown: strategies by information set, and the standing of pool members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from malib_lite.contracts.exact import ExactGame, Names
from malib_lite.population.standing import Standing

MAX_ROWS = 600  # information sets of a player up to which a strategy is something to read


def strategy_tables(game: ExactGame, strategies: Mapping[str, np.ndarray]) -> str:
    """What each agent does in each of its information sets; "" where the game has no names or too many of them.

    Args:
        strategies: by agent, (I, A): action probabilities.
    """
    names = {agent: game.describe(agent) for agent in strategies}
    if any(of_agent is None or len(of_agent.information_sets) > MAX_ROWS for of_agent in names.values()):
        return ""
    parts = []
    for agent, table in strategies.items():
        of_agent = names[agent]
        assert of_agent is not None
        parts.append(f"## {agent}\n\n" + _strategy(of_agent, game.information_sets(agent)[1], table))
    return "\n".join(parts)


def _strategy(names: Names, legal: np.ndarray, table: np.ndarray) -> str:
    rows = []
    for number in names.order:
        # Rounding may leave a probability a little below zero, and "-0.000" helps nobody.
        probabilities = abs(table[number].round(3))
        cells = [f"{p:.3f}" if may else "" for p, may in zip(probabilities, legal[number], strict=True)]
        rows.append([names.information_sets[number], *cells])
    note = f"Information sets: {names.legend}.\n\n" if names.legend else ""
    return note + markdown(["information set", *names.actions], rows)


def standing_table(standings: Sequence[Standing], most: int = 10) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a player's strongest members; without what is not known of them."""
    columns: dict[str, list[str]] = {
        "member": [f"policy-{each.member}" for each in standings],
        "mixture": [f"{each.mixture:.3f}" for each in standings],
    }
    if all(each.elo is not None for each in standings):
        columns["Elo"] = [signed(each.elo) for each in standings]
        columns["95 % interval"] = [f"{signed(each.elo_low)} to {signed(each.elo_high)}" for each in standings]
    if all(each.alpha_rank is not None for each in standings):
        columns["alpha-rank"] = [f"{each.alpha_rank:.3f}" for each in standings]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)][:most]


def signed(value: float | None, digits: int = 0) -> str:
    """A number with its sign, but no minus before a zero; "" for None."""
    return "" if value is None else f"{round(value, digits) + 0.0:+.{digits}f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns also stand straight in a terminal; the first one to the left, all others to the right."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    rule = "|".join("-" * (width + 1) + ":" if number else "-" * (width + 2) for number, width in enumerate(widths))
    return line(cells[0]) + f"|{rule}|\n" + "".join(map(line, cells[1:]))
