"""Figures of notebooks 00 and 01 that no other notebook needs. Each function returns the Figure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from helpers.heads import Heads
from helpers.noise_study import LIMIT, MARGINS, UNTOUCHED, WORKED_OUT
from helpers.plots import CENTER, COLORS, label

DIFFERENCE = "logit(IO) - logit(S)"


# --- the plan -------------------------------------------------------------------------------------


class Spot(NamedTuple):
    """Where something stands: above a named token, shifted to the side by so many tokens."""

    position: str
    height: float
    shift: float = 0.0


class Wire(NamedTuple):
    """An arrow between two spots."""

    start: str
    end: str
    text: str
    bend: float
    along: float
    """Place of the text along the wire, 0 to 1."""


WORDS = {name: Spot(name, 0.15) for name in ("IO", "S1", "S2")}
LOGITS = Spot("END", 5.8, -0.8)
ROLES = {
    "previous_token": Spot("S1+1", 1.3, 0.5),
    "duplicate_token": Spot("S2", 1.3, -0.5),
    "induction": Spot("S2", 2.5, -0.8),
    "inhibition": Spot("END", 3.3, -1.9),
    "movers": Spot("END", 4.6, -1.9),
    "negative_movers": Spot("END", 4.6, 0.3),
}
WIRES = (
    Wire("S1", "previous_token", "identity", 0.0, 0.4),
    Wire("S1", "duplicate_token", "place of S1", 0.1, 0.5),
    Wire("previous_token", "induction", "in the key: the name before", -0.15, 0.5),
    Wire("duplicate_token", "inhibition", "channel in: place of S1", 0.2, 0.4),
    Wire("induction", "inhibition", "channel in: place of S1", -0.15, 0.45),
    Wire("inhibition", "movers", "in the query: channel = not this place", 0.0, 0.45),
    Wire("IO", "movers", "identity of IO", -0.3, 0.5),
    Wire("S2", "negative_movers", "identity of S2", 0.3, 0.5),
    Wire("movers", "logits", "+ IO", 0.0, 0.55),
    Wire("negative_movers", "logits", "- S", 0.0, 0.55),
)


def plan_figure(
    roles: Mapping[str, Heads], tokens: Sequence[str], positions: Mapping[str, int]
) -> Figure:
    """The plan of the planted model, above the words of one prompt."""
    figure, ax = plt.subplots(figsize=(12, 5.6))
    ax.set(xlim=(-0.7, 15.6), ylim=(-0.9, 6.2))
    ax.set_title("The plan: who tells whom what, above the words of one prompt")
    ax.axis("off")
    figure.draw_without_rendering()  # settles the axes, which labels on bent wires need
    spots = {**ROLES, **WORDS, "logits": LOGITS}
    places = {}
    for name, spot in spots.items():
        x = positions[spot.position] + spot.shift
        places[name] = (x, spot.height)
    boxes: dict[str, FancyBboxPatch | None] = dict.fromkeys(WORDS)  # words have none
    for role, heads in roles.items():
        text = f"{label(role)}\n{' '.join(map(str, heads))}"
        boxes[role] = _draw_box(ax, places[role], text, COLORS[role])
    boxes["logits"] = _draw_box(ax, places["logits"], "answer at END", "0.5")
    for wire in WIRES:
        ends = (places[wire.start], places[wire.end])
        boxes_at_ends = (boxes[wire.start], boxes[wire.end])
        _draw_wire(ax, wire, ends, boxes_at_ends)
    _draw_tokens(ax, tokens, positions)
    return figure


def _draw_box(ax: Axes, place: tuple[float, float], text: str, color: str) -> FancyBboxPatch:
    x, y = place
    box = {"boxstyle": "round,pad=0.4", "fc": color, "ec": "none"}
    drawn = ax.text(
        x,
        y,
        text,
        color="white",
        weight="bold",
        bbox=box,
        zorder=4,
        **CENTER,
    )
    return drawn.get_bbox_patch()


def _draw_wire(
    ax: Axes,
    wire: Wire,
    ends: tuple[tuple[float, float], tuple[float, float]],
    boxes: tuple[FancyBboxPatch | None, FancyBboxPatch | None],
) -> None:
    """A bent arrow between two points, from box to box where there are boxes, its label on it."""
    start, end = ends
    arrow = {
        "arrowstyle": "-|>",
        "color": "0.45",
        "connectionstyle": f"arc3,rad={wire.bend}",
        "shrinkA": 2,
        "shrinkB": 2,
        "patchA": boxes[0],
        "patchB": boxes[1],
    }
    ax.annotate("", end, start, arrowprops=arrow)
    x, y = _point_on_arc(ax, start, end, bend=wire.bend, along=wire.along)
    paper = {"fc": "white", "ec": "none", "pad": 1}
    ax.text(x, y, wire.text, fontsize=8, color="0.25", bbox=paper, **CENTER)


def _point_on_arc(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    bend: float,
    along: float,
) -> Float[np.ndarray, " 2"]:
    """A point of matplotlib's arc3: a quadratic Bezier curve on the screen."""
    first, last = ax.transData.transform([start, end])
    x, y = last - first
    sideways = np.array([y, -x])
    middle = (first + last) / 2 + bend * sideways
    weight_first = (1 - along) ** 2
    weight_middle = 2 * along * (1 - along)
    weight_last = along**2
    point = weight_first * first + weight_middle * middle
    point += weight_last * last
    return ax.transData.inverted().transform(point)


