"""What is lost without components, and what coordinates say about groups and places."""

import numpy as np
import pytest
import torch

from helpers.channel_steering import (
    Channel,
    Removal,
    coordinate_edit,
    explained_variance,
    nearest_place,
    removal_matrices,
)
from helpers.heads import Head


def test_variants_in_the_order_of_the_matrices():
    values = np.array([[5.0], [1.0], [4.0], [2.0], [3.0], [0.0]])  # two components, one prompt
    removal = Removal.from_variants(values)
    assert removal.unedited.tolist() == [5]
    assert removal.without_head.tolist() == [1]
    assert removal.without.tolist() == [[4], [2]]
    assert removal.alone.tolist() == [[3], [0]]
    assert removal.lost_with_head.tolist() == [4]
    assert removal.lost.tolist() == [[1], [3]]


def test_removal_matrices():
    """A head that writes along two axes: nothing, all, the one and the other gone, and alone."""
    basis = torch.eye(2)
    first = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    second = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    none = torch.zeros(2, 2)
    expected = torch.stack([basis, none, second, first, first, second])
    matrices = removal_matrices(torch.eye(2), basis)
    assert torch.allclose(matrices, expected, atol=1e-6)


@pytest.fixture
def channel() -> Channel:
    basis = torch.eye(3)[:, :2]
    return Channel(Head(0, 0), component=1, basis=basis, W_O=torch.eye(3)[:2])


def test_a_random_direction_has_no_part_along_the_channel(channel):
    direction = channel.random_direction(np.random.default_rng(0))
    assert direction @ channel.direction == 0
    assert direction.norm() == pytest.approx(1)


def test_an_edit_sets_one_coordinate_and_leaves_the_other(channel):
    values = np.array([7.0, -1.0])[None, :, None]  # one direction, two steps, all prompts
    edit = coordinate_edit(channel, [channel.direction], values)
    z = torch.tensor([[2.0, 3.0]])
    changed = z @ edit.matrix + edit.value
    expected = torch.tensor([[2.0, 7.0], [2.0, -1.0]])
    assert torch.allclose(changed[:, 0], expected, atol=1e-6)


def test_explained_variance():
    """Group means 1 and 5 of values 0, 2, 4, 6: 16 of 20 is between the groups."""
    values = np.array([0.0, 2.0, 4.0, 6.0])
    groups = np.array(["a", "a", "b", "b"])
    share, adjusted = explained_variance(values, groups)
    assert share == pytest.approx(0.8)
    assert adjusted == pytest.approx(1 - 0.2 * 3 / 2)


def test_the_nearest_mean_leaves_the_prompt_itself_out():
    """The last value lies nearer to the first place, so long as it does not pull its own mean."""
    places = np.array([0, 0, 1, 1])
    coordinates = np.array([[0.0, 1.0, 10.0, 4.0]])
    hits = nearest_place(coordinates, places)
    assert hits.tolist() == [1, 1, 1, 0]
