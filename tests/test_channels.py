"""Components and composition scores: by hand on axis-aligned heads, and equal to dense matrices on
tiny models.
"""

import math
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_folder, tiny_gpt2, tiny_llama, tiny_neox
from torch.testing import assert_close
from transformer_lens.tools.analysis import random_projection_kernel_moments

from benchmarks.component_scores import compare
from helpers.channels import (
    _factors,
    component_scores,
    components,
    near_equal,
    orthonormal_basis,
    pair_scores,
    pair_table,
    principal_angles,
    random_direction_scores,
    read_scores,
    scaling_matrix,
    strongest_directions,
    writing_vectors,
)
from helpers.heads import Head
from helpers.models import AttentionWeights, attention_weights
from scripts.reference_tables import CHANNELS, gpt2_channels

SIDES = ["query", "key", "value"]
TINY = {"gpt2": tiny_gpt2, "llama": tiny_llama, "neox": tiny_neox}
E0, E1, E2, E3 = torch.eye(4)
L0, L1 = Head(0, 0), Head(1, 0)
few = settings(
    max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def made(W_Q, W_K, W_V, W_O, **changes) -> AttentionWeights:
    """Attention weights, unless told otherwise without rotation."""
    fixed = {"positional": "absolute", "rotary_base": None, "rotary_dim": None} | changes
    return AttentionWeights(W_Q, W_K, W_V, W_O, W_Q.shape[1], W_K.shape[1], **fixed)


def head_scores(weights: AttentionWeights, side: str, *, distances=(0,)) -> torch.Tensor:
    """Scores of whole heads, [layer head layer head]."""
    return pair_scores(weights, side, distances=distances).whole


def talking(side: str, writes: list, reads: list) -> AttentionWeights:
    """Two layers of one head, d_model 4, d_head 2: L0H0 writes these two directions, L1H0 reads
    these two on one side.

    L0H0 reads e0 and e1 into its two dimensions; L1H0's other matrix (W_K, W_Q or W_O) holds e2 and
    e3.
    """
    zero = torch.zeros(2, 1, 4, 2)
    W = {"query": zero.clone(), "key": zero.clone(), "value": zero.clone(), "out": zero.clone()}
    W["value"][0, 0], W["out"][0, 0] = torch.stack([E0, E1], -1), torch.stack(writes, -1)
    W[side][1, 0] = torch.stack(reads, -1)
    W[{"query": "key", "key": "query", "value": "out"}[side]][1, 0] = torch.stack([E2, E3], -1)
    return made(W["query"], W["key"], W["value"], W["out"].mT)


def random_weights(
    seed: int, n_layers: int = 3, n_heads: int = 4, kv: int = 2, d_model: int = 12
) -> AttentionWeights:
    random = torch.Generator().manual_seed(seed)
    shapes = [(n_heads, d_model, 4), (kv, d_model, 4), (kv, d_model, 4), (n_heads, 4, d_model)]
    W = [torch.randn(n_layers, *shape, generator=random) for shape in shapes]
    return made(*W, positional="rotary", rotary_base=100.0, rotary_dim=2)


@cache
def read(kind: str) -> AttentionWeights:
    """The attention weights of the shared tiny model of that kind."""
    with tempfile.TemporaryDirectory() as folder:
        return attention_weights(str(tiny_folder(kind, Path(folder) / kind)))


def dense(weights: AttentionWeights, side: str, head: Head, distance: int = 0) -> torch.Tensor:
    left, right = _factors(weights, side, distance)
    return left[head] @ right[head].mT


# Scores by hand


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "reads, score",
    [
        ([E0, 0 * E0], 1),  # reads just what is written
        ([E1, 0 * E0], 0),
        ([E1, E3], 0),
        ([E0 + E1, 0 * E0], 1 / math.sqrt(2)),  # one direction, at 45 degrees
        ([E0, E1], 1 / math.sqrt(2)),  # two directions, one of them written
        ([3 * E0, 4 * E1], 3 / 5),
    ],
)
def test_score_of_a_head_that_writes_one_direction(side, reads, score):
    weights = talking(side, [7 * E0, 0 * E0], reads)
    assert_close(
        head_scores(weights, side)[0, 0, 1, 0], torch.tensor(float(score)), atol=1e-6, rtol=0
    )
    assert_close(
        component_scores(weights, side, senders=[L0])[0, 0, 1],
        torch.tensor(float(score)),
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize("side", SIDES)
def test_scores_of_a_head_that_writes_two_directions(side):
    weights = talking(side, [3 * E0, 4 * E1], [E0, 0 * E0])
    assert_close(head_scores(weights, side)[0, 0, 1, 0], torch.tensor(3 / 5))
    both = component_scores(weights, side, senders=[L0], receivers=[L1])
    assert_close(
        both, torch.tensor([[[0.0], [1.0]]])
    )  # the stronger component writes e1, which is not read


def test_other_sides_hear_nothing():
    weights = talking("query", [3 * E0, 4 * E1], [E0, E1])
    assert component_scores(weights, "key", senders=[L0], receivers=[L1]).abs().max() == 0
    assert (
        component_scores(weights, "value", senders=[L0], receivers=[L1]).isnan().all()
    )  # W_OV of L1H0 is zero


@pytest.mark.parametrize("side", SIDES)
def test_only_later_layers_have_a_score(side):
    weights = random_weights(0)
    scores, heads = component_scores(weights, side), head_scores(weights, side)
    layer = torch.arange(3).repeat_interleave(4)
    later = layer[:, None] < layer
    assert torch.equal(scores.isnan(), ~later[:, None].expand(-1, 4, -1))
    assert torch.equal(heads.isnan(), ~later.reshape(3, 4, 3, 4))


@pytest.mark.parametrize("side", SIDES)
def test_a_component_that_is_zero_has_no_score(side):
    weights = talking(side, [7 * E0, 0 * E0], [E0, E1])
    assert component_scores(weights, side, senders=[L0], receivers=[L1])[0, 1].isnan().all()


def test_read_scores_by_hand():
    weights = talking(
        "value", [3 * E0, 4 * E1], [2 * E0, 5 * E1]
    )  # the receiver's stronger component reads e1
    assert_close(read_scores(weights, [L0], [L1]), torch.tensor([[[4 / 5, 3 / 5]]]))
    assert read_scores(talking("value", [3 * E0, 4 * E1], [2 * E0, 0 * E0]), [L0], [L1])[
        0, 0, 1
    ].isnan()


def test_given_heads_are_rows_and_columns_of_the_whole_table():
    weights, senders, receivers = (
        random_weights(1),
        [Head(1, 2), Head(0, 3)],
        [Head(2, 1), Head(1, 0), Head(2, 3)],
    )
    part = component_scores(weights, "query", senders=senders, receivers=receivers)
    assert_close(part, component_scores(weights, "query")[[6, 3]][:, :, [9, 4, 11]], equal_nan=True)
    assert part[0, :, 1].isnan().all() and not part[0, :, 0].isnan().any()


# Equal to dense matrices and to TransformerLens


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", TINY)
def test_component_scores_equal_the_dense_computation(kind, side):
    weights, distances = read(kind), (0,) if kind == "gpt2" else (1, 5)
    senders, receivers = [Head(0, 1), Head(1, 3)], [Head(2, 0), Head(2, 3), Head(1, 2)]
    found = component_scores(
        weights, side, senders=senders, receivers=receivers, distances=distances
    )
    for i, sender in enumerate(senders):
        U, S, Vh = torch.linalg.svd(dense(weights, "value", sender))
        for j, receiver in enumerate(receivers):
            if receiver.layer > sender.layer:
                B = [dense(weights, side, receiver, distance) for distance in distances]
                A = [S[k] * torch.outer(U[:, k], Vh[k]) for k in range(8)]
                expected = [
                    sum((a @ b).norm() / a.norm() / b.norm() for b in B) / len(B) for a in A
                ]
                assert_close(found[i, :, j], torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", TINY)
def test_scores_of_whole_heads_equal_those_of_transformer_lens(kind, side):
    theirs = TINY[kind]().all_composition_scores(side[0].upper()).scores
    assert_close(head_scores(read(kind), side).nan_to_num(0), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "neox"])
def test_scores_of_whole_heads_at_distances_equal_the_dense_average(kind):
    weights, sender, receiver = read(kind), Head(0, 1), Head(2, 3)
    A, B = (
        dense(weights, "value", sender),
        [dense(weights, "query", receiver, d) for d in (2, 3, 9)],
    )
    expected = sum((A @ b).norm() / A.norm() / b.norm() for b in B) / 3
    found = head_scores(weights, "query", distances=(2, 3, 9))
    assert_close(found[sender][receiver], expected, atol=1e-5, rtol=0)
    assert (found - head_scores(weights, "query")).abs().nan_to_num(
        0
    ).max() > 1e-3  # rotation matters


@pytest.mark.parametrize("kind", ["llama", "neox"])
def test_rotated_matrices_give_the_models_own_attention_scores(kind):
    model, weights = TINY[kind](), read(kind)
    _, cache = model.run_with_cache(torch.tensor([[3, 14, 15, 92, 65, 35, 89]]))

    def biased(name: str) -> torch.Tensor:
        """One more row, of biases, which Llama has not."""
        W, b = (
            getattr(weights, f"W_{name}"),
            [getattr(block.attn, f"b_{name}") for block in model.blocks],
        )
        b = torch.zeros(W.shape[0], W.shape[1], 8) if b[0] is None else torch.stack(b)
        return torch.cat([W, b[:, :, None]], dim=2)

    rotary = {name: getattr(weights, name) for name in ("positional", "rotary_base", "rotary_dim")}
    W_Q, W_K = biased("Q"), biased("K")
    longer = made(
        W_Q, W_K, W_K, W_Q.mT, **rotary
    )  # one more dimension of x, always 1, reads the biases
    for layer in range(3):
        x = cache[f"blocks.{layer}.ln1.hook_normalized"][0]
        x = torch.cat([x, torch.ones(7, 1)], dim=-1)
        for query, key in [(6, 6), (6, 5), (5, 1), (6, 0)]:
            for head in range(4):
                B = dense(longer, "query", Head(layer, head), query - key)
                theirs = cache[f"blocks.{layer}.attn.hook_attn_scores"][0, head, query, key]
                assert_close(x[query] @ B @ x[key] / math.sqrt(8), theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("matrix, side", [("OV", "value"), ("QK", "query")])
@pytest.mark.parametrize("kind", TINY)
def test_all_components_sum_to_the_matrix(kind, matrix, side):
    weights, found = read(kind), components(read(kind), matrix)
    whole = torch.stack(
        [torch.stack([dense(weights, side, Head(la, h)) for h in range(4)]) for la in range(3)]
    )
    assert_close(found.U * found.S[..., None, :] @ found.V.mT, whole, atol=1e-4, rtol=1e-5)
    for vectors in (found.U, found.V):
        assert_close(vectors.mT @ vectors, torch.eye(8).expand(3, 4, 8, 8), atol=1e-5, rtol=0)
    assert (found.S.diff(dim=-1) <= 0).all()


def test_signs_are_settled_by_the_largest_entry_of_v():
    V = components(random_weights(0), "OV").V
    assert torch.equal(V.amax(-2), V.abs().amax(-2))
    found = components(talking("value", [-3 * E0, -4 * E1 + E2], [E0, E1]), "OV")
    assert_close(found.S[0, 0], torch.tensor([math.sqrt(17), 3]))
    assert_close(found.V[L0].T, torch.stack([(4 * E1 - E2) / math.sqrt(17), E0]))
    assert_close(found.U[L0].T, torch.stack([-E1, -E0]))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", TINY)
def test_squared_component_scores_add_up_to_the_head_score(kind, side):
    weights = read(kind)
    S, parts = components(weights, "OV").S.flatten(0, 1), component_scores(weights, side)
    added = (parts.square() * S[..., None].square()).sum(1) / S.square().sum(1, keepdim=True)
    assert_close(
        added.sqrt().reshape(3, 4, 3, 4),
        head_scores(weights, side),
        atol=1e-6,
        rtol=1e-5,
        equal_nan=True,
    )


# Properties


@few
@given(seed=st.integers(0, 10**6), side=st.sampled_from(SIDES), distance=st.integers(0, 50))
def test_scores_do_not_hang_on_the_basis_of_the_residual_stream(seed, side, distance):
    weights = random_weights(seed)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(seed + 1))).Q
    turned = {name: turn.T @ getattr(weights, name) for name in ("W_Q", "W_K", "W_V")}
    other = replace(weights, **turned, W_O=weights.W_O @ turn)
    for scores in (component_scores, head_scores):
        ours, theirs = (scores(w, side, distances=[distance]) for w in (weights, other))
        assert_close(ours, theirs, atol=1e-3, rtol=0, equal_nan=True)


