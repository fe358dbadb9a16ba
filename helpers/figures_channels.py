"""Figures of notebooks 03 to 06. Each function draws what it is given and returns the Figure."""

from collections.abc import Mapping, Sequence, Sized

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

from helpers import plots
from helpers.channel_analysis import HeadScores
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
MOST_CURVES = 6
"""Heads that get a curve with intervals."""
MOST_NAMES = 12
"""Heads that are named beside their points."""
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
