"""Channels in the weights: SVD components of heads and how strongly one head's output reaches
another's input.

Row vectors, as in TransformerLens. W_OV = W_V W_O = sum_k s_k u_k v_k^T: the head reads along u_k
and writes along v_k. W_QK = W_Q W_K^T = sum_k s_k u_k v_k^T: the query is read along u_k, the key
along v_k. The term s_k u_k v_k^T is component k (Merullo et al. 2024, Talking Heads).

Composition score (Elhage et al. 2021) of a sender's matrix A with a receiver's B: ||A B||_F /
(||A||_F ||B||_F), from 0 (B reads nothing of what A writes) to 1. By the receiver's side, B is W_QK
(query), W_QK^T (key) or W_OV (value). For a component, A = s_k u_k v_k^T and the score is ||v_k^T
B|| / ||B||_F. No d_model x d_model matrix is ever formed.

Weights come from `attention_weights`: norms folded, centred where the norm is LayerNorm. Query
heads that share a key and value head share its matrices. With rotary positions W_QK depends on how
many tokens the query is behind the key: scores are averaged over the `distances` asked for, and
distance 0, the default, is W_QK without rotation.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import scipy.linalg
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import FactoredMatrix
from transformers.models.llama.modeling_llama import rotate_half

from helpers.heads import Head, check_heads
from helpers.models import AttentionWeights

Side = Literal["query", "key", "value"]
"""Where the receiver reads: into its W_QK as the query, as the key, or into its W_OV."""

TINY = 1e-6
"""Below this share of the largest value, a singular value or a mean is zero but for rounding."""


@dataclass(frozen=True)
class Components:
    """Singular vectors and values, largest first, of one matrix of every head: `V[head]` is
    [d_model component].

    Signs: the entry of v_k that is largest in size is positive, and u_k is turned with it.
    """

    U: Float[Tensor, "layer head d_model component"]
    S: Float[Tensor, "layer head component"]
    V: Float[Tensor, "layer head d_model component"]


@functools.lru_cache(maxsize=4)
def components(weights: AttentionWeights, matrix: Literal["OV", "QK"]) -> Components:
    """SVD of W_OV or of W_QK (without rotation) of every head, from the factors; the last few are
    kept.
    """
    if matrix not in ("OV", "QK"):
        raise ValueError(f"Unknown matrix {matrix!r}: choose 'OV' or 'QK'.")
    left, right = _factors(weights, "value" if matrix == "OV" else "query")
    U, S, V = FactoredMatrix(left, right.mT).svd()
    sign = V.gather(-2, V.abs().argmax(-2, keepdim=True)).sign()
    return Components(U * sign, S, V * sign)


def near_equal(S: Float[Tensor, " component"], rtol: float = 1e-2) -> list[list[int]]:
    """Components in blocks: neighbours whose singular values differ by at most rtol of the larger.

    Inside a block the single directions are arbitrary, any rotation of them serves as well: use the
    block's span.
    """
    S = S.numpy()
    cuts = np.flatnonzero(S[:-1] - S[1:] > rtol * S[:-1]) + 1
    return [block.tolist() for block in np.split(np.arange(len(S)), cuts)]


def component_scores(
    weights: AttentionWeights,
    side: Side,
    *,
    senders: Sequence[Head] | None = None,
    receivers: Sequence[Head] | None = None,
    distances: Sequence[int] = (0,),
) -> Float[Tensor, "sender component receiver"]:
    """Composition score of every OV component of the senders with the receivers (default: all
    heads, layer by layer).

    NaN where the receiver is not in a later layer, or where the component or the receiver's matrix
    is zero. Raises ValueError for a head that does not exist, a given sender that no receiver comes
    after, bad distances.
    """
    senders, receivers, later = _pairs(weights, senders, receivers)
    V, share = _written(weights, senders)
    V = V.where(share > TINY, torch.nan)

    def scores(
        read: Float[Tensor, "receiver d_model d_head"],
    ) -> Float[Tensor, "sender component receiver"]:
        norms = V.new_full((*V.shape[:2], len(read)), torch.nan)
        for j, after in enumerate(later.T):  # one receiver at a time, so that memory stays small
            norms[after, :, j] = (V[after] @ read[j]).norm(dim=-1)
        return norms

    return _average(scores, weights, side, receivers, distances)


def strongest_directions(
    weights: AttentionWeights,
    sender: Head,
    receivers: Sequence[Head],
    *,
    distances: Sequence[int] = (0,),
) -> Float[Tensor, "d_model direction"]:
    """Orthonormal directions that a head can write, by how strongly the receivers' queries read
    them.

    The first one has the largest composition score (squared, mean over receivers and distances) of
    all directions that the head writes, each next one the largest of what is orthogonal to those
    before: the components of a head are such a basis, too, but ordered by what it writes. Raises
    ValueError as `component_scores` does.
    """
    _pairs(weights, [sender], receivers)
    later = [receiver for receiver in receivers if receiver.layer > sender.layer]
    found = components(weights, "OV")
    V = found.V[sender][:, found.S[sender] > TINY * found.S[sender][0]]
    gram = _average(
        lambda read: (V.mT @ read @ read.mT @ V).mean(0), weights, "query", later, distances
    )
    return V @ torch.linalg.eigh(gram).eigenvectors.flip(-1)


def read_scores(
    weights: AttentionWeights, senders: Sequence[Head], receivers: Sequence[Head]
) -> Float[Tensor, "sender receiver component"]:
    """Composition score of whole senders with every OV component of the receivers: ||W_OV u_k|| /
    ||W_OV||_F.

    NaN where the receiver is not in a later layer, or where the component or the sender's matrix is
    zero. Raises ValueError as `component_scores` does.
    """
    senders, receivers, later = _pairs(weights, senders, receivers)
    V, share = _written(weights, senders)
    found, at = components(weights, "OV"), tuple(zip(*receivers, strict=True))
    scores = torch.einsum("skm,rmc->srkc", V * share, found.U[at]).norm(dim=2)
    return scores.where(later[..., None] & (found.S[at] > TINY * found.S[at][:, :1]), torch.nan)


@dataclass(frozen=True)
class PairScores:
    """Composition scores of all pairs on one side, sender before receiver; NaN as in
    `component_scores`.
    """

    side: Side
    whole: Float[Tensor, "layer head layer head"]
    best: Float[Tensor, "layer head layer head"]
    """Score of the sender's component that scores highest."""
    component: Int[Tensor, "layer head layer head"]
    """Which component that is; 0 where there is no score."""