@few
@given(seed=st.integers(0, 10**6), side=st.sampled_from(SIDES), factor=st.floats(0.01, 100))
def test_scores_lie_between_0_and_1_and_do_not_hang_on_the_scale(seed, side, factor):
    weights = random_weights(seed)
    scores = component_scores(weights, side)
    assert 0 <= scores.nan_to_num(0).min() and scores.nan_to_num(0).max() <= 1 + 1e-6
    scaled = replace(weights, W_O=factor * weights.W_O, W_Q=weights.W_Q / factor)
    assert_close(component_scores(scaled, side), scores, atol=1e-4, rtol=0, equal_nan=True)


@few
@given(seed=st.integers(0, 10**6), factors=st.lists(st.floats(-2, 2), min_size=1, max_size=4))
def test_scaling_scales_just_these_components(seed, factors):
    weights, head, factors = random_weights(seed), Head(1, 2), torch.tensor(factors)
    V, W_O = components(weights, "OV").V[head][:, : len(factors)], weights.W_O[head]
    expected = W_O @ (torch.eye(12) + V * (factors - 1) @ V.T)
    assert_close(scaling_matrix(W_O, V, factors) @ W_O, expected, atol=1e-4, rtol=0)


# Nulls


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", TINY)
def test_random_directions_have_the_analytic_mean(kind, side):
    """1 / d, of the 32 dimensions of which LayerNorm models leave the mean out; TransformerLens has
    the variance.
    """
    moments = random_projection_kernel_moments(
        32 if kind == "llama" else 31, 1
    )  # of one direction: the largest
    squares = random_direction_scores(
        read(kind), side, [Head(1, 0), Head(2, 3)], n=20_000, seed=0
    ).square()
    bound = 4 * math.sqrt(moments.variance / 20_000)
    assert_close(squares.mean(0), torch.full((2,), moments.mean), atol=bound, rtol=0)


