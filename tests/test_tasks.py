"""IOI prompts: words, positions, partners; and what `evaluate` says, by hand."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import config
from transformer_lens.evals import IOIDataset
from transformers import GPT2TokenizerFast

from helpers.models import Head
from helpers.tasks import Prompts, TaskError, english, evaluate, ioi, repeated_name, single_token, surprisal, vocabulary
from tests.by_hand import Wires, hand_model, hand_prompts
from tests.tiny import tiny_gpt2

COLORS = "red orange yellow green blue purple brown black".split()
THINGS = (
    "pencil notebook pen cup plate jug mug puzzle textbook leash necklace bracelet bottle ball envelope lighter bowl"
).split()
TEMPLATE = "Then, {A} and {B} went to the store. {S} gave a drink to"
NAMES = vocabulary("names")
FIVE = ("Mary", "John", "Tom", "James", "Dan")


@pytest.fixture(scope="module")
def gpt2_tokenizer(assets):
    return GPT2TokenizerFast.from_pretrained(assets / "models" / "gpt2-tokenizer")


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return smollm2.tokenizer


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return ioi(tokenizer, 48)


@pytest.fixture
def unchecked():
    """Arguments of a wrong type reach the code, as they do outside of tests, instead of the type checker."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("kind", ["names", "places", "objects"])
def test_every_word_is_one_token_in_both_vocabularies(kind, tokenizer, gpt2_tokenizer):
    words = vocabulary(kind)
    assert len(set(words)) == len(words)
    for each in (tokenizer, gpt2_tokenizer):
        assert len({single_token(each, word) for word in words}) == len(words)


def test_colors_and_things_of_colored_objects(tokenizer, gpt2_tokenizer):
    for word in (*COLORS, *THINGS):
        assert gpt2_tokenizer.decode(single_token(gpt2_tokenizer, word)) == f" {word}"
    split = [word for word in (*COLORS, *THINGS) if len(tokenizer(f" {word}")["input_ids"]) > 1]
    assert split == ["mug", "leash", "bracelet"]  # two tokens in the embedded model


@pytest.mark.parametrize("order", ["ABBA", "BABA"])
def test_positions_by_hand(order, tokenizer):
    at = ["ABBA", "BABA"].index(order)
    prompt = ioi(tokenizer, 2, templates=[TEMPLATE], names=FIVE).select([at])
    spaced = [word.replace("Ġ", " ") for word in tokenizer.convert_ids_to_tokens(prompt.tokens[0])]
    A, B, S = spaced[2], spaced[4], spaced[10]
    #                 0       1    2  3       4  5        6      7       8         9   10  11       12    13        14
    assert spaced == [
        "Then",
        ",",
        A,
        " and",
        B,
        " went",
        " to",
        " the",
        " store",
        ".",
        S,
        " gave",
        " a",
        " drink",
        " to",
    ]
    assert {A.strip(), B.strip()} < set(FIVE)
    io, s1 = {"ABBA": (2, 4), "BABA": (4, 2)}[order]
    expected = {"IO": (io,), "S1": (s1,), "S1+1": (s1 + 1,), "S2": (10,), "END": (14,)}
    assert prompt.positions == expected
    assert S == spaced[s1]
    assert tokenizer.decode(prompt.answers[0]) == spaced[io] and tokenizer.decode(prompt.distractors[0]) == S


def test_positions_hold_what_they_are_named_after(prompts):
    rows = np.arange(len(prompts))
    at = {
        name: [prompts.tokens[i][p] for i, p in zip(rows, where, strict=True)]
        for name, where in prompts.positions.items()
    }
    assert at["IO"] == list(prompts.answers)
    assert at["S1"] == at["S2"] == list(prompts.distractors)
    assert (prompts.position("S1+1") == prompts.position("S1") + 1).all()
    assert prompts.positions["END"] == tuple(len(tokens) - 1 for tokens in prompts.tokens)


def test_orders_and_templates_are_balanced(prompts):
    abba = prompts.position("IO") < prompts.position("S1")
    assert abba.sum() == len(prompts) / 2
    assert Counter(prompts.templates) == dict.fromkeys(range(len(vocabulary("ioi_templates"))), 6)
    assert len(vocabulary("ioi_templates")) >= 6
    assert all(abba[np.array(prompts.templates) == t].mean() == 0.5 for t in range(8))


def test_abc_partner_has_three_fresh_names(prompts):
    for clean, corrupted in zip(prompts.texts, prompts.corrupted_texts, strict=True):
        old, new = ([word for word in text.replace(",", "").split() if word in NAMES] for text in (clean, corrupted))
        assert (len(set(old)), len(set(new))) == (2, 3)
        assert not set(old) & set(new)
        for was, now in zip(clean.split(), corrupted.split(), strict=True):
            assert was == now or was.strip(",") in old and now.strip(",") in new


