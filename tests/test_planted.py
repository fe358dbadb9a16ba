"""The planted model does what its plan says, in numbers worked out by hand, and the circuit search
finds the plan.
"""

import math
import re
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, t
from transformer_lens.model_bridge import TransformerBridge

from helpers import models
from helpers.behavior import evaluate
from helpers.channels import (
    component_scores,
    components,
    principal_angles,
    scaling_matrix,
    writing_vectors,
)
from helpers.circuits import (
    IOI,
    Circuit,
    Evidence,
    Rule,
    attention_and_copying,
    find_circuit,
    select_heads,
)
from helpers.engine import Edit, cached_run
from helpers.heads import Head
from helpers.interventions import change_heads, edit_weights, knock_out, resample_heads, steer
from helpers.models import AttentionWeights, attention_weights, load_model, model_provenance
from helpers.path_patching import PathEffects, Receiver, path_patch
from helpers.planted import Plan, Planted, build, save
from helpers.tasks import Prompts, ioi, single_token, vocabulary
from suite.errors import ModelError
from tests.test_channels import head_scores

HEADS = [Head(layer, head) for layer in range(6) for head in range(4)]


def channel_in(truth: Planted) -> torch.Tensor:
    """What the duplicate-token and induction heads write and inhibition reads."""
    return truth.directions["channel_in"]


