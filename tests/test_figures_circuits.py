"""Figures of notebooks 00 and 01: what is drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers import figures_circuits
from helpers.heads import Head
from helpers.noise_study import SEARCHES, UNTOUCHED, WORKED_OUT

ROLES = {
    "previous_token": (Head(0, 2),),
    "duplicate_token": (Head(1, 2),),
    "induction": (Head(2, 2),),
    "inhibition": (Head(3, 1), Head(3, 3)),
    "movers": (Head(4, 1), Head(5, 3)),
    "negative_movers": (Head(5, 1),),
}
WHERE = {"IO": 0, "S1": 2, "S1+1": 3, "S2": 5, "END": 8}
WORDS = ["Ann", "and", "Bob", "went", ".", "Bob", "gave", "it", "to"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_plan_names_every_head_and_every_word():
    (ax,) = figures_circuits.plan_figure(ROLES, WORDS, WHERE).axes
    texts = [text.get_text() for text in ax.texts]
    assert "inhibition\nL3H1 L3H3" in texts
    assert "Bob\n5\nS2" in texts
    assert "went\n3\nS1+1" in texts
    for wire in figures_circuits.WIRES:
        assert wire.text in texts


def test_a_label_stands_on_the_straight_wire_between_its_ends():
    _, ax = plt.subplots()
    ax.set(xlim=(0, 10), ylim=(0, 10))
    middle = figures_circuits._point_on_arc(ax, (1.0, 2.0), (5.0, 8.0), bend=0.0, along=0.25)
    assert middle == pytest.approx([2.0, 3.5])


def test_the_noise_figure_leaves_out_a_level_without_a_value():
    """Two seeds at two levels; the path effects of one seed are missing at the second."""
    columns = (*UNTOUCHED, *WORKED_OUT, *SEARCHES)
    noisy = pd.DataFrame(2.0, index=[0.0, 0.0, 0.4, 0.4], columns=list(columns))
    noisy["path effects"] = [1.0, 3.0, 5.0, np.nan]
    figure = figures_circuits.noise_figure(noisy, n_seeds=2, random_angle=88.0)
    errors = figure.axes[1]
    lines = {line.get_label(): line for line in errors.lines}
    np.testing.assert_array_equal(lines["path effects"].get_ydata(), [3.0, np.nan])
    assert [tick.get_text() for tick in errors.get_xticklabels()] == ["0", "0.4"]
    assert "untouched model: names alike" in lines
