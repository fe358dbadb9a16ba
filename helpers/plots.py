"""The suite's figures in one style.

Each function returns the Figure; `suite.results.Results.save_figure` writes it as PNG and SVG.
"""

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from helpers.circuits import Circuit, Overlap
from helpers.heads import Head, Heads
from helpers.roles import Role
from helpers.stats import Interval

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "circuits",
}


COLORS = {
    "movers": "#1b7837",
    "content_gatherers": "#c51b7d",
    "negative_movers": "#b2182b",
    "inhibition": "#762a83",
    "induction": "#e08214",
    "duplicate_token": "#35978f",
    "previous_token": "#2166ac",
}

RED, BLUE, ORANGE = "#b2182b", "#2166ac", "#e08214"

CENTER = {"ha": "center", "va": "center"}

LOGITS_BOX = {"boxstyle": "round,pad=0.4", "fc": "0.92", "ec": "0.5"}


plt.rcParams.update(STYLE)


def label(role: str) -> str:
    """A role's name as people write it: `duplicate_token` -> "duplicate token"."""
    return role.replace("_", " ")


def with_errors(
    intervals: Iterable[Interval],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "end n"]]:
    """Estimates, and how far the lower and the upper end of their 95 % intervals are: what
    matplotlib draws.
    """
    intervals = list(intervals)
    values = np.array([interval.value for interval in intervals], dtype=float)
    low = np.array([interval.low for interval in intervals], dtype=float)
    high = np.array([interval.high for interval in intervals], dtype=float)
    return values, np.abs(np.stack([low - values, high - values]))


def bars_with_intervals(
    groups: Mapping[str, Sequence[Interval]], names: Sequence[str], *, ylabel: str, title: str
) -> Figure:
    """Grouped bars with 95 % intervals: one group per name, one color per key."""
    figure, ax = plt.subplots(figsize=(8, 3.2))
    width = 0.8 / len(groups)
    places = np.arange(len(names))
    for i, (key, intervals) in enumerate(groups.items()):
        shift = (i - (len(groups) - 1) / 2) * width
        values, errors = with_errors(intervals)
        whiskers = {"lw": 1, "capsize": 2}
        ax.bar(
            places + shift,
            values,
            width,
            yerr=errors,
            error_kw=whiskers,
            alpha=0.85,
            label=key,
        )
    ax.axhline(0, color="black", lw=0.6)
    ax.set_xticks(places, names)
    ax.set(ylabel=ylabel, title=title)
    extra_lines = max((name.count("\n") for name in names), default=0)
    below = -0.12 - 0.07 * extra_lines
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, below), ncols=len(groups))
    return figure


# One stage ----------------------------------------------------------------------------------------


