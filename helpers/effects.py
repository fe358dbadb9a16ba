"""Effects of an intervention as intervals: points gained, changed answers, perplexity."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import binomtest

from helpers.behavior import Behavior
from helpers.stats import Interval, mean_interval, ratio_interval

Vocabulary = Literal["full vocabulary", "forced choice"]
"""Whether the answer must beat every token, or only the other choices of the prompt."""

VOCABULARIES: tuple[Vocabulary, ...] = ("full vocabulary", "forced choice")


def right_answers(behavior: Behavior, vocabulary: Vocabulary) -> Bool[np.ndarray, "..."]:
    """Which answers are right."""
    fields = {"full vocabulary": behavior.correct, "forced choice": behavior.chosen}
    return fields[vocabulary]


def signed_text(interval: Interval, digits: int = 1) -> str:
    """An interval of differences as people read it: `+value [-low, +high]`."""
    value = f"{interval.value:+.{digits}f}"
    low = f"{interval.low:+.{digits}f}"
    high = f"{interval.high:+.{digits}f}"
    return f"{value} [{low}, {high}]"


def percent_text(share: Interval) -> str:
    """A share from 0 to 1 as people read it: `28.7% [25.9, 31.6]`."""
    percent = share.times(100)
    return f"{percent.value:.1f}% [{percent.low:.1f}, {percent.high:.1f}]"


def points_text(interval: Interval) -> str:
    """A difference in percentage points as people read it: `+2.3 points [-0.5, +5.1]`."""
    low, high = f"{interval.low:+.1f}", f"{interval.high:+.1f}"
    return f"{interval.value:+.1f} points [{low}, {high}]"


def word_by_sign(interval: Interval, *, above: str, below: str, unclear: str) -> str:
    """The word for a change whose whole interval lies above 0, below it, or on neither side."""
    if interval.low > 0:
        return above
    return below if interval.high < 0 else unclear


def points_gained(
    after: Shaped[np.ndarray, " n"], before: Shaped[np.ndarray, " n"], seed: int
) -> Interval:
    """Percentage points that n >= 2 hits (0 to 1) gain over others on the same prompts, paired."""
    return mean_interval(100.0 * after - 100.0 * before, seed)


def paired_changes(
    before: Bool[np.ndarray, " n"], after: Bool[np.ndarray, " n"], seed: int
) -> dict[str, str | int]:
    """Points gained, how many prompts became right and wrong, and McNemar's exact p, as texts."""
    became_right = int((after & ~before).sum())
    became_wrong = int((before & ~after).sum())
    changed = became_right + became_wrong
    p = binomtest(became_right, changed).pvalue if changed else 1.0
    return {
        "points, paired": signed_text(points_gained(after, before, seed)),
        "became right": became_right,
        "became wrong": became_wrong,
        "p": f"{p:.1g}",
        "n": len(before),
    }


def perplexity_ratio(
    nats: Float[np.ndarray, " text"],
    reference_nats: Float[np.ndarray, " text"],
    tokens: Int[np.ndarray, " text"],
    seed: int,
) -> Interval:
    """Perplexity on some texts over that of a reference, from summed surprisals, over texts."""
    extra = ratio_interval(nats - reference_nats, tokens, seed)
    return Interval(np.exp(extra.value), np.exp(extra.low), np.exp(extra.high))
