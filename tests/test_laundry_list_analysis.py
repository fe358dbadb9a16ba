"""Order in lists: parts, means over lengths, the item that is looked at least."""

import numpy as np
import pytest
import torch

from helpers.heads import Head
from helpers.laundry_list_analysis import (
    Lists,
    interval_of_draws,
    least_looked_at,
    mean_over_lengths,
    mean_points_over_draws,
    order_and_separation,
    random_subspace,
    thirds,
)
from helpers.stats import Interval
from helpers.tasks import Prompts


@pytest.fixture
def lists() -> Lists:
    """Three prompts: three items at 0, 2 and 4, two of them done at 7 and 9, the end at 10."""
    tokens = tuple(range(10, 21))
    positions = {"ITEM0": 0, "ITEM1": 2, "ITEM2": 4, "DONE0": 7, "DONE1": 9, "END": 10}
    prompts = Prompts(
        texts=("text",) * 3,
        corrupted_texts=("other",) * 3,
        tokens=(tokens,) * 3,
        corrupted=((9, *tokens[1:]),) * 3,
        answers=(1,) * 3,
        distractors=(2,) * 3,
        positions={name: (where,) * 3 for name, where in positions.items()},
    )
    return Lists(prompts, np.arange(3), 3)


def test_thirds(lists):
    parts = thirds(lists)
    assert {name: hits.tolist() for name, hits in parts.items()} == {
        "first": [True, False, False],
        "middle": [False, True, False],
        "last": [False, False, True],
    }


@pytest.mark.parametrize("offset", [0, 1])
def test_least_looked_at(lists, offset):
    """Done items look at items 0 and 2, at 1 and 2, and at 0 and 1, one prompt each."""
    pattern = np.zeros((3, 11, 11))
    for prompt, (first, second) in enumerate([(0, 4), (2, 4), (0, 2)]):
        pattern[prompt, 7, first + offset] = 1
        pattern[prompt, 9, second + offset] = 1
    head = Head(0, 0)
    left = least_looked_at(lists, {head: pattern}, [head], offset)
    assert left.tolist() == [1, 0, 2]


def test_order_and_separation():
    place = np.array([0, 0, 1, 1, 2, 2])
    ordered = order_and_separation(np.arange(6.0), place)
    backwards = order_and_separation(-np.arange(6.0), place)
    assert ordered == backwards
    assert ordered[0] == pytest.approx(0.956, abs=1e-3) and ordered[1] == 1
    mixed = order_and_separation(np.array([0.0, 3.0, 1.0, 2.0]), np.array([0, 0, 1, 1]))
    assert mixed[1] == 0.5  # two of four pairs either way


def test_each_length_counts_alike():
    groups = [np.array([True, True, True, True]), np.array([False, False])]
    draws = mean_over_lengths(groups, seed=0)
    assert draws[0] == 0.5 and (draws == 0.5).all()


def test_the_interval_contains_the_first_value():
    draws = np.concatenate([[9.0], np.linspace(0, 1, 101)])
    interval = interval_of_draws(draws)
    assert interval.value == 9 and interval.high == 9
    assert interval.low == pytest.approx(0.025)


def test_points_over_draws():
    own = np.array([True, True])
    draws = np.array([[False, False], [False, False], [False, False]])
    assert mean_points_over_draws(own, draws, seed=0) == Interval(100.0, 100.0, 100.0)


def test_a_random_subspace_is_orthonormal_and_inside_the_basis():
    head = Head(0, 0)
    basis = torch.eye(5)[:, :3]
    generator = torch.Generator().manual_seed(0)
    drawn = random_subspace({head: torch.eye(5)[:, 3:]}, {head: basis}, generator)[head]
    assert torch.allclose(drawn.T @ drawn, torch.eye(2), atol=1e-6)
    assert (drawn[3:] == 0).all()
