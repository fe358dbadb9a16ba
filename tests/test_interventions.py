"""Interventions: against pen and paper, against each other, and gone without a trace afterwards."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config
from transformer_lens.tools.analysis import direct_logit_attribution

from helpers.behavior import evaluate
from helpers.engine import Edit
from helpers.heads import Head
from helpers.interventions import (
    block_attention,
    change_heads,
    combine_edits,
    coordinates_at_end,
    edit_weights,
    force_attention,
    learn_coordinates,
    set_attention,
    set_coordinates,
    steer,
)
from helpers.models import load_model
from tests.by_hand import Wires, hand_model, hand_prompts
from tests.tiny import random_prompts, tiny_folder, tiny_gpt2, tiny_llama, tiny_neox

TINY = {"gpt2": tiny_gpt2, "llama": tiny_llama, "neox": tiny_neox}
FAMILIES = pytest.mark.parametrize("family", TINY)
HEADS = (Head(0, 1), Head(1, 2), Head(2, 3))


def random_matrices(n: int = 3, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 8, 8, generator=torch.Generator().manual_seed(seed))


def random_edits(heads=HEADS[:2], *, variants: int = 3, prompts: int = 6) -> list[Edit]:
    values = torch.randn(
        len(heads), variants, prompts, 8, generator=torch.Generator().manual_seed(1)
    )
    return [
        Edit("z", h, v, random_matrices(variants, seed=i))
        for i, (h, v) in enumerate(zip(heads, values, strict=True))
    ]


# Pen and paper ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_ways():
    """L0H0 moves x to y and v to w (its z is the mean of x, then of v); L1H0 attends to END alone
    and moves y to w.

    In "plus end" x = 1 and v = 3 at the first of two positions: L0H0 writes y = 1/2 and w = 3/2 at
    END, L1H0 adds another 1/2 to w; the logit difference is y + w = 5/2. L1H0's key is a constant,
    so it attends evenly: mean of y at the first position (1) and at END (1/2) is 3/4.
    """
    model = hand_model(
        ["x", "v", "y", "w"],
        {Head(0, 0): Wires({("x", "y"): 1, ("v", "w"): 1}), Head(1, 0): Wires({("y", "w"): 1})},
        tokens={
            "plus": {"x": 1, "v": 3},
            "minus": {"x": -1, "v": -3},
            "end": {},
            "yes": {},
            "no": {},
        },
        unembed={"yes": {"y": 0.5, "w": 0.5}, "no": {"y": -0.5, "w": -0.5}},
    )
    return model, hand_prompts(model, [("plus end", "minus end", "yes", "no")], {"S": 0, "END": 1})


def only(model, *factors: float) -> torch.Tensor:
    """M that multiplies the first coordinates of z by these factors."""
    return torch.diag(torch.tensor([*factors, *[1.0] * (model.cfg.d_head - len(factors))]))


@pytest.mark.parametrize(
    "factors, expected", [((1, 1), 2.75), ((0, 1), 1.5), ((1, 0), 1.25), ((3, 1), 5.25)]
)
def test_scaling_the_parts_of_a_head_by_hand(two_ways, factors, expected):
    """y = f/2 at END, w = g * 3/2, and L1H0 adds 3/4 f to w: f * 5/4 + g * 3/2 in logits, however
    it is done.
    """
    model, prompts = two_ways
    M = only(model, *factors)
    for change in (
        change_heads(model, {Head(0, 0): lambda z: z @ M}),
        edit_weights(model, {Head(0, 0): M}),
        edit_weights(model, {Head(0, 0): M}, weight="W_V"),
    ):
        with change:
            assert evaluate(model, prompts).logit_difference == pytest.approx([expected], abs=1e-3)


def test_steering_at_the_end_by_hand(two_ways):
    """At END alone f y and g w: L1H0 reads f/2 there and 1 at the first position: f/2 + g * 3/2 +
    (1 + f/2) / 2.

    A value without a matrix replaces z: (x, v) = (2, 0) gives y = 2, w = 0 and L1H0 adds (1 + 2) /
    2.
    """
    model, prompts = two_ways
    matrices = torch.stack([only(model, 1, 1), only(model, 0, 1), only(model, 3, 0)])
    edit = Edit("z", Head(0, 0), torch.zeros(3, 1, model.cfg.d_head), matrices)
    steered = steer(model, prompts, [edit], watch=[Head(1, 0)], keys=["S"])
    assert steered.logit_difference[:, 0] == pytest.approx([2.75, 2.0, 2.75], abs=1e-3)
    assert steered.attention == pytest.approx(np.full((3, 1, 1, 1), 0.5), abs=1e-4)
    value = torch.zeros(1, 1, model.cfg.d_head)
    value[..., 0] = 2
    replaced = steer(model, prompts, [Edit("z", Head(0, 0), value)])
    assert replaced.logit_difference == pytest.approx(np.array([[3.5]]), abs=1e-3)


@pytest.mark.parametrize(
    "dose, expected", [(-1.0, -4), (0.0, 0.5), (0.5, 2.75), (1.0, 5), (2.0, 9.5)]
)
def test_a_dose_of_attention_by_hand(two_ways, dose, expected):
    """L0H0 forced onto S (x = 1, v = 3) with dose f: y = f and w = 3 f at END, and L1H0 adds (1 +
    f) / 2.

    Half on S and nothing elsewhere is what it does by itself, since END holds neither x nor v.
    """
    model, prompts = two_ways
    edits = force_attention(model, prompts, [Head(0, 0)], ["S"], scale=dose)
    run = steer(model, prompts, edits, watch=[Head(0, 0)], keys=["S", "END"])
    assert run.logit_difference == pytest.approx(np.array([[expected]]), abs=1e-3)
    assert run.attention[0, 0, :, 0] == pytest.approx([dose, 0])


def test_shares_of_attention_differ_between_prompts_of_different_lengths():
    """By hand: each prompt's own row, cut to its length, arrives at its own END."""
    model, prompts = tiny_gpt2(), random_prompts(4, lengths=(7, 9))
    rows = np.zeros((4, 9))
    for i, mid in enumerate(prompts.position("MID")):
        rows[i, mid], rows[i, 0] = 0.25 * i, -0.5
    edits = set_attention(model, HEADS[1:2], rows)
    prompts = replace(prompts, positions=prompts.positions | {"FIRST": (0,) * 4})
    run = steer(model, prompts, edits, watch=HEADS[1:2], keys=["MID", "FIRST"])
    assert run.attention[0, 0] == pytest.approx(np.array([[0, 0.25, 0.5, 0.75], [-0.5] * 4]))


