"""Where to look without knowing the answer, and what kind of answer was given."""

import numpy as np
import pytest

from helpers.repair import (
    ANSWER_KINDS,
    accuracy,
    answer_kinds,
    attention_to_items,
    blame_of_others,
    is_right,
    numbered_positions,
    random_rows,
)
from helpers.tasks import Prompts

CAPITAL = {11: 21, 12: 22, 13: 23, 14: 24, 15: 25}
"""Colors 11 to 15, which are answered as 21 to 25."""


@pytest.fixture
def prompts() -> Prompts:
    """Two prompts; each has the color of an example, two listed colors and the end."""
    tokens = ((11, 12, 13, 9), (14, 13, 12, 9))
    return Prompts(
        texts=("one", "two"),
        corrupted_texts=("one", "two"),
        tokens=tokens,
        corrupted=((11, 12, 13, 8), (14, 13, 12, 8)),
        answers=(22, 22),
        distractors=(23, 23),
        positions={"EC0": (0, 0), "C0": (1, 1), "C1": (2, 2), "RIGHT": (1, 2), "END": (3, 3)},
        choices=((22, 23), (22, 23)),
    )


def test_kinds_of_answers(prompts):
    repeated = prompts.select([0] * len(ANSWER_KINDS))
    said = np.array([22, 23, 21, 25, 9])
    kinds = answer_kinds(repeated, said, capital=CAPITAL, example=["EC0"])
    assert tuple(kinds) == ANSWER_KINDS


def test_the_example_is_that_of_the_prompt(prompts):
    kinds = answer_kinds(prompts, np.array([24, 24]), capital=CAPITAL, example=["EC0"])
    assert kinds == ["another color", "color of the example"]


def test_positions_with_a_digit(prompts):
    assert numbered_positions(prompts, "C") == ["C0", "C1"]
    assert numbered_positions(prompts, "EC") == ["EC0"]


def test_blame_goes_to_the_others(prompts):
    right = is_right(prompts, ["C0", "C1"])
    assert right.tolist() == [[1, 0], [0, 1]]
    assert blame_of_others(right).tolist() == [[0, 1], [1, 0]]
    belief = np.array([[0.5], [0.3], [0.2]])
    assert np.allclose(blame_of_others(belief), [[0.25], [0.35], [0.4]])


def test_random_rows_lie_before_the_end(prompts):
    rows = random_rows(prompts, 2, np.random.default_rng(0))
    assert np.allclose(rows.sum(1), 1)
    assert ((rows == 0.5).sum(1) == 2).all()
    assert (rows[:, 3] == 0).all()


def test_attention_to_items_is_summed_over_heads(prompts):
    rows = np.zeros((2, 2, 4))
    rows[0, :, 1] = 0.25
    rows[1, :, 1] = 0.5
    rows[1, 1, 3] = 0.5
    at_items = attention_to_items(prompts, rows, ["C0", "C1"])
    assert at_items.tolist() == [[0.75, 0.75], [0, 0]]
    behind = attention_to_items(prompts, rows, ["C0", "C1"], shift=1)
    assert behind.tolist() == [[0, 0], [0, 0.5]]


def test_accuracy_without_prompts_says_nothing():
    nothing = accuracy(np.zeros(0, bool))
    assert nothing.low == 0 and nothing.high > 0.9
    half = accuracy(np.array([True, False]))
    assert half.value == 0.5 and half.low > 0
