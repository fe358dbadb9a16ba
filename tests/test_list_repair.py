"""Gains on lists: paired, pooled over lengths, over random draws, with exact bounds."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from helpers.heads import Head
from helpers.list_repair import (
    Repairs,
    exact_gain,
    gain_over_draws,
    train_and_test,
    weight_edit,
)
from helpers.list_runs import Answers
from helpers.stats import Interval


def answers(correct) -> Answers:
    """Answers of which only the hits matter."""
    correct = np.array(correct, dtype=bool)
    nothing = np.zeros((*correct.shape, 2))
    return Answers(correct, correct, correct.astype(int), nothing, nothing)


@pytest.fixture
def repairs() -> Repairs:
    """Two lengths of two prompts. An intervention mends one prompt of the first length; of two
    random ones, one mends the same prompt and one breaks a prompt of the second length.
    """
    before = {4: answers([False, True]), 6: answers([True, False])}
    found = Repairs(before, seed=0)
    found.add("three", 4, answers([[True, True], [True, True], [False, True]]))
    found.add("three", 6, answers([[True, False], [True, False], [False, False]]))
    return found


def test_gains_are_pooled_over_lengths(repairs):
    assert repairs.gain("three").value == 25
    assert repairs.random_gain("three").value == 0  # (+25 - 25) / 2
    assert repairs.gain_minus_random("three").value == 25
    assert repairs.gain_at("three", 4).value == 50 and repairs.gain_at("three", 6).value == 0
    assert "three" in repairs and "twelve" not in repairs
    low, high = repairs.random_gain("three").low, repairs.random_gain("three").high
    assert low < 0 < high


def test_lead_over_draws_without_any_spread():
    own = [np.array([True, True]), np.array([True])]
    draws = [np.array([[False, False]] * 3), np.array([[True], [True]])]
    interval = gain_over_draws(own, draws, seed=0)
    assert interval.value == pytest.approx(100 * 2 / 3)
    assert interval.low == pytest.approx(interval.high)


def test_lead_over_draws_counts_prompts_and_draws():
    """100 prompts that all lead by 0 or 100 as the draw decides: the draws' spread is all."""
    own = [np.ones(100, dtype=bool)]
    draws = np.repeat(np.arange(16) % 2 == 0, 100).reshape(16, 100)
    interval = gain_over_draws(own, [draws], seed=0)
    assert interval.value == 50
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 50 / 4, rel=0.1)


def test_exact_bounds_where_nothing_changed():
    """0 of 20: the upper bound p has (1 - p)^20 = 0.0125."""
    same = np.array([True, False] * 10)
    interval = exact_gain(same, same)
    bound = 100 * (1 - 0.0125 ** (1 / 20))
    assert interval.value == 0
    assert interval.high == pytest.approx(bound) and interval.low == pytest.approx(-bound)


def test_exact_bounds_of_gains():
    """5 of 10 mended, none broken."""
    before = np.array([False] * 5 + [True] * 5)
    interval = exact_gain(before, np.ones(10, dtype=bool))
    assert interval.value == 50
    assert binom.cdf(5, 10, interval.high / 100) == pytest.approx(0.0125)
    assert interval.low < 100 * 0.5 - 20


def test_training_and_test_share_neither_items_nor_templates(tokenizer):
    for turn in (0, 1):
        train, test = train_and_test(tokenizer, 4, turn, per_place=4, n_test=30, seed=0)
        assert len(train) == 16 and len(test) == 32
        items = [
            {token for row in lists.prompts.choices for token in row} for lists in (train, test)
        ]
        assert not items[0] & items[1]
        assert set(train.prompts.templates) == {1 - turn}
        assert set(test.prompts.templates) == {turn}
        assert np.bincount(train.place).tolist() == [4] * 4
        assert np.bincount(test.place).tolist() == [8] * 4


def test_an_edit_of_weights_scales_directions_and_movers():
    W_O = torch.eye(3, 4).expand(2, 1, 3, 4)
    directions = torch.eye(4)[:, :1]
    head, mover = Head(0, 0), Head(1, 0)
    edit = weight_edit(W_O, head, directions, 2.0, [mover], 0.5)
    written = torch.tensor([1.0, 1.0, 1.0]) @ edit[head] @ W_O[0, 0]
    torch.testing.assert_close(written, torch.tensor([2.0, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(edit[mover], 0.5 * torch.eye(3))


def test_intervals_are_paired():
    """The same prompt is mended and never broken: no interval below zero."""
    before = {4: answers([False] * 4 + [True] * 4)}
    found = Repairs(before, seed=0)
    found.add("all", 4, answers([[True] * 8, [True] * 8]))
    assert found.gain("all").low > 0
    assert found.gain_minus_random("all") == Interval(0.0, 0.0, 0.0)
