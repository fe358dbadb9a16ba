"""Figures of notebooks 04 to 06. Each function draws what it is given and returns the Figure."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import plots
from helpers.channel_analysis import HeadScores
from helpers.channel_steering import Removal
from helpers.channels import PairScores
from helpers.heads import Head
from helpers.stats import Interval, draw_range

INHIBITION = plots.COLORS["inhibition"]
SIDES = ("key", "value", "query")
MOST_PAIRS = 10
"""Known pairs that are named in one panel."""
MOST_PANELS = 4
"""Heads that get a panel of their own."""
MOST_COLUMNS = 3
"""Heads that get two wide panels of their own."""
MOST_SENDERS = 4
"""Senders that are drawn in one panel."""
MOST_LINES = 8
TABLES = {"whole": "whole heads", "best": "best components"}
"""Fields of PairScores, and what their scores are of."""


def pair_ranks(table: pd.DataFrame, scores: Mapping[str, PairScores], *, model: str) -> Figure:
    """Histograms of all composition scores, by side; known pairs are marked, those with the highest
    scores with their ranks.
    """
    figure, axes = plt.subplots(2, 3, figsize=(11, 7.5), sharex="row", sharey="row")
    for column, side in enumerate(SIDES):
        known = table[table["side"] == side]
        for row, field in enumerate(TABLES):
            prefix = "" if field == "whole" else "component_"
            every = getattr(scores[side], field).flatten()
            every = every[~every.isnan()]
            limit = max(0.25, 1.05 * table[f"{prefix}score"].max())
            ax = axes[row, column]
            ax.hist(every.clamp(max=limit), bins=80, color="0.8", log=True)
            ax.set(
                title=f"{side} side, {TABLES[field]}",
                xlabel="composition score (last bar: all above)",
                xlim=(0, 1.03 * limit),
            )
            _mark_known_pairs(ax, known, prefix, len(every))
    plt.setp(axes[:, 0], ylabel="pairs (log scale)")
    figure.suptitle(model, fontweight="bold")
    return figure


def _mark_known_pairs(ax: Axes, known: pd.DataFrame, prefix: str, n_pairs: int) -> None:
    """A numbered line for each of the highest known pairs, with its rank in a legend; short lines
    for the others.
    """
    ordered = known.sort_values(f"{prefix}score")
    others = ordered[:-MOST_PAIRS]
    for score, role in zip(others[f"{prefix}score"], others["role"], strict=True):
        ax.axvline(score, ymax=0.03, color=plots.COLORS[role], lw=0.8)
    for i, (_, row) in enumerate(ordered[-MOST_PAIRS:].iterrows()):
        score = row[f"{prefix}score"]
        rank = row[f"{prefix}rank"]
        top = 0.97 - 0.09 * i
        color = plots.COLORS[row["role"]]
        text = f"{i + 1}  {row['sender']}→{row['receiver']}: {rank}"
        ax.axvline(score, ymax=top, color=color, lw=1.2, label=text)
        ax.annotate(
            str(i + 1),
            (score, top),
            (1, -6),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            fontsize=7,
            color=color,
        )
    if len(known):
        named = "known pairs"
        if len(others):
            named = f"the highest {MOST_PAIRS} of {len(known)} known pairs"
        ax.legend(
            title=f"{named}\nand their ranks among {n_pairs}",
            title_fontsize=7,
            fontsize=7,
            handlelength=1,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.18),
            ncols=2,
        )


def spectra(shares: Mapping[Head, Float[np.ndarray, " component"]], *, model: str) -> Figure:
    """Singular values of the first inhibition heads, as shares of their matrix's norm."""
    figure, ax = plt.subplots(figsize=(5.5, 2.6))
    first = list(shares)[:MOST_LINES]
    for head in first:
        share = shares[head]
        ax.plot(share, marker=".", ms=4, label=str(head))
    ax.set(
        xlabel="component",
        ylabel=r"$s_k$ / $\|W_{OV}\|_F$",
        title=f"{model}: {_first_of(first, shares)}",
        ylim=(0, None),
    )
    ax.legend()
    return figure


