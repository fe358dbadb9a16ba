"""What the planted model must return, worked out with pen and paper.

A mover attends to IO and S1 in the proportion exp(c SCORE_GAP) : 1, where c says how much of the
channel is left: 1 = all, 0 = nothing, -1 = it names the other person. Hence

    logit(IO) - logit(S) = LOGIT * (movers * tanh(c SCORE_GAP / 2) + negative * NEGATIVE)

where `movers` and `negative` say how much is left of these heads. LayerNorm's scale is left out.
`helpers/planted.py` builds the model.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from helpers.channels import Side
from helpers.heads import Head, Heads
from helpers.planted import LOGIT, NEGATIVE, SCORE_GAP, SHARES, SINGULAR, Planted
from helpers.tasks.prompts import Prompts

WORK = {
    "movers": SHARES,
    "negative_movers": (1.0,),
    "inhibition": SHARES,
    "duplicate_token": SHARES[:1],
    "induction": SHARES[1:],
    "previous_token": SHARES[1:],
}
"""Role -> the share of the role's work that each of its heads does, in the order of the plan. The
previous-token head serves the induction head only, so its share is that head's."""


class Job(NamedTuple):
    """What one planted head does."""

    role: str
    head: Head
    share: float
    """Share of the role's work, 0 to 1."""


def planted_jobs(roles: dict[str, Heads]) -> list[Job]:
    """Every planted head with its share of its role's work."""
    jobs = []
    for role, shares in WORK.items():
        for head, share in zip(roles[role], shares, strict=True):
            jobs.append(Job(role, head, share))
    return jobs


def worked_difference(*, channel: float = 1.0, movers: float = 1.0, negative: float = 1.0) -> float:
    """Logit difference, from what is left of the channel, the movers and the negative mover."""
    from_movers = movers * float(np.tanh(channel * SCORE_GAP / 2))
    return LOGIT * (from_movers + negative * NEGATIVE)


def worked_effect(role: str, share: float) -> float:
    """Effect, in percent of the gap, of the path from a head that does this share of its role's
    work.
    """
    left = 1 - share
    if role == "movers":
        silenced = worked_difference(movers=left)
    elif role == "negative_movers":
        silenced = worked_difference(negative=left)
    else:
        silenced = worked_difference(channel=left)
    return 100 * (1 - silenced / worked_difference())


def worked_scaling(factors: Float[np.ndarray, " component"]) -> float:
    """Logit difference with what the inhibition heads write along each component scaled.

    Coordinate k contributes to the score gap in proportion to SINGULAR[k]^3.
    """
    cubes = np.array(SINGULAR[: len(factors)]) ** 3
    return worked_difference(channel=float(factors @ cubes / cubes.sum()))


def name_places(prompts: Prompts) -> list[int]:
    """Where the two names stand, early one first, in prompts of one template."""
    return sorted({*prompts.position("IO").tolist(), *prompts.position("S1").tolist()})


def worked_attention(
    truth: Planted, prompts: Prompts, added: Float[Tensor, "variant d_model"]
) -> Float[np.ndarray, " variant"]:
    """A mover's attention to the first name, over both names, with a vector added at END where
    nobody is repeated. The part of the vector that lies in a channel of rank 1 or 2 decides.
    """
    rank = truth.plan.channel_rank
    angles = np.pi / 2 * np.array(name_places(prompts)) - np.pi / 4
    first, second = np.transpose([np.cos(angles), np.sin(angles)])
    weights = truth.gain * np.array(SINGULAR[:rank]) * (first - second)[:rank]
    in_channel = (added @ truth.channel).numpy()
    return 1 / (1 + np.exp(in_channel @ weights))


def planned_pairs(roles: dict[str, Heads]) -> dict[Side, list[tuple[Head, Head]]]:
    """Side -> (sender, receiver) of every connection of the plan."""
    writers = roles["duplicate_token"] + roles["induction"]
    sides: dict[Side, tuple[Heads, Heads]] = {
        "query": (roles["inhibition"], roles["movers"]),
        "value": (writers, roles["inhibition"]),
        "key": (roles["previous_token"], roles["induction"]),
    }
    pairs = {}
    for side, (senders, receivers) in sides.items():
        pairs[side] = [(sender, receiver) for sender in senders for receiver in receivers]
    return pairs


def members(roles: dict[str, Heads]) -> set[tuple[str, Head]]:
    """Every (role, head)."""
    return {(role, head) for role, heads in roles.items() for head in heads}
