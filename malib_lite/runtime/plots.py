"""The plots of a run, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from malib_lite.runtime.files import write_whole

FLOOR = 1e-6  # what a logarithmic axis shows of a NashConv that is zero, or rounding
_READABLE = 14  # rows or columns up to which a heat map has numbers in its cells
_MANY = 60  # points of a curve, or members of a pool, that are no longer marked one by one


def plot_curves(
    path: Path,
    title: str,
    x_label: str,
    y_label: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    y_range: tuple[float, float] | None = None,
) -> None:
    """Draw curves, lists of points (x, y) by name; ``y_range`` None: as far as the data."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker="o" if len(x) < _MANY else None, markersize=3.5, linewidth=1.6, label=name)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    if y_range is not None:
        axes.set_ylim(*y_range)
    if "steps" in x_label:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _plain(axes)
    if len(curves) > 1:
        axes.legend(frameon=False)
    _save(figure, path)


def plot_nash_conv(
    path: Path, title: str, unit: str, reports: Iterable[Mapping[str, Any]], curves: Mapping[str, str]
) -> None:
    """Draw NashConv against iterations, wall time and environment steps, side by side, on a logarithmic axis.

    The axis ends where the data do. What is below ``FLOOR`` is zero, or rounding, and drawn as a hollow triangle below
    all the rest. Where nothing is played there is no third panel.

    Args:
        unit: what the run counts: "iteration" or "generation".
        reports: lines of ``metrics.jsonl``; gone through several times.
        curves: labels by the names of the figures; reports without one are left out.
    """
    panels = {unit: lambda report: report["step"], "wall time (s)": lambda report: report["time"]["wall_s"]}
    if any(report.get("env_steps") for report in reports):
        panels["environment steps"] = lambda report: report["env_steps"]
    figure = Figure(figsize=(1.4 + 3.4 * len(panels), 3.9), layout="constrained")
    figure.suptitle(title)
    all_axes = np.ravel(figure.subplots(1, len(panels), sharey=True))
    values = [report[name] for report in reports for name in curves if report.get(name) is not None]
    above = [value for value in values if value >= FLOOR]
    bottom = min(above, default=FLOOR) / (1.0 if len(above) == len(values) else 3.0)  # where zeros are drawn
    for axes, (label, x_of) in zip(all_axes, panels.items(), strict=True):
        for number, (name, legend) in enumerate(curves.items()):
            points = [(x_of(report), report[name]) for report in reports if report.get(name) is not None]
            if points:
                _nash_conv_curve(axes, points, bottom, f"C{number}", legend)
        axes.set(xlabel=label, ylabel="NashConv", yscale="log")
        axes.yaxis.set_tick_params(labelleft=True)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=label == unit, min_n_ticks=1))
        if label == "environment steps":
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if label != unit:
            axes.set_xlim(left=0.0)
        _plain(axes)
    _nash_conv_axis(list(all_axes), bottom, above or [FLOOR], with_zeros=len(above) < len(values))
    if len(curves) > 1:
        all_axes[-1].legend(frameon=False)
    _save(figure, path)


def _nash_conv_curve(axes: Axes, points: Sequence[tuple[float, float]], bottom: float, color: str, legend: str) -> None:
    x, y = np.array(points, np.float64).T
    zero = y < FLOOR
    y = np.where(zero, bottom, y)
    axes.plot(x, y, linewidth=1.6, color=color, label=legend)
    if len(x) < _MANY:
        axes.plot(x[~zero], y[~zero], "o", markersize=3.5, color=color)
    if zero.any():
        marked = np.flatnonzero(zero)[: None if len(x) < _MANY else 1]
        axes.plot(x[marked], y[marked], "v", markersize=6, color=color, markerfacecolor="white", clip_on=False)


def _nash_conv_axis(all_axes: Sequence[Axes], bottom: float, above: Sequence[float], with_zeros: bool) -> None:
    """The limits and the ticks of the axis that all panels share; ``above`` are the values that are not zero."""
    lowest, top = min(above), max(above)
    all_axes[0].set_ylim(bottom if with_zeros else 0.8 * bottom, 1.25 * top)
    for axes in all_axes:
        if top < 100.0 * bottom:  # powers of ten alone would be one label, or none
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
            axes.yaxis.set_minor_locator(NullLocator())
        # Between zeros and the lowest other value there is nothing that a number would be right for.
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}" if not with_zeros or y >= 0.99 * lowest else "")
        if with_zeros:
            axes.annotate(
                "0", (0.0, 0.0), xytext=(-6, 0), xycoords="axes fraction", textcoords="offset points",
                ha="right", va="center", annotation_clip=False,
            )  # fmt: skip
    if with_zeros:
        note = f"▽ zero (below {FLOOR:g})"
        all_axes[0].annotate(note, (0.03, 0.03), xycoords="axes fraction", fontsize=8, color="dimgray")


