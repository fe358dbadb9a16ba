"""The scorecard as a figure."""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from suite.ledger import load_claims
from suite.scorecard import VERDICTS, applies

VERDICT_COLORS = dict(
    zip(VERDICTS, ("#1b7837", "#5aae61", "#a6dba0", "#fee08b", "#d6604d", "#b2182b"), strict=True)
)


def scorecard_figure(measured: pd.DataFrame, *, title: str) -> Figure:
    """Every claim as a row of squares, one per measured metric, coloured by verdict; the headline
    first and framed.

    measured: `scorecard.measurements`. Columns: the paper's model, then every other one; our own
    claims, which have no paper, stand below. "not run": the claim was not measured there; "-": it
    cannot be.
    """
    claims = load_claims().values()
    blocks = (
        [claim for claim in claims if claim.paper],
        [claim for claim in claims if not claim.paper],
    )
    columns = {None: measured[measured.own]} | dict(iter(measured[~measured.own].groupby("model")))
    widths = [max([4, *rows.groupby("claim").size()]) for rows in columns.values()]
    size = (4.2 + 0.17 * sum(widths), 0.34 * len(claims) + 1.6)
    kind = {"width_ratios": widths, "height_ratios": list(map(len, blocks)), "squeeze": False}
    figure, axes = plt.subplots(2, len(widths), figsize=size, **kind)
    ours = ", ".join(f"{claim.id} on {claim.model}" for claim in blocks[1])
    for row, block, name in zip(axes, blocks, ("the paper's model", f"ours: {ours}"), strict=True):
        for ax, width, (model, rows) in zip(row, widths, columns.items(), strict=True):
            ax.set(
                xlim=(0, width),
                ylim=(len(block) - 0.5, -0.5),
                xticks=[],
                yticks=[],
                title=model or name,
            )
            ax.spines[:].set_visible(False)
            for y, claim in enumerate(block):
                empty = "not run" if model is None or applies(claim, model) else "-"
                _squares(ax, y, list(rows.verdict[rows.claim == claim.id]), empty)
        names = [f"{claim.id}  {claim.title}" for claim in block]
        names = [
            textwrap.fill(name, max(56, len(name) // 2 + 7)) for name in names
        ]  # at most two lines
        row[0].set_yticks(range(len(block)), names, fontsize=8)
        row[0].tick_params(length=0)
    for ax in axes[1, 1:]:
        ax.remove()
    colors = {
        "paper's model, ours:": "none",
        "others:": "none",
    } | VERDICT_COLORS  # filled column by column
    figure.legend(
        [Patch(color=color) for color in colors.values()],
        colors,
        loc="outside lower center",
        ncols=4,
    )
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=10)
    return figure


def _squares(ax: Axes, y: int, verdicts: list[str], empty: str) -> None:
    """One row of the scorecard: the first verdict, then the others from the best to the worst."""
    for x, verdict in enumerate([*verdicts[:1], *sorted(verdicts[1:], key=VERDICTS.index)]):
        frame = {"ec": "black", "lw": 1.2} if x == 0 else {"lw": 0}
        ax.add_patch(Rectangle((x + 0.1, y - 0.34), 0.8, 0.68, fc=VERDICT_COLORS[verdict], **frame))
    if not verdicts:
        ax.text(0.1, y, empty, va="center", color="0.5", fontsize=8)
