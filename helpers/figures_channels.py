"""Figures of notebook 05. Each function draws what it is given and returns the Figure."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import plots
from helpers.channel_analysis import HeadScores
from helpers.channel_steering import Removal
from helpers.heads import Head
from helpers.stats import Interval, draw_range

INHIBITION = plots.COLORS["inhibition"]
MOST_COLUMNS = 3
"""Heads that get two wide panels of their own."""


def _first_of(first: Sized, every: Sized) -> str:
    """What these inhibition heads are called, which come strongest first."""
    if len(first) == len(every):
        return "inhibition heads"
    return f"the first {len(first)} of {len(every)} inhibition heads"


def _say_what_is_left_out(figure: Figure, first: Sized, every: Sized) -> None:
    """A line above the panels, where not every head has one."""
    if len(first) < len(every):
        figure.suptitle(_first_of(first, every), fontsize=9)


def removals(
    scores: Sequence[HeadScores],
    losses: Mapping[str, Sequence[Removal]],
    null: Float[np.ndarray, " draw"],
) -> Figure:
    """What is lost with each component beside its composition score: a column for each of the first
    heads, a row per measure of `losses`.
    """
    first = scores[:MOST_COLUMNS]
    size = (5.2 * len(first), 6)
    figure, axes = plt.subplots(2, len(first), figsize=size, squeeze=False, sharex="col")
    random = draw_range(null)
    for row, (measure, removed) in zip(axes, losses.items(), strict=True):
        for ax, scored, removal in zip(row, first, removed[:MOST_COLUMNS], strict=True):
            style = {"color": "0.9", "lw": 0}
            ax.axvspan(random.low, random.high, label="random directions (95 %)", **style)
            whole = removal.lost_with_head.mean()
            ax.axhline(whole, color="0.5", ls=":", label="the whole head removed")
            _draw_losses(ax, scored, removal.lost.mean(-1))
            ax.set_ylabel(f"{measure} lost (its own scale)")
    for ax, scored in zip(axes[0], first, strict=True):
        ax.set_title(f"{scored.head}: remove one component")
    plt.setp(axes[1], xlabel="composition score with the movers' queries")
    axes[0, 0].legend(loc="center", fontsize=7)
    _say_what_is_left_out(figure, first, scores)
    return figure


def _draw_losses(ax: Axes, scored: HeadScores, lost: Float[np.ndarray, " component"]) -> None:
    """A point per component; the best one and the two that cost most are named."""
    x = scored.scores
    ax.plot(x, lost, "o", ms=4, color=INHIBITION)
    costliest = np.argsort(lost)[-2:].tolist()
    for component in {scored.best, *costliest}:
        ax.annotate(
            f"component {component}",
            (x[component], lost[component]),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    ax.axhline(0, color="black", lw=0.6)
    ax.margins(0.08)


def curves_of_removal(
    curves: Mapping[str, Interval],
    random_curves: Float[np.ndarray, "order size"],
    random_sizes: Int[np.ndarray, " size"],
    *,
    head: Head,
) -> Figure:
    """Share of a head's effect lost as components go, in several orders; 1 = all of it."""
    figure, ax = plt.subplots(figsize=(6.5, 3.3))
    for name, curve in curves.items():
        percent = curve.times(100)
        removed = np.arange(np.size(percent.value))
        [line] = ax.plot(removed, percent.value, marker=".", ms=4, label=name)
        style = {"color": line.get_color(), "alpha": 0.2, "lw": 0}
        ax.fill_between(removed, percent.low, percent.high, **style)
    low, middle, high = 100 * np.quantile(random_curves, [0.025, 0.5, 0.975], axis=0)
    label = f"{len(random_curves)} random orders: median, and 95 % of them"
    ax.plot(random_sizes, middle, color="0.4", label=label)
    ax.fill_between(random_sizes, low, high, color="0.4", alpha=0.15, lw=0)
    ax.axhline(90, color="0.6", ls=":")
    ax.set(
        xlabel=f"components of {head} removed",
        ylabel="% of the head's effect lost",
        title="How many directions hold it?",
    )
    ax.legend(fontsize=7)
    return figure


