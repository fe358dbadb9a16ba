"""What heads that were not forced do in a run with forced heads: where the movers attend, and how
far the change exceeds that of random heads.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from helpers.heads import Head
from helpers.repair import NamedRuns


@dataclass(frozen=True)
class AttentionShift:
    """Change of attention from END against the unedited run, in percentage points."""

    right: Float[np.ndarray, "head prompt"]
    """To the right color."""
    wrong: Float[np.ndarray, "head prompt"]
    """To the wrong colors, added up."""

    @property
    def toward_right(self) -> Float[np.ndarray, "head prompt"]:
        """Right minus wrong: the measure of claim A7."""
        return self.right - self.wrong


def attention_shift(
    runs: NamedRuns, name: Hashable, *, unedited: Hashable = "nothing"
) -> AttentionShift:
    """How a variant changes the attention of the watched heads.

    The keys of the runs are the right color, then the wrong ones.
    """
    change = 100 * (runs.attention(name) - runs.attention(unedited))
    return AttentionShift(right=change[:, 0], wrong=change[:, 1:].sum(1))


Draw = tuple[Sequence[Head], Float[np.ndarray, "head prompt"]]
"""A random set of forced heads, and the shift of the watched heads under it."""


def shift_beyond_draws(
    own: Float[np.ndarray, "head prompt"], draws: Sequence[Draw], watched: Sequence[Head]
) -> Float[np.ndarray, "draw prompt"]:
    """The shift minus that under each random set, mean over the watched heads that are not in it.

    A set that contains every watched head is left out, since their attention was set by us.
    """
    rows = []
    for drawn, shift in draws:
        free = [i for i, head in enumerate(watched) if head not in drawn]
        if free:
            rows.append((own[free] - shift[free]).mean(0))
    return np.array(rows).reshape(len(rows), own.shape[1])


def means_of_draws(draws: Sequence[Draw], watched: Sequence[Head]) -> Float[np.ndarray, " draw"]:
    """The mean shift under each random set, over the watched heads that are not in it."""
    nothing = np.zeros_like(draws[0][1])
    return -shift_beyond_draws(nothing, draws, watched).mean(1)


def largest_in_last_layer(changes: Mapping[Head, float], *, count: int = 2) -> list[Head]:
    """The heads of the last layer among these whose change is largest in size."""
    last = max(head.layer for head in changes)
    of_layer = [head for head in changes if head.layer == last]
    return sorted(of_layer, key=lambda head: abs(changes[head]), reverse=True)[:count]
