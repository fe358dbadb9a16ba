"""Figures of notebook 06. Each function draws what it is given and returns the Figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers import plots
from helpers.stats import Interval

INHIBITION = plots.COLORS["inhibition"]


def accuracy_maps(
    cells: Mapping[str, Float[np.ndarray, "length place"]],
    totals: Mapping[str, Sequence[Interval]],
    lengths: Sequence[int],
) -> Figure:
    """Accuracy by length of the list and place of the target, a panel per vocabulary; NaN where a
    list has no such place.
    """
    figure, axes = plt.subplots(1, len(cells), figsize=(12, 4.2))
    for ax, (vocabulary, table) in zip(axes, cells.items(), strict=True):
        image = ax.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        names = []
        for length, total in zip(lengths, totals[vocabulary], strict=True):
            names.append(f"{length} items: {total.text(2)}")
        ax.set_yticks(range(len(lengths)), names)
        ax.set(
            xlabel="place of the target in the list (0 = first)",
            title=f"Accuracy, {vocabulary}",
        )
        for (row, column), value in np.ndenumerate(table):
            if np.isfinite(value):
                color = "black" if value > 0.6 else "white"
                style = {"fontsize": 7, "color": color, **plots.CENTER}
                ax.text(column, row, f"{value:.1f}", **style)
    figure.colorbar(image, ax=axes, label="share right")
    return figure


@dataclass(frozen=True)
class Crowding:
    """How well the channel orders places, by length, beside random directions."""

    channel: Float[np.ndarray, " length"]
    random: Float[np.ndarray, "length draw"]


def crowding(
    coordinate: Float[np.ndarray, " prompt"],
    place: Int[np.ndarray, " prompt"],
    lengths: Sequence[int],
    measures: Mapping[str, Crowding],
    *,
    channel: str,
) -> Figure:
    """The coordinate by place in lists of one length, and two measures of order by length."""
    figure, (example, *panels) = plt.subplots(1, 3, figsize=(13, 3.4))
    size = max(place) + 1
    for i in range(size):
        values = coordinate[place == i]
        across = np.full(len(values), i)
        example.plot(across, values, "o", ms=4, alpha=0.6, color=INHIBITION)
        example.plot(i, values.mean(), "k_", ms=16, mew=2)
    example.set(
        xlabel="place of the target",
        ylabel=f"coordinate of {channel}",
        title=f"Lists of {size} items",
    )
    for ax, bottom, (name, measure) in zip(panels, (0, 0.45), measures.items(), strict=True):
        ax.plot(lengths, measure.channel, "o-", color=INHIBITION, label="channel")
        low, middle, high = np.quantile(measure.random, [0.025, 0.5, 0.975], axis=1)
        label = f"{measure.random.shape[1]} random directions, 95 %"
        ax.fill_between(lengths, low, high, color="0.88", label=label)
        ax.plot(lengths, middle, color="0.5", lw=1)
        ax.set(xlabel="items in the list", title=name, ylim=(bottom, 1.03))
    panels[-1].legend(fontsize=7)
    return figure


@dataclass(frozen=True)
class PlaceMap:
    """Places reached on a grid of three coordinates; `steps` for the first two, `slices` for the
    third.
    """

    axes: Sequence[str]
    steps: Float[np.ndarray, " step"]
    slices: Sequence[float]
    own_range: Float[np.ndarray, "end axis"]
    """Smallest and largest coordinates that the heads write by themselves."""
    looked: Float[np.ndarray, "point place"]
    """The movers' attention to each place, the first coordinate running fastest."""
    answered: Float[np.ndarray, "point place"]

    @property
    def size(self) -> int:
        """How many places there are."""
        return self.looked.shape[1]

    def most(self, table: Float[np.ndarray, "point place"]) -> Int[np.ndarray, "slice step step"]:
        """The place with the largest share at each point."""
        n = len(self.steps)
        return table.argmax(-1).reshape(len(self.slices), n, n)

    @property
    def natural_slice(self) -> int:
        """The slice nearest to where the coordinates lie by themselves."""
        center = self.own_range[:, 2].mean()
        return int(np.abs(np.array(self.slices) - center).argmin())


def place_map(grid: PlaceMap) -> Figure:
    """Which place the movers look at most, and which is answered most, slice by slice."""
    n = len(grid.slices)
    figure, panels = plt.subplots(2, n, figsize=(10.5, 6.4), sharex=True, sharey=True)
    rows = {"looks at": grid.looked, "answers": grid.answered}
    for axes, (verb, table) in zip(panels, rows.items(), strict=True):
        for ax, value, places in zip(axes, grid.slices, grid.most(table), strict=True):
            image = _draw_slice(ax, grid, places)
            ax.set_title(f"{verb} most; {grid.axes[2]} at {value:.0f}")
        _draw_own_range(axes[grid.natural_slice], grid)
    plt.setp(panels[1], xlabel=f"coordinate on {grid.axes[0]}")
    plt.setp(panels[:, 0], ylabel=f"coordinate on {grid.axes[1]}")
    label = "place in the list (box: the coordinates' own range)"
    figure.colorbar(image, ax=panels, ticks=range(grid.size), label=label)
    return figure


