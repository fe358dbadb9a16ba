"""The scorecard as a figure: claims x models, one symbol and one number a cell."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers.plots import STYLE, put_headline
from suite.scorecard import Cell, applies, cell, legend, models_in, our_claims, papers_claims
from suite.verdicts import Verdict

plt.rcParams.update(STYLE)

CELL_COLORS: dict[Verdict | None, str] = {
    "holds": "#b7e1bd",
    "fails": "#f4b6ae",
    "inconclusive": "#fde9b0",
    "untestable": "#e3e3e3",
    "not run": "white",
    None: "white",
}
TITLE_WIDTH = 4.9  # of the column of claims, in inches
CELL_WIDTH = 1.35  # in inches
ROW_HEIGHT = 0.36  # in inches
LETTERS = 62  # of a claim's title in one line


def scorecard_figure(measured: pd.DataFrame, *, title: str) -> Figure:
    """Every claim as a row: what it says, and one cell for each model.

    measured: `scorecard.measurements`. A cell has the verdict's symbol and the primary measure; the
    first column is the paper's own model. Our claims come last.
    """
    models = models_in(measured)
    columns: list[str | None] = [None, *models]
    claims = [*papers_claims(), *our_claims()]
    rows = len(claims) + 1
    width = TITLE_WIDTH + CELL_WIDTH * len(columns)
    height = ROW_HEIGHT * rows + 0.9
    figure, ax = plt.subplots(figsize=(width, height))
    ax.set(xlim=(0, width), ylim=(rows, 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    _draw_header(ax, columns)
    for y, claim in enumerate(claims, start=1):
        name = textwrap.fill(f"{claim.id}  {claim.title}", LETTERS)
        ax.text(0, y + 0.5, name, va="center", fontsize=8.5, linespacing=0.95)
        for x, model in enumerate(columns):
            has_own = claim.model is not None
            if has_own if model is None else applies(claim, model) or claim.model == model:
                _draw_cell(ax, x, y, cell(measured, claim, model))
    first_of_ours = rows - len(our_claims())
    ax.axhline(first_of_ours, color="0.3", linewidth=0.8)
    put_headline(figure, title, fontsize=11)
    figure.supxlabel(legend(), x=0.01, ha="left", fontsize=9)
    return figure


def _draw_header(ax: Axes, columns: Sequence[str | None]) -> None:
    """The names of the models, in bold."""
    for x, model in enumerate(columns):
        name = "its own model" if model is None else model
        ax.text(_left(x) + CELL_WIDTH / 2, 0.5, name, ha="center", va="center", weight="bold")


def _draw_cell(ax: Axes, x: int, y: int, content: Cell) -> None:
    """Symbol and number of one claim on one model, on the color of the verdict."""
    corner = (_left(x) + 0.03, y + 0.06)
    color = CELL_COLORS[content.verdict]
    ax.add_patch(Rectangle(corner, CELL_WIDTH - 0.06, 0.88, fc=color, ec="0.8", lw=0.5))
    number = content.value.replace(" points", " pts")
    text = "not run" if content.verdict == "not run" else f"{content.symbol} {number}".strip()
    ax.text(
        _left(x) + CELL_WIDTH / 2,
        y + 0.5,
        text,
        ha="center",
        va="center",
        fontsize=8.5,
        color="0.5" if content.verdict == "not run" else "black",
    )


def _left(x: int) -> float:
    """The left edge of a column."""
    return TITLE_WIDTH + CELL_WIDTH * x
