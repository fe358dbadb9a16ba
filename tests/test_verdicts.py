"""The rule of the verdicts, case by case."""

import pytest

from suite.errors import ClaimError
from suite.verdicts import SYMBOLS, agreement, joint_verdict, verdict


@pytest.mark.parametrize(
    "direction, margin, low, high, expected",
    [
        ("above", 5, 5.1, 9, "holds"),
        ("above", 5, 4.9, 9, "inconclusive"),
        ("above", 5, 5, 9, "inconclusive"),  # the margin itself is not beyond the margin
        ("above", 5, -3, 4.9, "fails"),
        ("above", 5, 1, 2, "fails"),  # not zero, but negligible
        ("above", 5, -9, -7, "fails"),
        ("below", -5, -9, -5.1, "holds"),
        ("below", -5, -9, -4.9, "inconclusive"),
        ("below", -5, -4, 3, "fails"),
        ("below", 0.25, 0.1, 0.2, "holds"),
        ("above", 5, 7, 7, "holds"),  # a number without an interval
        ("above", 5, 5, 5, "inconclusive"),
    ],
)
def test_verdict_by_hand(direction, margin, low, high, expected):
    assert verdict(direction, margin, low, high) == expected


def test_ends_the_wrong_way_round_are_refused():
    with pytest.raises(ClaimError, match="is no interval"):
        verdict("above", 0, 2, 1)


@pytest.mark.parametrize(
    "verdicts, expected",
    [
        (["holds", "holds"], "holds"),
        (["holds", "inconclusive"], "inconclusive"),
        (["inconclusive", "fails", "not run"], "fails"),
        (["holds", "not run"], "not run"),
        (["inconclusive", "untestable"], "untestable"),
        ([], "not run"),
    ],
)
def test_a_conjunction_is_as_good_as_its_worst_part(verdicts, expected):
    assert joint_verdict(verdicts) == expected


@pytest.mark.parametrize(
    "value, paper, tolerance, expected",
    [
        (0.526, 0.496, 0.03, "agrees"),
        (0.527, 0.496, 0.03, "differs"),
        (0.466, 0.496, 0.03, "agrees"),
        (0, 0, 0, "agrees"),
        (["L1H1", "L2H2"], ["L2H2", "L1H1"], 0, "agrees"),
        (["L1H1"], ["L2H2", "L1H1"], 0, "differs"),
        (["L1H1"], 0.5, 0, "differs"),
    ],
)
def test_agreement_by_hand(value, paper, tolerance, expected):
    assert agreement(value, paper, tolerance) == expected


def test_every_verdict_has_its_own_symbol():
    assert len(set(SYMBOLS.values())) == len(SYMBOLS) == 5
