"""Intervals (always 95 %) and set overlap, thin over scipy. Every seed is an argument."""

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, Shaped
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
Array = np.ndarray | torch.Tensor


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; arrays of one shape where a whole grid was estimated."""

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray

    def times(self, factor: float) -> "Interval":
        """The same interval in another unit, such as percent; factor > 0."""
        return Interval(factor * self.value, factor * self.low, factor * self.high)

    def text(self, digits: int = 1) -> str:
        """As people read it: `value [low, high]`."""
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def proportion(k: int, n: int) -> Interval:
    """Share k / n with the exact binomial (Clopper-Pearson) interval; ValueError unless 0 <= k <= n
    and n > 0.
    """
    if not 0 <= k <= n or n == 0:
        raise ValueError(
            f"{k} successes of {n} are no proportion: give 0 <= k <= n with n of at least 1."
        )
    ci = stats.binomtest(int(k), int(n)).proportion_ci(LEVEL, method="exact")
    return Interval(k / n, float(ci.low), float(ci.high))


def share(hits: Shaped[Array, " n"]) -> Interval:
    """Share of True in n >= 1 booleans, from 0 to 1, with the exact binomial interval."""
    return proportion(int(hits.sum()), len(hits))


def percent(hits: Shaped[Array, " n"]) -> Interval:
    """`share` in percent."""
    return share(hits).times(100)


def draw_range(draws: Shaped[Array, " draw"]) -> Interval:
    """Median and middle 95 % of draws, such as the results of random heads: a range, not a
    confidence interval of the median.
    """
    low, middle, high = np.quantile(draws, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return Interval(float(middle), float(low), float(high))


def mean_interval(x: Shaped[Array, " n"], seed: int) -> Interval:
    """Mean over n >= 2 examples with a BCa bootstrap interval.

    Where BCa is undefined the interval is the percentile one; constant data give an interval of
    width zero, which says only that no two examples differed. Raises ValueError on fewer than two
    values, NaN or infinity.
    """
    x = _values(x, "the mean")
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), float(x[0]))
    ends = _bootstrap([x], np.mean, "BCa", seed)
    low, high = ends if np.isfinite(ends).all() else _bootstrap([x], np.mean, "percentile", seed)
    return Interval(float(x.mean()), float(low), float(high))


def ratio_interval(num: Shaped[Array, "*grid n"], den: Shaped[Array, " n"], seed: int) -> Interval:
    """mean(num) / mean(den) over the same n examples, for every cell of a grid: the normalised
    path-patching effect.

    Percentile bootstrap: each resample draws examples, the same ones for all cells and for the
    denominator. Its ends are moved to hold the estimate, and infinite where resampled denominators
    vanish. Raises ValueError on fewer than two examples, unequal n, NaN, infinity or a denominator
    of mean zero.
    """
    num, den = _values(num, "the numerator"), _values(den, "the denominator")
    if den.ndim != 1 or num.shape[-1] != len(den):
        raise ValueError(
            f"Numerator {num.shape} and denominator {den.shape} need the same number of examples, last."
        )
    if den.mean() == 0:
        raise ValueError(
            "The denominator has mean zero: corrupting the prompts changes nothing, so use other prompts."
        )

    def ratio(picked: np.ndarray, axis: int = -1):
        return num[..., picked].mean(axis) / den[picked].mean(axis)

    examples = np.arange(len(den))
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = _bootstrap([examples], ratio, "percentile", seed)
    value = ratio(examples)
    low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
    low, high = np.minimum(low, value), np.maximum(high, value)
    return (
        Interval(value, low, high)
        if num.ndim > 1
        else Interval(float(value), float(low), float(high))
    )


def correlation(
    x: Shaped[np.ndarray, " n"],
    y: Shaped[np.ndarray, " n"],
    *,
    method: Literal["pearson", "spearman"],
    seed: int,
) -> tuple[Interval, Interval]:
    """Correlation over n >= 4 pairs with its bootstrap interval over pairs, and the same with y
    permuted (the null).

    The null's value is its mean, its interval the middle 95 % of permutations. Raises ValueError on
    fewer pairs, unequal lengths, NaN, where x or y is constant, or for another method.
    """
    if method not in ("pearson", "spearman"):
        raise ValueError(f"Unknown method {method!r}; choose 'pearson' or 'spearman'.")
    x, y = _values(x, "a correlation"), _values(y, "a correlation")
    if len(x) != len(y) or len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError(
            f"A correlation needs at least 4 pairs that vary, not {len(x)} and {len(y)} values."
        )
    rank = stats.rankdata if method == "spearman" else lambda values, axis: values

    def r(a: np.ndarray, b: np.ndarray, axis: int):
        """0 where a resample is constant."""
        return np.nan_to_num(
            stats.pearsonr(rank(a, axis=axis), rank(b, axis=axis), axis=axis).statistic
        )

    value, (low, high) = float(r(x, y, 0)), _bootstrap([x, y], r, "percentile", seed)
    shuffled = np.random.default_rng(seed).permuted(np.tile(y, (RESAMPLES, 1)), axis=1)
    null = r(np.tile(x, (RESAMPLES, 1)), shuffled, -1)
    measured = Interval(value, min(value, float(low)), max(value, float(high)))
    return measured, Interval(
        float(null.mean()), *map(float, np.quantile(null, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    )


def bootstrap_indices(n: int, resamples: int, seed: int) -> Int[np.ndarray, "resamples n"]:
    """Rows of n example indices drawn with replacement: one row is one resample."""
    if n < 1 or resamples < 1:
        raise ValueError(
            f"{resamples} resamples of {n} examples cannot be drawn: both must be at least 1."
        )
    return np.random.default_rng(seed).integers(0, n, (resamples, n))


def jaccard(a: Collection, b: Collection) -> float:
    """Shared share of two sets, |a and b| / |a or b|, from 0 (disjoint) to 1 (equal); two empty
    sets are equal.
    """
    a, b = set(a), set(b)
    return len(a & b) / len(a | b) if a | b else 1.0


def _values(x, name: str) -> np.ndarray:
    x = np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x, dtype=float)
    if x.ndim == 0 or x.shape[-1] < 2:
        raise ValueError(f"An interval of {name} needs at least 2 examples: raise N_PROMPTS.")
    if not np.isfinite(x).all():
        raise ValueError(
            f"The values for {name} hold NaN or infinity: check the measurement before averaging."
        )
    return x


def _bootstrap(data: list[np.ndarray], statistic: Callable, method: str, seed: int) -> tuple:
    """Ends of scipy's interval; examples are drawn together from all arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        kind = {
            "paired": True,
            "n_resamples": RESAMPLES,
            "confidence_level": LEVEL,
            "method": method,
            "rng": seed,
        }
        return stats.bootstrap(data, statistic, **kind).confidence_interval