def test_random_directions_by_hand():
    """A receiver of one direction: score^2 = cos^2 in 4 dimensions, E cos^2 = 1/4, E cos^4 = 3 / (4
    x 6) = 1/8.
    """
    weights = talking("query", [E0, E1], [5 * E0, 0 * E0])
    squares = random_direction_scores(weights, "query", [L1], n=20_000, seed=0).square()
    assert squares.mean().item() == pytest.approx(1 / 4, abs=4 * math.sqrt(1 / 16 / 20_000))
    assert squares.square().mean().item() == pytest.approx(1 / 8, abs=0.01)


def test_random_directions_repeat_by_seed_and_average_over_distances():
    weights, heads = random_weights(2), [Head(0, 0), Head(2, 1)]
    a, b, both = (
        random_direction_scores(weights, "key", heads, n=5, seed=3, distances=d)
        for d in ([1], [7], [1, 7])
    )
    assert_close((a + b) / 2, both)
    assert both.shape == (5, 2) and not torch.equal(a, b)
    assert not torch.equal(
        a, random_direction_scores(weights, "key", heads, n=5, seed=4, distances=[1])
    )


# Ranks of pairs


def four_heads() -> AttentionWeights:
    """Two layers of two heads: L0H0 writes 2 e0 and e1, L0H1 writes e1; by query L1H0 reads 3 e0
    and 4 e1, L1H1 e0.

    L1H0 hands on what it reads of e1 as its first OV component and of e0 as its second; L1H1 only
    of e1.
    """
    zero = torch.zeros(4)
    reads = {"W_Q": [[E2, E3], [E2, E3], [3 * E0, 4 * E1], [E0, zero]], "W_K": [[E2, E3]] * 4}
    reads["W_V"] = [[E0, E1], [E0, E1], [E0, 2 * E1], [zero, E1]]
    writes = [[2 * E0, E1], [zero, E1], [E2, E3], [E2, E3]]
    W = {
        name: torch.stack([torch.stack(pair, -1) for pair in pairs])
        for name, pairs in reads.items()
    }
    W_O = torch.stack([torch.stack(pair) for pair in writes])
    return made(*(w.reshape(2, 2, *w.shape[1:]) for w in (*W.values(), W_O)))