SHAPES = [
    Plan(channel_rank=rank, rotate=rotate, distractors=0)
    for rank in (1, 2, 3)
    for rotate in (True, False)
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Plan -> what was planted, and its folder; each plan is built once."""

    @cache
    def made(plan: Plan) -> tuple[Planted, str]:
        folder, truth = tmp_path_factory.mktemp("planted") / "model", build(plan)
        save(truth, folder)
        return truth, str(folder)

    return made


@pytest.fixture(scope="module")
def grow(saved):
    """Plan -> what was planted, and the loaded model."""
    load = cache(load_model)
    return lambda plan: (saved(plan)[0], load(saved(plan)[1]))


@pytest.fixture(scope="module")
def grow_weights(saved):
    """Plan -> what was planted, and its attention weights."""
    read = cache(attention_weights)
    return lambda plan: (saved(plan)[0], read(saved(plan)[1]))


@pytest.fixture(scope="module")
def prompts(grow) -> Prompts:
    """Names at 1 and 3, 2 and 4, 4 and 6; the tokenizer is every plan's."""
    return ioi(grow(Plan())[0].tokenizer, 48, templates=vocabulary("ioi_templates")[1::2])


@pytest.fixture(scope="module")
def search(grow, prompts):
    """Plan -> the circuit that is found."""

    @cache
    def searched(plan: Plan) -> Circuit:
        return find_circuit(grow(plan)[1], prompts)

    return searched


def place(position: int) -> list[float]:
    """Hands of period 4 (cos, sin) and 8 (cos), an eighth of a turn behind."""
    quarter, eighth = (2 * math.pi * position / period - math.pi / 4 for period in (4, 8))
    return [math.cos(quarter), math.sin(quarter), math.cos(eighth)]


def logit_differences(
    rank: int, prompts: Prompts, channel=1.0, movers: float = 1.0, negative: float = 1.0
):
    """Worked out by hand: what is left of the channel (or of each component), movers and negative
    mover is given.

    The movers' score of IO exceeds that of S1 by delta = gain sum_k s_k^3 place_k(S1) (place_k(S1)
    - place_k(IO)).
    """
    cubes = np.array([1, 0.729, 0.125])[:rank]
    gain = 4 / cubes[:2].sum()
    s1, io = (np.array([place(p)[:rank] for p in prompts.positions[name]]) for name in ("S1", "IO"))
    delta = gain * (channel * cubes * s1 * (s1 - io)).sum(1)
    return 20 * (movers * np.tanh(delta / 2) + negative * 0.3)


def worked_out(
    plan: Plan, *, first=1.0, second=1.0, movers=(1.0, 1.0), negative: float = 1.0
) -> float:
    """Logit difference of a plan of rank 1 or 2, whatever its circuits, copies and readers.

    first, second: what is left of the two inhibition heads' messages, or of those of the heads that
    tell them. In one channel both movers read 0.6 first + 0.4 second; in two channels one mover
    reads the first, one the second. A mover that reads x prefers IO by delta = 4 x and, with its
    share of 0.6 or 0.4, adds 20 share tanh(delta / 2). The negative mover adds 20 * 0.3, and where
    it shares the first channel its own tanh of that.
    """
    left = (
        np.array([first, second]) if plan.circuits == 2 else np.full(2, 0.6 * first + 0.4 * second)
    )
    told = np.tanh(2 * left)
    return 20 * float(
        told @ np.multiply([0.6, 0.4], movers) + 0.3 * negative * (told[0] if plan.shared else 1)
    )


LOST = {
    "previous_token": {"second": 0.0},  # it serves induction
    "duplicate_token": {"first": 0.0},
    "induction": {"second": 0.0},
    "inhibition": {"first": 0.0},
    "movers": {"movers": (0.0, 1.0)},
    "negative_movers": {"negative": 0.0},
}
"""Role -> what `worked_out` loses with the first head of that role, in all its copies."""

DEGENERATE = [
    Plan(distractors=0, **odd) for odd in ({"circuits": 2}, {"copies": 2}, {"shared": True})
]


def cost(plan: Plan, **left) -> float:
    """Effect in percent of the gap, as corrupted prompts have no logit difference."""
    return 100 * (1 - worked_out(plan, **left) / worked_out(plan))


def names(circuit: Circuit) -> dict[str, set[Head]]:
    return {role: set(heads) for role, heads in circuit.roles.items()}


def planned(truth: Planted, **others: set[Head]) -> dict[str, set[Head]]:
    return {role: set(heads) for role, heads in truth.roles.items()} | others


# The task


@pytest.mark.parametrize("plan", [*SHAPES, Plan(), Plan(distractors=16)], ids=str)
def test_ioi_is_solved_with_the_logit_difference_worked_out_by_hand(plan, grow):
    model = grow(plan)[1]
    prompts = ioi(model.tokenizer, 112)
    clean, corrupted = evaluate(model, prompts), evaluate(model, prompts, corrupted=True)
    assert clean.correct.mean() == 1 and clean.chosen.mean() == 1
    tolerance = (
        0.002 if plan.distractors == 0 else 0.05
    )  # what distractors write shrinks all else in the LayerNorm
    np.testing.assert_allclose(
        clean.logit_difference, logit_differences(plan.channel_rank, prompts), rtol=tolerance
    )
    assert (
        abs(corrupted.logit_difference).max() < 1e-3
    )  # nobody is named twice: nothing to tell the two apart


def test_swapping_the_second_name_swaps_the_answer(grow):
    model = grow(Plan())[1]
    prompts = ioi(model.tokenizer, 32, corruption="swap")
    corrupted = evaluate(model, prompts, corrupted=True)
    assert list(corrupted.predicted) == list(prompts.distractors)


def test_every_word_of_the_tasks_is_one_token(grow):
    tokenizer = grow(Plan())[0].tokenizer
    words = [word for kind in ("names", "places", "objects") for word in vocabulary(kind)]
    ids = [single_token(tokenizer, word) for word in words]
    assert len(set(ids)) == len(set(words)) and tokenizer.unk_token_id not in ids
    assert (
        tokenizer.decode(tokenizer("Then, Mary gave it to").input_ids)
        == "Then , Mary gave <unk> to"
    )


def test_other_tasks_can_run(grow):
    model = grow(Plan())[1]
    assert model.to_str_tokens("Q: qwertz?\nA:") == [
        "<unk>",
        "<unk>",
        "<unk>",
        "<unk>",
        "<unk>",
        "<unk>",
    ]
    assert model(model.to_tokens("some words nobody knows, " * 24)).isfinite().all()  # 120 tokens


# What path patching and the circuit search find


@pytest.mark.parametrize("plan", SHAPES, ids=str)
def test_path_patching_returns_exactly_the_planted_edges(plan, grow, search, prompts):
    truth, stages = grow(plan)[0], search(plan).evidence.stages
    clean = logit_differences(plan.channel_rank, prompts)
    movers, inhibition, (negative,) = (
        truth.roles[name] for name in ("movers", "inhibition", "negative_movers")
    )
    (duplicate,), (induction,) = truth.roles["duplicate_token"], truth.roles["induction"]
    (previous,) = truth.roles["previous_token"]

    def without(**left: float) -> np.ndarray:
        return logit_differences(plan.channel_rank, prompts, **left) - clean

    without_first, without_second = (
        without(channel=0.4),
        without(channel=0.6),
    )  # heads with a share of 0.6 and 0.4
    removed = [without(movers=0.4), without(movers=0.6), without(negative=0)]
    expected = {
        "logits": dict(zip([*movers, negative], removed, strict=True)),
        "movers.q": dict(zip(inhibition, [without_first, without_second], strict=True)),
        "inhibition.v": {duplicate: without_first, induction: without_second},
        "induction.k": {previous: without_second},
    }
    planted_heads = {head for heads in truth.roles.values() for head in heads}
    for stage, effects in stages.items():
        for head, change in expected[stage].items():
            np.testing.assert_allclose(
                effects.change[head], change, atol=0.002 * abs(effects.gap.mean())
            )
        for head in set(HEADS) - set(expected[stage]):
            # inert heads carry nothing; planted ones only the little they add to the scale of the
            # LayerNorm
            assert np.nan_to_num(abs(effects.percent[head])) < 100 * (
                3e-4 if head in planted_heads else 1e-6
            )
    assert list(stages) == list(IOI.places)


@pytest.mark.parametrize("plan", [*SHAPES, Plan(), Plan(distractors=16, seed=1)], ids=str)
def test_the_circuit_found_is_the_plan(plan, grow, search):
    assert search(plan).roles == grow(plan)[0].roles  # in the order of importance, too


@pytest.mark.parametrize(
    "noise, seed", [(0.02, 0), (0.02, 1), (0.05, 0), (0.05, 1), *((0.1, seed) for seed in range(4))]
)
def test_the_circuit_found_is_the_plan_up_to_a_tenth_of_noise(noise, seed, grow, search):
    plan = Plan(noise=noise, seed=seed)
    assert names(search(plan)) == planned(grow(plan)[0])


@pytest.mark.parametrize("seed", range(2))
def test_a_fiftieth_of_noise_leaves_path_effects_within_a_twentieth_of_the_gap(seed, grow, search):
    plan = Plan(noise=0.02, seed=seed)
    roles, stages = grow(plan)[0].roles, search(plan).evidence.stages
    for role, lost in LOST.items():
        percent = stages[IOI.role(role).stage].percent[roles[role][0]]
        assert percent == pytest.approx(cost(plan, **lost), abs=5), role


def test_too_much_noise_breaks_task_and_circuit(grow, search, prompts):
    plan = Plan(noise=0.5)
    truth, model = grow(plan)
    assert evaluate(model, prompts).correct.mean() < 0.5
    assert names(search(plan)) != planned(truth)


# Degenerate plans


def test_without_inhibition_nothing_behind_it_is_reported(grow, search, prompts):
    truth, model = grow(Plan(inhibition=0.0))
    assert names(search(Plan(inhibition=0.0))) == planned(
        truth, movers=set()
    )  # both names alike: they cancel
    assert [role for role, heads in truth.roles.items() if heads] == ["movers", "negative_movers"]
    effects = path_patch(model, prompts, Receiver("q", truth.roles["movers"]))
    assert np.nanmax(abs(effects.percent)) < 0.1


def test_two_circuits_for_one_task_are_both_found(grow, search, prompts):
    plan = Plan(circuits=2)
    truth, model = grow(plan)
    assert search(plan).roles == truth.roles
    helpers, movers = truth.roles["inhibition"], truth.roles["movers"]
    # a mover's only helper carries all that it does, 0.6 tanh(2) and 0.4 tanh(2) of tanh(2) + 0.3,
    # the other nothing
    for mover, helper, stranger, share in zip(
        movers, helpers, helpers[::-1], (0.6, 0.4), strict=True
    ):
        percent = path_patch(model, prompts, Receiver("q", (mover,))).percent
        assert percent[helper] == pytest.approx(
            100 * share * np.tanh(2) / (np.tanh(2) + 0.3), abs=0.2
        )
        assert percent[stranger] == pytest.approx(0, abs=0.05)


def test_a_channel_with_two_readers_reaches_both(grow, search, prompts):
    plan = Plan(shared=True, distractors=0)
    truth, model = grow(plan)
    assert search(plan).roles == truth.roles
    first, second = truth.roles["inhibition"]
    percent = path_patch(model, prompts, Receiver("q", truth.roles["negative_movers"])).percent
    # (tanh(2) - tanh(0.8)) 0.3 of (tanh(2)) 1.3 for the head with a share of 0.6
    assert percent[first] == pytest.approx(
        100 * 0.3 / 1.3 * (1 - np.tanh(0.8) / np.tanh(2)), abs=0.1
    )
    assert percent[second] == pytest.approx(
        100 * 0.3 / 1.3 * (1 - np.tanh(1.2) / np.tanh(2)), abs=0.1
    )


def test_both_copies_of_duplicated_heads_are_found(grow, search):
    plan = Plan(copies=2)
    assert names(search(plan)) == planned(grow(plan)[0])
    roles, stages = grow(plan)[0].roles, search(plan).evidence.stages
    assert [len(heads) for heads in roles.values()] == [2, 2, 2, 4, 4, 2]
    for role, lost in LOST.items():  # one of two copies takes half of it along
        half = {
            name: tuple((1 + x) / 2 for x in left) if name == "movers" else 0.5
            for name, left in lost.items()
        }
        percent = stages[IOI.role(role).stage].percent
        assert [percent[head] for head in roles[role][:2]] == pytest.approx(
            2 * [cost(plan, **half)], abs=0.4
        ), role


# The weights


@pytest.mark.parametrize("plan", SHAPES, ids=str)
def test_the_channel_is_what_inhibition_writes_and_movers_read(plan, tmp_path):
    truth = build(plan)
    save(truth, tmp_path / "model")
    weights = attention_weights(str(tmp_path / "model"))
    singular = torch.tensor([1, 0.9, 0.5])[: plan.channel_rank]
    layer_norm = 128 / 256**0.5  # the gain folded into the weights
    for head, share in zip(truth.roles["inhibition"], (0.6, 0.4), strict=True):
        ov = weights.W_V[head] @ weights.W_O[head] / layer_norm
        torch.testing.assert_close(
            ov, channel_in(truth) * share * singular @ truth.channel.T, atol=1e-4, rtol=0
        )
    for head in truth.roles["movers"]:
        qk = weights.W_Q[head] @ weights.W_K[head].T / 8 / layer_norm**2
        assert torch.linalg.matrix_rank(qk, atol=1e-3) == plan.channel_rank
        place_read = truth.directions["place"][:, : plan.channel_rank]
        torch.testing.assert_close(
            qk, -truth.gain * truth.channel * singular @ place_read.T, atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("plan", SHAPES, ids=str)
def test_svd_finds_the_planted_components_and_their_span(plan, grow_weights):
    """Singular values stand as 1 : 0.9 : 0.5, each direction written is the planted one, and there
    is no other.
    """
    truth, weights = grow_weights(plan)
    found, rank = components(weights, "OV"), plan.channel_rank
    writers = {"inhibition": truth.channel} | dict.fromkeys(
        ["duplicate_token", "induction"], channel_in(truth)
    )
    for role, channel in writers.items():
        for head in truth.roles[role]:
            S, V = found.S[head] / found.S[head][0], found.V[head]
            np.testing.assert_allclose(S[:rank], [1, 0.9, 0.5][:rank], atol=1e-3)
            assert S[rank:].max() < 1e-5
            assert principal_angles(V[:, :rank], channel).max() < 0.1  # degrees
            assert (V[:, :rank] * channel).sum(0).abs().min() > 0.99999
            assert principal_angles(V[:, rank : 2 * rank], channel).min() > 89


@pytest.mark.parametrize("plan", [*SHAPES, Plan(distractors=16)], ids=str)
def test_composition_scores_by_hand_rank_the_planted_pairs_first(plan, grow_weights):
    """Query: ||v_k^T QK|| / ||QK|| = s_k / |s|. Value: |s^2| / |s|^2. Key: the identity of 53
    names, 1 / sqrt(53).
    """
    truth, weights = grow_weights(plan)
    s = np.array([1, 0.9, 0.5])[: plan.channel_rank]
    pairs = {
        "query": (["inhibition"], "movers"),
        "value": (["duplicate_token", "induction"], "inhibition"),
        "key": (["previous_token"], "induction"),
    }
    whole = {
        "query": np.linalg.norm(s**2) / (s @ s),
        "value": np.linalg.norm(s**2) / (s @ s),
        "key": 53**-0.5,
    }
    for side, (senders, receiver_role) in pairs.items():
        scores = head_scores(weights, side)
        wanted = [head for role in senders for head in truth.roles[role]]
        for receiver in truth.roles[receiver_role]:
            column = scores[:, :, *receiver]
            for head in wanted:
                assert column[head].item() == pytest.approx(whole[side], abs=2e-3)
            others = [
                column[head] for head in HEADS if head not in wanted and head.layer < receiver.layer
            ]
            assert (
                torch.stack(others).nan_to_num().max() < 1e-3
            )  # heads that write nothing have no score
    kind = {"senders": truth.roles["inhibition"], "receivers": truth.roles["movers"]}
    by_component = component_scores(weights, "query", **kind)[:, : plan.channel_rank]
    expected = torch.tensor(s / np.linalg.norm(s)).float()[None, :, None].expand_as(by_component)
    torch.testing.assert_close(by_component, expected, atol=2e-3, rtol=0)


def test_two_circuits_have_two_channels_and_one_channel_can_have_two_readers(grow_weights):
    truth, weights = grow_weights(Plan(circuits=2, distractors=0))
    first, second = (components(weights, "OV").V[head][:, :2] for head in truth.roles["inhibition"])
    assert principal_angles(first, second).min() > 89.9
    scores = head_scores(weights, "query")
    whole = math.sqrt(1 + 0.9**4) / (1 + 0.9**2)  # |s^2| / |s|^2
    for sender, own, other in zip(truth.roles["inhibition"], (0, 1), (1, 0), strict=True):
        found = [
            float(scores[*sender, *truth.roles["movers"][receiver]]) for receiver in (own, other)
        ]
        assert found == pytest.approx([whole, 0], abs=1e-3)
    truth, weights = grow_weights(Plan(shared=True, distractors=0))
    scores, (negative,) = head_scores(weights, "query"), truth.roles["negative_movers"]
    found = [float(scores[*head, *negative]) for head in truth.roles["inhibition"]]
    assert found == pytest.approx([whole, whole], abs=1e-3)


@pytest.mark.parametrize("noise, seed", [(0.02, 0), (0.05, 0), (0.1, 0), (0.1, 1)])
def test_noise_turns_the_channel_a_little_and_no_planned_pair_falls_behind(
    noise, seed, grow_weights
):
    """Noise of n |s| in W_O, spread evenly over 64 x 255 entries, has a largest singular value of n
    |s| (1/8 + 1/16).

    Beside a message of strength 0.9 it turns a direction by at most n 1.345 / 0.9 * 0.1875 = 0.28
    n, 16 n degrees.
    """
    truth, weights = grow_weights(Plan(noise=noise, seed=seed))
    for head in truth.roles["inhibition"]:
        assert (
            principal_angles(components(weights, "OV").V[head][:, :2], truth.channel).max()
            < 16 * noise
        )
    connections = {
        "query": (("inhibition",), "movers"),
        "value": (("duplicate_token", "induction"), "inhibition"),
        "key": (("previous_token",), "induction"),
    }
    for side, (senders, receivers) in connections.items():
        scores = head_scores(weights, side).nan_to_num()
        pairs = [
            (*a, *b) for role in senders for a in truth.roles[role] for b in truth.roles[receivers]
        ]
        best = scores.flatten().topk(len(pairs)).values
        torch.testing.assert_close(
            torch.stack([scores[pair] for pair in pairs]).sort(descending=True).values, best
        )


# Interventions


def scaled(
    truth: Planted, weights: AttentionWeights, component: int, factor: float
) -> dict[Head, torch.Tensor]:
    """Head -> M that scales one component of both inhibition heads."""
    V = components(weights, "OV").V
    factors = torch.tensor([factor])
    heads = truth.roles["inhibition"]
    return {
        head: scaling_matrix(weights.W_O[head], V[head][:, [component]], factors) for head in heads
    }


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, -1.0])
@pytest.mark.parametrize("rank, component", [(1, 0), (2, 1), (3, 0), (3, 2)])
def test_scaling_a_component_does_what_the_algebra_says(
    rank, component, factor, grow, grow_weights, prompts
):
    """It scales that component's term of delta: on the output, in W_O, in W_V, and steered at END
    alone.
    """
    plan = Plan(channel_rank=rank, distractors=0)
    (truth, model), weights = grow(plan), grow_weights(plan)[1]
    left = np.ones(rank)
    left[component] = factor
    expected = logit_differences(rank, prompts, channel=left)
    maps = scaled(truth, weights, component, factor)
    edits = [Edit("z", head, torch.zeros(1, 1, 64), M[None]) for head, M in maps.items()]
    got = {"steered": steer(model, prompts, edits).logit_difference[0]}
    with change_heads(model, {head: (lambda z, M=M: z @ M) for head, M in maps.items()}):
        got["output"] = evaluate(model, prompts).logit_difference
    for weight in ("W_O", "W_V"):
        with edit_weights(model, maps, weight=weight):
            got[weight] = evaluate(model, prompts).logit_difference
    for name, values in got.items():
        np.testing.assert_allclose(values, expected, atol=0.1, err_msg=name)  # of 26
        np.testing.assert_allclose(values, got["output"], atol=0.02, err_msg=name)


