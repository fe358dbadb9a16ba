"""Intervals against textbook and hand-computed values."""

import numpy as np
import pytest
import scipy.stats
import torch

from helpers.stats import (
    Interval,
    bootstrap_indices,
    correlation,
    jaccard,
    mean_interval,
    proportion,
    ratio_interval,
)


@pytest.mark.parametrize(
    "k, n, low, high",
    [
        (496, 1000, 0.465, 0.527),
        (937, 1000, 0.920, 0.951),
        (0, 10, 0.0, 1 - 0.025**0.1),  # closed forms of Clopper-Pearson at the ends
        (10, 10, 0.025**0.1, 1.0),
    ],
)
def test_proportion_is_exact(k, n, low, high):
    got = proportion(k, n)
    assert (got.value, got.low, got.high) == pytest.approx((k / n, low, high), abs=6e-4)


@pytest.mark.parametrize("k, n", [(11, 10), (-1, 10), (0, 0)])
def test_proportion_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match=f"{k} successes of {n}"):
        proportion(k, n)


def test_mean_interval_matches_the_normal_one_on_many_values():
    x = np.random.default_rng(1).normal(3, 2, 2000)
    got = mean_interval(x, 0)
    half = 1.96 * x.std(ddof=1) / np.sqrt(len(x))
    assert (got.value, got.low, got.high) == pytest.approx(
        (x.mean(), x.mean() - half, x.mean() + half), abs=0.01
    )


def test_mean_interval_is_seeded_and_takes_tensors():
    x = torch.arange(10.0)
    assert mean_interval(x, 0) == mean_interval(x.numpy(), 0)
    assert mean_interval(x**2, 0) != mean_interval(x**2, 1)


def test_mean_interval_of_a_skewed_sample_is_skewed():
    got = mean_interval(np.array([0.0] * 28 + [10.0, 20.0]), 0)
    assert got.high - got.value > got.value - got.low


def test_mean_interval_of_constant_data_has_no_width():
    assert mean_interval(np.full(5, 0.3), 0) == Interval(0.3, 0.3, 0.3)


@pytest.mark.parametrize(
    "bad, message", [([], "at least 2"), ([1.0], "at least 2"), ([1.0, np.nan], "NaN")]
)
def test_mean_interval_refuses(bad, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(np.array(bad), 0)


def test_ratio_of_a_constant_share_has_no_width():
    den = np.array([1.0, 2.0, 5.0, 8.0])
    got = ratio_interval(0.25 * den, den, 0)
    assert (got.value, got.low, got.high) == pytest.approx((0.25, 0.25, 0.25))


def test_ratio_is_of_the_means_and_its_interval_enumerable_by_hand():
    # Resamples of two: (1,1), (1,2), (2,1), (2,2), so the ratios are 1, 1, 1, 1 and 0/1, 1/4, 1/4,
    # 1/3.
    got = ratio_interval(np.array([[1.0, 3.0], [0.0, 1.0]]), np.array([1.0, 3.0]), 0)
    np.testing.assert_allclose(got.value, [1.0, 0.25])
    np.testing.assert_allclose(got.low, [1.0, 0.0])
    np.testing.assert_allclose(got.high, [1.0, 1 / 3])


def test_ratio_over_a_grid_equals_each_cell_alone():
    rng = np.random.default_rng(0)
    num, den = rng.normal(size=(2, 3, 20)), rng.normal(5, 1, 20)
    grid = ratio_interval(torch.tensor(num), torch.tensor(den), 7)
    cell = ratio_interval(num[1, 2], den, 7)
    assert grid.low.shape == (2, 3)
    assert (grid.value[1, 2], grid.low[1, 2], grid.high[1, 2]) == pytest.approx(
        (cell.value, cell.low, cell.high)
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num", [[1.0, 1.0], [0.0, 1.0]])
def test_ratio_has_infinite_ends_where_resampled_denominators_vanish(num):
    """A quarter of the resamples draw the first example twice, whose ratio is 1/0 or 0/0."""
    got = ratio_interval(np.array(num), np.array([0.0, 1.0]), 0)
    assert got.value == 2 * np.mean(num) and got.low <= got.value and got.high == np.inf


def test_ratio_refuses():
    with pytest.raises(
        (ValueError, TypeError)
    ):  # TypeError where the shapes of annotations are checked
        ratio_interval(np.ones(3), np.ones(4), 0)
    with pytest.raises(ValueError, match="mean zero"):
        ratio_interval(np.ones(2), np.array([1.0, -1.0]), 0)


def test_bootstrap_indices_draw_with_replacement_and_a_seed():
    rows = bootstrap_indices(50, 200, 0)
    assert rows.shape == (200, 50) and rows.min() == 0 and rows.max() == 49
    assert np.mean([len(set(row)) for row in rows]) == pytest.approx(
        50 * (1 - (1 - 1 / 50) ** 50), abs=1
    )
    assert (rows == bootstrap_indices(50, 200, 0)).all()
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_indices(0, 10, 0)


@pytest.mark.parametrize(
    "a, b, share", [("abc", "bcd", 0.5), ("ab", "cd", 0.0), ("aab", "ba", 1.0), ("", "", 1.0)]
)
def test_jaccard(a, b, share):
    assert jaccard(a, b) == share


def test_correlation_by_hand():
    """Deviations (-2 .. 2) and (-2, 1, -1, 0, 2): the products add up to 7, the squares to 10 each,
    so r = 0.7.

    A growing function of x keeps the ranks, so Spearman's stays."""
    x, y = np.arange(5.0), np.array([0.0, 3.0, 1.0, 2.0, 4.0])
    for method, xs in (("pearson", x), ("spearman", x), ("spearman", np.exp(3 * x))):
        got, null = correlation(xs, y, method=method, seed=0)
        assert got.value == pytest.approx(0.7)
        assert got.low < 0.7 <= got.high <= 1
        assert null.low < 0 < null.high and abs(null.value) < 0.05
    assert correlation(np.exp(3 * x), y, method="pearson", seed=0)[0].value != pytest.approx(
        0.7, abs=0.01
    )


def test_correlation_matches_scipy_and_its_interval_narrows():
    x, noise = np.random.default_rng(0).normal(size=(2, 400))
    for method, theirs in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        got, null = correlation(x, x + noise, method=method, seed=0)
        assert got.value == pytest.approx(theirs(x, x + noise).statistic)
        few = correlation(x[:40], (x + noise)[:40], method=method, seed=0)[0]
        assert 2 < (few.high - few.low) / (got.high - got.low) < 6
        assert null.high == pytest.approx(1.96 / 20, abs=0.015)


@pytest.mark.parametrize("x, y", [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4])])
def test_correlation_refuses(x, y):
    with pytest.raises(ValueError, match="at least 4 pairs that vary"):
        correlation(np.array(x), np.array(y), method="pearson", seed=0)


def test_correlation_refuses_an_unknown_method(unchecked):
    with pytest.raises(
        ValueError, match="Unknown method 'kendall'; choose 'pearson' or 'spearman'"
    ):
        correlation(np.arange(4.0), np.arange(4.0), method="kendall", seed=0)