def test_ranks_of_pairs_by_hand():
    """L0H0 to L1H0 sqrt(6^2 + 4^2) / sqrt(5 x 25), to L1H1 2 / sqrt(5); L0H1 to L1H0 4 / 5, to L1H1
    0.
    """
    weights, scores = four_heads(), pair_scores(four_heads(), "query")
    whole = [[math.sqrt(52 / 125), 2 / math.sqrt(5)], [4 / 5, 0]]
    assert_close(scores.whole[0, :, 1], torch.tensor(whole))
    assert_close(
        scores.best[0, :, 1], torch.tensor([[4 / 5, 1], [4 / 5, 0]])
    )  # e0 is component 0 of L0H0, e1 is 1
    assert scores.component[0, :, 1].tolist() == [[1, 0], [0, 0]]
    table = pair_table(
        weights,
        scores,
        [(Head(0, 0), Head(1, 0)), (Head(0, 0), Head(1, 1)), (Head(0, 1), Head(1, 0))],
    )
    assert table["receiver"].tolist() == ["L1H0", "L1H1", "L1H0"] and (table["n"] == 4).all()
    assert table["rank"].tolist() == [3, 1, 2] and table["rank_here"].tolist() == [2, 1, 1]
    assert table["component"].tolist() == [1, 0, 0] and table["component_rank"].tolist() == [
        2,
        1,
        2,
    ]
    assert (table["n_here"] == 2).all() and table["into"].isna().all()


