"""The scorecard as a figure."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from helpers.plots import STYLE
from suite.ledger import Claim, load_claims
from suite.scorecard import VERDICTS, applies

plt.rcParams.update(STYLE)


MOST_SQUARES = 24
"""Squares of full width in a row; of more than that all are narrower, and their number follows."""
VERDICT_COLORS = {
    "reproduced": "#1b7837",
    "transfers": "#5aae61",
    "qualitative": "#a6dba0",
    "partly": "#fee08b",
    "differs": "#d6604d",
    "does not": "#b2182b",
}


def scorecard_figure(measured: pd.DataFrame, *, title: str) -> Figure:
    """Every claim as a row of squares, one per measured metric, colored by verdict; the headline
    first and framed.

    measured: `scorecard.measurements`. Columns: the paper's model, then every other one; our own
    claims, which have no paper, stand below. "not run": the claim was not measured there; "-": it
    cannot be.
    """
    claims = load_claims().values()
    from_papers = [claim for claim in claims if claim.paper]
    ours = [claim for claim in claims if not claim.paper]
    columns: dict[str | None, pd.DataFrame] = {None: measured[measured.own]}
    for model, rows in measured[~measured.own].groupby("model"):
        columns[model] = rows

    widths = [_squares_needed(rows) for rows in columns.values()]
    figure, axes = plt.subplots(
        2,
        len(widths),
        figsize=(4.2 + 0.17 * sum(widths), 0.34 * len(claims) + 1.6),
        width_ratios=widths,
        height_ratios=[len(from_papers), len(ours)],
        squeeze=False,
    )
    _draw_block(list(axes[0]), from_papers, columns, widths)
    _draw_block(list(axes[1, :1]), ours, {None: columns[None]}, widths[:1])
    axes[0, 0].set_title("the paper's model")
    axes[1, 0].set_title("ours: " + ", ".join(f"{claim.id} on {claim.model}" for claim in ours))
    for ax in axes[1, 1:]:
        ax.remove()
    _draw_legend(figure)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=10)
    return figure


def _squares_needed(rows: pd.DataFrame) -> int:
    """The length of the longest row of squares, from 4 to `MOST_SQUARES`."""
    longest = max([4, *rows.groupby("claim").size()])
    return min(longest, MOST_SQUARES)


def _draw_block(
    axes: Sequence[Axes],
    claims: Sequence[Claim],
    columns: dict[str | None, pd.DataFrame],
    widths: Sequence[int],
) -> None:
    """Some claims on every model: one panel per column, the claims' names on the left."""
    for ax, width, (model, rows) in zip(axes, widths, columns.items(), strict=True):
        ax.set(xlim=(0, width), ylim=(len(claims) - 0.5, -0.5), xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if model is not None:
            ax.set_title(model)
        for y, claim in enumerate(claims):
            can_run = model is None or applies(claim, model)
            verdicts = list(rows.verdict[rows.claim == claim.id])
            _draw_squares(ax, y, verdicts, empty="not run" if can_run else "-")
    names = [_in_two_lines(f"{claim.id}  {claim.title}") for claim in claims]
    axes[0].set_yticks(range(len(claims)), names, fontsize=8)
    axes[0].tick_params(length=0)


def _in_two_lines(name: str) -> str:
    return textwrap.fill(name, max(56, len(name) // 2 + 7))


def _draw_squares(ax: Axes, y: int, verdicts: Sequence[str], *, empty: str) -> None:
    """One row of the scorecard: the first verdict, then the others from the best to the worst."""
    if not verdicts:
        ax.text(0.1, y, empty, va="center", color="0.5", fontsize=8)
        return
    headline, *others = verdicts
    others.sort(key=VERDICTS.index)
    width = 1.0
    n = len(verdicts)
    if n > MOST_SQUARES:
        for_number = 2
        width = (MOST_SQUARES - for_number) / n
        ax.text(MOST_SQUARES, y, str(n), ha="right", va="center", color="0.3", fontsize=8)
    for x, verdict in enumerate([headline, *others]):
        corner = (width * (x + 0.1), y - 0.34)
        square = Rectangle(corner, 0.8 * width, 0.68, fc=VERDICT_COLORS[verdict], lw=0)
        if x == 0:
            square.set(edgecolor="black", linewidth=1.2)
        ax.add_patch(square)


def _draw_legend(figure: Figure) -> None:
    """Verdicts in two rows, filled column by column: on the paper's model, and on others."""
    handles = [
        Patch(color="none", label="paper's model, ours:"),
        Patch(color="none", label="others:"),
    ]
    for verdict, color in VERDICT_COLORS.items():
        handles.append(Patch(color=color, label=verdict))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