@pytest.mark.parametrize("coordinate", [-2.0, 0.0, 1.0])
def test_moving_along_the_channel_moves_attention_as_the_algebra_says(
    coordinate, grow, grow_weights, prompts
):
    """With the first head's coordinate set to c and the second head's left at 0.4 place(S1), a
    mover prefers IO to S1 by gain (c + 0.4 place(S1)) (place(S1) - place(IO)); every other key is
    exp(-12) away."""
    plan = Plan(channel_rank=1, distractors=0)
    (truth, model), weights = grow(plan), grow_weights(plan)[1]
    head = truth.roles["inhibition"][0]
    V = components(weights, "OV").V[head][:, :1]
    unit = writing_vectors(weights.W_O[head], V * torch.sign(V.T @ truth.channel))
    edit = Edit(
        "z",
        head,
        coordinate * unit[None],
        scaling_matrix(weights.W_O[head], V, torch.zeros(1))[None],
    )
    run = steer(model, prompts, [edit], watch=truth.roles["movers"], keys=["IO", "S1"])
    s1, io = (np.array([place(p)[0] for p in prompts.positions[name]]) for name in ("S1", "IO"))
    delta = 4 * (coordinate + 0.4 * s1) * (s1 - io)
    for attention in run.attention[0]:
        np.testing.assert_allclose(attention[0], 1 / (1 + np.exp(-delta)), atol=2e-3)
        np.testing.assert_allclose(attention[1], 1 / (1 + np.exp(delta)), atol=2e-3)
    np.testing.assert_allclose(run.logit_difference[0], 20 * (np.tanh(delta / 2) + 0.3), atol=0.1)