def test_the_component_written_into_by_hand():
    pairs = [(Head(0, 0), Head(1, 0)), (Head(0, 1), Head(1, 0)), (Head(0, 1), Head(1, 1))]
    table = pair_table(four_heads(), pair_scores(four_heads(), "value"), pairs)
    assert table["into"].tolist() == [
        1,
        0,
        0,
    ]  # L1H0 reads e1 with component 0, e0 with component 1


@pytest.mark.parametrize("side", SIDES)
def test_pair_scores_are_of_whole_heads_and_of_their_best_components(side):
    weights, distances = read("llama"), (1, 5)
    found = pair_scores(weights, side, distances=distances)
    parts = component_scores(weights, side, distances=distances)
    A, B = (
        dense(weights, "value", Head(0, 0)),
        [dense(weights, side, Head(1, 1), d) for d in distances],
    )
    assert_close(found.whole[0, 0, 1, 1], sum((A @ b).norm() / A.norm() / b.norm() for b in B) / 2)
    assert_close(found.best.flatten(0, 1).flatten(1), parts.amax(1), equal_nan=True)
    assert_close(parts[0, found.component[0, 0, 1, 1], 5], found.best[0, 0, 1, 1])


def test_pairs_without_a_score_are_told():
    weights, scores = four_heads(), pair_scores(four_heads(), "query")
    with pytest.raises(ValueError, match="L1H0 does not write to L1H1: give a later head"):
        pair_table(weights, scores, [(Head(1, 0), Head(1, 1))])
    with pytest.raises(ValueError, match="L0H2 does not exist"):
        pair_table(weights, scores, [(Head(0, 2), Head(1, 1))])


