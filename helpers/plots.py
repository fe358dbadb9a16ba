"""The suite's figures in one style. Each function returns the Figure; `save` writes it as PNG and
SVG.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from helpers.circuits import Circuit, Overlap
from helpers.heads import Head
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


CENTER = {"ha": "center", "va": "center"}


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
    value, *ends = np.array([(x.value, x.low, x.high) for x in intervals]).T
    return value, np.abs(ends - value)


def bars_with_intervals(
    groups: Mapping[str, Sequence[Interval]], names: Sequence[str], *, ylabel: str, title: str
) -> Figure:
    """Grouped bars with 95 % intervals: one group per name, one colour per key."""
    figure, ax = plt.subplots(figsize=(8, 3.2))
    width = 0.8 / len(groups)
    for i, (key, intervals) in enumerate(groups.items()):
        x = np.arange(len(names)) + (i - (len(groups) - 1) / 2) * width
        value, errors = with_errors(intervals)
        ax.bar(
            x, value, width, yerr=errors, alpha=0.85, label=key, error_kw={"lw": 1, "capsize": 2}
        )
    ax.axhline(0, color="black", lw=0.6)
    ax.set_xticks(range(len(names)), names)
    ax.set(ylabel=ylabel, title=title)
    below = -0.12 - 0.07 * max(name.count("\n") for name in names)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, below), ncols=len(groups))
    return figure


def head_map(
    ax: Axes,
    percent: Float[np.ndarray, "layer head"],
    found: Mapping[str, Sequence[Head]],
    *,
    title: str,
) -> None:
    """Heat map of effects over layers and heads, symmetric around 0; heads found are framed in
    their role's colour.
    """
    limit = np.nanmax(np.abs(percent))
    image = ax.imshow(
        percent.T, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", origin="lower"
    )
    ax.set_facecolor("0.85")
    framed = list(itertools.chain(*found.values()))
    for role, heads in found.items():
        for layer, head in heads:
            ax.add_patch(
                Rectangle((layer - 0.5, head - 0.5), 1, 1, fill=False, ec=COLORS[role], lw=2)
            )
            right = any(
                other.head == head and 0 < layer - other.layer < 5 for other in framed
            )  # no room on the left
            place, side = ((layer + 0.6, head), "left") if right else ((layer - 0.6, head), "right")
            style = {
                "ha": side,
                "va": "center",
                "fontsize": 7,
                "color": COLORS[role],
                "weight": "bold",
            }
            ax.annotate(f"{Head(layer, head)} {percent[layer, head]:+.0f}", place, **style)
    ax.set(xlabel="layer", ylabel="head", title=title)
    ax.set_yticks(range(0, percent.shape[1], 2))
    bar = ax.figure.colorbar(image, ax=ax, orientation="horizontal", aspect=40, pad=0.03)
    bar.set_label("effect of the path (% of the gap)")


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
    roles = [role for role in circuit.evidence.scheme.roles if role.stage == stage]
    if stage not in circuit.evidence.stages:
        figure, ax = plt.subplots(figsize=(12, 1))
        ax.axis("off")
        ax.set_title(f"{title}: not run, because no head was found to receive this path")
        return figure
    found = {role.name: circuit.roles[role.name] for role in roles}
    figure = plt.figure(figsize=(12, 4.4))
    left, right = figure.add_gridspec(1, 2, width_ratios=(1.25, 1))
    head_map(figure.add_subplot(left), circuit.evidence.stages[stage].percent, found, title=title)
    shown = [(role, head) for role in roles for head in found[role.name][:3]]
    top, bottom = right.subgridspec(2, 1, height_ratios=(1, 1)).subplots()
    if not shown:
        for ax in (top, bottom):
            ax.axis("off")
        top.text(0.5, 0.5, "no head fills this role", **CENTER)
        return figure
    cut = " (first 3 heads of a role)" if len(shown) < sum(map(len, found.values())) else ""
    words = np.array([example[head][positions[role.query]] for role, head in shown])
    seen = {
        (q, k): x
        for (q, k), x in circuit.evidence.attention.items()
        if q in {role.query for role in roles}
    }
    average = np.array([[x[head].mean() for x in seen.values()] for _, head in shown])
    panels = (
        (top, words, tokens, f"attention from {roles[0].query}, one prompt{cut}"),
        (bottom, average, [f"{q}→{k}" for q, k in seen], "average over prompts"),
    )
    for ax, rows, columns, title in panels:
        ax.imshow(rows, cmap="Purples", vmin=0, vmax=1, aspect="auto")
        ax.set_yticks(range(len(shown)), [f"{label(role.name)} {head}" for role, head in shown])
        for tick, (role, _) in zip(ax.get_yticklabels(), shown, strict=True):
            tick.set_color(COLORS[role.name])
        level = (
            ax is bottom and sum(map(len, columns)) <= 45
        )  # longer names do not fit side by side
        ax.set_xticks(
            range(len(columns)),
            columns,
            rotation=0 if level else 45,
            ha="center" if level else "right",
        )
        ax.set_title(title)
    for (i, j), value in np.ndenumerate(average):
        bottom.text(j, i, f"{value:.2f}", color="white" if value > 0.6 else "black", **CENTER)
    return figure


def circuit_graph(circuit: Circuit, *, title: str) -> Figure:
    """The circuit as a graph: heads in columns by role, edges to their receivers as wide as the
    measured effect.
    """
    scheme = circuit.evidence.scheme
    columns = [
        [role.name for role in scheme.roles if role.stage == stage]
        for stage in reversed(scheme.places)
    ]
    place: dict[tuple[str, Head], tuple[float, float]] = {}
    for x, roles in enumerate(columns):
        members = [(role, head) for role in roles for head in circuit.roles[role]]
        place |= {
            member: (float(x), (len(members) - 1) / 2 - i) for i, member in enumerate(members)
        }
    figure, ax = plt.subplots(figsize=(10, 4.5))
    out = (float(len(columns)), 0.0)
    for role in scheme.roles:
        ends = [
            place[member] for member in place if member[0] == role.stage.rpartition(".")[0]
        ] or [out]
        for head in circuit.roles[role.name]:
            percent, (x, y) = (
                circuit.evidence.stages[role.stage].percent[head],
                place[role.name, head],
            )
            arrow = {
                "arrowstyle": "-|>",
                "lw": 0.6 + 5 * min(abs(percent), 100) / 100,
                "shrinkA": 22,
                "shrinkB": 24,
            }
            arrow |= {"color": "#b2182b" if percent > 0 else "#2166ac", "alpha": 0.55}
            for end in ends:
                ax.annotate("", end, (x, y), arrowprops=arrow)
            ax.text(x, y - 0.36, f"{percent:+.0f} %", fontsize=7, color=COLORS[role.name], **CENTER)
    for (role, head), (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.35", "fc": COLORS[role], "ec": "none"}
        ax.text(x, y, str(head), color="white", weight="bold", bbox=box, **CENTER)
    ax.text(
        *out,
        "logits\nat END",
        bbox={"boxstyle": "round,pad=0.4", "fc": "0.92", "ec": "0.5"},
        **CENTER,
    )
    top = max((y for _, y in place.values()), default=0)
    for x, roles in enumerate(columns):
        above = sum(len(circuit.roles[role]) for role in roles) / 2  # over the first of its heads
        for i, role in enumerate(r for r in roles[::-1] if circuit.roles[r]):
            ax.text(x, above + 0.3 * i, label(role), ha="center", color=COLORS[role], weight="bold")
    ax.set(xlim=(-0.5, len(columns) + 0.5), ylim=(-top - 0.6, top + 1.2), title=title)
    ax.axis("off")
    return figure


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
    the stage that was chosen itself; colours say which task a head or a line belongs to.
    """
    kinds = {
        (0,): ("#2166ac", f"{tasks[0]} only"),
        (1,): ("#e08214", f"{tasks[1]} only"),
        (0, 1): ("0.3", "shared"),
    }
    layers = sorted({head.layer for pair in found.chosen for heads in pair for head in heads})
    place = {(-1, None): (len(stages), (len(layers) - 1) / 2)}
    nodes, lines = defaultdict(list), defaultdict(list)
    for i, (chosen, names) in enumerate(zip(found.chosen, stages, strict=True)):
        for y, layer in enumerate(layers):
            heads = sorted({head for head in itertools.chain(*chosen) if head.layer == layer})
            for j, head in enumerate(heads):
                place[i, head] = (len(stages) - 1 - i + 0.2 * (j - (len(heads) - 1) / 2), y)
        for task, (heads, name) in enumerate(zip(chosen, names, strict=True)):
            receivers = circuits[task].roles.get(name.rpartition(".")[0], (None,))
            for head in heads:
                nodes[i, head].append(task)
                for end in (
                    (i - 1, receiver) for receiver in receivers if (i - 1, receiver) in place
                ):
                    lines[(i, head), end].append(task)
    figure, ax = plt.subplots(figsize=(2.4 * len(stages) + 2, 5.5))
    for ends, whose in lines.items():
        ax.plot(
            *zip(*(place[end] for end in ends), strict=True),
            color=kinds[tuple(whose)][0],
            lw=0.8,
            alpha=0.4,
        )
    box = {"boxstyle": "round,pad=0.3", "ec": "none"}
    for key, whose in nodes.items():
        style = {
            "color": "white",
            "weight": "bold",
            "fontsize": 7,
            "bbox": box | {"fc": kinds[tuple(whose)][0]},
        }
        ax.text(*place[key], str(key[1]), **style, **CENTER)
    ax.text(*place[-1, None], "logits\nat END", bbox=box | {"fc": "0.92", "ec": "0.5"}, **CENTER)
    ax.set(
        xlim=(-0.6, len(stages) + 0.4), ylim=(-0.7, len(layers) - 0.3), ylabel="layer", title=title
    )
    ax.set_yticks(range(len(layers)), layers)
    receivers = [
        "\n".join(dict.fromkeys(f"to {label(name)}" for name in pair)) for pair in reversed(stages)
    ]
    ax.set_xticks(range(len(stages)), receivers)
    handles = [Patch(color=color, label=name) for color, name in kinds.values()]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
    return figure


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
    x, errors = with_errors(reversed(measured.values()))
    ax.errorbar(x, np.arange(len(x)) + 1, xerr=errors, fmt="o", capsize=3, ms=7, color="#b2182b")
    ax.plot(random, np.linspace(-0.2, 0.2, len(random)), "o", color="#2166ac", ms=4, alpha=0.7)
    ax.axvline(0, color="black", lw=0.6)
    ax.set_yticks(
        range(len(measured) + 1), [f"{control}, {len(random)} draws", *reversed(measured)]
    )
    ax.set(xlabel=xlabel, title=title, ylim=(-0.6, len(measured) + 0.6))
    return figure