@pytest.mark.parametrize("plan", DEGENERATE, ids=str)
def test_knocking_out_heads_of_degenerate_plans_costs_what_the_algebra_says(plan, grow, prompts):
    """In the partner nobody is repeated: the messages are empty, and movers name others than the
    two that count.
    """
    truth, model = grow(plan)
    circuit = [head for heads in truth.roles.values() for head in heads]
    leads = [truth.roles[role][: plan.copies] for role in LOST]
    got = knock_out(
        model, prompts, [circuit, [head for head in HEADS if head not in circuit], *leads]
    )
    expected = [0, worked_out(plan), *(worked_out(plan, **lost) for lost in LOST.values())]
    np.testing.assert_allclose(got, np.tile(expected, (len(prompts), 1)).T, atol=0.1)


@pytest.mark.parametrize(
    "first, second", [((0, 0), (0, 0)), ((-1, -1), (-1, -1)), ((0, 0), (1, 1)), ((0, 1), (1, 0.5))]
)
@pytest.mark.parametrize("plan", DEGENERATE, ids=str)
def test_scaling_the_channel_of_degenerate_plans_does_what_the_algebra_says(
    plan, first, second, grow, grow_weights, prompts
):
    """Factors on the two components of the first and of the second inhibition head, in all copies:
    what is left of a message is their mean, weighted by 1 and 0.9^3."""
    (truth, model), weights, some = grow(plan), grow_weights(plan)[1], prompts.select(range(12))
    V, heads = components(weights, "OV").V, truth.roles["inhibition"]
    factors = dict.fromkeys(heads[: plan.copies], first) | dict.fromkeys(
        heads[plan.copies :], second
    )
    maps = {
        h: scaling_matrix(weights.W_O[h], V[h][:, :2], torch.tensor(f).float())
        for h, f in factors.items()
    }
    left = [np.average(f, weights=[1, 0.729]) for f in (first, second)]
    expected = worked_out(plan, first=left[0], second=left[1])
    ways = {weight: edit_weights(model, maps, weight=weight) for weight in ("W_O", "W_V")}
    ways["output"] = change_heads(model, {head: (lambda z, M=M: z @ M) for head, M in maps.items()})
    for name, way in ways.items():
        with way:
            np.testing.assert_allclose(
                evaluate(model, some).logit_difference, expected, atol=0.1, err_msg=name
            )
    np.testing.assert_allclose(
        evaluate(model, some).logit_difference, worked_out(plan), atol=0.1
    )  # all is restored