def test_the_reference_table_is_that_of_the_paper_models_tensors(assets):
    committed, measured = pd.read_csv(CHANNELS).astype({"into": "Int64"}), gpt2_channels()
    ranks = [column for column in measured if "rank" in column]
    assert (
        committed[ranks] - measured[ranks]
    ).abs().max().max() <= 2  # last digits may swap neighbors
    rest = {"left": committed.drop(columns=ranks), "right": measured.drop(columns=ranks)}
    pd.testing.assert_frame_equal(**rest, rtol=1e-3, check_dtype=False)


# Blocks, subspaces, scaling


@pytest.mark.parametrize(
    "S, blocks",
    [
        ([10, 9.95, 5, 4.97, 4.94, 1], [[0, 1], [2, 3, 4], [5]]),
        ([3, 2, 1], [[0], [1], [2]]),
        ([3, 0, 0], [[0], [1, 2]]),
        ([2], [[0]]),
    ],
)
def test_near_equal_singular_values_share_a_block(S, blocks):
    assert near_equal(torch.tensor(S, dtype=torch.float32)) == blocks


def test_span_and_principal_angles_by_hand():
    plane = orthonormal_basis(torch.stack([E0, E0 + E1, 2 * E1], -1))
    assert plane.shape == (4, 2)
    assert_close(plane @ plane.T, torch.diag(E0 + E1), atol=1e-6, rtol=0)
    other = torch.stack([5 * E0, E1 + E2], -1)
    assert principal_angles(plane, other).tolist() == pytest.approx([0, 45], abs=1e-3)
    assert principal_angles(plane, torch.stack([E3], -1)).tolist() == pytest.approx([90])


def test_scaling_by_hand():
    W_O = torch.stack([3 * E0, 4 * E1])
    M = scaling_matrix(W_O, torch.stack([E0, E1], -1), torch.tensor([0.0, 2.0]))
    assert_close(M, torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    mixed = scaling_matrix(W_O, ((E0 + E1) / math.sqrt(2))[:, None], torch.tensor([0.0]))
    assert_close(mixed @ W_O, torch.stack([1.5 * (E0 - E1), 2 * (E1 - E0)]))
    assert_close(scaling_matrix(W_O, E1[:, None], torch.tensor([1.0])), torch.eye(2))


# Bad input


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"senders": [Head(3, 0)]}, "L3H0 does not exist: use L0H0 to L2H3"),
        ({"receivers": [Head(1, 4)]}, "L1H4 does not exist"),
        ({"receivers": [Head(-1, 0)]}, "L-1H0 does not exist"),
        ({"senders": [Head(0, 1), Head(2, 1)]}, "No receiver comes after L2H1"),
        (
            {"senders": [Head(1, 1)], "receivers": [Head(1, 2), Head(0, 0)]},
            "No receiver comes after L1H1",
        ),
        ({"receivers": [Head(0, 2)]}, "No receiver comes after L0H0"),
        ({"senders": []}, "There is no head to score"),
        ({"receivers": []}, "There is no head to score"),
        ({"distances": ()}, "at least one distance"),
        ({"distances": (3, -1)}, "none below 0"),
    ],
)
def test_heads_pairs_and_distances_that_cannot_be_scored_are_told(arguments, words):
    with pytest.raises(ValueError, match=words):
        component_scores(random_weights(0), "query", **arguments)


