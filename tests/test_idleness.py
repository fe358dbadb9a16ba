"""Effects of heads on two tasks, worked out by hand."""

import numpy as np
import pytest

from helpers.circuits import IOI
from helpers.heads import Head
from helpers.idleness import TwoTasks, effect_ratio, effects_on_two_tasks, ratios_by_role
from helpers.path_patching import PathEffects

ONE, TWO = Head(0, 0), Head(0, 1)
STAGES = {"logits": "logits", "movers.q": "movers.q"}


def effects(values: dict[Head, list[float]]) -> PathEffects:
    n = len(next(iter(values.values())))
    patched = np.full((1, 2, n), np.nan)
    for head, change in values.items():
        patched[head] = change
    return PathEffects(np.zeros(n), np.ones(n), patched)


def test_each_head_is_compared_at_its_own_stage():
    first = {"logits": effects({ONE: [1, 3]}), "movers.q": effects({TWO: [4, 4]})}
    second = {"logits": effects({ONE: [0, 1, 2]}), "movers.q": effects({ONE: [9, 9, 9]})}
    roles = {"negative_movers": (ONE,), "inhibition": (TWO,), "induction": (ONE,)}
    negative, inhibition = effects_on_two_tasks(first, second, roles, scheme=IOI, stages=STAGES)
    assert (negative.role, negative.head, negative.has_path) == ("negative_movers", ONE, True)
    np.testing.assert_array_equal(negative.on_first, [1, 3])
    np.testing.assert_array_equal(negative.on_second, [0, 1, 2])
    assert not inhibition.has_path
    np.testing.assert_array_equal(inhibition.on_second, [0, 0, 0])  # after all receivers


def test_a_head_without_a_path_on_the_first_task_is_left_out():
    first = {"logits": effects({TWO: [1, 1]})}
    assert effects_on_two_tasks(first, first, {"movers": (ONE,)}, scheme=IOI, stages=STAGES) == []


def two(head: Head, on_first: list[float], on_second: list[float], role: str = "movers"):
    return TwoTasks(role, head, np.array(on_first, float), np.array(on_second, float), True)


def test_the_ratio_sums_sizes_of_means():
    """On IOI 2 + 4, on the other task 1 + 0.5: signs do not cancel between heads."""
    heads = [two(ONE, [2, 2], [1, 1, 1]), two(TWO, [-4, -4], [0.5, 0.5, 0.5])]
    ratio = effect_ratio(heads, 0)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.25, 0.25, 0.25))


def test_prompts_that_cancel_are_no_effect():
    heads = [two(ONE, [2, 2], [1, -1])]
    assert effect_ratio(heads, 0).value == 0
    with pytest.raises(ValueError, match="at least one head"):
        effect_ratio([], 0)


def test_a_ratio_for_each_role():
    heads = [two(ONE, [2, 2], [1, 1]), two(TWO, [1, 1], [3, 3], role="inhibition")]
    ratios = ratios_by_role(heads, 0)
    assert {role: ratio.value for role, ratio in ratios.items()} == {"movers": 0.5, "inhibition": 3}