def plot_table(
    path: Path, title: str, players: Sequence[str], table: np.ndarray, mixtures: Sequence[np.ndarray]
) -> None:
    """Draw the first player's payoffs (P_1, P_2), with the mixtures (P_1,) and (P_2,) along the sides."""
    rows, columns = mixtures
    figure = Figure(figsize=(8, 7), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(6, 1, 0.22), height_ratios=(1, 6))
    figure.suptitle(title)
    main = figure.add_subplot(grid[1, 0])
    image = _heat_map(main, table, "{:.2f}")
    main.set(xlabel=f"{players[1]}'s members, oldest first", ylabel=f"{players[0]}'s members, oldest first")
    top = figure.add_subplot(grid[0, 0], sharex=main)
    side = figure.add_subplot(grid[1, 1], sharey=main)
    # Bars of large pools touch: thinner ones would vanish between the pixels.
    width = 0.8 if max(table.shape) <= _MANY else 1.0
    top.bar(np.arange(len(columns)), columns, width=width, color="tab:gray")
    side.barh(np.arange(len(rows)), rows, height=width, color="tab:gray")
    for axes, mixture in ((top, columns), (side, rows)):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelbottom=axes is side, labelleft=axes is top)
        axes.locator_params(axis="y" if axes is top else "x", nbins=2)
        (axes.set_ylim if axes is top else axes.set_xlim)(0.0, 1.1 * float(max(mixture.max(), 1e-9)))
    top.set_ylabel("mixture")
    side.set_xlabel("mixture")
    figure.colorbar(image, cax=figure.add_subplot(grid[1, 2]), label=f"payoff to {players[0]}")
    _save(figure, path)