# Any model ----------------------------------------------------------------------------------------


@FAMILIES
def test_steering_equals_full_forward_passes(family):
    model, prompts, edits = TINY[family](), random_prompts(), random_edits(HEADS)
    fast = steer(model, prompts, edits, watch=HEADS[1:], keys=["MID", "END"], memory_gib=0.02)
    for variant in range(3):
        for i in range(len(prompts)):
            one = prompts.select([i])

            def at_end(z, edit, variant=variant, i=i):
                return torch.cat(
                    [z[:, :-1], z[:, -1:] @ edit.matrix[variant] + edit.value[variant, i]], dim=1
                )

            with change_heads(model, {e.head: lambda z, e=e: at_end(z, e) for e in edits}):
                assert fast.logit_difference[variant, i] == pytest.approx(
                    evaluate(model, one).logit_difference[0], abs=1e-4
                )
                _, cache = model.run_with_cache(one.tensors()[0])
            for h, head in enumerate(HEADS[1:]):
                row = cache["pattern", head.layer][0, head.head, -1]
                expected = [row[int(one.position(key)[0])].item() for key in ("MID", "END")]
                assert fast.attention[variant, h, :, i] == pytest.approx(expected, abs=1e-5)


@FAMILIES
def test_changing_nothing_changes_nothing(family):
    model, prompts = TINY[family](), random_prompts()
    clean = evaluate(model, prompts).logit_difference
    identity = Edit("z", HEADS[0], torch.zeros(1, 1, 8), torch.eye(8)[None])
    assert steer(model, prompts, [identity]).logit_difference[0] == pytest.approx(clean, abs=1e-5)
    for change in (
        change_heads(model, {HEADS[0]: lambda z: z}),
        edit_weights(model, {HEADS[0]: torch.eye(8)}),
    ):
        with change:
            assert evaluate(model, prompts).logit_difference == pytest.approx(clean, abs=1e-5)