def _draw_slice(ax: Axes, grid: PlaceMap, places: Int[np.ndarray, "step step"]):
    """One slice as colored cells with the places written in; returns the image."""
    size = grid.size
    image = ax.imshow(
        places,
        cmap=plt.get_cmap("viridis", size),
        vmin=-0.5,
        vmax=size - 0.5,
        origin="lower",
        aspect="auto",
    )
    ticks = range(0, len(grid.steps), 2)
    names = [f"{step:.0f}" for step in grid.steps[::2]]
    ax.set_xticks(ticks, names)
    ax.set_yticks(ticks, names)
    for (row, column), place in np.ndenumerate(places):
        color = "white" if place < size / 2 else "black"
        ax.text(column, row, place, fontsize=6, color=color, **plots.CENTER)
    return image


def _draw_own_range(ax: Axes, grid: PlaceMap) -> None:
    """A box around the coordinates that the heads write by themselves."""
    step = grid.steps[1] - grid.steps[0]
    low, high = (grid.own_range[:, :2] - grid.steps[0]) / step
    width, height = high - low
    ax.add_patch(Rectangle(low, width, height, fill=False, ec="red", lw=1.2))


def repair_gains(
    kept: Sequence[int],
    by_dimension: Mapping[str, Sequence[Interval]],
    random: Mapping[str, Mapping[int, Interval]],
    beside: Mapping[str, Sequence[Interval]],
    *,
    head: str,
) -> Figure:
    """Points gained by the dimensions that are set (a line per length), and beside controls.

    random: per length, the gain in as many random dimensions. beside: row -> its gain per length,
    three rows of one color, then three of another.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), sharey=True)
    for name, gains in by_dimension.items():
        gained = [gain.value for gain in gains]
        [line] = left.plot(kept, gained, "o-", label=name)
        crosses = [gain.value for gain in random[name].values()]
        left.plot(list(random[name]), crosses, "x", ms=8, color=line.get_color())
    left.set(
        xlabel="dimensions (cross: random ones, learnt alike)",
        ylabel="points gained, held-out items",
        title=f"Gain inside what {head} writes",
    )
    left.legend(fontsize=7)
    for i, (name, gains) in enumerate(beside.items()):
        values, errors = plots.with_errors(gains)
        x = np.arange(len(values)) + 0.1 * (i - 2.5)
        style = {"fmt": "os^"[i % 3], "color": ("#2166ac", "#b2182b")[i // 3]}
        right.errorbar(x, values, yerr=errors, label=name, ms=4, capsize=2, **style)
    right.set_xticks(range(len(by_dimension)), by_dimension)
    right.set(
        title="The same beside its controls, 95 %",
        xlabel="length of the list",
        ylabel=left.get_ylabel(),
    )
    right.tick_params(labelleft=True)
    right.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    for ax in (left, right):
        ax.axhline(0, color="black", lw=0.6)
    return figure


def line_of_places(
    coordinate: Float[np.ndarray, " step"],
    looked: Float[np.ndarray, "step place"],
    answered: Float[np.ndarray, "step place"],
    own_range: tuple[float, float],
    *,
    axis: str,
) -> Figure:
    """Attention and answers by place as one coordinate is set; gray: its own range."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True)
    panels = {"movers' attention": looked, "answered": answered}
    size = looked.shape[1]
    colors = plt.get_cmap("viridis", size)
    for ax, (title, table) in zip(axes, panels.items(), strict=True):
        for place in range(size):
            style = {"ms": 3, "color": colors(place), "label": f"place {place}"}
            ax.plot(coordinate, table[:, place], "o-", **style)
        ax.axvspan(*own_range, color="0.9", zorder=0)
        ax.set(xlabel=f"coordinate on {axis} (gray: its own range)", title=title)
        ax.tick_params(labelleft=True)
    axes[0].set_ylabel("share of attention from END")
    axes[1].set_ylabel("share of prompts")
    axes[0].legend(fontsize=7, ncols=2)
    return figure


def bars_at_point(
    looked: Float[np.ndarray, " place"], answered: Float[np.ndarray, " place"], *, title: str
) -> Figure:
    """Attention and answers by place at one point of the grid."""
    figure, ax = plt.subplots(figsize=(6, 2.6))
    place = np.arange(len(looked))
    ax.bar(place - 0.2, looked, 0.4, label="movers' attention")
    ax.bar(place + 0.2, answered, 0.4, label="answered")
    ax.set(xlabel="place in the list", ylim=(0, 1), title=title)
    ax.legend()
    return figure