@pytest.mark.parametrize("everyone", [True, False])
@pytest.mark.parametrize("plan", DEGENERATE, ids=str)
def test_a_message_transplanted_in_degenerate_plans_is_obeyed(plan, everyone, grow):
    """It says 1 where the donors have the names' order, -1 where they have the other, 0 where
    nobody is repeated.
    """
    truth, model = grow(plan)
    own, others = (
        ioi(truth.tokenizer, 8, templates=vocabulary("ioi_templates")[1:2], seed=seed)
        for seed in (0, 1)
    )
    assert own.positions == others.positions and own.answers != others.answers
    assert (
        np.roll(others.position("IO"), 1) == own.position("S1")
    ).all()  # neighbours have the other order
    donors = {1: others.tensors()[0], -1: others.tensors()[0].roll(1, 0), 0: own.tensors()[1]}
    for left, tokens in donors.items():
        heads = truth.roles["inhibition"][: None if everyone else plan.copies]
        expected = worked_out(plan, first=left, second=left if everyone else 1)
        with resample_heads(model, heads, cached_run(model, tokens, ["attn.hook_z"])):
            np.testing.assert_allclose(evaluate(model, own).logit_difference, expected, atol=0.1)


@pytest.mark.parametrize(
    "plan, channel", [*((plan, 0) for plan in DEGENERATE), (DEGENERATE[0], 1)], ids=str
)
def test_writing_into_a_channel_turns_those_that_read_it_and_no_others(plan, channel, grow):
    """Nobody is repeated; c along the channel's first direction makes a mover prefer the name at p
    to that at q by 4 / 1.729 c (place(q) - place(p)), by the first coordinate of place; the
    negative mover, where it reads, the other way round. In two channels the mover of the other one
    stays undecided."""
    truth, model = grow(plan)
    batch = ioi(truth.tokenizer, 8, templates=vocabulary("ioi_templates")[1:2])
    p, q = sorted({*batch.position("IO").tolist(), *batch.position("S1").tolist()})
    readers = dict.fromkeys(truth.roles["movers"], 1) | dict.fromkeys(
        truth.roles["negative_movers"] * plan.shared, -1
    )
    if plan.circuits == 2:
        readers[truth.roles["movers"][1 - channel]] = 0
    for c in (-1.0, 0.5):
        written = c * truth.channel[:, 2 * channel]
        with model.hooks(
            fwd_hooks=[("blocks.4.hook_resid_pre", lambda x, hook, written=written: x + written)]
        ):
            seen = cached_run(model, batch.tensors()[1], ["attn.hook_pattern"])
        for head, sign in readers.items():
            attention = seen["pattern", head.layer][:, head.head, -1]
            expected = 1 / (1 + np.exp(sign * 4 / 1.729 * c * (place(p)[0] - place(q)[0])))
            np.testing.assert_allclose(
                attention[:, p] / (attention[:, p] + attention[:, q]), expected, atol=5e-3
            )


