"""Predicted and measured values of many methods on one scale, and how far they are apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from helpers.stats import Interval


@dataclass(frozen=True)
class Comparison:
    """One quantity that was predicted and measured. Both are in points, a hundredth of the
    quantity's full scale.
    """

    method: str
    what: str
    predicted: float
    measured: Interval

    @property
    def difference(self) -> Interval:
        """Measured minus predicted."""
        measured = self.measured
        return Interval(
            measured.value - self.predicted,
            measured.low - self.predicted,
            measured.high - self.predicted,
        )


def compare(
    method: str,
    predicted: Mapping[str, float],
    measured: Mapping[str, Interval],
    *,
    full_scale: float,
) -> list[Comparison]:
    """Each measured quantity of a method beside its prediction.

    full_scale: the value that counts as 100 points. Raises ValueError where the names differ.
    """
    if predicted.keys() != measured.keys():
        raise ValueError(
            f"{method}: predicted are {', '.join(predicted)}, but measured {', '.join(measured)}."
        )
    comparisons = []
    to_points = 100 / full_scale
    for what, value in predicted.items():
        in_points = measured[what].times(to_points)
        comparisons.append(Comparison(method, what, to_points * value, in_points))
    return comparisons


def absolute(interval: Interval) -> Interval:
    """The interval of |x|, from that of x; it starts at 0 where x may be 0."""
    ends = (abs(interval.low), abs(interval.high))
    lowest = 0.0 if interval.low <= 0 <= interval.high else min(ends)
    return Interval(abs(interval.value), lowest, max(ends))


def largest_difference(comparisons: Sequence[Comparison]) -> Interval:
    """The largest absolute difference between predicted and measured, in points.

    Each end is the largest of the comparisons' own ends, so that the upper end bounds all of them.
    """
    sizes = [absolute(comparison.difference) for comparison in comparisons]
    return Interval(
        max(size.value for size in sizes),
        max(size.low for size in sizes),
        max(size.high for size in sizes),
    )


def furthest(comparisons: Sequence[Comparison]) -> Comparison:
    """The comparison with the largest absolute difference."""
    return max(comparisons, key=lambda comparison: abs(comparison.difference.value))


def by_method(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """Method -> its comparisons, in the order in which methods first occur."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(comparison.method, []).append(comparison)
    return groups


def comparison_table(comparisons: Sequence[Comparison], *, digits: int = 1) -> pd.DataFrame:
    """A row for each quantity: predicted, measured with its 95% interval, in points."""
    rows = {}
    for comparison in comparisons:
        rows[comparison.what] = {
            "predicted (points)": f"{comparison.predicted:.{digits}f}",
            "measured (points)": comparison.measured.text(digits),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
