"""Figures of notebooks 03 to 05 for models with many heads: what is drawn, and what is left out."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from helpers import figures_channels
from helpers.channel_analysis import HeadScores
from helpers.channel_steering import Removal
from helpers.heads import Head
from helpers.stats import Interval

MANY = [Head(2, head) for head in range(15)]
FEW = MANY[:2]
NULL = np.linspace(0.1, 0.2, 20)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def scored(heads: list[Head]) -> list[HeadScores]:
    return [HeadScores(head, np.array([0.1, 0.5, 0.2, 0.3])) for head in heads]


def titles(figure: Figure) -> list[str]:
    return [ax.get_title("left") for ax in figure.axes]


def headline(figure: Figure) -> str:
    return figure.get_suptitle()


@pytest.mark.slow
def test_removals_of_many_heads():
    removal = Removal(np.ones(3), np.zeros(3), np.full((4, 3), 0.8), np.full((4, 3), 0.2))
    losses = {"attention": [removal] * 15, "logits": [removal] * 15}
    figure = figures_channels.removals(scored(MANY), losses, NULL)
    assert len(figure.axes) == 2 * 3
    assert headline(figure) == "the first 3 of 15 inhibition heads"


def single_heads(heads: list[Head]) -> Figure:
    """The head with number i gains i points in both vocabularies."""
    roles = dict.fromkeys(heads, "inhibition")
    gains = {head: (float(head.head), float(head.head)) for head in heads}
    gains[Head(2, 99)] = (20.0, 20.0)  # has no role
    flat = {"forced choice": [Interval(0.5, 0.4, 0.6)] * 2}
    curves = dict.fromkeys(heads, flat)
    return figures_channels.single_heads(gains, roles, (0.0, 1.0), curves, n_prompts=9)


def test_single_heads_names_those_that_gain_most():
    left, right = single_heads(MANY).axes
    assert {text.get_text() for text in left.texts} == {f"L2H{i}" for i in range(3, 15)}
    legend = right.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [f"L2H{i}" for i in range(9, 15)]
    assert legend.get_title().get_text() == "6 of 15 heads"
    left, right = single_heads(FEW).axes
    assert len(left.texts) == 2 and right.get_legend().get_title().get_text() == ""


def test_names_of_points_do_not_overlap():
    """Of twelve points in one place, four have a name, one at each corner."""
    figure, ax = plt.subplots()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    apart = {Head(0, 0): (0.1, 0.1), Head(0, 1): (0.8, 0.8)}
    figures_channels._name_points(ax, apart, {Head(0, 0): "movers"})
    assert [text.get_text() for text in ax.texts] == ["L0H0", "L0H1"]
    together = {Head(1, i): (0.5 + 0.001 * i, 0.5) for i in range(12)}
    figures_channels._name_points(ax, together, {})
    extents = [text.get_window_extent() for text in ax.texts]
    assert 2 < len(extents) <= 2 + 4
    for first, second in itertools.combinations(extents, 2):
        assert not first.overlaps(second)
