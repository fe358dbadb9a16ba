"""Pen and paper beside code: what the planted model returns, and when a method has failed."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.heads import Head
from helpers.noise_study import (
    GRADED,
    MARGINS,
    SEARCHES,
    UNTOUCHED,
    WORKED_OUT,
    failure_table,
    first_failure,
    grow_model,
    margin,
)
from helpers.planted import Plan, build
from helpers.planted_by_hand import (
    planned_pairs,
    planted_jobs,
    worked_difference,
    worked_effect,
    worked_scaling,
)

ROLES = {
    "previous_token": (Head(0, 0),),
    "duplicate_token": (Head(1, 0),),
    "induction": (Head(2, 0),),
    "inhibition": (Head(3, 0), Head(3, 1)),
    "movers": (Head(4, 0), Head(5, 0)),
    "negative_movers": (Head(5, 1),),
}
TANH_2 = 0.9640276


@pytest.mark.parametrize(
    "left, expected",
    [
        ({}, 20 * (TANH_2 + 0.3)),
        ({"channel": 0.0}, 6.0),
        ({"channel": -1.0}, 20 * (-TANH_2 + 0.3)),
        ({"movers": 0.5}, 20 * (0.5 * TANH_2 + 0.3)),
        ({"negative": 0.0}, 20 * TANH_2),
    ],
)
def test_logit_difference_from_what_is_left(left, expected):
    assert worked_difference(**left) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "role, share, expected",
    [
        ("movers", 0.6, 100 * 0.6 * TANH_2 / (TANH_2 + 0.3)),
        ("negative_movers", 1.0, 100 * 0.3 / (TANH_2 + 0.3)),
        ("inhibition", 1.0, 100 * TANH_2 / (TANH_2 + 0.3)),
        ("previous_token", 0.0, 0.0),
    ],
)
def test_effect_of_a_path(role, share, expected):
    assert worked_effect(role, share) == pytest.approx(expected, abs=1e-5)


def test_a_component_counts_by_the_cube_of_its_singular_value():
    """1 and 0.9 cubed: the first component carries 1 / 1.729 of the score gap of 4."""
    measured = worked_scaling(np.array([1.0, 0.0]))
    assert measured == pytest.approx(20 * (np.tanh(2 / 1.729) + 0.3))


def test_jobs_and_pairs_of_the_plan():
    jobs = planted_jobs(ROLES)
    assert len(jobs) == 8
    assert jobs[:2] == [("movers", Head(4, 0), 0.6), ("movers", Head(5, 0), 0.4)]
    assert jobs[-1] == ("previous_token", Head(0, 0), 0.4)
    pairs = planned_pairs(ROLES)
    assert len(pairs["query"]) == len(pairs["value"]) == 4
    assert pairs["key"] == [(Head(0, 0), Head(2, 0))]


def test_margin_compares_the_weakest_planned_pair_with_the_strongest_other():
    scores = torch.full((2, 2, 2, 2), torch.nan)
    scores[0, 0, 1, 0] = 0.6
    scores[0, 0, 1, 1] = 0.9
    scores[0, 1, 1, 1] = 0.2
    pairs = [(Head(0, 0), Head(1, 0)), (Head(0, 0), Head(1, 1))]
    assert margin(scores, pairs) == pytest.approx(3.0)
    assert margin(scores, pairs[:1]) == pytest.approx(2 / 3)


def noisy_table(**columns: list[float]) -> pd.DataFrame:
    """Two seeds at noise 0 and at 0.1; what is not given never fails."""
    values = dict.fromkeys((*UNTOUCHED, *WORKED_OUT, *SEARCHES), [1.0] * 4)
    values.update(columns)
    return pd.DataFrame(values, index=pd.Index([0.0, 0.0, 0.1, 0.1], name="noise"))


@pytest.mark.parametrize(
    "column, values, level",
    [
        ("scaling", [0.0, 10.0, 9.0, 1.0], np.inf),
        ("scaling", [0.0, 10.0, 9.0, 10.5], 0.1),
        ("path effects", [0.0, np.nan, 0.0, 0.0], 0.0),
        ("roles", [1.0, 1.0, 1.0, 0.875], 0.1),
        ("heads, key", [1.2, 0.9, 1.2, 1.2], 0.0),
    ],
)
def test_a_method_fails_where_any_seed_does(column, values, level):
    noisy = noisy_table(**{column: values})
    assert first_failure(noisy, column) == level
    table = failure_table(noisy)["fails at"].droplevel(0)
    assert table[column] == level
    assert np.isinf(table.drop(column)).all()


def test_only_limits_of_size_are_halved_and_doubled():
    noisy = noisy_table(writing=[1.0, 1.0, 6.0, 6.0])
    table = failure_table(noisy).droplevel(0)
    assert table.loc["writing"].tolist() == [np.inf, 0.1, np.inf]
    assert table.loc["roles"].isna().tolist() == [False, True, True]
    assert not {*GRADED} & {"accuracy", "roles", *MARGINS}


@pytest.mark.slow
def test_shuffled_weights_are_the_same_numbers_in_another_order():
    plan = Plan(seed=1)
    before = build(plan).hf_model.transformer.h[0].attn.c_attn.weight
    after = grow_model(plan, shuffled=True).truth.hf_model.transformer.h[0].attn.c_attn.weight
    assert not torch.equal(before, after)
    assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
