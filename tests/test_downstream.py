"""What the movers do after an intervention, against random heads."""

import numpy as np
import pytest

from helpers.behavior import Behavior
from helpers.downstream import (
    attention_shift,
    largest_in_last_layer,
    means_of_draws,
    shift_beyond_draws,
)
from helpers.heads import Head
from helpers.interventions import Steered
from helpers.repair import NamedRuns

MOVERS = [Head(5, 0), Head(5, 1)]


def runs_with(attention: np.ndarray) -> NamedRuns:
    """Two variants, `nothing` and `forced`, with this attention and no behavior."""
    shape = (2, attention.shape[-1])
    none = np.zeros(shape, dtype=bool)
    behavior = Behavior(np.zeros(shape), np.zeros(shape, dtype=int), none, none, none)
    attribution = np.zeros((2, attention.shape[1], attention.shape[-1]))
    steered = Steered(**vars(behavior), attention=attention, attribution=attribution)
    return NamedRuns(steered, {"nothing": 0, "forced": 1})


def test_the_shift_is_right_minus_all_wrong_in_points():
    before = np.array([[[0.2], [0.3], [0.1]]])  # one head; right and two wrong colors; one prompt
    after = np.array([[[0.25], [0.2], [0.1]]])
    shift = attention_shift(runs_with(np.stack([before, after])), "forced")
    assert shift.right == pytest.approx(np.array([[5.0]]))
    assert shift.wrong == pytest.approx(np.array([[-10.0]]))
    assert shift.toward_right == pytest.approx(np.array([[15.0]]))


def test_movers_in_a_random_set_do_not_count():
    """The first set contains the first mover, the second set none, the third one both."""
    own = np.array([[10.0, 20.0], [30.0, 40.0]])
    draws = [
        ([Head(5, 0)], np.array([[99.0, 99.0], [1.0, 2.0]])),
        ([Head(5, 7)], np.array([[5.0, 5.0], [5.0, 5.0]])),
        (MOVERS, np.full((2, 2), 99.0)),
    ]
    beyond = shift_beyond_draws(own, draws, MOVERS)
    assert beyond.tolist() == [[29, 38], [15, 25]]
    assert means_of_draws(draws, MOVERS).tolist() == [1.5, 5]
    assert shift_beyond_draws(own, draws[2:], MOVERS).shape == (0, 2)


def test_the_largest_changes_of_the_last_layer():
    changes = {Head(5, 0): 9.0, Head(6, 0): 0.1, Head(6, 1): -0.7, Head(6, 2): 0.5}
    assert largest_in_last_layer(changes) == [Head(6, 1), Head(6, 2)]
    assert largest_in_last_layer({Head(3, 3): 0.0}) == [Head(3, 3)]
