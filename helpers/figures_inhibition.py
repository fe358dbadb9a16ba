"""Figures of notebook 05. Each function draws what it is given and returns the Figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import plots
from helpers.heads import Head
from helpers.stats import Interval

INHIBITION = plots.COLORS["inhibition"]
CONTROL = "0.45"
MOST_PANELS = 3
"""Heads that get a panel of their own."""


@dataclass(frozen=True)
class HeadLosses:
    """What one head's components cost, in percent of the inhibition score."""

    head: Head
    component: int
    """The component that the weights point to."""
    scores: Float[np.ndarray, " component"]
    """Composition scores with the movers' queries."""
    lost: Float[np.ndarray, " component"]
    """Lost without each component."""
    pushed: Float[np.ndarray, " component"]
    """Lost by a push against each component, as large as the removal of `component`."""
    matched: Sequence[int]
    """The components that are compared with it."""
    whole: float
    """Lost without the whole head."""


def removal(losses: Sequence[HeadLosses], *, n_prompts: int, title: str) -> Figure:
    """What is lost with each component, by its composition score: one panel for each head."""
    shown = losses[:MOST_PANELS]
    width = max(6.5, 4.6 * len(shown))
    figure, axes = plt.subplots(1, len(shown), figsize=(width, 3.9), squeeze=False, sharey=True)
    for ax, head in zip(axes[0], shown, strict=True):
        _draw_losses(ax, head)
    axes[0, 0].set_ylabel(f"inhibition score lost (%), n = {n_prompts}")
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, fontsize=8)
    return figure