@FAMILIES
@settings(max_examples=10, deadline=None, database=None)
@given(seed=st.integers(0, 2**16), raises=st.booleans())
def test_an_edit_of_the_weights_is_an_edit_of_the_output_and_leaves_no_trace(family, seed, raises):
    model, prompts = TINY[family](), random_prompts(2)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    maps = dict(zip(HEADS, random_matrices(seed=seed), strict=True))
    with change_heads(model, {head: (lambda z, M=M: z @ M) for head, M in maps.items()}):
        expected = evaluate(model, prompts).logit_difference
    weights = ["W_O"] if family == "llama" else ["W_O", "W_V"]
    for weight in weights:
        try:
            with edit_weights(model, maps, weight=weight):
                assert evaluate(model, prompts).logit_difference == pytest.approx(
                    expected, abs=1e-3
                )
                if raises:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


@FAMILIES
@settings(max_examples=10, deadline=None, database=None)
@given(a=st.floats(-2, 2), b=st.floats(-2, 2))
def test_edits_compose_as_their_matrices_do(family, a, b):
    """Scaling the last layer's head by a, then b, is scaling it by a b: what reaches the logits is
    linear there but for the norm, so the composition is checked, not the numbers."""
    model, prompts, head = TINY[family](), random_prompts(2), HEADS[2]
    with change_heads(model, {head: lambda z: a * z}), change_heads(model, {head: lambda z: b * z}):
        twice = evaluate(model, prompts).logit_difference
    with edit_weights(model, {head: a * b * torch.eye(8)}):
        assert evaluate(model, prompts).logit_difference == pytest.approx(twice, abs=1e-3)


@FAMILIES
def test_forced_attention_is_a_pattern_put_in_at_the_end(family):
    model, prompts = TINY[family](), random_prompts()
    prompts = replace(prompts, positions=prompts.positions | {"FIRST": (0,) * len(prompts)})
    fast = steer(
        model, prompts, force_attention(model, prompts, HEADS, ["MID", "FIRST"], scale=0.8)
    ).logit_difference[0]
    for i in range(len(prompts)):
        mid = int(prompts.position("MID")[i])

        def put(pattern, hook, heads, mid=mid):
            pattern = pattern.clone()
            pattern[:, heads, -1] = 0
            for key in (mid, 0):
                pattern[:, heads, -1, key] = 0.4
            return pattern

        hooks = [
            (f"blocks.{h.layer}.attn.hook_pattern", partial(put, heads=[h.head])) for h in HEADS
        ]
        with model.hooks(fwd_hooks=hooks):
            assert fast[i] == pytest.approx(
                evaluate(model, prompts.select([i])).logit_difference[0], abs=1e-4
            )


@FAMILIES
def test_blocked_attention_is_a_masked_score(family):
    model, prompts = TINY[family](), random_prompts()
    prompts = replace(prompts, positions=prompts.positions | {"LATE": (4,) * len(prompts)})
    fast = steer(
        model,
        prompts,
        block_attention(model, prompts, HEADS, "MID:LATE"),
        watch=HEADS,
        keys=["MID:LATE", "LATE"],
    )
    assert fast.attention == pytest.approx(0, abs=0)
    for i in range(len(prompts)):
        mid = int(prompts.position("MID")[i])

        def hide(scores, hook, heads, mid=mid):
            scores = scores.clone()
            scores[:, heads, -1, mid:5] = -torch.inf
            return scores

        hooks = [
            (f"blocks.{h.layer}.attn.hook_attn_scores", partial(hide, heads=[h.head]))
            for h in HEADS
        ]
        with model.hooks(fwd_hooks=hooks):
            expected = evaluate(model, prompts.select([i]))
        assert fast.logit_difference[0, i] == pytest.approx(expected.logit_difference[0], abs=1e-4)
        assert fast.predicted[0, i] == expected.predicted[0]


