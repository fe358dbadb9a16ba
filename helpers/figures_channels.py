"""Figures of notebooks 03, 05 and 06. Each function draws what it is given, returns the Figure."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

from helpers import plots
from helpers.channel_analysis import HeadScores
from helpers.channel_steering import Removal
from helpers.heads import Head
from helpers.stats import Interval, draw_range

INHIBITION = plots.COLORS["inhibition"]
MOST_COLUMNS = 3
"""Heads that get two wide panels of their own."""
MOST_CURVES = 6
"""Heads that get a curve with intervals."""
MOST_NAMES = 12
"""Heads that are named beside their points."""


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


def repair_bars(
    bars: Mapping[str, Sequence[Interval]],
    names: Sequence[str],
    draws: Mapping[str, Sequence[Float[np.ndarray, " draw"]]],
    *,
    chance: float,
    title: str,
) -> Figure:
    """Right answers under each condition, two bars a group; dots are random sets of heads.

    draws: as `bars`, for the conditions after the first.
    """
    figure = plots.bars_with_intervals(bars, names, ylabel="right answers", title=title)
    ax = figure.axes[0]
    label: str | None = "random heads"
    for offset, by_condition in zip((-0.2, 0.2), draws.values(), strict=True):
        for place, values in enumerate(by_condition, start=1):
            x = place + offset + np.linspace(-0.12, 0.12, len(values))
            ax.plot(x, values, "o", ms=3, color="black", alpha=0.6, label=label)
            label = None
    ax.axhline(chance, color="0.5", ls=":", lw=1, label="chance in forced choice")
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4)
    return figure


def dose_curves(
    doses: Sequence[float],
    curves: Mapping[str, Mapping[str, Sequence[Interval]]],
    unedited: Mapping[str, float],
    *,
    n_prompts: int,
) -> Figure:
    """Right answers by dose: a panel per vocabulary, a line per set of heads."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), sharey=True)
    colors = (INHIBITION, plots.COLORS["negative_movers"], "black")
    for ax, (vocabulary, by_set) in zip(axes, curves.items(), strict=True):
        for color, (name, intervals) in zip(colors, by_set.items(), strict=True):
            values, errors = plots.with_errors(intervals)
            style = {"marker": "o", "ms": 4, "capsize": 2, "color": color}
            ax.errorbar(doses, values, yerr=errors, label=name, **style)
        ax.axhline(unedited[vocabulary], color="0.5", ls="--", label="nothing forced")
        ax.set(
            xlabel="dose: sum of the attention on the wrong colors",
            title=f"{vocabulary}, {n_prompts} prompts",
            ylim=(0, 1.03),
        )
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_ylabel("right answers")
    axes[0].legend(fontsize=7)
    return figure