def test_the_channel_carries_position_and_no_content(grow, prompts):
    """Other names in the same places give the same coordinates; the names' order swapped gives
    other ones.
    """
    truth, model = grow(Plan(distractors=0))
    twin = ioi(truth.tokenizer, len(prompts), templates=vocabulary("ioi_templates")[1::2], seed=1)
    assert twin.positions == prompts.positions and twin.answers != prompts.answers

    def coordinates(tasks: Prompts) -> torch.Tensor:
        rows = torch.zeros(len(tasks), 2)
        for index in tasks.groups():
            cache = cached_run(model, tasks.select(index).tensors()[0], ("hook_attn_out",))
            rows[index] = (
                cache["attn_out", truth.roles["inhibition"][0].layer][:, -1] @ truth.channel
            )
        return rows

    mine = coordinates(prompts)
    torch.testing.assert_close(coordinates(twin), mine, atol=2e-3, rtol=0)
    expected = torch.tensor([place(p)[:2] for p in prompts.positions["S1"]]) * torch.tensor(
        [1, 0.81]
    )
    torch.testing.assert_close(mine, expected, atol=5e-3, rtol=0)


@settings(
    max_examples=5,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 1000))
def test_path_effects_do_not_depend_on_the_residual_basis(seed, grow, prompts):
    """Rotation invariance: the same plan in another basis has the same effects."""
    some, plan = prompts.select(range(8)), Plan(rotate=False, distractors=0, noise=0.0)
    truth, model = grow(plan)
    turned_truth, turned = grow(Plan(seed=seed, distractors=0))
    for kind, role, position in (
        ("logits", None, "END"),
        ("q", "movers", "END"),
        ("v", "inhibition", "S2"),
    ):
        by_role = []
        for each, each_truth in ((model, truth), (turned, turned_truth)):
            effects = path_patch(
                each, some, Receiver(kind, each_truth.roles.get(role, ()), position)
            ).percent
            by_role.append([effects[head] for heads in each_truth.roles.values() for head in heads])
        np.testing.assert_allclose(by_role[0], by_role[1], atol=0.05)