@FAMILIES
def test_interventions_that_go_together_are_what_each_is_alone(family):
    model, prompts, last = TINY[family](), random_prompts(), HEADS[2:]
    conditions = [
        [],
        force_attention(model, prompts, HEADS, ["MID"]),
        block_attention(model, prompts, HEADS[:2], "MID"),
        random_edits(HEADS[:1], variants=2),
        [
            Edit("z", HEADS[0], torch.ones(1, 1, 8)),
            *force_attention(model, prompts, HEADS[1:], ["MID"], scale=2.0),
        ],
    ]
    joint = steer(model, prompts, combine_edits(conditions), watch=last, keys=["MID", "END"])
    clean, rows = evaluate(model, prompts), iter(range(1, 6))
    assert joint.logit_difference[0] == pytest.approx(clean.logit_difference, abs=1e-4)
    for edits in conditions[1:]:
        alone = steer(model, prompts, edits, watch=last, keys=["MID", "END"])
        for variant, row in zip(range(len(alone.predicted)), rows, strict=False):
            for name, values in vars(alone).items():
                assert vars(joint)[name][row] == pytest.approx(values[variant], abs=1e-5)


def test_edits_and_maps_follow_the_models_precision(tmp_path):
    """And its device: they are made in float32 on the CPU, whatever the model."""
    single, prompts = tiny_gpt2(), random_prompts()
    double = load_model(str(tiny_folder("gpt2", tmp_path / "gpt2")), dtype=torch.float64)
    row = torch.full((1, 1, 9), torch.nan)
    row[..., 0] = 1.0
    edits = [*random_edits(variants=1), Edit("pattern", HEADS[2], row)]
    runs = [
        steer(model, prompts, edits, watch=HEADS[2:], keys=["MID"]) for model in (single, double)
    ]
    for name in ("logit_difference", "attention", "attribution"):
        assert vars(runs[1])[name] == pytest.approx(vars(runs[0])[name], abs=1e-4)
    edited = []
    for model in (single, double):
        with edit_weights(model, {HEADS[0]: random_matrices(1)[0]}):
            edited.append(evaluate(model, prompts).logit_difference)
    assert edited[1] == pytest.approx(edited[0], abs=1e-4)
    V = first_directions(single, HEADS[1])
    at = [coordinates_at_end(model, prompts, {HEADS[1]: V})[HEADS[1]] for model in (single, double)]
    torch.testing.assert_close(*at, atol=1e-4, rtol=0)
    for model in (single, double):
        learnt = learn_coordinates(model, prompts, [{HEADS[1]: V}], np.zeros(6, int), steps=2)
        assert learnt[0][HEADS[1]].isfinite().all()


def test_shares_of_a_span_add_up_to_the_scale():
    """MID stands at 2 or 3 and LATE at 4: three or two positions share one half, and the first has
    none.
    """
    model, prompts = tiny_gpt2(), random_prompts(4)
    prompts = replace(prompts, positions=prompts.positions | {"LATE": (4,) * 4, "FIRST": (0,) * 4})
    [edit] = force_attention(model, prompts, HEADS[:1], ["MID:LATE"], scale=0.5)
    assert (
        (edit.value[0] > 0).sum(-1).tolist()
        == [5 - mid for mid in prompts.positions["MID"]]
        == [3, 3, 2, 2]
    )
    torch.testing.assert_close(edit.value.sum(-1), torch.full((1, 4), 0.5))
    [edit] = force_attention(
        model, prompts, HEADS[:1], ["FIRST", "LATE"], scale=3.0
    )  # single positions: scale / 2 each
    assert edit.value[0, :, [0, 4]].unique().tolist() == [1.5]
    with pytest.raises(ValueError, match="at least one position to look at in every prompt"):
        force_attention(model, prompts, HEADS[:1], ["LATE:FIRST"])


@FAMILIES
def test_attribution_is_the_direct_effect_on_the_logits(family):
    model, prompts = TINY[family](), random_prompts(4, lengths=(7,))
    heads = [Head(layer, head) for layer in range(1, 3) for head in range(4)]
    identity = Edit("z", Head(1, 0), torch.zeros(1, 1, 8), torch.eye(8)[None])
    got = steer(model, prompts, [identity], watch=heads).attribution[0]
    _, cache = model.run_with_cache(prompts.tensors()[0])
    expected = direct_logit_attribution(
        model,
        cache=cache,
        answer_tokens=torch.tensor(prompts.answers),
        incorrect_tokens=torch.tensor(prompts.distractors),
        unit="head",
    )
    theirs = dict(zip(expected.labels, expected.attribution, strict=True))
    for head, values in zip(heads, got, strict=True):
        assert values == pytest.approx(theirs[str(head)].numpy(), abs=1e-4)


