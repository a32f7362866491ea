"""What a run of populations leaves behind for people: plots, ``report.md`` and ``strategy.md``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import datetime
from itertools import combinations
from pathlib import Path

import numpy as np

from malib_lite.population.population import Population
from malib_lite.population.standing import standings
from malib_lite.population.tables import markdown, signed, standing_table, strategy_tables
from malib_lite.runtime.files import write_text
from malib_lite.runtime.plots import FLOOR, plot_mixtures, plot_nash_conv, plot_table
from malib_lite.scenarios.run import Run

Mixtures = Mapping[str, np.ndarray]  # (P,) by player


def report_population(
    run: Run,
    title: str,
    population: Population,
    unit: str,
    curves: Mapping[str, str],
    mixtures: Mapping[str, Mixtures],
) -> None:
    """Draw and write everything that is known of a population.

    Args:
        unit: what the run counts: "iteration" or "generation".
        curves: labels of NashConv's curves, by their names in the reports.
        mixtures: what the strategies to be shown are called, and the mixtures that they are; the first is the result.
    """
    plots, final = run.folder.path / "plots", next(iter(mixtures.values()))
    if any(name in report for report in run.reports for name in curves):
        plot_nash_conv(plots / "nash_conv.png", title, unit, run.reports, curves)
    history = {
        player: [report[f"{player}/mixture"] for report in run.reports if f"{player}/mixture" in report]
        for player in population.players
    }
    if all(history.values()):
        plot_mixtures(plots / "mixtures.png", title, unit, history)
    parts = [f"# {title}\n", _origin(run.folder.path), _summary(run, population, unit, curves)]
    table = payoff_table(population)
    if table is not None and table[0][0].size > 1:
        payoffs, errors = table
        _draw_payoffs(plots, title, payoffs, final)
        exact = population.exact is not None and not errors.any()
        how = "exact" if exact else f"sampled, standard errors up to {errors.max():.3f}"
        parts.append(_members(payoffs, errors, final, how))
    parts += [f"![{path.stem}](plots/{path.name})\n" for path in sorted(plots.glob("*.png"))]
    best = population.best
    if best is not None and not any(_alike(of_players, population.best_mixtures()) for of_players in mixtures.values()):
        mixtures = {**mixtures, f"The best mixtures, of {unit} {best.step}": population.best_mixtures()}
    strategies = _strategies(population, mixtures)
    if strategies:
        write_text(run.folder.path / "strategy.md", f"# {title}\n\n{strategies}")
        parts.append("What the players do in each information set: [strategy.md](strategy.md).\n")
    write_text(run.folder.path / "report.md", "\n".join(parts))


def payoff_table(population: Population) -> tuple[np.ndarray, np.ndarray] | None:
    """Payoffs (N, P_1, ..., P_N) and standard errors of all joint choices, where these are known or can be computed."""
    sizes = tuple(len(members) for members in population.members.values())
    if population.payoffs.sizes == sizes:
        return population.payoffs.table(), population.payoffs.errors
    if population.exact is None:
        return None
    payoffs = population.exact.payoffs()
    return payoffs, np.zeros_like(payoffs)


def _draw_payoffs(plots: Path, title: str, payoffs: np.ndarray, mixtures: Mixtures) -> None:
    """One heat map for each pair of players; all others play their mixtures."""
    players = list(mixtures)
    for first, second in combinations(range(len(players)), 2):
        table = payoffs[first]
        for other in reversed(range(len(players))):
            if other not in (first, second):
                table = np.tensordot(table, mixtures[players[other]], axes=([other], [0]))
        pair = [players[first], players[second]]
        name = "payoffs.png" if len(players) == 2 else f"payoffs-{pair[0]}-{pair[1]}.png"
        plot_table(plots / name, title, pair, table, [mixtures[player] for player in pair])


def _origin(folder: Path) -> str:
    """What made the run, when and on what, from its manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    program, *arguments = manifest["command"] or [""]
    as_module = program.endswith("malib_lite/train.py")
    command = shlex.join(["python", *(["-m", "malib_lite.train"] if as_module else [program]), *arguments])
    started = datetime.fromisoformat(manifest["started"])
    return f"    {command}\n\nStarted {started:%Y-%m-%d %H:%M} UTC, on {manifest['host']['processor']}.\n"


def _summary(run: Run, population: Population, unit: str, curves: Mapping[str, str]) -> str:
    last = {name: value for report in run.reports for name, value in report.items()}  # the latest of each
    rows = [[f"{unit}s", str(last["step"])], ["environment steps", f"{run.env_steps:,}"]]
    rows += [[f"members of {player}", str(len(members))] for player, members in population.members.items()]
    rows += [[f"value to {p}", signed(last[f"{p}/value"], 4)] for p in population.players if f"{p}/value" in last]
    for name, label in curves.items():
        if name in last:
            rows.append(["NashConv" if label == "NashConv" else f"NashConv, {label}", _nash_conv(last[name])])
    if (best := population.best) is not None:
        which = "" if curves.get(best.metric) in (None, "NashConv") else f"{curves[best.metric]}, "
        rows.append([f"best NashConv ({which}{unit} {best.step})", _nash_conv(best.nash_conv)])
    others = {"ce_gap": "CE gap", "cce_gap": "CCE gap", "nash_conv_lower_bound": "NashConv, lower bound"}
    rows += [[label, _nash_conv(last[name])] for name, label in others.items() if name in last]
    rows += [
        [f"win rate against {name.removeprefix('win_rate_')} players", f"{value:.2f}"]
        for name, value in last.items()
        if name.startswith("win_rate_")
    ]
    return markdown(["", ""], rows)


def _nash_conv(value: float) -> str:
    """Four digits; what is rounding is zero."""
    return f"{value:.4g}" if value >= FLOOR else "0"


def _members(payoffs: np.ndarray, errors: np.ndarray, mixtures: Mixtures, how: str) -> str:
    by_player = standings(payoffs, errors, mixtures)
    text = (
        "## Members\n\nThose that are played most first, then the strongest of the others, by the payoffs between all "
        f"members ({how}); policy-0 is the oldest.\n"
    )
    for player, rows in by_player.items():
        played_first = sorted(
            rows, key=lambda each: -round(each.mixture, 3)
        )  # those that are played alike stay in order
        text += f"\n### {player}\n\n{markdown(*standing_table(played_first))}"
    return text


def _alike(some: Mixtures, others: Mixtures) -> bool:
    """Whether mixtures are the same but for what nobody would see in a table."""
    return all(np.abs(some[player] - others[player]).max() < 5e-4 for player in some)


def _strategies(population: Population, mixtures: Mapping[str, Mixtures]) -> str:
    """The tables of all mixtures, each as the one strategy that it amounts to; "" where they are not known."""
    exact = population.exact
    if exact is None:
        return ""
    parts = []
    for what, of_players in mixtures.items():
        by_agent = dict(zip(exact.agents, of_players.values(), strict=True))
        strategies = {agent: exact.aggregate(agent, mixture) for agent, mixture in by_agent.items()}
        if tables := strategy_tables(exact.game, strategies):
            parts.append(
                f"{what}: action probabilities. Where it never goes itself, all actions are alike.\n\n{tables}"
            )
    return "\n".join(parts)