def test_directions_are_orthonormal_and_free_of_the_mean(grow):
    for rotate in (True, False):
        truth = build(Plan(rotate=rotate, circuits=2))
        every = torch.cat(list(truth.directions.values()), dim=1)
        torch.testing.assert_close(every.T @ every, torch.eye(255), atol=1e-5, rtol=0)
        assert every.sum(0).abs().max() < 1e-4
        assert (
            truth.channel.abs().max() > 0.9
        ) != rotate  # unturned, a direction is nearly a coordinate


def test_rotation_changes_the_weights_but_not_what_the_model_does():
    turned, straight = (build(Plan(rotate=rotate, distractors=0)) for rotate in (True, False))
    tokens = torch.tensor(ioi(turned.tokenizer, 1).tokens)
    a, b = (truth.hf_model(tokens).logits for truth in (turned, straight))
    torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
    assert not torch.allclose(
        turned.hf_model.lm_head.weight, straight.hf_model.lm_head.weight, atol=0.1
    )


def test_noise_has_the_stated_size_beside_the_planted_matrix():
    plain, noisy = (build(Plan(noise=noise, distractors=0)) for noise in (0.0, 0.3))
    head = plain.roles["movers"][0]

    def values(truth: Planted) -> torch.Tensor:
        start = 512 + 64 * head.head
        return truth.hf_model.transformer.h[head.layer].attn.c_attn.weight[:, start : start + 64]

    assert ((values(noisy) - values(plain)).norm() / values(plain).norm()).item() == pytest.approx(
        0.3, abs=1e-4
    )
    assert values(noisy).T.matmul(noisy.directions["carrier"]).abs().max() < 1e-5


# Chance


def test_random_weights_fill_no_more_roles_than_chance_allows(grow):
    """50 models of the planted shape; the receivers of every stage are given, so that all stages
    run.

    Heads that attend (and copy) as a role asks are counted; |mean| > 1.96 standard errors of 16
    independent effects around zero happens to a share P(|t15| > 1.96) = 0.069 of them. The count
    found must be within that share's binomial 99.9 % bound, for each role and for all.
    """
    truth, model = grow(Plan(distractors=0, seed=7))  # its own copy: the weights are overwritten
    prompts = ioi(model.tokenizer, 32, templates=vocabulary("ioi_templates")[:1]).select(
        range(0, 32, 2)
    )  # one order
    matrices = {
        n: p
        for n, p in model.named_parameters()
        if n.endswith("weight") and not re.search("ln|mlp|qkv", n)
    }
    found, candidates = (dict.fromkeys((role.name for role in IOI.roles), 0) for _ in range(2))
    for seed in range(50):
        random = torch.Generator().manual_seed(seed)
        for name, matrix in matrices.items():
            matrix.normal_(0, 1.0 if "wte" in name or "wpe" in name else 0.09, generator=random)
        evidence = Evidence(*attention_and_copying(model, prompts), stages(model, prompts, truth))
        for role in found:
            found[role] += len(select_heads(evidence, role, Rule()))
            candidates[role] += len(
                select_heads(evidence, role, Rule(min_percent=0.0, min_errors=0.0))
            )
    share = 2 * t.sf(1.96, len(prompts) - 1)
    print(f"found {found} of {candidates}, each with probability {share:.3f}")
    assert sum(candidates.values()) > 100
    assert sum(found.values()) <= binom.ppf(0.999, sum(candidates.values()), share)
    assert all(found[role] <= binom.ppf(0.999, candidates[role], share) for role in found)