def stability_figure(
    jaccards: Mapping[str, Float[np.ndarray, " resample"]], *, title: str
) -> Figure:
    """Jaccard overlap of each role's heads with the selection on resampled prompts."""
    figure, ax = plt.subplots(figsize=(7, 3))
    roles = list(jaccards)[::-1]
    for y, role in enumerate(roles):
        values, counts = np.unique(np.round(jaccards[role], 3), return_counts=True)
        share = counts / counts.sum()
        ax.scatter(
            values, np.full(len(values), y), s=500 * share, color=COLORS[role], alpha=0.75, lw=0
        )
        ax.plot(jaccards[role].mean(), y, "|", color="black", ms=16, mew=1.5)
    ax.set_yticks(range(len(roles)), [label(role) for role in roles])
    ax.set(xlim=(-0.05, 1.08), ylim=(-0.6, len(roles) - 0.4), title=title)
    ax.set_xlabel("Jaccard overlap with the selected set (area = share of resamples, bar = mean)")
    return figure


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

    def told(heads: Sequence[Head], of: int, nobody: str) -> list[str]:
        depth = f"{np.mean([head.layer for head in heads]) / (of - 1):.2f}" if heads else "-"
        return [" ".join(map(str, heads)) or nobody, depth]

    rows = {}
    for role, heads in circuit.roles.items():
        theirs = [Head.parse(head) for head in paper.get(role) or ()]
        rows[label(role)] = told(theirs, paper_layers, "not given") + told(heads, layers, "none")
    columns = [f"paper: {paper_model}", "depth", "here", "depth here"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
