"""Figures of notebooks 04 and 05 for models with many heads: what is drawn and what is left out."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from helpers import figures_channels
from helpers.channel_analysis import HeadScores
from helpers.channel_steering import Removal
from helpers.heads import Head

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