def _draw_tokens(ax: Axes, tokens: Sequence[str], positions: Mapping[str, int]) -> None:
    name_of = {position: name for name, position in positions.items()}
    for i, token in enumerate(tokens):
        text = f"{token}\n{i}\n{name_of.get(i, '')}"
        weight = "bold" if i in name_of else "normal"
        ax.text(i, 0, text, ha="center", va="top", weight=weight)


# --- one head -------------------------------------------------------------------------------------


def patterns_figure(
    patterns: Mapping[str, Float[np.ndarray, "query key"]], tokens: Sequence[str]
) -> Figure:
    """Attention patterns side by side, by title."""
    words = [f"{i}:{token}" for i, token in enumerate(tokens)]
    n = len(patterns)
    figure, axes = plt.subplots(1, n, figsize=(5.5 * n, 4.8), squeeze=False)
    for ax, (title, pattern) in zip(axes[0], patterns.items(), strict=True):
        image = ax.imshow(pattern, cmap="Purples", vmin=0, vmax=1)
        ax.set_xticks(range(len(words)), words, rotation=60, ha="right", fontsize=7)
        ax.set_yticks(range(len(words)), words, fontsize=7)
        ax.set(title=title, xlabel="is looked at", ylabel="looks")
    figure.colorbar(image, ax=axes, label="attention")
    return figure


def weights_figure(
    singular_values: Float[np.ndarray, "layer head component"],
    importance: Float[np.ndarray, "layer head"],
    groups: Mapping[str, Heads],
) -> Figure:
    """Left: the singular values of W_OV of the first distractor and of the leading inhibition head.
    Right: the norm of W_OV of every head against its largest path effect (`importance`).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
    for group in ("distractors", "inhibition"):
        head = groups[group][0]
        name = f"{group.removesuffix('s')} {head}"
        color = COLORS.get(group, "0.5")
        left.plot(singular_values[head], ".-", color=color, label=name)
    left.set(xlabel="component of $W_{OV}$", ylabel="singular value")
    left.set_title("A distractor is large, a message is narrow")
    left.legend()
    norms = np.linalg.norm(singular_values, axis=-1)
    for group, marker in zip(groups, "os^vDPXd", strict=True):
        heads = groups[group]
        right.plot(
            [norms[head] for head in heads],
            [importance[head] for head in heads],
            marker,
            label=label(group),
            ms=8,
            mfc="none",
            mew=1.6,
            color=COLORS.get(group, "0.4"),
        )
    right.legend(fontsize=7)
    right.set(xlabel="norm of $W_{OV}$", title="Large weights are not importance")
    right.set_ylabel("largest path effect (% of the gap,\npartner: three fresh names)")
    return figure


# --- the channel ----------------------------------------------------------------------------------


def scaling_figure(
    factors: Float[np.ndarray, " factor"],
    predicted: Mapping[str, Sequence[float]],
    measured: Mapping[str, Sequence[float]],
) -> Figure:
    """Logit difference by the factor on what inhibition writes; one curve per key."""
    figure, ax = plt.subplots(figsize=(7, 3.6))
    for i, name in enumerate(predicted):
        color = f"C{i}"
        ax.plot(factors, predicted[name], color=color, label=name)
        ax.plot(factors, measured[name], "o", ms=4, color=color)
    ax.axhline(0, color="black", lw=0.6)
    ax.set(xlabel="factor on what inhibition writes", ylabel=DIFFERENCE)
    ax.set_title("Scaling the channel in the weights")
    ax.legend(loc="lower right", title="lines worked out, points measured")
    return figure


class Written(NamedTuple):
    """Attention to the first name, by how much is written; of one template."""

    name: str
    sizes: Float[np.ndarray, " size"]
    measured: Float[np.ndarray, " size"]
    fine_sizes: Float[np.ndarray, " fine"]
    worked_out: Float[np.ndarray, " fine"]
    random_sizes: Float[np.ndarray, " few"]
    random: Float[np.ndarray, "direction few"]


def writing_figure(templates: Sequence[Written]) -> Figure:
    """Attention to the first name with a number written along the channel, and along random
    directions.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
    for i, written in enumerate(templates):
        color = f"C{i}"
        left.plot(written.fine_sizes, written.worked_out, color=color)
        left.plot(written.sizes, written.measured, "o", color=color, label=written.name)
        right.plot(
            written.random_sizes,
            written.random.T,
            color=color,
            alpha=0.3,
            lw=0.8,
        )
    left.set(xlabel="c, along the channel", ylabel="attention to the first name")
    left.set(title="Written into the channel", ylim=(-0.03, 1.03))
    n_random = len(templates[0].random)
    right.set(xlabel="c, along a random direction")
    right.set_title(f"Control: {n_random} random directions")
    legend = "line worked out,\npoint measured"
    left.legend(
        loc="center left",
        fontsize=7,
        title=legend,
        title_fontsize=7,
    )
    return figure