def pair_scores(
    weights: AttentionWeights, side: Side, *, distances: Sequence[int] = (0,)
) -> PairScores:
    """Whole heads and best components of all pairs, in one pass over the components per distance.

    ||A B||^2 = sum_k s_k^2 ||v_k^T B||^2, so whole heads' scores are the components' added up.
    """
    share = _written(weights, _pairs(weights, None, None)[0])[1]
    parts = [component_scores(weights, side, distances=[d]) for d in distances]
    missing = parts[0].isnan().all(1)
    whole = sum((part.nan_to_num(0) * share).norm(dim=1) for part in parts) / len(parts)
    best, component = (sum(parts) / len(parts)).nan_to_num(-1).max(1)
    tables = whole.where(~missing, torch.nan), best.where(~missing, torch.nan), component
    return PairScores(side, *(table.view(2 * weights.W_O.shape[:2]) for table in tables))


def pair_table(
    weights: AttentionWeights, scores: PairScores, pairs: Sequence[tuple[Head, Head]]
) -> pd.DataFrame:
    """One row per (sender, receiver): scores and ranks, 1 = highest, of the whole heads and of the
    best component.

    `rank` is that among all `n` pairs of the side, `rank_here` that among the `n_here` heads that
    write to this receiver. `into`, on the value side: the receiver's OV component into which the
    sender writes most. Raises ValueError for a pair that does not exist or has no score.
    """
    rows = []
    for sender, receiver in pairs:
        _check(weights, [sender, receiver])
        at = (*sender, *receiver)
        if scores.whole[at].isnan():
            raise ValueError(
                f"{sender} does not write to {receiver}: give a later head, with nonzero matrices."
            )
        row = {"sender": str(sender), "receiver": str(receiver), "side": scores.side}
        row |= {
            "n": int((~scores.whole.isnan()).sum()),
            "n_here": int((~scores.whole[..., *receiver].isnan()).sum()),
        }
        row |= {"component": int(scores.component[at]), "into": None}
        for name, table in (("", scores.whole), ("component_", scores.best)):
            higher = table > table[at] * (1 + 10 * TINY)  # equal but for rounding: the same rank
            row |= {f"{name}score": float(table[at]), f"{name}rank": int(higher.sum()) + 1}
            row |= {f"{name}rank_here": int(higher[..., *receiver].sum()) + 1}
        if scores.side == "value":
            row["into"] = int(
                read_scores(weights, [sender], [receiver])[0, 0].nan_to_num(-1).argmax()
            )
        rows.append(row)
    return pd.DataFrame(rows).astype({"into": "Int64"})