def stages(model: TransformerBridge, prompts: Prompts, truth: Planted) -> dict[str, PathEffects]:
    effects = {}
    for stage, position in IOI.places.items():
        role, _, kind = stage.rpartition(".")
        effects[stage] = path_patch(
            model, prompts, Receiver(kind, truth.roles.get(role, ()), position)
        )
    return effects


# Building, saving, loading


@pytest.mark.parametrize(
    "impossible, message",
    [
        ({"channel_rank": 4}, "channel_rank is 4: .* 1 to 3"),
        ({"channel_rank": 0}, "channel_rank is 0"),
        ({"copies": 3}, "copies is 3: .* 4 heads"),
        ({"copies": 0}, "copies is 0"),
        ({"distractors": 17}, "distractors is 17: only 16 heads"),
        ({"distractors": -1}, "distractors is -1"),
        ({"copies": 2, "distractors": 9}, "distractors is 9: only 8 heads"),
        ({"circuits": 3}, "circuits is 3"),
        ({"noise": -0.1}, "noise and inhibition are sizes"),
        ({"inhibition": -1.0}, "noise and inhibition are sizes"),
    ],
    ids=str,
)
def test_impossible_plans_are_refused_by_name(impossible, message):
    with pytest.raises(ModelError, match=message):
        Plan(**impossible)


def test_more_names_than_a_head_holds_are_refused(monkeypatch, tmp_path):
    (tmp_path / "vocabulary.yaml").write_text(f"names: [{', '.join(f'N{i}' for i in range(64))}]")
    monkeypatch.setattr(models, "DATA", tmp_path)
    with pytest.raises(ModelError, match="64 names"):
        build()


def test_one_seed_is_one_model():
    weights = [build(Plan(seed=seed, noise=0.1)).hf_model.state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.allclose(weights[0]["lm_head.weight"], weights[2]["lm_head.weight"])


def test_saved_and_loaded_twice_the_logits_are_the_same(tmp_path):
    truth = build()
    save(truth, tmp_path / "once")
    once = load_model(str(tmp_path / "once"))
    again = load_model(str(tmp_path / "once"))
    tokens = once.to_tokens("Then, Mary and John went to the store. John gave a drink to")
    assert torch.equal(once(tokens), again(tokens))
    log_probs = truth.hf_model(tokens).logits.log_softmax(-1)
    torch.testing.assert_close(once(tokens).log_softmax(-1), log_probs, atol=1e-3, rtol=0)


def test_planted_is_a_model_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CIRCUITS_CACHE", str(tmp_path))
    model, weights, source = (
        load_model("planted"),
        attention_weights("planted"),
        models.resolve("planted"),
    )
    assert capsys.readouterr().out.count("writing its weights") == 1
    assert (model.cfg.model_name, source.kind, source.slug) == ("planted", "planted", "planted")
    torch.testing.assert_close(weights.W_O, model.W_O, atol=1e-5, rtol=0)
    entry = models.known_models()["planted"]
    assert (model.cfg.n_layers, model.cfg.n_heads) == (entry["layers"], entry["heads"])
    before = model_provenance("planted")
    (source.location / "model.safetensors").write_bytes(b"altered")
    assert model_provenance("planted") == before and "altered" in capsys.readouterr().out


def test_new_code_or_words_make_a_new_folder(monkeypatch, tmp_path):
    for folder in ("helpers", "data"):
        (tmp_path / folder).mkdir()
    for path in ("helpers/planted.py", "data/vocabulary.yaml"):
        (tmp_path / path).write_bytes((models.PROJECT / path).read_bytes())
    models.known_models()  # read from the project before DATA moves
    monkeypatch.setattr(models, "PROJECT", tmp_path)
    monkeypatch.setattr(models, "DATA", tmp_path / "data")
    locations = [models.resolve("planted").location]
    for path in ("helpers/planted.py", "data/vocabulary.yaml"):
        (tmp_path / path).write_text("# changed")
        locations.append(models.resolve("planted").location)
    assert len(set(locations)) == 3