def test_swap_partner_differs_exactly_at_s2(tokenizer):
    prompts = ioi(tokenizer, 16, corruption="swap")
    for clean, corrupted, s2, answer in zip(
        prompts.tokens, prompts.corrupted, prompts.positions["S2"], prompts.answers, strict=True
    ):
        assert [i for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b] == [s2]
        assert corrupted[s2] == answer


def test_seed_decides_the_prompts(tokenizer, prompts):
    assert ioi(tokenizer, 48, seed=0) == prompts
    assert ioi(tokenizer, 48, seed=1).texts != prompts.texts
    assert ioi(tokenizer, 16) == prompts.select(range(16))  # fewer prompts are the first of more


def test_transformer_lens_makes_the_same_prompts(tokenizer):
    """Same words in, same set of (text, answer, distractor) out: all 20 pairs of five names, in both orders."""
    shared = " went to the store. [B] gave the milk to [A]"
    theirs = IOIDataset(
        tokenizer,
        templates=[f"Then, [A] and [B]{shared}", f"Then, [B] and [A]{shared}"],
        names=list(FIVE),
        nouns={},
        num_samples=400,
        prepend_bos=False,
        seed=0,
    )
    ours = ioi(tokenizer, 400, templates=["Then, {A} and {B} went to the store. {S} gave the milk to"], names=FIVE)
    made = {
        ((*tokens, right), right, wrong)
        for tokens, right, wrong in zip(ours.tokens, ours.answers, ours.distractors, strict=True)
    }
    assert made == {(tuple(s["prompt"].tolist()), s["IO"].item(), s["S"].item()) for s in theirs}
    assert len(made) == 40


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n": 0}, "n is 0; a task needs at least one prompt"),
        ({"n": 1, "corruption": "flip"}, "Unknown corruption 'flip'; choose 'abc' or 'swap'"),
        ({"n": 5, "names": (*FIVE[:4], "Bartholomew")}, r"'Bartholomew' is \d tokens .* choose a word of one token"),
        ({"n": 1, "names": FIVE[:4]}, "IOI needs at least five names.*4 were given"),
    ],
)
def test_ioi_refuses(arguments, message, tokenizer, unchecked):
    with pytest.raises(TaskError, match=message):
        ioi(tokenizer, **arguments)


def test_prompts_refuse(prompts):
    with pytest.raises(TaskError, match="no position 'S3'; it has IO, S1, S1\\+1, S2, END"):
        prompts.position("S3")
    with pytest.raises(
        TaskError, match=r"Prompts of \d+ and \d+ tokens cannot share a batch; iterate over `groups\(\)`"
    ):
        prompts.tensors()
    with pytest.raises(TaskError, match=r"Prompt 1 has \d+ tokens and its corrupted partner 1;"):
        replace(prompts, corrupted=(prompts.corrupted[0], (7,), *prompts.corrupted[2:]))
    with pytest.raises(TaskError, match="at least one prompt"):
        prompts.select([])


def test_select_keeps_the_order_asked_for(prompts):
    some = prompts.select([5, 2])
    assert len(some) == 2
    assert some.texts == (prompts.texts[5], prompts.texts[2])
    assert some.corrupted == (prompts.corrupted[5], prompts.corrupted[2])
    assert some.positions["S2"] == (prompts.positions["S2"][5], prompts.positions["S2"][2])


@pytest.mark.parametrize("size", [None, 1, 2])
def test_groups_partition_the_prompts(size, prompts):
    groups = list(prompts.groups("S2", "IO", size=size))
    assert sorted(np.concatenate(groups)) == list(range(len(prompts)))
    assert size is None or max(map(len, groups)) == size
    for group in groups:
        batch = prompts.select(group)
        assert batch.tensors()[0].shape[0] == len(group)
        assert len(set(batch.positions["S2"])) == len(set(batch.positions["IO"])) == 1


@pytest.mark.parametrize("corrupted", [False, True])
def test_evaluate_equals_a_plain_forward_pass(corrupted):
    model, rng = tiny_gpt2(), np.random.default_rng(0)
    tokens, partners = ([tuple(map(int, rng.integers(1, 90, 5 + i % 2))) for i in range(6)] for _ in range(2))
    words = tuple(map(int, rng.integers(1, 90, 6)))
    prompts = Prompts(("",) * 6, ("",) * 6, tuple(tokens), tuple(partners), words, words[::-1], {"END": (4, 5) * 3})
    got = evaluate(model, prompts, corrupted=corrupted, batch_size=2)
    for i in range(6):
        logits = model(prompts.select([i]).tensors()[int(corrupted)])[0, -1]
        assert got.logit_difference[i] == pytest.approx((logits[words[i]] - logits[words[5 - i]]).item(), abs=1e-5)
        assert got.predicted[i] == logits.argmax()


