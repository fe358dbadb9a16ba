"""Do scores tell the pairs of heads that are known to communicate from other pairs?

The unit is a receiver: a head with known senders on one side. AUC is the share of (known sender,
other earlier head) pairs in which the known sender scores higher; 0.5 by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import mannwhitneyu, rankdata

from helpers import channels
from helpers.channel_analysis import linked_pairs
from helpers.channels import PairScores, Side
from helpers.heads import Head, Heads, all_heads
from helpers.models import AttentionWeights
from helpers.projection_kernel import kernel_scores

SIDES: tuple[Side, ...] = ("key", "value", "query")
"""In the order of the circuit: previous-token heads, duplicate-token heads, inhibition heads."""

MEASURES = {
    "whole_heads": "whole heads",
    "best_components": "best component",
    "outlier": "how far it stands out",
    "projection_kernel": "projection kernel",
}
"""Scores of a pair, and their names in figures."""


class Link(NamedTuple):
    """Heads of one role are known to write to heads of another, on one side of these."""

    sender: str
    receiver: str
    side: Side


def known_senders(
    roles: Mapping[str, Heads], links: Sequence[Link], side: Side
) -> dict[Head, list[Head]]:
    """Receiver -> the heads known to write to it on this side; none without an earlier sender."""
    senders: dict[Head, list[Head]] = {}
    for link in links:
        if link.side == side:
            for sender, receiver in linked_pairs(roles, link.sender, link.receiver):
                senders.setdefault(receiver, []).append(sender)
    return senders


@dataclass(frozen=True)
class SideScores:
    """Scores of all heads, layer by layer, with the receivers of one side."""

    side: Side
    receivers: Heads
    known: Bool[np.ndarray, "sender receiver"]
    """Which heads are known to write to which receiver."""
    scores: Mapping[str, Float[np.ndarray, "sender receiver"]]
    """Measure -> scores; NaN where a head is not in an earlier layer, or is zero."""


def score_side(
    weights: AttentionWeights,
    pairs: PairScores,
    known: Mapping[Head, Sequence[Head]],
    *,
    distances: Sequence[int] = (0,),
) -> SideScores:
    """Every measure of MEASURES, for the receivers of `known` on the side of `pairs`."""
    receivers = tuple(known)
    senders = all_heads(*weights.W_O.shape[:2])
    columns = [receiver.layer * weights.n_heads + receiver.head for receiver in receivers]
    components = channels.component_scores(
        weights, pairs.side, receivers=receivers, distances=distances
    )
    kernel = kernel_scores(weights, pairs.side, receivers=receivers)
    scores = {
        "whole_heads": pairs.whole.flatten(0, 1).flatten(1)[:, columns].numpy(),
        "best_components": pairs.best.flatten(0, 1).flatten(1)[:, columns].numpy(),
        "outlier": stands_out(components.numpy()),
        "projection_kernel": kernel.numpy(),
    }
    is_known = [[sender in known[receiver] for receiver in receivers] for sender in senders]
    return SideScores(pairs.side, receivers, np.array(is_known), scores)


def stands_out(
    scores: Float[np.ndarray, "sender component receiver"],
) -> Float[np.ndarray, "sender receiver"]:
    """How many standard deviations of a sender's other components its best one lies above them.

    Not a test: the largest of many numbers always stands out. Compare it with other senders'. NaN
    where a sender has no score, or has others that do not differ.
    """
    ordered = np.sort(scores, axis=1)  # NaN last
    best = np.nanmax(np.nan_to_num(scores, nan=-np.inf), axis=1)
    is_best = np.cumsum(ordered == best[:, None], axis=1) == 1
    is_best &= ordered == best[:, None]
    others = np.where(is_best, np.nan, ordered)
    count = np.isfinite(others).sum(1)
    total = np.nansum(others, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        spread = np.sqrt(np.nansum((others - mean[:, None]) ** 2, axis=1) / count)
        return np.where(spread > 0, (best - mean) / spread, np.nan)


def receiver_aucs(
    scores: Float[np.ndarray, "sender receiver"], known: Bool[np.ndarray, "sender receiver"]
) -> Float[np.ndarray, " receiver"]:
    """AUC of each receiver's known senders against all other earlier heads; equal scores count
    half.
    """
    aucs = []
    for column, is_known in zip(scores.T, known.T, strict=True):
        has_score = np.isfinite(column)
        senders = column[has_score & is_known]
        others = column[has_score & ~is_known]
        higher = mannwhitneyu(senders, others).statistic
        aucs.append(higher / len(senders) / len(others))
    return np.array(aucs)


def permuted_aucs(
    scores: Float[np.ndarray, "sender receiver"],
    known: Bool[np.ndarray, "sender receiver"],
    *,
    draws: int,
    seed: int,
) -> Float[np.ndarray, "draw receiver"]:
    """Null: the AUCs of random heads in the known senders' place.

    In one draw the same random heads take that place at every receiver, because a head that writes
    strongly to one receiver often does so to another. Heads are exchanged only with heads that come
    before the same receivers.
    """
    rng = np.random.default_rng(seed)
    has_score = np.isfinite(scores)
    known = known & has_score
    ranks = rankdata(scores, axis=0, nan_policy="omit")
    stand_ins = _permuted_senders(has_score, draws, rng)
    aucs = []
    for receiver, is_known in enumerate(known.T):
        n_known = is_known.sum()
        n_others = has_score[:, receiver].sum() - n_known
        mean_rank = ranks[stand_ins[:, is_known], receiver].mean(1)
        aucs.append((mean_rank - (n_known + 1) / 2) / n_others)
    return np.stack(aucs, axis=1)


def _permuted_senders(
    has_score: Bool[np.ndarray, "sender receiver"], draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "draw sender"]:
    """Sender -> the head that takes its place, one with scores at the same receivers."""
    stand_ins = np.tile(np.arange(len(has_score)), (draws, 1))
    for pattern in np.unique(has_score, axis=0):
        alike = np.flatnonzero((has_score == pattern).all(1))
        stand_ins[:, alike] = rng.permuted(stand_ins[:, alike], axis=1)
    return stand_ins