def single_heads(
    gains: Mapping[Head, tuple[float, float]],
    roles: Mapping[Head, str],
    doses: Sequence[float],
    curves: Mapping[Head, Mapping[str, Sequence[Interval]]],
    *,
    n_prompts: int,
) -> Figure:
    """One head forced at a time: points gained (full vocabulary, forced choice), and by dose; of
    many heads those that gain or lose most are named, and have a curve.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
    for head in sorted(gains, key=roles.__contains__):  # heads with a role on top
        color = plots.COLORS[roles[head]] if head in roles else "0.75"
        left.plot(*gains[head], "o", ms=6 if head in roles else 4, color=color)
    for role in dict.fromkeys(roles.values()):
        label = f"{plots.label(role)} (IOI)"
        left.plot([], [], "o", color=plots.COLORS[role], label=label)
    left.plot([], [], "o", color="0.75", label="other heads of the layers")
    left.grid(color="0.93")
    left.set(
        xlabel="full vocabulary, points gained",
        ylabel="forced choice, points gained",
        title=f"One head, dose 1, {n_prompts} prompts",
    )
    left.margins(0.12)
    left.legend(fontsize=7)
    by_gain = sorted(roles, key=lambda head: -np.hypot(*gains[head]))
    most = [head for head in by_gain if head in curves][:MOST_CURVES]
    for i, head in enumerate(head for head in curves if head in most):
        style = {"marker": "os^vDP"[i % 6], "ms": 4, "capsize": 2}
        style["color"] = plots.COLORS[roles[head]]
        for vocabulary, intervals in curves[head].items():
            forced = vocabulary == "forced choice"
            values, errors = plots.with_errors(intervals)
            name = str(head) if forced else None
            line = "-" if forced else ":"
            right.errorbar(doses, values, errors, ls=line, label=name, **style)
    right.yaxis.set_major_formatter(PercentFormatter(1))
    right.set(
        xlabel="dose",
        ylim=(0, 1.03),
        title="One head: forced choice (lines), full vocabulary (dotted)",
    )
    legend = right.legend(fontsize=7)
    if len(most) < len(curves):
        legend.set_title(f"{len(most)} of {len(curves)} heads", {"size": 7})
    named = by_gain[:MOST_NAMES]
    _name_points(left, {head: gains[head] for head in named}, roles)
    return figure


def _name_points(
    ax: Axes, points: Mapping[Head, tuple[float, float]], roles: Mapping[Head, str]
) -> None:
    """Each head's name at a corner of its point where it meets no other name and no other of these
    points; no name where no corner is free.
    """
    ax.figure.draw_without_rendering()  # settles the axes
    taken = [ax.get_legend().get_window_extent()] if ax.get_legend() else []
    beside = {}
    for head, point in points.items():
        x, y = ax.transData.transform(point)
        beside[head] = Bbox.from_extents(x - 4, y - 4, x + 4, y + 4)
    for head, point in points.items():
        color = plots.COLORS[roles[head]] if head in roles else "black"
        others = [box for other, box in beside.items() if other != head]
        for corner in CORNERS:
            style = {"textcoords": "offset points", "fontsize": 7, "color": color}
            name = ax.annotate(str(head), point, **corner, **style)
            name.set_in_layout(False)
            extent = name.get_window_extent()
            if not any(map(extent.overlaps, taken + others)):
                taken.append(extent)
                break
            name.remove()


CORNERS = (
    {"xytext": (5, 3), "ha": "left", "va": "bottom"},
    {"xytext": (5, -3), "ha": "left", "va": "top"},
    {"xytext": (-5, 3), "ha": "right", "va": "bottom"},
    {"xytext": (-5, -3), "ha": "right", "va": "top"},
)


def answer_bars(shares: pd.DataFrame, *, n_prompts: int) -> Figure:
    """Stacked bars: the share of each kind of answer (columns) under each condition (rows)."""
    figure, ax = plt.subplots(figsize=(8.5, 0.42 * len(shares) + 1.3))
    colors = ("#1b7837", "#b2182b", "#e08214", "#fdb863", "0.75")
    left = np.zeros(len(shares))
    for color, (kind, share) in zip(colors, shares.items(), strict=True):
        ax.barh(list(shares.index), share, left=left, color=color, label=kind)
        left = left + share.to_numpy()
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set(
        title=f"What is answered in the full vocabulary, {n_prompts} prompts",
        xlim=(0, 1),
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.14), ncols=5, fontsize=7)
    return figure


def attention_changes(
    changes: Mapping[str, Sequence[Interval]],
    names: Sequence[str],
    draws: Mapping[str, Sequence[Float[np.ndarray, " draw"]]],
    *,
    n_prompts: int,
) -> Figure:
    """How the movers' attention to two places changes under each condition; dots: random heads."""
    figure, ax = plt.subplots(figsize=(6.5, 3))
    label: str | None = "random heads"
    colors = ("#b2182b", "#1b7837")
    for offset, color, (place, intervals) in zip((-0.2, 0.2), colors, changes.items(), strict=True):
        value, errors = plots.with_errors(intervals)
        x = np.arange(len(names)) + offset
        bar = ax.bar(x, value, 0.4, yerr=errors, capsize=2, color=color, label=place)
        ax.bar_label(bar, fmt="%+.1f", padding=2, fontsize=7)
        for center, values in zip(x, draws[place], strict=True):
            across = center + np.linspace(-0.15, 0.15, len(values))
            ax.plot(across, values, "o", ms=2.5, color="black", label=label)
            label = None
    ax.set_xticks(range(len(names)), names)
    ax.use_sticky_edges = False
    ax.margins(y=0.15)
    ax.axhline(0, color="black", lw=0.6)
    ax.set(
        ylabel="points against nothing forced",
        title=f"Movers' attention from END, {n_prompts} prompts",
    )
    ax.legend(fontsize=7)
    return figure


def downstream(
    effects: Mapping[Head, float], gains: Mapping[Head, float], movers: Sequence[Head]
) -> Figure:
    """Logits that each head gains beside its path-patching effect; the strongest are named."""
    figure, ax = plt.subplots(figsize=(7.5, 3.6))
    ax.plot(list(effects.values()), list(gains.values()), "o", ms=4, color="0.6")
    by_effect = sorted(effects, key=lambda head: abs(effects[head]))
    by_gain = sorted(gains, key=lambda head: abs(gains[head]))
    strongest = {}
    for head in dict.fromkeys([*by_effect[-6:], *by_gain[-4:]]):
        strongest[head] = (effects[head], gains[head])
        color = plots.COLORS["movers"] if head in movers else "black"
        ax.plot(*strongest[head], "o", ms=5, color=color)
    ax.axhline(0, color="black", lw=0.6)
    ax.axvline(0, color="black", lw=0.6)
    ax.set(
        xlabel="path-patching effect (% of the gap)",
        ylabel="logits gained, both forced",
        title="Heads that were not forced (green: movers of IOI; partner asks for another object)",
    )
    ax.margins(0.1)
    _name_points(ax, strongest, dict.fromkeys(movers, "movers"))
    return figure


def trials(
    shares: Mapping[str, Mapping[str, Interval]], *, chance: float, n_prompts: int
) -> Figure:
    """Right answers in each trial: a row per trial, a color per vocabulary."""
    names = list(next(iter(shares.values())))
    figure, ax = plt.subplots(figsize=(8.5, 0.42 * len(names) + 1))
    offsets = (-0.15, 0.15)
    for offset, color, (vocabulary, by_trial) in zip(
        offsets, ("C0", "C1"), shares.items(), strict=True
    ):
        x, errors = plots.with_errors(by_trial.values())
        y = np.arange(len(names)) + offset
        style = {"fmt": "o", "ms": 5, "capsize": 2, "color": color}
        ax.errorbar(x, y, xerr=errors, label=vocabulary, **style)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.grid(axis="y", color="0.93")
    ax.axvline(chance, color="0.5", ls=":", lw=1)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set(
        xlim=(0, 1.02),
        title=f"{n_prompts} further prompts: with and without the answer",
    )
    ax.legend(fontsize=7, loc="upper right")
    return figure
