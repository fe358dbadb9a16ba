"""Figures of notebooks 03 to 05 for models with many heads: what is drawn, and what is left out."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from helpers import figures_channels
from helpers.channel_analysis import HeadScores
from helpers.channels import PairScores
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


def pair_table(n: int) -> pd.DataFrame:
    """n known pairs on the query side with scores 0.01, 0.02, ... and ranks n, n - 1, ..."""
    rows = []
    for i in range(n):
        row = {"sender": f"L1H{i}", "receiver": "L2H0", "side": "query", "role": "inhibition"}
        row |= {"score": 0.01 * (i + 1), "rank": n - i}
        row |= {"component_score": 0.02 * (i + 1), "component_rank": n - i}
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("n", "title"), [(3, "known pairs"), (12, "the highest 10 of 12 known")])
def test_pair_ranks_name_the_highest(n, title):
    """All n pairs have a line; of twelve, the two lowest a short one without a number."""
    scores = torch.linspace(0.0, 0.2, 16).reshape(2, 2, 2, 2)
    no_component = torch.zeros(2, 2, 2, 2, dtype=torch.int64)
    by_side = {}
    for side in figures_channels.SIDES:
        by_side[side] = PairScores(side, scores, scores, no_component)
    figure = figures_channels.pair_ranks(pair_table(n), by_side, model="M")
    query = figure.axes[2]
    legend = query.get_legend()
    assert legend.get_title().get_text().startswith(title)
    named = [text.get_text() for text in legend.get_texts()]
    assert len(named) == len(query.texts) == min(n, 10)
    assert named[-1].endswith(f"L1H{n - 1}→L2H0: 1")  # the highest score
    heights = [line.get_ydata()[1] for line in query.lines]
    assert len(heights) == n
    assert sum(height < 0.05 for height in heights) == max(0, n - 10)


def test_spectra_of_many_heads():
    share = np.array([0.9, 0.3, 0.1])
    many = figures_channels.spectra(dict.fromkeys(MANY, share), model="M")
    assert len(many.axes[0].lines) == 8
    assert titles(many) == ["M: the first 8 of 15 inhibition heads"]
    few = figures_channels.spectra(dict.fromkeys(FEW, share), model="M")
    assert titles(few) == ["M: inhibition heads"]


def test_component_bars_of_many_heads():
    many = figures_channels.component_bars(scored(MANY), NULL, model="M")
    assert titles(many) == ["M L2H0", "M L2H1", "M L2H2", "M L2H3"]
    assert headline(many) == "the first 4 of 15 inhibition heads"
    assert headline(figures_channels.component_bars(scored(FEW), NULL, model="M")) == ""


def test_the_same_component_of_many_heads_and_senders():
    """The senders write 1, 2, ... 6 into component 0; the last four are drawn."""
    writers = {Head(0, i): "induction" for i in range(6)}
    written = {}
    for i, sender in enumerate(writers):
        written[sender] = np.array([i + 1.0, 0.5, 0.5, 0.5])
    reads = dict.fromkeys(MANY, written)
    figure = figures_channels.same_component(scored(MANY), reads, writers, model="M")
    assert len(figure.axes) == 4 and headline(figure) == "the first 4 of 15 inhibition heads"
    legend = figure.axes[0].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [f"L0H{i} induction" for i in range(2, 6)]
    assert legend.get_title().get_text() == "4 of 6 senders"


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
