"""Figures of notebook 06. Each function draws what it is given and returns the Figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers import plots
from helpers.stats import Interval

INHIBITION = plots.COLORS["inhibition"]
INDUCTION = plots.COLORS["induction"]
RANDOM = "0.45"
INK = "black"


@dataclass(frozen=True)
class Line:
    """One quantity by length of the list."""

    name: str
    intervals: Sequence[Interval]
    color: str
    marker: str = "o"


def by_length(
    lengths: Sequence[int],
    lines: Sequence[Line],
    *,
    title: str,
    ylabel: str,
    chance: Sequence[float] = (),
) -> Figure:
    """Quantities by length of the list, with 95% intervals, each named at its right end."""
    figure, ax = plt.subplots(figsize=(7.2, 3.8))
    places = np.arange(len(lengths))
    ends = []
    for i, line in enumerate(lines):
        values, errors = plots.with_errors(line.intervals)
        shifted = places + 0.07 * (i - (len(lines) - 1) / 2)
        style = {"color": line.color, "fmt": f"{line.marker}-", "capsize": 3, "lw": 1.6, "ms": 6}
        ax.errorbar(shifted, values, yerr=errors, **style)
        ends.append((values[-1], line.name, line.color))
    if len(chance):
        ax.plot(places, chance, ls="--", color=RANDOM)
        ends.append((chance[-1], "chance", RANDOM))
    _name_ends(ax, places[-1] + 0.2, ends)
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.set_xticks(places, [str(length) for length in lengths])
    ax.set(xlabel="items on the list", ylabel=ylabel, title=title)
    ax.set_xlim(-0.4, places[-1] + 0.25)
    return figure


def _name_ends(ax: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the last points, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    gap = 0.075 * (high - low)
    lowest = -np.inf
    for value, name, color in sorted(ends):
        y = max(value, lowest + gap)
        lowest = y
        ax.text(x, y, name, color=color, va="center", clip_on=False)


def confusion_maps(
    rates: Mapping[int, Float[np.ndarray, "asked answered"]],
    counts: Mapping[int, int],
    *,
    title: str,
) -> Figure:
    """Place asked for against place answered, a panel per length of the list, in percent."""
    figure, axes = plt.subplots(1, len(rates), figsize=(9.2, 4.2), width_ratios=(0.85, 1))
    for ax, (size, table) in zip(np.atleast_1d(axes), rates.items(), strict=True):
        names = [str(place + 1) for place in range(size)]
        style = {"annot_kws": {"fontsize": 9 if size <= 8 else 7}, "fmt": ".0f"}
        sns.heatmap(
            100 * table,
            ax=ax,
            cmap="Blues",
            vmin=0,
            vmax=100,
            cbar=False,
            annot=True,
            xticklabels=names,
            yticklabels=names,
            linewidths=0.5,
            **style,
        )
        ax.tick_params(rotation=0)
        ax.set(xlabel="place answered", ylabel="place asked for")
        ax.set_title(f"{size} items, n = {counts[size]} (% of a row)", fontweight="normal")
        for place in range(size):
            ax.add_patch(Rectangle((place, place), 1, 1, fill=False, ec=INK, lw=1.2))
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def crowding(
    lengths: Sequence[int],
    channel: Float[np.ndarray, " length"],
    random: Float[np.ndarray, "length draw"],
    shuffled: Sequence[Interval],
    *,
    title: str,
) -> Figure:
    """Separability of neighboring places by length: the channel, random directions of the same
    head, and shuffled places.
    """
    figure, ax = plt.subplots(figsize=(7.2, 3.8))
    places = np.arange(len(lengths))
    low, middle, high = np.quantile(random, [0.025, 0.5, 0.975], axis=1)
    ax.fill_between(places, low, high, color="0.9", zorder=0)
    ax.plot(places, middle, "x--", color=RANDOM)
    ax.plot(places, channel, "o-", color=INHIBITION, lw=1.8, ms=7)
    floor = [interval.value for interval in shuffled]
    ax.plot(places, floor, ls=":", color=INK)
    ends = [
        (channel[-1], "channel", INHIBITION),
        (middle[-1], f"{random.shape[1]} random directions\n(band: middle 95%)", RANDOM),
        (floor[-1], "places shuffled", INK),
    ]
    _name_ends(ax, places[-1] + 0.12, ends)
    ax.set_xticks(places, [str(length) for length in lengths])
    ax.set(xlabel="items on the list", ylabel="d' of neighboring places", title=title)
    ax.set_ylim(bottom=0)
    ax.set_xlim(-0.3, places[-1] + 0.15)
    return figure


@dataclass(frozen=True)
class PlaceMap:
    """Probabilities of each listed item on a plane of two coordinates, in standard deviations from
    their natural mean.
    """

    steps: Float[np.ndarray, " step"]
    """The coordinates on either axis."""
    probability: Float[np.ndarray, "step_y step_x place"]
    """Mean over the prompts, whichever item is asked for."""
    learned: Float[np.ndarray, "place axis"]
    """The coordinates learned for each place."""
    natural: Float[np.ndarray, "end axis"]
    """Smallest and largest coordinates that the head writes by itself."""
    axes: Sequence[str]


def place_map(grid: PlaceMap, *, title: str) -> Figure:
    """A panel per place: the probability of its item, the natural range, the learned point."""
    size = grid.probability.shape[-1]
    columns = 3
    n_rows = -(-size // columns)
    figure, axes = plt.subplots(
        n_rows, columns, figsize=(8.6, 2.9 * n_rows), sharex=True, sharey=True, squeeze=False
    )
    highest = grid.probability.max()
    half = (grid.steps[1] - grid.steps[0]) / 2
    ends = (grid.steps[0] - half, grid.steps[-1] + half)
    for place, ax in enumerate(axes.flat[:size]):
        image = ax.imshow(
            grid.probability[..., place],
            origin="lower",
            extent=(*ends, *ends),
            cmap="Purples",
            vmin=0,
            vmax=highest,
            aspect="auto",
        )
        corner = grid.natural[0]
        width, height = grid.natural[1] - grid.natural[0]
        ax.add_patch(Rectangle(corner, width, height, fill=False, ec=INDUCTION, lw=1.8))
        x, y = np.clip(grid.learned[place], *ends)
        ax.plot(x, y, "*", ms=13, color="#ffd92f", mec=INK, clip_on=False)
        ax.set_title(f"item {place + 1} of {size}", fontweight="normal")
    for ax in axes.flat[size:]:
        ax.axis("off")
    plt.setp(axes[-1], xlabel=f"{grid.axes[0]} (SD)")
    plt.setp(axes[:, 0], ylabel=f"{grid.axes[1]} (SD)")
    figure.colorbar(image, ax=axes, label="probability of the item", shrink=0.8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


@dataclass(frozen=True)
class Gain:
    """One row of `repair_gains`."""

    name: str
    interval: Interval
    kind: str
    """`under test`, `random` or `other`: decides color and marker."""


KINDS = {"under test": (INHIBITION, "o"), "random": (RANDOM, "x"), "other": (plots.BLUE, "s")}


def repair_gains(groups: Mapping[str, Sequence[Gain]], *, title: str, xlabel: str) -> Figure:
    """Points of accuracy gained, a row per intervention, in named groups."""
    n_rows = sum(len(rows) + 1 for rows in groups.values())
    figure, ax = plt.subplots(figsize=(8.2, 0.33 * n_rows + 1))
    ticks, names = [], []
    y = 0.0
    for group, rows in groups.items():
        ticks.append(y)
        names.append(group)
        y += 1
        for row in rows:
            color, marker = KINDS[row.kind]
            values, errors = plots.with_errors([row.interval])
            style = {"fmt": marker, "color": color, "capsize": 3, "ms": 7, "lw": 1.6, "mew": 2}
            ax.errorbar(values, [y], xerr=errors, **style)
            ticks.append(y)
            names.append(row.name)
            y += 1
    ax.set_yticks(ticks, names)
    for tick, name in zip(ax.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name in groups else "normal")
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.axvline(0, color=INK, lw=0.8)
    ax.grid(axis="x", color="0.92")
    ax.set(xlabel=xlabel, title=title)
    return figure


def line_of_places(
    steps: Float[np.ndarray, " step"],
    probability: Float[np.ndarray, "step place"],
    natural: tuple[float, float],
    *,
    axis: str,
    title: str,
) -> Figure:
    """Probability of each listed item as one coordinate is set; gray: its natural range."""
    figure, ax = plt.subplots(figsize=(7.2, 3.4))
    size = probability.shape[1]
    colors = plt.get_cmap("viridis", size + 1)
    ends = []
    for place in range(size):
        ax.plot(steps, probability[:, place], "o-", ms=4, color=colors(place))
        ends.append((probability[-1, place], f"item {place + 1}", colors(place)))
    _name_ends(ax, steps[-1] * 1.04, ends)
    ax.axvspan(*natural, color="0.9", zorder=0)
    ax.set(xlabel=f"{axis} (SD; gray: natural range)", ylabel="probability", title=title)
    return figure


def bars_at_point(probability: Float[np.ndarray, " place"], *, title: str) -> Figure:
    """Probability of each listed item at one point of the map."""
    figure, ax = plt.subplots(figsize=(6, 2.6))
    places = np.arange(len(probability)) + 1
    ax.bar(places, probability, color=INHIBITION)
    ax.set(xlabel="item of the list", ylabel="probability", ylim=(0, 1), title=title)
    return figure
