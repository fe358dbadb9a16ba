"""Which of several controls a measurement must be compared with."""

from collections.abc import Sequence

from helpers.stats import Interval
from suite.ledger import Control


def margin_over(measured: Interval, control: Control) -> int:
    """How far a measurement lies above a control that has an interval.

    2: its whole interval lies above the control's. 1: only its value lies above the control's. 0:
    not even that.
    """
    if measured.low > control.ends[1]:
        return 2
    if measured.value > control.value:
        return 1
    return 0


def hardest_control(measured: Interval, controls: Sequence[Control]) -> Control:
    """The control with the smallest margin; among equal margins the one with the highest value."""
    by_value = sorted(controls, key=lambda control: control.value, reverse=True)
    return min(by_value, key=lambda control: margin_over(measured, control))