def head_map(
    ax: Axes,
    percent: Float[np.ndarray, "layer head"],
    found: Mapping[str, Sequence[Head]],
    *,
    title: str,
) -> None:
    """Heat map of effects over layers and heads, symmetric around 0; heads found are framed in
    their role's color, and named where there is room.
    """
    layers, heads = percent.shape
    limit = np.nanmax(np.abs(percent), initial=1e-9)
    sns.heatmap(
        percent.T,
        ax=ax,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        xticklabels=max(1, layers // 6),
        yticklabels=max(1, heads // 6),
        cbar_kws={
            "orientation": "horizontal",
            "aspect": 40,
            "pad": 0.03,
            "label": "effect of the path (% of the gap)",
        },
    )
    ax.invert_yaxis()
    ax.tick_params(rotation=0)
    ax.set_facecolor("0.85")
    ax.set(xlabel="layer", ylabel="head")
    ax.set_title(_wrapped(title, 72))
    sides = _sides_with_room(itertools.chain.from_iterable(found.values()), percent.shape)
    for role, members in found.items():
        for head in members:
            frame = Rectangle(head, 1, 1, fill=False, ec=COLORS[role], lw=2, clip_on=False)
            ax.add_patch(frame)
            side = sides[head]
            if side is not None:
                text = f"{head} {percent[head]:+.0f}"
                _name_frame(ax, head, text, side=side, color=COLORS[role])


Side = Literal["left", "right", "above", "below"]


def _sides_with_room(heads: Iterable[Head], shape: tuple[int, int]) -> dict[Head, Side | None]:
    """Head -> the side of its frame on which its name covers no other frame or name; None where
    there is none.

    shape: layers and heads of the map.
    """
    framed = list(heads)
    layers, heads_per_layer = shape
    on_map = {Head(layer, head) for layer in range(layers) for head in range(heads_per_layer)}
    free = on_map - set(framed)
    sides: dict[Head, Side | None] = {}
    for head in framed:
        sides[head] = None
        for side, cells in _cells_beside(head, layers).items():
            if cells <= free:
                sides[head] = side
                free -= cells
                break
    return sides


def _cells_beside(head: Head, layers: int) -> dict[Side, set[Head]]:
    """Side of a frame -> the cells of the map that a name there covers."""
    layer, row = head
    width = max(1, math.ceil(0.11 * layers))  # of a name, in layers
    return {
        "left": {Head(x, row) for x in range(layer - width, layer)},
        "right": {Head(x, row) for x in range(layer + 1, layer + 1 + width)},
        "above": {Head(x, row + 1) for x in range(layer + 1 - width, layer + 1)},
        "below": {Head(x, row - 1) for x in range(layer + 1 - width, layer + 1)},
    }


def _name_frame(ax: Axes, head: Head, text: str, *, side: Side, color: str) -> None:
    layer, row = head
    place, horizontal, vertical = {
        "left": ((layer - 0.1, row + 0.5), "right", "center"),
        "right": ((layer + 1.1, row + 0.5), "left", "center"),
        "above": ((layer + 1, row + 1.1), "right", "bottom"),
        "below": ((layer + 1, row - 0.1), "right", "top"),
    }[side]
    style = {"fontsize": 7, "color": color, "weight": "bold"}
    ax.annotate(text, place, ha=horizontal, va=vertical, **style)


def stage_figure(
    circuit: Circuit,
    stage: str,
    *,
    title: str,
    tokens: Sequence[str],
    positions: Mapping[str, int],
    example: Mapping[Head, Float[np.ndarray, "query key"]],
) -> Figure:
    """Effects of all heads; attention of each role's first three, on one prompt (`example`) and on
    average.
    """
    if stage not in circuit.evidence.stages:
        return _not_run_figure(title)
    roles = circuit.evidence.scheme.roles_at(stage)
    found = {role.name: circuit.roles[role.name] for role in roles}
    figure = plt.figure(figsize=(12, 4.4))
    left, right = figure.add_gridspec(1, 2, width_ratios=(1.25, 1))
    effects = circuit.evidence.stages[stage].percent
    head_map(figure.add_subplot(left), effects, found, title=title)
    one_prompt, average = right.subgridspec(2, 1).subplots()

    shown = [(role, head) for role in roles for head in found[role.name][:3]]
    if not shown:
        one_prompt.axis("off")
        average.axis("off")
        one_prompt.text(0.5, 0.5, "no head fills this role", **CENTER)
        return figure
    rows = [example[head][positions[role.query]] for role, head in shown]
    _attention_panel(one_prompt, np.array(rows), shown, columns=tokens)
    panel_title = f"attention from {roles[0].query}, one prompt"
    is_cut = any(len(heads) > 3 for heads in found.values())
    one_prompt.set_title(f"{panel_title}\n(first 3 heads of a role)" if is_cut else panel_title)
    _average_panel(average, circuit, shown)
    return figure


def _not_run_figure(title: str) -> Figure:
    figure, ax = plt.subplots(figsize=(12, 1))
    ax.axis("off")
    ax.set_title(f"{title}: not run, because no head was found to receive this path")
    return figure


def _average_panel(ax: Axes, circuit: Circuit, shown: Sequence[tuple[Role, Head]]) -> None:
    """Attention between the named positions, mean over prompts."""
    queries = {role.query for role, _ in shown}
    attention = {
        f"{query}→{key}": values
        for (query, key), values in circuit.evidence.attention.items()
        if query in queries
    }
    rows = [[values[head].mean() for values in attention.values()] for _, head in shown]
    _attention_panel(ax, np.array(rows), shown, columns=list(attention), annotate=True)
    ax.set_title("average over prompts")


def _attention_panel(
    ax: Axes,
    rows: Float[np.ndarray, "head key"],
    shown: Sequence[tuple[Role, Head]],
    *,
    columns: Sequence[str],
    annotate: bool = False,
) -> None:
    """Attention as a heat map: one row per head, named in its role's color."""
    sns.heatmap(
        rows,
        ax=ax,
        cmap="Purples",
        vmin=0,
        vmax=1,
        cbar=False,
        annot=annotate,
        fmt=".2f",
        xticklabels=list(columns),
        yticklabels=[f"{label(role.name)} {head}" for role, head in shown],
    )
    ax.tick_params(axis="y", rotation=0)
    for tick, (role, _) in zip(ax.get_yticklabels(), shown, strict=True):
        tick.set_color(COLORS[role.name])
    fits_level = annotate and sum(map(len, columns)) <= 45
    if fits_level:
        plt.setp(ax.get_xticklabels(), rotation=0, ha="center")
    else:
        plt.setp(ax.get_xticklabels(), rotation=45, ha="right")


def _wrapped(title: str, width: int) -> str:
    """A title with its own line breaks, and more where a line is too long to fit."""
    lines = [textwrap.fill(line, width) for line in title.splitlines()]
    return "\n".join(lines)


# The circuit as a graph ---------------------------------------------------------------------------


class _Node(NamedTuple):
    """A head in one of its roles, and where it is drawn."""

    role: str
    head: Head
    x: float
    y: float


def circuit_graph(circuit: Circuit, *, title: str) -> Figure:
    """The circuit as a graph: heads in columns by role, each with one bar as wide as its measured
    effect.

    An effect is measured on all receivers of a stage together, so a head has one bar and one
    number. Thin lines lead from the bar to the receivers in later layers, which alone it can reach.
    """
    columns = _columns_with_heads(circuit)
    rows = [_rows(circuit, roles) for roles in columns]
    tallest = max((len(column) for column in rows), default=2)
    width = 2.1 * (len(columns) + 1)
    figure, ax = plt.subplots(figsize=(max(width, 5), 0.36 * tallest + 1.1))
    nodes = []
    for x, column in enumerate(rows):
        for i, (role, head) in enumerate(column):
            y = (len(column) - 1) / 2 - i
            if role is None:
                continue
            if head is not None:
                nodes.append(_Node(role, head, float(x), y))
            else:
                style = {"color": COLORS[role], "weight": "bold"}
                ax.text(x, y - 0.15, label(role), **style, **CENTER)
    last_column = [node.y for node in nodes if node.x == len(columns) - 1]
    logits = (float(len(columns)), float(np.mean(last_column or [0.0])))
    for node in nodes:
        _draw_effect(ax, circuit, node, nodes, logits)
    for node in nodes:
        box = {"boxstyle": "round,pad=0.3", "fc": COLORS[node.role], "ec": "none"}
        text: dict[str, Any] = {"color": "white", "weight": "bold", "fontsize": 8, "bbox": box}
        ax.text(node.x, node.y, str(node.head), **text, **CENTER)
    ax.text(*logits, "logits\nat END", bbox=LOGITS_BOX, **CENTER)
    ax.set(xlim=(-0.5, len(columns) + 0.5), ylim=(-tallest / 2, tallest / 2))
    ax.axis("off")
    ax.set_title(_wrapped(title, max(40, int(11 * width))))
    if nodes:
        _explain_bars(figure)
    return figure


def _explain_bars(figure: Figure) -> None:
    note = "bar: effect on all receivers together, red for the answer, blue against it"
    figure.supxlabel(note, fontsize=8)


def _columns_with_heads(circuit: Circuit) -> list[tuple[Role, ...]]:
    """The roles of each stage that has heads, the last stage of the search first."""
    columns = []
    for stage in reversed(circuit.evidence.scheme.stages):
        roles = circuit.evidence.scheme.roles_at(stage.name)
        if any(circuit.roles[role.name] for role in roles):
            columns.append(roles)
    return columns


def _rows(circuit: Circuit, roles: Sequence[Role]) -> list[tuple[str | None, Head | None]]:
    """A column from top to bottom: for each role its name, then its heads, then an empty row."""
    rows: list[tuple[str | None, Head | None]] = []
    for role in roles:
        heads = circuit.roles[role.name]
        if heads:
            rows.append((role.name, None))
            rows.extend((role.name, head) for head in heads)
            rows.append((None, None))
    return rows[:-1]


def _draw_effect(
    ax: Axes,
    circuit: Circuit,
    node: _Node,
    nodes: Sequence[_Node],
    logits: tuple[float, float],
) -> None:
    """The bar of one head with its number, and the lines to its receivers."""
    percent = circuit.effect_percent(node.role, node.head)
    color = RED if percent > 0 else BLUE
    width = 0.6 + 5 * min(abs(percent), 100) / 100
    fork = node.x + 0.4
    ax.plot([node.x, fork], [node.y, node.y], color=color, lw=width, solid_capstyle="butt")
    ax.annotate(
        f"{percent:+.0f} %",
        (node.x + 0.28, node.y),
        (0, 1.5 + width / 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        color=COLORS[node.role],
    )
    arrow = {
        "arrowstyle": "-|>",
        "mutation_scale": 7,
        "lw": 0.8,
        "shrinkA": 0,
        "shrinkB": 0,
        "color": color,
        "alpha": 0.55,
    }
    for x, y in _ends(circuit, node, nodes, logits):
        left_edge = (x - 0.16, y)
        ax.annotate("", left_edge, (fork, node.y), arrowprops=arrow)


def _ends(
    circuit: Circuit,
    node: _Node,
    nodes: Sequence[_Node],
    logits: tuple[float, float],
) -> list[tuple[float, float]]:
    """Where the paths of a head arrive: at the logits, or at receivers in later layers."""
    scheme = circuit.evidence.scheme
    stage = scheme.stage(scheme.role(node.role).stage)
    if stage.receiving_role is None:
        return [logits]
    receivers = [other for other in nodes if other.role == stage.receiving_role]
    return [(other.x, other.y) for other in receivers if other.head.layer > node.head.layer]


# Two circuits over each other ---------------------------------------------------------------------

LOGITS_PLACE = (-1, None)
"""Stands for the logits among the (stage, head) pairs that `overlay` draws."""


def overlay(
    found: Overlap,
    circuits: tuple[Circuit, Circuit],
    stages: Sequence[tuple[str, str]],
    *,
    tasks: tuple[str, str],
    title: str,
) -> Figure:
    """Two circuits over each other (Merullo et al. 2024, Figure 3): the heads chosen per stage, and
    whom they speak to.

    stages: what each stage of `found` is called in either circuit. A line leads to each receiver of
    the stage that was chosen itself and lies in a later layer; colors say which task a head or a
    line belongs to.
    """
    layers = _layers(found)
    column_inches = max(2.4, 0.56 * _most_in_a_layer(found) + 0.4)
    place = _overlay_places(found, layers, pitch=0.56 / column_inches)
    color_of = {(0,): BLUE, (1,): ORANGE, (0, 1): "0.3"}
    size = (column_inches * len(stages) + 2, max(3.5, 0.35 * len(layers) + 1.5))
    figure, ax = plt.subplots(figsize=size)
    for ends, members in _overlay_lines(found, circuits, stages, place).items():
        start, end = (place[node] for node in ends)
        ax.plot(
            [start[0], end[0]],
            [start[1], end[1]],
            color=color_of[members],
            lw=0.8,
            alpha=0.4,
        )
    for node, members in _overlay_members(found).items():
        box = {"boxstyle": "round,pad=0.3", "ec": "none", "fc": color_of[members]}
        style = {"color": "white", "weight": "bold", "fontsize": 7, "bbox": box}
        ax.text(*place[node], str(node[1]), **style, **CENTER)
    ax.text(*place[LOGITS_PLACE], "logits\nat END", bbox=LOGITS_BOX, **CENTER)
    ax.set(xlim=(-0.6, len(stages) + 0.4), ylim=(-0.7, len(layers) - 0.3))
    ax.set(ylabel="layer", title=title)
    ax.set_yticks(range(len(layers)), layers)
    ax.set_xticks(range(len(stages)), [_receiver_names(pair) for pair in reversed(stages)])
    names = (f"{tasks[0]} only", f"{tasks[1]} only", "shared")
    colors = color_of.values()
    handles = [Patch(color=color, label=name) for color, name in zip(colors, names, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _receiver_names(pair: tuple[str, str]) -> str:
    """What a stage is called in both circuits, once where the names agree."""
    names = dict.fromkeys(f"to {label(name)}" for name in pair)
    return "\n".join(names)


def _layers(found: Overlap) -> list[int]:
    """Every layer that has a chosen head."""
    heads = itertools.chain.from_iterable(itertools.chain.from_iterable(found.chosen))
    return sorted({head.layer for head in heads})


def _most_in_a_layer(found: Overlap) -> int:
    """How many heads stand side by side where most do."""
    most = 1
    for chosen in found.chosen:
        heads = set(itertools.chain.from_iterable(chosen))
        for layer in _layers(found):
            most = max(most, sum(head.layer == layer for head in heads))
    return most


def _overlay_places(
    found: Overlap, layers: Sequence[int], *, pitch: float
) -> dict[tuple, tuple[float, float]]:
    """(stage, head) -> x and y: the last stage on the left, heads of one layer side by side."""
    stages = len(found.chosen)
    place: dict[tuple, tuple[float, float]] = {LOGITS_PLACE: (float(stages), (len(layers) - 1) / 2)}
    for stage, chosen in enumerate(found.chosen):
        heads = sorted(set(itertools.chain.from_iterable(chosen)))
        for y, layer in enumerate(layers):
            beside = [head for head in heads if head.layer == layer]
            for i, head in enumerate(beside):
                x = stages - 1 - stage + pitch * (i - (len(beside) - 1) / 2)
                place[stage, head] = (x, float(y))
    return place


def _overlay_members(found: Overlap) -> dict[tuple, tuple[int, ...]]:
    """(stage, head) -> the tasks (0, 1 or both) that chose it."""
    members: dict[tuple, tuple[int, ...]] = {}
    for stage, chosen in enumerate(found.chosen):
        for task, heads in enumerate(chosen):
            for head in heads:
                members[stage, head] = (*members.get((stage, head), ()), task)
    return members


def _overlay_lines(
    found: Overlap,
    circuits: tuple[Circuit, Circuit],
    stages: Sequence[tuple[str, str]],
    place: Mapping[tuple, tuple[float, float]],
) -> dict[tuple[tuple, tuple], tuple[int, ...]]:
    """(sender, receiver) -> the tasks (0, 1 or both) in which that path exists."""
    lines: dict[tuple[tuple, tuple], tuple[int, ...]] = {}
    for stage, (chosen, names) in enumerate(zip(found.chosen, stages, strict=True)):
        for task, (heads, name) in enumerate(zip(chosen, names, strict=True)):
            for head in heads:
                for end in _overlay_ends(circuits[task], name, stage, head):
                    if end in place:
                        line = ((stage, head), end)
                        lines[line] = (*lines.get(line, ()), task)
    return lines


def _overlay_ends(circuit: Circuit, name: str, stage: int, sender: Head) -> list[tuple]:
    """The (stage, head) at which the paths of a sender may arrive, or the logits."""
    if circuit.evidence.scheme.stage(name).receiving_role is None:
        return [LOGITS_PLACE]
    later = [head for head in circuit.receivers(name) if head.layer > sender.layer]
    return [(stage - 1, head) for head in later]


# Interventions and stability ----------------------------------------------------------------------


def knock_out_figure(
    measured: Mapping[str, Interval],
    random: Float[np.ndarray, " draw"],
    *,
    control: str,
    title: str,
    xlabel: str = "logit(IO) - logit(S) at END",
) -> Figure:
    """Mean logit difference under each intervention with its interval, above the means of random
    draws.
    """
    figure, ax = plt.subplots(figsize=(7.5, 0.5 * len(measured) + 1.6))
    values, errors = with_errors(reversed(list(measured.values())))
    heights = np.arange(len(values)) + 1
    ax.errorbar(values, heights, xerr=errors, fmt="o", capsize=3, ms=7, color=RED)
    spread = np.linspace(-0.2, 0.2, len(random))  # so that equal draws do not hide each other
    ax.plot(random, spread, "o", color=BLUE, ms=4, alpha=0.7)
    ax.axvline(0, color="black", lw=0.6)
    names = [f"{control}, {len(random)} draws", *reversed(list(measured))]
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel=xlabel, title=title, ylim=(-0.6, len(measured) + 0.6))
    return figure


def stability_figure(
    jaccards: Mapping[str, Float[np.ndarray, " resample"]],
    *,
    title: str,
    heads: Mapping[str, Heads] | None = None,
) -> Figure:
    """Jaccard overlap of each role's heads with the selection on resampled prompts.

    heads: role -> its heads; then a row says how many they are, and which role is empty.
    """
    figure, ax = plt.subplots(figsize=(7, 0.35 * len(jaccards) + 0.9))
    roles = list(jaccards)[::-1]
    for y, role in enumerate(roles):
        values, counts = np.unique(np.round(jaccards[role], 3), return_counts=True)
        area = 500 * (counts / counts.sum())
        ax.scatter(values, np.full(len(values), y), s=area, color=COLORS[role], alpha=0.75, lw=0)
        ax.plot(jaccards[role].mean(), y, "|", color="black", ms=16, mew=1.5)
    ax.set_yticks(range(len(roles)), [_role_and_size(role, heads) for role in roles])
    ax.set(xlim=(-0.05, 1.08), ylim=(-0.6, len(roles) - 0.4), title=title)
    ax.set_xlabel("Jaccard overlap with the selected set (area = share of resamples, bar = mean)")
    return figure


def _role_and_size(role: str, heads: Mapping[str, Heads] | None) -> str:
    if heads is None:
        return label(role)
    return f"{label(role)} ({len(heads[role]) or 'no head'})"


def roles_table(
    circuit: Circuit,
    paper: Mapping[str, Sequence[str]],
    *,
    layers: int,
    paper_model: str,
    paper_layers: int,
) -> pd.DataFrame:
    """Role by role: the paper's heads beside those found here, and their mean depth (0 first layer,
    1 last).
    """
    rows = {}
    for role, heads in circuit.roles.items():
        in_paper = [Head.parse(name) for name in paper.get(role) or ()]
        rows[label(role)] = [
            " ".join(map(str, in_paper)) or "not given",
            _mean_depth(in_paper, paper_layers),
            " ".join(map(str, heads)) or "none",
            _mean_depth(heads, layers),
        ]
    columns = [f"paper: {paper_model}", "depth", "here", "depth here"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _mean_depth(heads: Sequence[Head], layers: int) -> str:
    """From 0 for the first layer to 1 for the last; `-` for no heads, 0 in a model of one layer."""
    if not heads:
        return "-"
    last = max(1, layers - 1)
    return f"{np.mean([head.layer for head in heads]) / last:.2f}"