def _draw_losses(ax: Axes, head: HeadLosses) -> None:
    best = head.component
    matched = list(head.matched)
    others = np.delete(np.arange(len(head.lost)), best)
    ax.axhline(head.whole, color="0.6", ls=":", label="the whole head removed")
    ax.axhline(0, color="black", lw=0.6)
    x = head.scores
    ax.plot(x[others], head.lost[others], "o", ms=4, color="0.7", label="another component removed")
    style = {"marker": "D", "ms": 6, "ls": "", "mfc": "none", "color": plots.ORANGE}
    ax.plot(x[matched], head.pushed[matched], label="matched component, equal norm", **style)
    label = "the component that the weights point to"
    ax.plot(x[best], head.lost[best], "*", ms=14, color=INHIBITION, label=label)
    ax.annotate(
        f"component {best}: {head.lost[best]:.0f}%",
        (x[best], head.lost[best]),
        (-8, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=INHIBITION,
    )
    ax.margins(0.1)
    ax.set(title=str(head.head), xlabel="composition score with the movers' queries")


def predictor_ranks(
    measured: Mapping[str, Interval],
    null: Mapping[str, Interval],
    by_head: Mapping[str, Mapping[Head, float]],
    *,
    title: str,
) -> Figure:
    """Rank correlation of each predictor with the size of the loss, within heads."""
    names = list(measured)
    figure, ax = plt.subplots(figsize=(8, 0.5 * len(names) + 1.5))
    rows = np.arange(len(names))[::-1]
    for row, name in zip(rows, names, strict=True):
        chance = null[name]
        ax.plot([chance.low, chance.high], [row, row], lw=9, color="0.88", solid_capstyle="butt")
        for head, marker in zip(by_head[name], "^vs<>P", strict=False):
            color = "0.35"
            style = {"marker": marker, "color": color, "ls": "", "ms": 5, "mfc": "none"}
            ax.plot(by_head[name][head], row + 0.23, label=str(head), **style)
        value, errors = plots.with_errors([measured[name]])
        style = {"fmt": "o", "capsize": 3, "color": INHIBITION}
        ax.errorbar(value, row, xerr=errors, label="mean of the heads", **style)
    ax.axvline(0, color="black", lw=0.6)
    ax.set_yticks(rows, [name.replace("_", " ") for name in names])
    ax.set(xlabel="Spearman correlation with the size of the loss, within a head", title=title)
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    ax.legend(unique.values(), unique.keys(), loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def weight_edits(
    answers: Mapping[str, Interval],
    matched: Float[np.ndarray, " edit"],
    divergence: Mapping[str, Mapping[str, Interval]],
    *,
    title: str,
) -> Figure:
    """Logit difference lost in percent, by edit; and the KL to the unedited model, by text.

    matched: the losses of the single matched edits. divergence: text -> edit -> nats a token.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=(1.3, 1))
    names = [*answers, f"{len(matched)} edits of equal size"]
    rows = np.arange(len(names))[::-1]
    for row, name in zip(rows, answers, strict=False):
        value, errors = plots.with_errors([answers[name]])
        left.errorbar(value, row, xerr=errors, fmt="o", capsize=3, color=INHIBITION)
    left.plot(matched, np.zeros(len(matched)), "D", mfc="none", color=plots.ORANGE)
    left.plot(matched.mean(), 0, "|", ms=20, mew=2, color=plots.ORANGE)
    left.set_yticks(rows, names)
    left.axvline(0, color="black", lw=0.6)
    left.set(xlabel="logit difference lost (%)", title="IOI", ylim=(-0.6, len(names) - 0.4))
    _draw_divergence(right, divergence)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=10)
    return figure


def _draw_divergence(ax: Axes, divergence: Mapping[str, Mapping[str, Interval]]) -> None:
    """Horizontal bars: one group a text, one bar an edit."""
    edits = list(next(iter(divergence.values())))
    styles = dict(zip(edits, ((INHIBITION, ""), (plots.ORANGE, "///")), strict=True))
    for group, by_edit in enumerate(divergence.values()):
        for i, (edit, interval) in enumerate(by_edit.items()):
            color, hatch = styles[edit]
            value, errors = plots.with_errors([interval])
            label = edit if group == 0 else None
            place = group + 0.36 * i
            style = {"color": color, "hatch": hatch, "edgecolor": "white", "label": label}
            ax.barh(place, value, 0.34, xerr=errors, capsize=2, **style)
    ax.set_yticks(np.arange(len(divergence)) + 0.18, divergence)
    ax.invert_yaxis()
    ax.set(xlabel="KL to the unedited model (nats a token)", title="Other text")
    ax.legend(fontsize=7)


def coordinates(
    groups: Mapping[str, Float[np.ndarray, " prompt"]], *, channel: str, title: str
) -> Figure:
    """Distributions of what is written along a channel, one row for each group of prompts."""
    figure, ax = plt.subplots(figsize=(8, 2.9))
    pieces = {name: values.tolist() for name, values in groups.items()}
    colors = [plots.BLUE, plots.ORANGE, "0.6"]
    sns.stripplot(pieces, ax=ax, orient="h", palette=colors[: len(pieces)], size=4, alpha=0.6)
    for row, values in enumerate(groups.values()):
        ax.plot(values.mean(), row, "|", ms=26, mew=2, color="black")
    ax.set_yticks(range(len(groups)), [f"{name}\nn = {len(x)}" for name, x in groups.items()])
    ax.axvline(0, color="0.6", lw=0.6)
    ax.set(xlabel=f"coordinate of {channel} at END (residual-stream units)", title=title)
    return figure


def traversal(
    matrices: Mapping[str, Float[np.ndarray, "set attended"]],
    by_size: Mapping[str, Mapping[int, Interval]],
    *,
    title: str,
    n_lists: Mapping[int, int],
) -> Figure:
    """Where the movers attend when the coordinate says a place: matrices, and by list size.

    matrices: panel title -> change of attention in points. by_size: condition -> list size ->
    attention that follows the set place.
    """
    figure, axes = plt.subplots(1, len(matrices) + 1, figsize=(4.1 * len(matrices) + 4.4, 3.9))
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=False):
        _draw_matrix(ax, matrix, name)
    _draw_by_size(axes[-1], by_size, n_lists)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    return figure


def _draw_matrix(ax: Axes, matrix: Float[np.ndarray, "set attended"], title: str) -> None:
    """Change of attention: rows are places that are set, columns places that are attended."""
    limit = max(1.0, float(np.abs(matrix).max()))
    labels = [str(place + 1) for place in range(len(matrix))]
    sns.heatmap(
        matrix,
        ax=ax,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        annot=True,
        fmt="+.1f",
        annot_kws={"fontsize": 8},
        xticklabels=labels,
        yticklabels=labels,
        cbar=False,
        square=True,
    )
    for place in range(len(matrix)):
        frame = plt.Rectangle((place, place), 1, 1, fill=False, ec="black", lw=1.5, clip_on=False)
        ax.add_patch(frame)
    ax.tick_params(rotation=0)
    ax.set(xlabel="place attended", ylabel="place set", title=title)


def _draw_by_size(
    ax: Axes, by_size: Mapping[str, Mapping[int, Interval]], n_lists: Mapping[int, int]
) -> None:
    """Attention that follows the set place, by the number of names."""
    styles = ((INHIBITION, "o-"), ("black", "s--"), (CONTROL, "D:"))
    for (name, intervals), (color, form) in zip(by_size.items(), styles, strict=True):
        values, errors = plots.with_errors(intervals.values())
        style = {"fmt": form, "ms": 5, "capsize": 2, "color": color, "label": name}
        ax.errorbar(list(intervals), values, yerr=errors, **style)
    ax.axhline(0, color="black", lw=0.6)
    sizes = list(n_lists)
    ax.set_xticks(sizes, [f"{size}\n(n = {n_lists[size]})" for size in sizes])
    ax.set(
        xlabel="names in the list",
        ylabel="attention that follows (points)",
        title="By the length of the list",
    )
    ax.legend(fontsize=8)
