"""Random sets of heads that are matched to a circuit by layer, all of them different."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helpers.heads import Head, Heads, check_heads

MOST_APART = 2
"""How many layers a random head may be away from the one it stands for, at most."""

TRIES = 50
"""Draws for each set that is wanted, until too few differ."""


@dataclass(frozen=True)
class MatchedSets:
    """Random sets of heads."""

    sets: tuple[Heads, ...]
    apart: int
    """How many layers a head may be away from the one it stands for; 0 = the same layers."""


def matched_sets(
    heads: Sequence[Head], shape: tuple[int, int], *, draws: int, seed: int
) -> MatchedSets:
    """`draws` different sets of as many heads, none of which is in `heads`, drawn from the same
    layers, or from layers around where the same ones do not have enough.

    shape: layers and heads per layer. Raises ValueError for an unknown head, and where the layers
    up to MOST_APART away do not have so many different sets either.
    """
    layers, heads_per_layer = shape
    check_heads(heads, layers, heads_per_layer)
    for apart in range(MOST_APART + 1):
        found = _draw_sets(heads, shape, draws, apart, np.random.default_rng(seed))
        if len(found) == draws:
            return MatchedSets(tuple(found), apart)
    raise ValueError(
        f"A circuit of {len(heads)} heads is too large for {draws} random sets: the layers up to "
        f"{MOST_APART} away from its heads have fewer; take a smaller circuit or fewer draws."
    )


def _draw_sets(
    heads: Sequence[Head],
    shape: tuple[int, int],
    draws: int,
    apart: int,
    rng: np.random.Generator,
) -> list[Heads]:
    """Different sets, up to `draws`, in the order drawn."""
    found: dict[Heads, None] = {}
    for _ in range(TRIES * draws):
        drawn = _draw_set(heads, shape, apart, rng)
        if drawn is None:
            return []
        found[drawn] = None
        if len(found) == draws:
            break
    return list(found)


def _draw_set(
    heads: Sequence[Head], shape: tuple[int, int], apart: int, rng: np.random.Generator
) -> Heads | None:
    """One set in order, or None where a head has no other one left to stand for it."""
    layers, heads_per_layer = shape
    drawn: set[Head] = set()
    for layer, _ in sorted(heads):
        first = max(0, layer - apart)
        last = min(layers - 1, layer + apart)
        nearby = [Head(at, n) for at in range(first, last + 1) for n in range(heads_per_layer)]
        free = [head for head in nearby if head not in drawn and head not in heads]
        if not free:
            return None
        drawn.add(free[rng.integers(len(free))])
    return tuple(sorted(drawn))