def plot_mixtures(path: Path, title: str, unit: str, mixtures: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Draw how each player's mixture moved: a row for each iteration, a column for each member.

    Args:
        unit: what the run counts: "iteration" or "generation".
        mixtures: by player, one (P,) for each iteration; P may grow.
    """
    columns = min(3, len(mixtures))
    lines = -(-len(mixtures) // columns)
    figure = Figure(figsize=(1.6 + 3.9 * columns, 0.7 + 3.8 * lines), layout="constrained")
    figure.suptitle(title)
    all_axes = np.ravel(figure.subplots(lines, columns, squeeze=False))
    for axes in all_axes[len(mixtures) :]:
        axes.set_visible(False)
    for axes, (player, rows) in zip(all_axes, mixtures.items(), strict=False):
        shares = np.full((len(rows), max(map(len, rows))), np.nan)  # NaN: not there yet
        for iteration, row in enumerate(rows):
            shares[iteration, : len(row)] = row
        # Small shares are to be seen, too.
        norm = PowerNorm(0.5, vmin=0.0, vmax=1.0)
        image = axes.imshow(shares, cmap="YlGnBu", norm=norm, aspect="auto", interpolation="nearest")
        axes.set_facecolor("0.88")
        axes.set(title=player, xlabel="member", ylabel=unit)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    figure.colorbar(image, ax=list(all_axes), label="probability", ticks=[0.0, 0.01, 0.1, 0.25, 0.5, 1.0])
    _save(figure, path)


def plot_cross_play(
    path: Path, title: str, names: Sequence[str], values: np.ndarray, errors: np.ndarray, largest: float
) -> None:
    """Draw what each population (row) earns against each (column), (K, K), with standard errors where there are any.

    Args:
        largest: absolute return of the game, where colours are darkest: so a colour means the same in every picture of
            a game, and what is nearly a tie is nearly white.
    """
    title, *names = (text.replace("$", r"\$") for text in (title, *names))  # they are no formulas, whatever they hold
    size = len(names)
    longest = max(map(len, names))
    side = max(4.2, (0.95 if size <= _READABLE else 0.35) * size)
    figure = Figure(figsize=(side + 1.8 + 0.07 * longest, side + 0.6 + 0.05 * longest), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    sampled = bool(errors.any())
    largest = max(largest, float(np.abs(values).max()))
    image = _heat_map(axes, values, "{:+.3f}", errors if sampled else None, fontsize=8, largest=largest)
    axes.set(xlabel="against", ylabel="population", xticks=range(size), yticks=range(size))
    axes.set_xticklabels(names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(names)
    _colour_bar(figure.colorbar(image, ax=axes, label="mean return over all seats", shrink=0.8), largest or 1.0)
    _save(figure, path)


def plot_timeline(path: Path, title: str, iterations: Sequence[tuple[int, float, float, bool]]) -> None:
    """Draw what each worker did when: a bar for each iteration (worker, begin, end, whether it counted), in seconds."""
    workers = sorted({worker for worker, *_ in iterations})
    start = min(began for _, began, _, _ in iterations)
    figure = Figure(figsize=(9, 1.7 + 0.5 * len(workers)), layout="constrained")
    axes = figure.subplots()
    number, shades = dict.fromkeys(workers, 0), ("tab:blue", "tab:cyan")
    for worker, began, ended, counted in iterations:
        shade = shades[number[worker] % 2] if counted else "tab:red"
        axes.broken_barh([(began - start, ended - began)], (workers.index(worker) - 0.35, 0.7), color=shade)
        number[worker] += 1
    axes.set(
        title=title, xlabel="time (s)", ylabel="gradient worker", yticks=range(len(workers)),
        ylim=(len(workers) - 0.4, -0.6),
    )  # fmt: skip
    axes.set_yticklabels([f"{worker} ({number[worker]} iterations)" for worker in workers])
    axes.spines[["top", "right"]].set_visible(False)
    meanings = {"iterations 1, 3, 5, …": shades[0], "iterations 2, 4, 6, …": shades[1]}
    if not all(counted for *_, counted in iterations):
        meanings["interrupted, not applied"] = "tab:red"
    patches = [Patch(color=color, label=label) for label, color in meanings.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, whole."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=130, format="png")
    write_whole(path, picture.getvalue())


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _heat_map(
    axes: Axes,
    table: np.ndarray,
    number: str,
    errors: np.ndarray | None = None,
    fontsize: float = 7,
    largest: float | None = None,
) -> Any:
    """A table (R, C) in red (above zero) and blue, with its numbers in the cells while these have room for them.

    Args:
        largest: value of the darkest colour, with the roots of smaller ones; None: of the table's own, in proportion.
    """
    limit = (float(np.abs(table).max()) if largest is None else largest) or 1.0
    scale: dict[str, Any] = {"vmin": -limit, "vmax": limit}
    if largest is not None:
        scale = {"norm": FuncNorm((_signed_root, _signed_square), **scale)}
    image = axes.imshow(table, cmap="RdBu_r", aspect="auto", interpolation="nearest", **scale)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
    if max(table.shape) > _READABLE:
        return image
    shade: Any = image.norm  # its stubs know more types than numbers
    for (i, j), value in np.ndenumerate(table):
        text = number.format(value + 0.0 if abs(value) >= 5e-4 else 0.0)  # no minus before a zero
        if errors is not None:
            text += f"\n±{errors[i, j]:.3f}"
        color = "white" if abs(shade(value) - 0.5) > 0.3 else "black"
        axes.text(j, i, text, ha="center", va="center", fontsize=fontsize, color=color)
    return image


def _colour_bar(bar: Any, limit: float) -> None:
    """Ticks of a scale of signed roots up to ``limit``."""
    bar.set_ticks([share * limit for share in (-1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0)])
    bar.ax.yaxis.set_major_formatter("{x:+.3g}")


def _signed_root(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.square(values)


def plot_events(
    path: Path, title: str, x_label: str, rows: Sequence[str], events: Mapping[str, Sequence[tuple[str, float]]]
) -> None:
    """Draw when what happened to whom: a line for each of ``rows``, and events (row, x) by their name."""
    figure = Figure(figsize=(8, 1.6 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for line in range(len(rows)):
        axes.axhline(line, color="0.85", linewidth=1.0, zorder=0)
    for (name, points), marker, color in zip(events.items(), "oxsd", ("tab:blue", "tab:red", "k", "0.5"), strict=False):
        x, y = [x for _, x in points], [rows.index(row) for row, _ in points]
        axes.scatter(x, y, marker=marker, s=40 if marker == "o" else 90, color=color, label=name)
    axes.set(title=title, xlabel=x_label, ylabel="learner", yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_yticklabels(rows)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(events), frameon=False)
    _save(figure, path)


def plot_intervals(
    path: Path,
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
) -> None:
    """Draw values with intervals, lists of (x, value, low, high) by name."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        x, values, low, high = (np.array(column) for column in zip(*points, strict=True))
        axes.errorbar(
            x, values, yerr=[values - low, high - values], marker="o", markersize=4, capsize=3, linewidth=1.4,
            elinewidth=0.9, label=name,
        )  # fmt: skip
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _plain(axes)
    if len(series) > 1:
        axes.legend(frameon=False)
    _save(figure, path)


def plot_matrix(
    path: Path, title: str, rows: Sequence[str], columns: Sequence[str], table: np.ndarray, label: str, largest: float
) -> None:
    """Draw a table (R, C) with its numbers: zero is white and NaN is grey; colours as in :func:`plot_cross_play`."""
    size = (max(5.2, 2.8 + 0.5 * len(columns)), max(3.2, 2.2 + 0.32 * len(rows)))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    axes.set_facecolor("0.85")
    limit = max(largest, float(np.nanmax(np.abs(table), initial=0.0))) or 1.0
    norm = FuncNorm((_signed_root, _signed_square), vmin=-limit, vmax=limit)
    image = axes.imshow(table, cmap="RdBu_r", norm=norm, aspect="auto")
    axes.set(xlabel="against", ylabel="snapshot", xticks=range(len(columns)), yticks=range(len(rows)))
    axes.set_xticklabels(columns, rotation=90, fontsize=8)
    axes.set_yticklabels(rows, fontsize=8)
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            color = "white" if abs(norm(value) - 0.5) > 0.3 else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    _colour_bar(figure.colorbar(image, ax=axes, label=label), limit)
    _save(figure, path)
