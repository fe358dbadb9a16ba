"""Which control is the hardest to beat; and the effects that stand beside controls."""

import numpy as np
import pytest

from helpers.controls import hardest_control, margin_over
from helpers.effects import paired_changes, perplexity_ratio, points_gained, signed_text
from helpers.stats import Interval
from suite.ledger import Control

MEASURED = Interval(0.5, 0.4, 0.6)
BEATEN_WHOLE = Control("beaten by the whole interval", 0.35, 0.3, 0.39)
BEATEN_VALUE = Control("beaten by the value only", 0.2, 0.1, 0.45)
NOT_BEATEN = Control("not beaten", 0.55, 0.5, 0.6)


def in_numpy(interval: Interval) -> Interval:
    """The same interval of NumPy floats, whose comparisons give NumPy booleans."""
    return Interval(*map(np.float64, (interval.value, interval.low, interval.high)))


@pytest.mark.parametrize("measured", [MEASURED, in_numpy(MEASURED)])
def test_margin(measured):
    assert margin_over(measured, BEATEN_WHOLE) == 2
    assert margin_over(measured, BEATEN_VALUE) == 1
    assert margin_over(measured, NOT_BEATEN) == 0


@pytest.mark.parametrize("measured", [MEASURED, in_numpy(MEASURED)])
def test_the_hardest_control_is_the_one_beaten_least(measured):
    """Its margin counts first: a control of lower value but wide interval may be the harder one."""
    both = [BEATEN_WHOLE, BEATEN_VALUE]
    assert hardest_control(measured, both) is BEATEN_VALUE
    assert hardest_control(measured, both[::-1]) is BEATEN_VALUE
    assert hardest_control(measured, [*both, NOT_BEATEN]) is NOT_BEATEN


def test_of_equal_margins_the_highest_control_is_the_hardest():
    low = Control("low", 0.1, 0.0, 0.2)
    assert hardest_control(MEASURED, [low, BEATEN_WHOLE]) is BEATEN_WHOLE
    assert hardest_control(MEASURED, [BEATEN_WHOLE, low]) is BEATEN_WHOLE


def test_points_gained_are_paired_over_prompts():
    before = np.array([True, True, False, False])
    after = np.array([True, True, True, True])
    gained = points_gained(after, before, seed=0)
    assert gained.value == 50
    assert 0 <= gained.low < 50
    assert 50 < gained.high <= 100


def test_nothing_changed_gains_nothing():
    before = np.array([True, False])
    gained = points_gained(before, before, seed=0)
    assert gained == Interval(0.0, 0.0, 0.0)


def test_points_of_shares_over_draws():
    """A share over random draws stands in for a hit: 0.5 - 0 and 1 - 1 are 25 points."""
    after = np.array([0.5, 1.0])
    before = np.array([False, True])
    gained = points_gained(after, before, seed=0)
    assert gained.value == 25


def test_signed_text():
    assert signed_text(Interval(1.25, -0.5, 3.0), 1) == "+1.2 [-0.5, +3.0]"
    assert signed_text(Interval(20.4, 10.0, 30.0), 0) == "+20 [+10, +30]"


def test_paired_changes_count_both_ways_and_give_mcnemars_p():
    before = np.array([True, False, False, False, False, True])
    after = np.array([False, True, True, True, True, True])
    changes = paired_changes(before, after, seed=0)
    assert changes["became right"] == 4
    assert changes["became wrong"] == 1
    assert changes["n"] == 6
    assert changes["p"] == "0.4"  # exact: 2 * (1 + 5) / 32 = 0.375
    assert changes["points, paired"].startswith("+50.0 [")


def test_without_any_change_p_is_one():
    hits = np.array([True, False])
    assert paired_changes(hits, hits, seed=0)["p"] == "1"


def test_perplexity_ratio():
    """Each text loses log 2 nats per token, so the perplexity doubles, whatever the texts."""
    counts = np.array([10, 20, 30])
    before = np.array([20.0, 50.0, 90.0])
    after = before + counts * np.log(2)
    ratio = perplexity_ratio(after, before, counts, seed=0)
    assert ratio.value == pytest.approx(2)
    assert ratio.low == pytest.approx(2)
    assert ratio.high == pytest.approx(2)