def random_direction_scores(
    weights: AttentionWeights,
    side: Side,
    receivers: Sequence[Head],
    *,
    n: int,
    seed: int,
    distances: Sequence[int] = (0,),
) -> Float[Tensor, "n receiver"]:
    """Null: scores of n random rank-1 matrices, that is of random unit directions of the space that
    heads write to.

    That space is the residual stream, without its mean direction where weights are centred.
    """
    _check(weights, receivers)
    x = torch.randn(n, weights.W_O.shape[-1], generator=torch.Generator().manual_seed(seed))
    if weights.W_O.mean(-1).abs().max() <= TINY * weights.W_O.abs().max():
        x -= x.mean(-1, keepdim=True)
    x /= x.norm(dim=-1, keepdim=True)
    return _average(lambda read: (x @ read).norm(dim=-1).T, weights, side, receivers, distances)


def orthonormal_basis(directions: Float[Tensor, "d_model n"]) -> Float[Tensor, "d_model rank"]:
    """Orthonormal basis of the span of some directions."""
    return torch.from_numpy(scipy.linalg.orth(directions.numpy(), rcond=TINY))


def principal_angles(
    a: Float[Tensor, "_ m"], b: Float[Tensor, "_ n"]
) -> Float[np.ndarray, " angle"]:
    """Angles between the spans of two sets of directions, in degrees, smallest first: 0 = shared,
    90 = orthogonal.
    """
    if len(a) != len(b):
        raise ValueError(
            f"Directions of {len(a)} and {len(b)} dimensions are of two models: take both from one."
        )
    return np.rad2deg(scipy.linalg.subspace_angles(a.numpy(), b.numpy()))[::-1]


def writing_vectors(
    W_O: Float[Tensor, "d_head d_model"], directions: Float[Tensor, "_ c"]
) -> Float[Tensor, "c d_head"]:
    """The z that makes a head write exactly each direction: z W_O = v_k, with the pseudoinverse
    v_k^T W_O^+.

    Raises ValueError unless the directions are orthonormal and can be written by W_O, as its own
    components are.
    """
    if len(directions) != W_O.shape[1]:
        raise ValueError(
            f"Directions have {len(directions)} dimensions, W_O {W_O.shape[1]}: take both from one model."
        )
    W = W_O.double()
    v = directions.to(W)
    z = v.mT @ torch.linalg.pinv(W, rtol=TINY)
    if not (v.mT @ v).allclose(torch.eye(v.shape[1], dtype=v.dtype, device=v.device), atol=1e-4):
        raise ValueError("The directions are not orthonormal: pass them through span() first.")
    if not (z @ W).allclose(v.mT, atol=1e-4):
        raise ValueError(
            "This head cannot write along these directions: take the v_k of its own W_OV components."
        )
    return z.to(W_O)


def scaling_matrix(
    W_O: Float[Tensor, "d_head d_model"],
    directions: Float[Tensor, "_ c"],
    factors: Float[Tensor, " c"],
) -> Float[Tensor, "d_head d_head"]:
    """The matrix M that scales what a head writes along orthonormal directions v_k by f_k, and
    leaves the rest alone.

    M W_O = W_O (I + sum_k (f_k - 1) v_k v_k^T): take z M for z, or M W_O for W_O. Factor 0 removes
    a component, 1 keeps it. M = I + sum_k (f_k - 1) (W_O v_k) z_k, with z_k from `writing_vectors`, which
    says what is refused.
    """
    z = writing_vectors(W_O, directions)
    eye = torch.eye(len(W_O), dtype=W_O.dtype, device=W_O.device)
    return eye + (W_O @ directions.to(W_O) * (factors.to(W_O) - 1)) @ z