def component_bars(
    ranked: Sequence[HeadScores], null: Float[np.ndarray, " draw"], *, model: str
) -> Figure:
    """Composition score of each component of the first heads; the best one in color, beside what
    chance gives.
    """
    first = ranked[:MOST_PANELS]
    size = (3.4 * len(first), 3.2)
    figure, axes = plt.subplots(1, len(first), figsize=size, squeeze=False, sharey=True)
    random = draw_range(null)
    for ax, scored in zip(axes[0], first, strict=True):
        count = len(scored.scores)
        color = ["0.65"] * count
        color[scored.best] = INHIBITION
        ax.bar(range(count), np.nan_to_num(scored.scores), width=0.9, color=color)
        style = {"color": "C0", "alpha": 0.35, "lw": 0}
        ax.axhspan(random.low, random.high, label="random directions, 95 %", **style)
        style = {"color": "black", "lw": 0.8, "ls": "--"}
        ax.axhline(scored.chance, label="largest by chance, 97.5 %", **style)
        ax.annotate(
            f"component {scored.best}",
            (scored.best, scored.highest),
            (4, 4),
            textcoords="offset points",
            fontsize=8,
            bbox={"fc": "white", "ec": "none", "pad": 0.5},
        )
        ax.set(
            xlabel="component, by falling singular value",
            title=f"{model} {scored.head}",
        )
        ax.margins(y=0.3)
    axes[0, 0].set_ylabel("composition score with the movers' queries")
    axes[0, 0].legend(fontsize=7, loc="upper right")
    _say_what_is_left_out(figure, first, ranked)
    return figure


def _first_of(first: Sized, every: Sized) -> str:
    """What these inhibition heads are called, which come strongest first."""
    if len(first) == len(every):
        return "inhibition heads"
    return f"the first {len(first)} of {len(every)} inhibition heads"


def _say_what_is_left_out(figure: Figure, first: Sized, every: Sized) -> None:
    """A line above the panels, where not every head has one."""
    if len(first) < len(every):
        figure.suptitle(_first_of(first, every), fontsize=9)


def same_component(
    ranked: Sequence[HeadScores],
    reads: Mapping[Head, Mapping[Head, Float[np.ndarray, " component"]]],
    writers: Mapping[Head, str],
    *,
    model: str,
) -> Figure:
    """Per inhibition head: what the movers read of a component beside what senders write into it.

    reads: inhibition head -> sender -> scores. writers: the senders that may be drawn -> their
    role. Of many heads the first are drawn, of many senders those that write most.
    """
    first = ranked[:MOST_PANELS]
    size = (3.4 * len(first), 3.4)
    figure, axes = plt.subplots(1, len(first), figsize=size, squeeze=False)
    for ax, scored in zip(axes[0], first, strict=True):
        written = reads[scored.head]
        before = [sender for sender in writers if sender in written]
        most = sorted(before, key=lambda sender: -np.nanmax(written[sender]))[:MOST_SENDERS]
        senders = [sender for sender in before if sender in most]
        for i, sender in enumerate(senders):
            _draw_sender(ax, scored, written[sender], name=str(sender), role=writers[sender], i=i)
        ax.axvline(scored.highest, color=INHIBITION, lw=0.8, ls=":")
        ax.set(
            xlabel="read by the movers (score)",
            title=f"{model} {scored.head}: component {scored.best}",
        )
        ax.margins(0.12)
        if senders:
            legend = ax.legend(fontsize=7, loc="upper left", handletextpad=0.1)
            if len(senders) < len(before):
                legend.set_title(f"{len(senders)} of {len(before)} senders", {"size": 7})
    axes[0, 0].set_ylabel("written into by the sender (score)")
    _say_what_is_left_out(figure, first, ranked)
    return figure


def _draw_sender(
    ax: Axes,
    scored: HeadScores,
    written: Float[np.ndarray, " component"],
    *,
    name: str,
    role: str,
    i: int,
) -> None:
    """One sender's points, the component it writes into most ringed."""
    x = scored.scores
    most = np.nanargmax(written)
    marker = "osD^v"[i % 5]
    color = plots.COLORS[role]
    text = f"{name} {plots.label(role)}"
    ax.plot(x, written, marker, ms=3.5, color=color, alpha=0.6, label=text, mew=0)
    ax.plot(x[most], written[most], marker, ms=8, mfc="none", color=color)


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