def test_a_pattern_is_set_where_it_is_given():
    """By hand: half of the attention goes to each of two positions, whatever the model looked
    at.
    """
    model, prompts = tiny_gpt2(), random_prompts(2, lengths=(7,))
    pattern = np.full((2, 7), np.nan)
    pattern[:, :2], pattern[:, 2:] = 0.5, 0
    prompts = replace(prompts, positions=prompts.positions | {"FIRST": (0, 0), "SECOND": (1, 1)})
    edits = set_attention(model, HEADS[1:2], pattern)
    run = steer(
        model, prompts, edits, watch=HEADS[1:2], keys=["FIRST", "SECOND", "FIRST:SECOND", "MID:END"]
    )
    assert run.attention[0, 0] == pytest.approx(np.array([[0.5] * 2, [0.5] * 2, [1] * 2, [0] * 2]))


def test_hooks_are_gone_after_an_exception():
    model, prompts = tiny_gpt2(), random_prompts(2)
    before = evaluate(model, prompts).logit_difference
    with pytest.raises(KeyboardInterrupt), change_heads(model, {Head(2, 0): torch.zeros_like}):
        assert not np.allclose(evaluate(model, prompts).logit_difference, before, atol=1e-3)
        raise KeyboardInterrupt
    assert evaluate(model, prompts).logit_difference == pytest.approx(before, abs=0)


# Coordinates --------------------------------------------------------------------------------------


def first_directions(model, head: Head, n: int = 2) -> torch.Tensor:
    """Orthonormal directions that a head can write."""
    return (
        torch.linalg.svd(model.blocks[head.layer].attn.W_O[head.head], full_matrices=False).Vh[:n].T
    )


@FAMILIES
def test_coordinates_are_set_and_read_again(family):
    """Setting each prompt's own coordinates changes nothing; other ones are what the full run then
    writes.
    """
    model, prompts, head = TINY[family](), random_prompts(), HEADS[1]
    V = first_directions(model, head)
    own = coordinates_at_end(model, prompts, {head: V})[head]
    clean = evaluate(model, prompts).logit_difference
    assert steer(
        model, prompts, set_coordinates(model, {head: V}, {head: own[None]})
    ).logit_difference[0] == pytest.approx(clean, abs=1e-4)
    [edit] = set_coordinates(model, {head: V}, {head: torch.tensor([[[3.0, -2.0]]])})
    with change_heads(model, {head: lambda z: z @ edit.matrix[0] + edit.value[0, 0]}):
        changed = coordinates_at_end(model, prompts, {head: V})[head]
    assert changed.numpy() == pytest.approx(np.tile([3.0, -2.0], (len(prompts), 1)), abs=1e-4)


def test_learnt_coordinates_by_hand(two_ways):
    """L0H0 writes y at END: the answer yes wants it large, the answer no wants it small, each group
    on its own.
    """
    model, prompts = two_ways
    y = model.blocks[0].attn.W_O[0][0]
    both = replace(prompts.select([0, 0]), answers=(*prompts.answers, *prompts.distractors))
    [own] = coordinates_at_end(model, both, {Head(0, 0): (y / y.norm())[:, None]}).values()
    assert own.flatten().tolist() == pytest.approx([float(y.norm()) / 2] * 2, abs=1e-3)
    space = {Head(0, 0): (y / y.norm())[:, None]}
    [[learnt]] = [
        list(x.values()) for x in learn_coordinates(model, both, [space], np.array([0, 1]), steps=4)
    ]
    assert learnt.shape == (2, 1) and learnt[0] > own[0] + 1 and learnt[1] < own[1] - 1