def _factors(
    weights: AttentionWeights, side: Side, distance: int = 0
) -> tuple[Float[Tensor, "layer head d_model d_head"], Float[Tensor, "layer head d_model d_head"]]:
    """Left and right of every head, B = left right^T."""
    if side not in get_args(Side):
        raise ValueError(f"Unknown side {side!r}: choose one of {', '.join(get_args(Side))}.")
    W_K, W_V = (
        w.repeat_interleave(weights.n_heads // weights.n_kv_heads, dim=1)
        for w in (weights.W_K, weights.W_V)
    )
    if side == "value":
        return W_V, weights.W_O.mT
    W_Q = _rotated(weights, distance) if distance else weights.W_Q
    return (W_Q, W_K) if side == "query" else (W_K, W_Q)


def _rotated(
    weights: AttentionWeights, distance: int
) -> Float[Tensor, "layer head d_model d_head"]:
    """W_Q as seen by a key `distance` tokens earlier: rotary positions turn each pair of dimensions
    by an angle.
    """
    turning, still = weights.W_Q.tensor_split([weights.rotary_dim], dim=-1)
    exponent = torch.arange(0, weights.rotary_dim, 2, dtype=torch.float64) / weights.rotary_dim
    angle = (distance * weights.rotary_base**-exponent).repeat(2)
    return torch.cat(
        [turning * angle.cos().float() + rotate_half(turning) * angle.sin().float(), still], dim=-1
    )


def _written(
    weights: AttentionWeights, senders: Sequence[Head]
) -> tuple[Float[Tensor, "sender component d_model"], Float[Tensor, "sender component 1"]]:
    """Directions v_k of the senders' W_OV, and each one's share of the matrix, s_k / ||W_OV||_F."""
    sent = components(weights, "OV")
    V, S = (x[*zip(*senders, strict=True)] for x in (sent.V, sent.S))
    return V.mT.contiguous(), (S / S.norm(dim=-1, keepdim=True))[..., None]


def _average(
    score: Callable,
    weights: AttentionWeights,
    side: Side,
    receivers: Sequence[Head],
    distances: Sequence[int],
) -> Tensor:
    """Mean over distances of a score of what receivers read; on the value side every distance is
    the same.

    That is N [receiver d_model d_head] with ||x N|| = ||x B|| / ||B||_F for every direction x:
    where B = left right^T and right = Q R with orthonormal Q, ||x B|| = ||x left R^T||.
    """
    if not distances or min(distances) < 0:
        raise ValueError(
            "Give at least one distance, in tokens, and none below 0: queries come after their keys."
        )
    if any(distances) and weights.positional != "rotary":
        raise ValueError(
            "This model has no rotary positions, so its scores have no distance: leave distances out."
        )
    distances, total = [0] if side == "value" else distances, 0
    for distance in distances:
        left, right = (w[*zip(*receivers, strict=True)] for w in _factors(weights, side, distance))
        N = left @ torch.linalg.qr(right, mode="r").R.mT
        total += score(N / N.norm(dim=(-2, -1), keepdim=True))
    return total / len(distances)


def _check(weights: AttentionWeights, heads: Sequence[Head]) -> None:
    if not heads:
        raise ValueError("There is no head to score: give at least one sender and one receiver.")
    check_heads(heads, *weights.W_O.shape[:2])


def _pairs(
    weights: AttentionWeights, senders: Sequence[Head] | None, receivers: Sequence[Head] | None
) -> tuple[Sequence[Head], Sequence[Head], Bool[Tensor, "sender receiver"]]:
    """Senders, receivers (all heads where not given) and which is after which; a given sender needs
    one after it.
    """
    everyone = [
        Head(layer, head) for layer in range(len(weights.W_O)) for head in range(weights.n_heads)
    ]
    given = everyone[:1] if senders is None else senders
    senders, receivers = (everyone if heads is None else heads for heads in (senders, receivers))
    _check(weights, senders)
    _check(weights, receivers)
    last = max(head.layer for head in receivers)
    if early := [str(head) for head in given if head.layer >= last]:
        raise ValueError(
            f"No receiver comes after {', '.join(early)}: a head is read by later layers only."
        )
    later = torch.tensor(
        [[receiver.layer > sender.layer for receiver in receivers] for sender in senders]
    )
    return senders, receivers, later