def weight_edits(
    edits: Mapping[str, Mapping[str, Interval]],
    draws: Mapping[str, Float[np.ndarray, " draw"]],
    unedited: Mapping[str, float],
    *,
    control: str,
) -> Figure:
    """Logit difference and perplexity with edited weights: a row per edit, the control lowest.

    draws: per measure, the single draws of the control. unedited: per measure, the dotted line.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 2.9), sharey=True)
    names = list(edits)[::-1]
    for ax, measure in zip(axes, draws, strict=True):
        for y, name in enumerate(names):
            if measure in edits[name]:
                value, errors = plots.with_errors([edits[name][measure]])
                color = "0.5" if name == control else INHIBITION
                ax.errorbar(value, y, xerr=errors, fmt="o", capsize=3, color=color)
        below = np.full(len(draws[measure]), names.index(control) - 0.3)
        ax.plot(draws[measure], below, "|", color="0.5", ms=6)
        ax.axvline(unedited[measure], color="0.6", ls=":", lw=1)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set(xlabel="logit(IO) - logit(S) at END", title="IOI, weights edited")
    axes[1].set(xlabel="perplexity, ratio to the unedited model", title="Other prose")
    axes[1].locator_params(axis="x", nbins=5)
    return figure


def coordinates(
    groups: Mapping[str, Float[np.ndarray, " prompt"]],
    jitter: Mapping[str, Float[np.ndarray, " prompt"]],
    *,
    channel: str,
) -> Figure:
    """What is written on a channel, one point per prompt and one row per group; bars are means."""
    figure, ax = plt.subplots(figsize=(6.5, 2.6))
    for y, (name, values) in enumerate(groups.items()):
        ax.plot(values, y + jitter[name], "o", ms=3, alpha=0.6, color=INHIBITION)
        ax.plot(values.mean(), y, "|", ms=22, mew=2, color="black")
    ax.set_yticks(range(len(groups)), groups)
    ax.axvline(0, color="0.6", lw=0.6)
    ax.set(
        xlabel=f"coordinate of {channel} (residual-stream units)",
        title="Unmoved: which of the two was repeated",
    )
    return figure


def traversal(
    grid: Float[np.ndarray, " step"],
    on_channel: Mapping[str, Float[np.ndarray, " step"]],
    on_random: Mapping[str, Float[np.ndarray, "direction step"]],
    *,
    channel: str,
) -> Figure:
    """The movers' attention to two names as one coordinate is set: the channel, random ones."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), sharey=True)
    for name, color in zip(on_channel, ("C0", "C1"), strict=True):
        axes[0].plot(grid, on_channel[name], marker="o", ms=3, color=color, label=name)
        low, middle, high = np.quantile(on_random[name], [0.025, 0.5, 0.975], axis=0)
        axes[1].plot(grid, middle, color=color)
        axes[1].fill_between(grid, low, high, color=color, alpha=0.2, lw=0)
    n_directions = len(on_random[name])
    axes[0].set(
        xlabel="coordinate set on the channel",
        ylabel="movers' attention from END",
        title=channel,
    )
    axes[1].set(
        xlabel="coordinate set on a random direction",
        title=f"{n_directions} random directions: median, 95 % of them",
    )
    axes[0].legend()
    return figure


@dataclass(frozen=True)
class ListSteering:
    """What `list_steering` draws: coordinates that are set, and where the movers then attend."""

    natural: Float[np.ndarray, " step"]
    """Coordinates within the range that the head writes itself."""
    place: Float[np.ndarray, " step"]
    """Mean place attended at these."""
    random_place: Float[np.ndarray, "direction step"]
    """The same along random directions."""
    wide: Float[np.ndarray, " wide"]
    """Coordinates that go further."""
    attention: Float[np.ndarray, "wide name"]
    """Share of the movers' attention to names that each place gets at these."""


def list_steering(
    coordinate: Float[np.ndarray, " prompt"],
    place: Int[np.ndarray, " prompt"],
    steering: ListSteering,
    *,
    channel: str,
) -> Figure:
    """Lists of names: the coordinate by place; the attention and the mean place by coordinate."""
    figure, (unmoved, moved, summary) = plt.subplots(1, 3, figsize=(12, 3.3))
    for i in range(max(place) + 1):
        values = coordinate[place == i]
        unmoved.plot(np.full(len(values), i), values, "o", ms=3, alpha=0.4, color=INHIBITION)
        unmoved.plot(i, values.mean(), "k_", ms=16, mew=2)
    unmoved.set(
        xlabel="place of the repeated name",
        ylabel=f"coordinate on {channel}",
        title="Unmoved: coordinate by place",
    )
    _draw_attention(moved, steering)
    _draw_mean_place(summary, steering)
    return figure


def _draw_attention(ax: Axes, steering: ListSteering) -> None:
    """Heat map: the coordinate that is set, and the share of attention that each place gets."""
    image = ax.imshow(steering.attention, aspect="auto", cmap="Purples", vmin=0)
    names = []
    for value in steering.wide:
        natural = steering.natural[0] <= value <= steering.natural[-1]
        names.append(f"{value:.2g}{' ' if natural else '*'}")
    ax.set_yticks(range(len(names)), names)
    ax.set(
        xlabel="place in the list",
        ylabel="coordinate set (*: not natural)",
        title="Moved: movers' attention",
    )
    ax.figure.colorbar(image, ax=ax, label="share of the attention to names")


def _draw_mean_place(ax: Axes, steering: ListSteering) -> None:
    """The mean place attended by coordinate, beside random directions."""
    natural = steering.natural
    places = np.arange(steering.attention.shape[1])
    further = steering.attention @ places
    low, high = np.quantile(steering.random_place, [0.025, 0.975], axis=0)
    n_random = len(steering.random_place)
    ax.axvspan(
        natural[0],
        natural[-1],
        color="0.9",
        lw=0,
        label="natural range: what counts",
    )
    style = {"color": INHIBITION}
    ax.plot(steering.wide, further, ls=":", marker=".", label="channel, further", **style)
    ax.plot(natural, steering.place, marker="o", label="channel", **style)
    label = f"{n_random} random directions, 95 %"
    ax.fill_between(natural, low, high, color="0.7", lw=0, label=label)
    ax.set(
        xlabel="coordinate set",
        ylabel="mean place attended",
        title="Moved: place by coordinate",
    )
    ax.legend(fontsize=7, frameon=True, framealpha=1)
