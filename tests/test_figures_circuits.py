"""Figures of notebooks 01 and 02: what is drawn."""

import matplotlib.pyplot as plt
import pytest

from helpers import figures_circuits, plots
from helpers.stats import Interval


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_levels_are_drawn_over_their_own_bars():
    one = Interval(0.5, 0.4, 0.6)
    groups = {"first": [one, one], "second": [one, one]}
    figure = plots.bars_with_intervals(groups, ["a", "b"], ylabel="", title="")
    (ax,) = figure.axes
    before = len(ax.collections)
    figures_circuits.mark_bars(figure, [0.1, 0.2], first=2, linestyle=":")
    for lines, bar, level in zip(ax.collections[before:], ax.patches[2:], (0.1, 0.2), strict=True):
        [[start, end]] = lines.get_segments()
        assert start == pytest.approx([bar.get_x(), level])
        assert end == pytest.approx([bar.get_x() + bar.get_width(), level])