@FAMILIES
def test_learning_lowers_the_loss_and_subspaces_do_not_mix(family):
    model, prompts, groups = TINY[family](), random_prompts(), np.array([0, 1, 2, 0, 1, 2])
    spaces = [{h: first_directions(model, h)} for h in HEADS[:2]]
    spaces.append({h: first_directions(model, h, 3) for h in HEADS[:2]})

    def loss(space, coordinates) -> float:
        """Cross-entropy of the answers in full forward passes with the coordinates set at END."""
        edits, total = (
            set_coordinates(model, space, {h: x[groups][None] for h, x in coordinates.items()}),
            0.0,
        )
        for i in range(len(prompts)):
            one = prompts.select([i])
            changes = {
                e.head: lambda z, e=e, i=i: torch.cat(
                    [z[:, :-1], z[:, -1:] @ e.matrix[0] + e.value[0, i]], dim=1
                )
                for e in edits
            }
            with change_heads(model, changes):
                logits = model(one.tensors()[0])[0, -1]
            total -= logits.log_softmax(-1)[one.answers[0]].item()
        return total

    starts = learn_coordinates(model, prompts, spaces, groups, steps=0)
    ends = learn_coordinates(model, prompts, spaces, groups, steps=8, rate=0.3)
    for space, start, end in zip(spaces, starts, ends, strict=True):
        own = coordinates_at_end(model, prompts, space)
        for head in space:
            means = torch.stack([own[head][groups == g].mean(0) for g in range(3)])
            assert torch.allclose(start[head], means, atol=1e-4)
        assert loss(space, end) < loss(space, start) - 0.1
        [alone] = learn_coordinates(model, prompts, [space], groups, steps=8, rate=0.3)
        assert all(torch.allclose(alone[head], end[head], atol=1e-2) for head in space)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_coordinates_refuse():
    model, prompts = tiny_gpt2(), random_prompts(2)
    V, other = first_directions(model, HEADS[0]), first_directions(model, HEADS[1])
    for sentence, call in {
        "cannot write along these": lambda: set_coordinates(
            model, {HEADS[0]: other}, {HEADS[0]: torch.zeros(1, 1, 2)}
        ),
        "from one model": lambda: set_coordinates(
            model, {HEADS[0]: V[1:]}, {HEADS[0]: torch.zeros(1, 1, 2)}
        ),
        "L3H0 does not exist": lambda: coordinates_at_end(model, prompts, {Head(3, 0): V}),
        "at least one subspace": lambda: learn_coordinates(model, prompts, [], np.array([0, 1])),
        "a group for every prompt": lambda: learn_coordinates(
            model, prompts, [{HEADS[0]: V}], np.array([0, 2])
        ),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            call()


# Bad input ----------------------------------------------------------------------------------------


def test_what_cannot_be_changed_is_refused_by_name(monkeypatch):
    model, prompts, maps = tiny_gpt2(), random_prompts(2), {HEADS[0]: torch.eye(8)}
    edit = random_edits(HEADS[1:2], prompts=2)
    backwards = replace(prompts, positions=prompts.positions | {"MID2": (0, 0)})
    monkeypatch.setattr(
        config, "jaxtyping_disable", True
    )  # the annotations refuse an unknown weight, too
    for sentence, call in {
        "L3H0 does not exist": lambda: steer(model, prompts, edit, watch=[Head(3, 0)]),
        "L0H9 does not exist": lambda: change_heads(model, {Head(0, 9): torch.clone}).__enter__(),
        "Unknown weight 'W_Q'": lambda: edit_weights(model, maps, weight="W_Q").__enter__(),
        "read one W_V": lambda: edit_weights(tiny_llama(), maps, weight="W_V").__enter__(),
        "kind z, scores or pattern": lambda: steer(
            model, prompts, [Edit("q", HEADS[0], torch.zeros(1, 1, 8))]
        ),
        "not of these 2 prompts": lambda: steer(model, prompts, random_edits(HEADS[:1], prompts=3)),
        "at least one": lambda: steer(model, prompts, []),
        "at least one position": lambda: force_attention(model, prompts, HEADS, []),
        "END is no span of every prompt that ends before END": lambda: block_attention(
            model, prompts, HEADS, "END"
        ),
        "MID:MID2 is no": lambda: block_attention(model, backwards, HEADS, "MID:MID2"),
        "L7H0 does not exist": lambda: force_attention(model, prompts, [Head(7, 0)], ["MID"]),
        "Only z, scores and pattern edits go together": lambda: combine_edits([[], []]),
        "one edit of a kind for each head": lambda: combine_edits([[], [edit[0], edit[0]]]),
        "before every edited head": lambda: steer(model, prompts, edit, watch=[Head(0, 0)]),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            call()