# --- noise ----------------------------------------------------------------------------------------

SIDE_COLORS = {"query": "C2", "value": "C4", "key": "C1"}


class Seeds(NamedTuple):
    """One column of the noise study."""

    mean: Float[np.ndarray, " level"]
    low: Float[np.ndarray, " level"]
    high: Float[np.ndarray, " level"]


def noise_figure(noisy: pd.DataFrame, *, n_seeds: int, random_angle: float) -> Figure:
    """All columns of the noise study by level, with the limits at which they fail.

    noisy: one row per model, `n_seeds` rows of a level together, the noise as index.
    """
    figure, axes = plt.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
    (task, errors), (margins, angle) = axes
    _draw_task(task, noisy, n_seeds)
    _draw_errors(errors, noisy, n_seeds)
    _draw_margins(margins, noisy, n_seeds)
    _draw_angle(angle, noisy, n_seeds, random_angle)
    for ax in (task, margins, angle):
        name = f"lowest to highest of {n_seeds} seeds"
        ax.fill_between([], [], color="0.5", alpha=0.3, lw=0, label=name)
    task.legend(fontsize=7, loc="center right", handlelength=3)
    errors.legend(fontsize=7, ncols=2, loc="upper right", handlelength=3)
    margins.legend(fontsize=7, ncols=2, loc="upper right", handlelength=3)
    angle.legend(fontsize=7, loc="center left", handlelength=3)
    return figure


def _draw_task(ax: Axes, noisy: pd.DataFrame, n_seeds: int) -> None:
    for column in ("accuracy", "roles"):
        _draw_range(ax, _seeds(noisy, column, n_seeds), label=column)
    _finish_levels(ax, noisy, limit=1.0, fails="below")
    ax.set(title="The task, and the search for roles", ylim=(-0.03, 1.05))
    ax.set_ylabel("accuracy; Jaccard overlap")


def _draw_errors(ax: Axes, noisy: pd.DataFrame, n_seeds: int) -> None:
    for column in WORKED_OUT:
        worst = _seeds(noisy, column, n_seeds).high
        ax.plot(worst, marker="o", ms=3, label=column)
    for column, linestyle in zip(UNTOUCHED[1:], ("-.", ":"), strict=True):
        worst = _seeds(noisy, column, n_seeds).high
        ax.plot(
            worst,
            marker="o",
            ms=3,
            color="0.35",
            linestyle=linestyle,
            label=f"untouched model: {column}",
        )
    _finish_levels(ax, noisy, limit=LIMIT, fails="above")
    ax.set(title="Methods with a worked-out value, worst seed")
    ax.set(yscale="log", ylim=(0.1, 2e4), ylabel="error (% of the whole, log scale)")


def _draw_margins(ax: Axes, noisy: pd.DataFrame, n_seeds: int) -> None:
    for column in MARGINS:
        kind, side = column.split(", ")
        linestyle = "--" if kind == "components" else "-"
        _draw_range(
            ax,
            _seeds(noisy, column, n_seeds),
            label=column,
            color=SIDE_COLORS[side],
            linestyle=linestyle,
        )
    _finish_levels(ax, noisy, limit=1.0, fails="below")
    ax.set(title="Margin of planned pairs in the weights")
    ax.set(yscale="log", ylim=(0.5, 60), ylabel="margin (log scale)")


def _draw_angle(ax: Axes, noisy: pd.DataFrame, n_seeds: int, random_angle: float) -> None:
    _draw_range(ax, _seeds(noisy, "channel angle", n_seeds), label="channel angle")
    _finish_levels(ax, noisy, limit=LIMIT, fails="above")
    ax.axhline(random_angle, color="0.5", ls=":", label="random subspaces")
    ax.set(title="Channel by components", ylim=(0, 92))
    ax.set_ylabel("largest principal angle (degrees)")


def _seeds(noisy: pd.DataFrame, column: str, n_seeds: int) -> Seeds:
    """Mean and range over seeds; NaN at a level where a seed has no value, which is then left
    out.
    """
    grid = noisy[column].to_numpy().reshape(-1, n_seeds)
    return Seeds(grid.mean(1), grid.min(1), grid.max(1))


def _draw_range(ax: Axes, seeds: Seeds, **style) -> None:
    (line,) = ax.plot(seeds.mean, marker="o", ms=3, **style)
    levels = range(len(seeds.mean))
    ax.fill_between(
        levels,
        seeds.low,
        seeds.high,
        color=line.get_color(),
        alpha=0.15,
        lw=0,
    )


def _finish_levels(ax: Axes, noisy: pd.DataFrame, *, limit: float, fails: str) -> None:
    levels = noisy.index.unique()
    ax.axhline(limit, color="black", lw=0.8, label=f"limit: fails {fails}")
    names = [f"{level:g}" for level in levels]
    ax.set_xticks(range(len(levels)), names, fontsize=7)
    ax.set_xlabel("noise, relative to the planted matrix")