def test_more_input_that_cannot_be_scored_is_told():
    weights, absolute = random_weights(0), read("gpt2")
    with pytest.raises(ValueError, match="no rotary positions"):
        component_scores(absolute, "query", distances=(1,))
    with pytest.raises(ValueError, match="No receiver comes after L2H0"):
        read_scores(weights, [Head(2, 0)], [Head(2, 1)])
    with pytest.raises(ValueError, match="L9H0 does not exist"):
        random_direction_scores(weights, "query", [Head(9, 0)], n=1, seed=0)


def test_nothing_is_made_on_another_device():
    """Everything given is on the CPU; what is made without saying where would be on `meta`, and not
    go together.
    """
    W_O, V, factor = torch.stack([3 * E0, 4 * E1]), E0[:, None], torch.tensor([0.5])
    with torch.device("meta"):
        found = scaling_matrix(W_O, V, factor)
    assert_close(found, torch.diag(torch.tensor([0.5, 1.0])))


def test_directions_that_do_not_fit_are_told():
    W_O, keep = torch.stack([3 * E0, 4 * E1]), torch.ones(1)
    with pytest.raises(ValueError, match="cannot write along these"):
        scaling_matrix(W_O, ((E0 + E2) / math.sqrt(2))[:, None], keep)
    with pytest.raises(ValueError, match="not orthonormal"):
        scaling_matrix(W_O, 2 * E0[:, None], keep)
    with pytest.raises(ValueError, match="both from one model"):
        scaling_matrix(W_O, torch.ones(5, 1), keep)
    with pytest.raises(ValueError, match="of two models"):
        principal_angles(torch.eye(4), torch.eye(5))


# The benchmark


@pytest.mark.parametrize("kind", TINY)
def test_the_benchmark_counts_every_score_and_equals_the_dense_sample(kind):
    found = compare(read(kind), sample=20, repeats=2)
    assert found["n"] == 3 * 8 * (
        3 * 4 * 4
    )  # sides, components, pairs of 4 heads in 3 pairs of layers
    assert found["max_difference"] < 1e-5 and found["pairs_timed"] == 60
    assert found["ratio"] == found["baseline_seconds"] / found["seconds"]


def test_strongest_directions_follow_the_reader_not_the_writer():
    """The head writes 5 (e0 + e1) and e0 - e1, its components; the receiver's query reads 3 e0 and
    e1.
    """
    weights = talking("query", [5 * (E0 + E1), E0 - E1], [3 * E0, E1])
    found = strongest_directions(weights, L0, [L1])
    assert_close(found.abs(), torch.stack([E0, E1], -1))
    both = component_scores(weights, "query", senders=[L0], receivers=[L1])[0, :2, 0]
    assert_close(both, torch.full((2,), math.sqrt(5 / 10)))  # either component: (9 + 1) / 2 of 10


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_strongest_directions_are_a_basis_of_what_the_head_writes(family):
    weights, sender, receivers = read(family), Head(0, 1), [Head(1, 0), Head(2, 3)]
    found = strongest_directions(weights, sender, receivers)
    assert_close(found.mT @ found, torch.eye(found.shape[1]), atol=1e-5, rtol=0)
    writing_vectors(weights.W_O[sender], found)  # raises for a direction that the head cannot write
    squares = (
        component_scores(weights, "query", senders=[sender], receivers=receivers)
        .square()
        .mean(-1)[0]
    )
    B = torch.stack([dense(weights, "query", receiver) for receiver in receivers])
    mine = ((found.mT @ B).norm(dim=-1) / B.norm(dim=(-2, -1))[:, None]).square().mean(0)
    assert (mine[:-1] >= mine[1:] - 1e-6).all() and mine[0] >= squares.max()
    assert_close(mine.sum(), squares.sum())


def test_strongest_directions_need_a_later_receiver():
    with pytest.raises(ValueError, match="No receiver comes after"):
        strongest_directions(talking("query", [E0, E1], [E0, E1]), L1, [L0])