def test_accuracy_by_hand():
    """A head hands on x, averaged over two positions: its sign decides between yes and no; `maybe` wins near zero."""
    model = hand_model(
        ["x", "y"],
        {Head(0, 0): Wires({("x", "y"): 2})},
        tokens={"e": {"y": 1}, "plus": {"x": 4}, "minus": {"x": -4}, "yes": {}, "no": {}, "maybe": {}},
        unembed={"yes": {"y": 1}, "no": {"y": -1}, "maybe": {"y": 2}},
    )
    rows = [
        ("plus e", "minus e", "yes", "no"),  # y = 1 + 2 * 4 / 2 = 5: yes 5, no -5, maybe 10
        ("plus e", "minus e", "maybe", "yes"),
        ("minus e", "plus e", "no", "yes"),  # y = -3: yes -3, no 3, maybe -6
        ("minus e", "plus e", "yes", "no"),
    ]
    prompts = hand_prompts(model, rows, {"END": 1})
    got = evaluate(model, prompts)
    assert got.logit_difference == pytest.approx([10, 5, 6, -6], abs=1e-3)
    assert model.tokenizer.decode(got.predicted).split() == ["maybe", "maybe", "no", "no"]
    assert got.correct.tolist() == [False, True, True, False]
    assert got.chosen.tolist() == [True, True, True, False]
    assert evaluate(model, prompts, corrupted=True).logit_difference == pytest.approx([-6, -3, -10, 10], abs=1e-3)


def test_repeated_names_by_hand(tokenizer):
    """Every index equally often; the positions hold the names; the partner differs in the repeated name alone."""
    prompts = repeated_name(tokenizer, 8, size=4, seed=3)
    for i, tokens in enumerate(prompts.tokens):
        words = prompts.texts[i].replace(",", " ,").replace(".", " .").split()
        assert [tokenizer.decode(t).strip() for t in tokens] == words
        listed = [words[2], words[4], words[6], words[8]]
        again = words[words.index(".") + 1]
        assert listed.index(again) == i % 4
        assert [prompts.positions[f"N{j}"][i] for j in range(4)] == [2, 4, 6, 8]
        assert prompts.positions["S1"][i] == 2 + 2 * (i % 4)
        s2, end = prompts.positions["S2"][i], prompts.positions["END"][i]
        assert words[s2] == again and s2 > 8 and words[end] == "to" and end == len(words) - 1
        assert tokenizer.decode(prompts.distractors[i]).strip() == again
        assert tokenizer.decode(prompts.answers[i]).strip() == listed[(i + 1) % 4]
        differ = [at for at, (a, b) in enumerate(zip(tokens, prompts.corrupted[i], strict=True)) if a != b]
        assert differ == [s2] and prompts.corrupted[i][s2] not in tokens
    assert prompts == repeated_name(tokenizer, 8, size=4, seed=3) != repeated_name(tokenizer, 8, size=4, seed=4)


@pytest.mark.parametrize("n, size", [(0, 4), (4, 1), (4, len(NAMES))])
def test_repeated_names_refuse(n, size, tokenizer):
    with pytest.raises(TaskError, match=f"n is {n} and size {size}"):
        repeated_name(tokenizer, n, size=size)


def test_surprisal_by_hand():
    """Logits of "yes" and "no" are x and -x (0 for the other three words) where x, copied from "plus", is 1.

    After "plus" alone z = 1: -log p(yes) = log(e + 1/e + 3) - 1; after "plus yes" z = 1/2 and no is next.
    """
    model = hand_model(
        ["x", "y"],
        {Head(0, 0): Wires({("x", "y"): 1})},
        tokens={"plus": {"x": 1}, "yes": {}, "no": {}, "end": {}},
        unembed={"yes": {"y": 1}, "no": {"y": -1}},
    )
    first = np.log(np.e + 1 / np.e + 3) - 1
    second = np.log(np.exp(0.5) + np.exp(-0.5) + 3) + 0.5
    sums, counts = surprisal(model, ["plus yes no", "plus yes"])
    assert sums == pytest.approx([first + second, first], abs=1e-4) and counts.tolist() == [2, 1]
    with pytest.raises(TaskError, match="Text 1 has 1 tokens"):
        surprisal(model, ["plus yes", "plus"])


def test_english_is_plain_and_not_repeated():
    lines = english(200)
    assert len(set(lines)) == 200 and all(line.isascii() and 30 < len(line.split()) < 100 for line in lines)
    for n in (0, 10_000):
        with pytest.raises(TaskError, match=f"{n} paragraphs"):
            english(n)
