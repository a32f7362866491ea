"""The plots of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def plot_curves(
    path: Path,
    title: str,
    x_label: str,
    y_label: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    log_y: bool = False,
) -> None:
    """Draw curves, lists of points (x, y) by name."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker="o" if len(x) < 60 else None, markersize=3.5, linewidth=1.6, label=name)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    if log_y and all(y > 0 for points in curves.values() for _, y in points):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def plot_table(
    path: Path, title: str, players: Sequence[str], table: np.ndarray, mixtures: Sequence[np.ndarray]
) -> None:
    """Draw the first player's payoffs (P_1, P_2), with the mixtures (P_1,) and (P_2,) along the sides."""
    rows, columns = mixtures
    figure = Figure(figsize=(7.2, 6), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(5, 1), height_ratios=(1, 5))
    main = figure.add_subplot(grid[1, 0])
    limit = float(np.abs(table).max()) or 1.0
    image = main.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    main.set(xlabel=f"{players[1]}'s policies", ylabel=f"{players[0]}'s policies")
    if table.size <= 150:
        for (i, j), value in np.ndenumerate(table):
            dark = abs(value) > 0.6 * limit
            main.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    top = figure.add_subplot(grid[0, 0], sharex=main)
    top.bar(np.arange(len(columns)), columns, color="tab:gray")
    side = figure.add_subplot(grid[1, 1], sharey=main)
    side.barh(np.arange(len(rows)), rows, color="tab:gray")
    for axes in (top, side):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelbottom=axes is side, labelleft=axes is top)
    top.set(ylabel="mixture", title=title)
    side.set(xlabel="mixture")
    figure.colorbar(image, ax=side, label=f"payoff to {players[0]}")
    figure.savefig(path, dpi=130)


def plot_timeline(path: Path, title: str, iterations: Sequence[tuple[int, float, float, bool]]) -> None:
    """Draw what each worker did when: a bar for each iteration (worker, begin, end, whether it counted), in seconds."""
    workers = sorted({worker for worker, *_ in iterations})
    start = min(began for _, began, _, _ in iterations)
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(workers)), layout="constrained")
    axes = figure.subplots()
    number = dict.fromkeys(workers, 0)
    for worker, began, ended, counted in iterations:
        shade = ("tab:blue", "tab:cyan")[number[worker] % 2] if counted else "tab:red"
        axes.broken_barh([(began - start, ended - began)], (workers.index(worker) - 0.35, 0.7), color=shade)
        number[worker] += 1
    axes.set(title=title, xlabel="seconds", yticks=range(len(workers)), ylim=(len(workers) - 0.4, -0.6))
    axes.set_yticklabels([f"worker {worker}: {number[worker]}" for worker in workers])
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
