"""Figures of notebooks 01 and 02 that no other notebook needs. Each function returns the Figure."""

from collections.abc import Sequence

from matplotlib.figure import Figure


def mark_bars(
    figure: Figure, levels: Sequence[float], *, first: int = 0, linestyle: str = "-"
) -> None:
    """Draw a level across each bar of a bar chart, from the bar `first` on, in the order in which
    they were drawn.
    """
    (ax,) = figure.axes
    bars = ax.patches[first : first + len(levels)]
    for bar, level in zip(bars, levels, strict=True):
        left = bar.get_x()
        right = left + bar.get_width()
        ax.hlines(level, left, right, color="black", linestyle=linestyle, lw=1.5)
