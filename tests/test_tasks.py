"""IOI prompts: words, positions, partners; and what `evaluate` says, by hand."""

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from transformer_lens.evals import IOIDataset
from transformers import GPT2TokenizerFast

from helpers.behavior import evaluate, surprisal
from helpers.heads import Head
from helpers.tasks import (
    Prompts,
    Scene,
    colored_objects,
    colored_objects_file,
    english,
    greater_than,
    halves,
    ioi,
    laundry_list,
    render,
    repeated_name,
    single_token,
    vocabulary,
    world_capitals,
)
from suite.errors import TaskError
from tests.by_hand import Wires, hand_model, hand_prompts
from tests.tiny import tiny_gpt2

COLORS, THINGS = vocabulary("colors"), vocabulary("things")
TWO_TOKENS = {"mug", "leash", "bracelet"}  # in the embedded model
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


@pytest.mark.parametrize(
    "kind", ["names", "places", "objects", "colors", "surfaces", "events", "items"]
)
def test_every_word_is_one_token_in_both_vocabularies(kind, tokenizer, gpt2_tokenizer):
    words = vocabulary(kind)
    assert len(set(words)) == len(words)
    for each in (tokenizer, gpt2_tokenizer):
        assert len({single_token(each, word) for word in words}) == len(words)


def test_colors_and_things_of_colored_objects(tokenizer, gpt2_tokenizer):
    assert (len(set(COLORS)), len(set(THINGS))) == (8, 17)
    for word in (*COLORS, *THINGS, *map(str.capitalize, COLORS)):
        assert gpt2_tokenizer.decode(single_token(gpt2_tokenizer, word)) == f" {word}"
    split = {word for word in (*COLORS, *THINGS) if len(tokenizer(f" {word}")["input_ids"]) > 1}
    assert split == TWO_TOKENS
    assert len({single_token(tokenizer, color.capitalize()) for color in COLORS}) == 8


@pytest.mark.parametrize("order", ["ABBA", "BABA"])
def test_positions_by_hand(order, tokenizer):
    at = ["ABBA", "BABA"].index(order)
    prompt = ioi(tokenizer, 2, templates=[TEMPLATE], names=FIVE).select([at])
    spaced = [word.replace("Ġ", " ") for word in tokenizer.convert_ids_to_tokens(prompt.tokens[0])]
    A, B, S = spaced[2], spaced[4], spaced[10]
    #                 0       1    2  3       4  5        6      7       8         9   10  11
    # 12    13        14
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
    assert (
        tokenizer.decode(prompt.answers[0]) == spaced[io]
        and tokenizer.decode(prompt.distractors[0]) == S
    )


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
        old, new = (
            [word for word in text.replace(",", "").split() if word in NAMES]
            for text in (clean, corrupted)
        )
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
    """Same words in, same set of (text, answer, distractor) out: all 20 pairs of five names, in
    both orders.
    """
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
    ours = ioi(
        tokenizer,
        400,
        templates=["Then, {A} and {B} went to the store. {S} gave the milk to"],
        names=FIVE,
    )
    made = {
        ((*tokens, right), right, wrong)
        for tokens, right, wrong in zip(ours.tokens, ours.answers, ours.distractors, strict=True)
    }
    assert made == {(tuple(s["prompt"].tolist()), s["IO"].item(), s["S"].item()) for s in theirs}
    assert len(made) == 40


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n": 0}, "A task needs at least one prompt; give n >= 1"),
        ({"n": 1, "corruption": "flip"}, "Unknown corruption 'flip'; choose 'abc' or 'swap'"),
        (
            {"n": 5, "names": (*FIVE[:4], "Bartholomew")},
            r"'Bartholomew' is \d tokens .* choose a word of one token",
        ),
        (
            {"n": 1, "templates": ["{A} and {B} met. {S} gave a pen to"]},
            "Template '{A} and .* each behind a space",
        ),
        (
            {"n": 1, "templates": ["So {A}, {B} and {A} met. {S} said to"]},
            "Template 'So .* {A}, {B} and {S} once",
        ),
        (
            {"n": 1, "templates": ["So {A} and a friend met. {S} said to"]},
            "Template 'So .* {A}, {B} and {S} once",
        ),
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
        TaskError,
        match=r"Prompts of \d+ and \d+ tokens cannot share a batch; iterate over `groups\(\)`",
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
    tokens, partners = (
        [tuple(map(int, rng.integers(1, 90, 5 + i % 2))) for i in range(6)] for _ in range(2)
    )
    words = tuple(map(int, rng.integers(1, 90, 6)))
    prompts = Prompts(
        ("",) * 6,
        ("",) * 6,
        tuple(tokens),
        tuple(partners),
        words,
        words[::-1],
        {"END": (4, 5) * 3},
    )
    got = evaluate(model, prompts, corrupted=corrupted, batch_size=2)
    for i in range(6):
        logits = model(prompts.select([i]).tensors()[int(corrupted)])[0, -1]
        assert got.logit_difference[i] == pytest.approx(
            (logits[words[i]] - logits[words[5 - i]]).item(), abs=1e-5
        )
        assert got.predicted[i] == logits.argmax()


def test_accuracy_by_hand():
    """A head hands on x, averaged over two positions: its sign decides between yes and no; `maybe`
    wins near zero.
    """
    model = hand_model(
        ["x", "y"],
        {Head(0, 0): Wires({("x", "y"): 2})},
        tokens={
            "e": {"y": 1},
            "plus": {"x": 4},
            "minus": {"x": -4},
            "yes": {},
            "no": {},
            "maybe": {},
        },
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
    assert got.in_context.tolist() == [
        False,
        True,
        True,
        True,
    ]  # the last prediction is its distractor
    assert evaluate(model, prompts, corrupted=True).logit_difference == pytest.approx(
        [-6, -3, -10, 10], abs=1e-3
    )
    yes, no, maybe = (model.tokenizer(word)["input_ids"][0] for word in ("yes", "no", "maybe"))
    got = evaluate(
        model,
        replace(prompts, choices=((yes, no, maybe), (maybe, yes), (yes, no, maybe), (yes, no))),
    )
    assert got.chosen.tolist() == [False, True, True, False]  # yes 5 now stands against maybe 10
    assert got.in_context.tolist() == [True, True, True, True]


def test_repeated_names_by_hand(tokenizer):
    """Every index equally often; the positions hold the names; the partner differs in the repeated
    name alone.
    """
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
        differ = [
            at for at, (a, b) in enumerate(zip(tokens, prompts.corrupted[i], strict=True)) if a != b
        ]
        assert differ == [s2] and prompts.corrupted[i][s2] not in tokens
    assert (
        prompts
        == repeated_name(tokenizer, 8, size=4, seed=3)
        != repeated_name(tokenizer, 8, size=4, seed=4)
    )


@pytest.mark.parametrize("size", [1, len(NAMES)])
def test_repeated_names_refuse(size, tokenizer):
    with pytest.raises(TaskError, match=f"size is {size}: give 2 to {len(NAMES) - 1} names"):
        repeated_name(tokenizer, 4, size=size)
    with pytest.raises(TaskError, match="at least one prompt"):
        repeated_name(tokenizer, 0, size=4)


def test_surprisal_by_hand():
    """Logits of "yes" and "no" are x and -x (0 for the other three words) where x, copied from
    "plus", is 1.

    After "plus" alone z = 1: -log p(yes) = log(e + 1/e + 3) - 1; after "plus yes" z = 1/2 and no is
    next.
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
    assert len(set(lines)) == 200 and all(
        line.isascii() and 30 < len(line.split()) < 100 for line in lines
    )
    for n in (0, 10_000):
        with pytest.raises(TaskError, match=f"{n} paragraphs"):
            english(n)


BY_HAND = (
    "Q: On the table, I see an orange textbook, a red puzzle, and a purple cup. What color is the textbook?\n"
    "A: Orange\nQ: On the floor, there is a blue pen, a black plate, and a yellow ball. What color is the plate?\nA:"
)


def test_colored_objects_render_by_hand():
    example = Scene(
        "table", "I see", (("orange", "textbook"), ("red", "puzzle"), ("purple", "cup")), 0
    )
    question = Scene(
        "floor", "there is", (("blue", "pen"), ("black", "plate"), ("yellow", "ball")), 1
    )
    assert render(example, question) == BY_HAND
    two = replace(question, items=question.items[:2])
    assert (
        str(two)
        == "Q: On the floor, there is a blue pen, and a black plate. What color is the plate?\nA:"
    )


def test_the_authors_prompts_are_rendered_exactly(assets):
    """Each of the 1,000 prompts is taken apart by splitting at its fixed words, and rendered again
    from its parts.
    """
    rows = json.loads(
        (assets / "data" / "colored_objects_authors" / "cobjs_data_42.json").read_text()
    )

    def scene(line):
        surface, rest = line.removeprefix("Q: On the ").split(", ", 1)
        described, asked = rest.removesuffix("?").split(". What color is the ")
        *opening, first = re.split(r" (?=an? )", described, maxsplit=1)
        items = tuple(tuple(noun.split()[-2:]) for noun in first.split(", "))
        return Scene(surface, opening[0], items, [thing for _, thing in items].index(asked))

    for text, answer in rows:
        first, solved, second, _ = text.split("\n")
        example, question = scene(first), scene(second)
        assert render(example, question) == text
        assert (solved, answer) == (f"A: {example.answer}", f" {question.answer}")
        for part in (example, question):
            assert part.surface in vocabulary("surfaces") and part.opening in vocabulary("openings")
        colors, things = zip(*example.items, *question.items, strict=True)
        assert len(set(colors)) == len(set(things)) == 6  # the two lists share nothing
        assert set(colors) <= set(COLORS) and set(things) <= set(THINGS)
    assert len(rows) == 1000


def test_colored_objects_positions_by_hand(tokenizer, tmp_path):
    """Words and punctuation are one token each in BY_HAND, so positions can be counted."""
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([[BY_HAND, " Black"]]))
    prompt = colored_objects_file(tokenizer, file)
    words = re.findall(r"\w+|[^\w ]", BY_HAND)  # a new line is one of them
    assert [tokenizer.decode(token).strip(" ") for token in prompt.tokens[0]] == words
    at = {
        **{"EC0": 9, "EC1": 13, "EC2": 18, "ANSWER0": 30},  # Q : On the table , I see an orange
        **{"C0": 41, "O0": 42, "C1": 45, "O1": 46, "C2": 50, "O2": 51, "Q": 57, "END": 61},
        **{
            "RIGHT": 45,
            "WRONG0": 41,
            "WRONG1": 50,
            "ASKED": 46,
            "ASKED+1": 47,
            "OTHER0": 42,
            "OTHER1": 51,
            "WHAT": 53,
        },
    }
    said = {
        "EC0": "orange",
        "EC1": "red",
        "EC2": "purple",
        "ANSWER0": "Orange",
        "C0": "blue",
        "O0": "pen",
    }
    said |= {"C1": "black", "O1": "plate", "C2": "yellow", "O2": "ball", "Q": "plate", "END": ":"}
    said |= {"RIGHT": "black", "WRONG0": "blue", "WRONG1": "yellow"}
    said |= {"ASKED": "plate", "ASKED+1": ",", "OTHER0": "pen", "OTHER1": "ball", "WHAT": "What"}
    assert prompt.positions == {name: (where,) for name, where in at.items()}
    assert {name: words[where] for name, where in at.items()} == said
    assert [tokenizer.decode(token) for token in prompt.choices[0]] == [
        " Blue",
        " Black",
        " Yellow",
    ]
    assert tokenizer.decode([prompt.answers[0], prompt.distractors[0]]) == " Black Yellow"
    assert prompt.corrupted_texts[0] == BY_HAND.replace("the plate?", "the ball?")


@pytest.mark.parametrize("vocabulary_of", ["tokenizer", "gpt2_tokenizer"])
def test_colored_objects_prompts_are_what_their_fields_say(vocabulary_of, request):
    tokenizer = request.getfixturevalue(vocabulary_of)
    prompts = colored_objects(tokenizer, 300, seed=1)
    asked = Counter()
    for i, tokens in enumerate(prompts.tokens):
        at = {
            name: tokenizer.decode(tokens[where[i]]).strip()
            for name, where in prompts.positions.items()
        }
        k = [at["O0"], at["O1"], at["O2"]].index(at["Q"])
        colors = [at["C0"], at["C1"], at["C2"]]
        wrong = colors[:k] + colors[k + 1 :]
        assert (
            at["RIGHT"] == colors[k] and [at["WRONG0"], at["WRONG1"]] == wrong and at["END"] == ":"
        )
        assert at["ANSWER0"].lower() in {at["EC0"], at["EC1"], at["EC2"]}
        offered = [tokenizer.decode(choice) for choice in prompts.choices[i]]
        assert offered == [f" {color.capitalize()}" for color in colors]
        assert (prompts.answers[i], prompts.distractors[i]) == (
            prompts.choices[i][k],
            prompts.choices[i][(k + 1) % 3],
        )
        changed = [
            p for p, (a, b) in enumerate(zip(tokens, prompts.corrupted[i], strict=True)) if a != b
        ]
        assert changed == [prompts.positions["Q"][i]]
        assert tokenizer.decode(prompts.corrupted[i][changed[0]]).strip() == at[f"O{(k + 1) % 3}"]
        asked[k] += 1
    assert min(asked.values()) > 70  # each object is asked for about 100 times
    everything = set(" ".join(prompts.texts).replace(",", "").replace("?", "").split())
    left_out = TWO_TOKENS if vocabulary_of == "tokenizer" else set()
    assert everything & set(THINGS) == set(THINGS) - left_out
    assert (
        prompts.select(range(20))
        == colored_objects(tokenizer, 20, seed=1)
        != colored_objects(tokenizer, 20)
    )


def test_the_authors_file_in_place_of_the_generator(assets, tokenizer, gpt2_tokenizer):
    file = assets / "data" / "colored_objects_authors" / "cobjs_data_42.json"
    pairs = json.loads(file.read_text())
    everything = colored_objects_file(gpt2_tokenizer, file)
    assert [
        [text, gpt2_tokenizer.decode(a)]
        for text, a in zip(everything.texts, everything.answers, strict=True)
    ] == pairs
    assert everything.positions.keys() == colored_objects(gpt2_tokenizer, 1).positions.keys()

    def has_partner(
        text,
    ):  # the object asked for last, and the objects of the list as often as they are two tokens
        *_, question, _ = text.split("\n")
        things = [word.strip(",.?") for word in question.split() if word.strip(",.?") in THINGS]
        return sum((thing in TWO_TOKENS) == (things[3] in TWO_TOKENS) for thing in things[:3]) > 1

    fit = colored_objects_file(tokenizer, file)
    assert fit.texts == tuple(text for text, _ in pairs if has_partner(text))


def test_a_partner_asks_for_an_object_of_as_many_tokens(tokenizer, tmp_path):
    """The plate's neighbour in the list, a mug, is two tokens: the pen is asked for. Nothing can
    replace the mug.
    """
    text = BY_HAND.replace("yellow ball", "yellow mug")
    file = tmp_path / "prompts.json"
    file.write_text(
        json.dumps([[text.replace("the plate?", "the mug?"), " Yellow"], [text, " Black"]])
    )
    prompt = colored_objects_file(tokenizer, file)
    assert prompt.texts == (text,) and prompt.corrupted_texts[0] == text.replace(
        "the plate?", "the pen?"
    )
    where = prompt.positions["O2"][0]
    assert tokenizer.decode(prompt.tokens[0][where - 1 : where + 1]) == " mug"  # its last token
    file.write_text(json.dumps([[text.replace("the plate?", "the mug?"), " Yellow"]]))
    with pytest.raises(
        TaskError, match="has no prompt with a partner of equal length .* give others"
    ):
        colored_objects_file(tokenizer, file)


TWO_OBJECTS = BY_HAND.replace(", and a yellow ball", "").replace("pen, a", "pen, and a")


@pytest.mark.parametrize(
    "pairs, message",
    [
        ({"prompt": BY_HAND}, "holds no list: give a list of"),
        ([], "has no prompt with a partner"),
        ([[BY_HAND, " Black"], [BY_HAND]], "Row 1 of .*: it has no answer; give a pair of strings"),
        ([[]], "Row 0 of .*: it has no prompt"),
        ([[BY_HAND, None]], "it has no answer"),
        ([["What color is the pen?", " Red"]], "its prompt has 0 questions of the form"),
        ([[BY_HAND.split("\n")[0] + "\nA:", " Orange"]], "its prompt has 1 questions of the form"),
        ([[BY_HAND.replace("A: Orange", "A:"), " Black"]], "its prompt should read .*A: Orange"),
        (
            [[BY_HAND.replace("an orange", "a orange"), " Black"]],
            "its prompt should read .*an orange",
        ),
        ([[BY_HAND, "Black"]], "its answer is 'Black' but should be ' Black'"),
        (
            [[BY_HAND.replace("the plate?", "the bowl?"), " Black"]],
            "asks for the bowl, which its list does not name",
        ),
        ([[BY_HAND.replace("yellow", "blue"), " Black"]], "names a color or an object twice"),
        (
            [[BY_HAND.replace("yellow", "fuchsia"), " Black"]],
            r"Row 0 of .*: 'fuchsia' is \d tokens",
        ),
        (
            [[BY_HAND.replace("a blue pen, a black plate, and", ""), " Yellow"]],
            "fewer than two objects",
        ),
        (
            [[BY_HAND, " Black"], [TWO_OBJECTS, " Black"]],
            "Row 1 of .*: it lists more or fewer objects than the rows",
        ),
    ],
)
def test_colored_objects_file_refuses(pairs, message, tokenizer, tmp_path):
    (tmp_path / "prompts.json").write_text(json.dumps(pairs))
    with pytest.raises(TaskError, match=message):
        colored_objects_file(tokenizer, tmp_path / "prompts.json")


def test_a_file_that_is_not_there_or_not_json_is_refused(tokenizer, tmp_path):
    with pytest.raises(TaskError, match="cannot be read .* give a JSON file"):
        colored_objects_file(tokenizer, tmp_path / "prompts.json")
    (tmp_path / "prompts.json").write_text("Q: On the table")
    with pytest.raises(TaskError, match="is not JSON .* give a list of"):
        colored_objects_file(tokenizer, tmp_path / "prompts.json")


def test_a_file_may_list_two_objects(tokenizer, tmp_path):
    (tmp_path / "prompts.json").write_text(json.dumps([[TWO_OBJECTS, " Black"]]))
    prompt = colored_objects_file(tokenizer, tmp_path / "prompts.json")
    assert prompt.corrupted_texts[0] == TWO_OBJECTS.replace("the plate?", "the pen?")
    assert (
        "C1" in prompt.positions
        and "C2" not in prompt.positions
        and "WRONG1" not in prompt.positions
    )


def test_greater_than_by_hand(gpt2_tokenizer):
    prompts = greater_than(gpt2_tokenizer, 100)
    for i, tokens in enumerate(prompts.tokens):
        form = r"The (\w+) lasted from the year 17(\d\d) to the year 17"
        event, start = re.fullmatch(form, prompts.texts[i]).groups()
        assert event in vocabulary("events")
        #                                           0    1      2      3     4     5    6   7    8
        # 9     10   11
        assert [gpt2_tokenizer.decode(token).strip() for token in tokens] == [
            *["The", event, "lasted", "from", "the", "year", "17", start, "to", "the", "year", "17"]
        ]
        low, high = (
            gpt2_tokenizer.decode(token) for token in (prompts.distractors[i], prompts.answers[i])
        )
        assert 1 < int(low) < int(start) < int(high) <= 99
        assert prompts.corrupted_texts[i] == prompts.texts[i].replace(f"17{start} ", "1701 ")
    assert prompts.positions == {"YY": (7,) * 100, "END": (11,) * 100}
    assert prompts == greater_than(gpt2_tokenizer, 100) != greater_than(gpt2_tokenizer, 100, seed=1)


def test_greater_than_refuses_a_vocabulary_that_splits_digits(tokenizer):
    with pytest.raises(TaskError, match="does not write a year .* cannot run on this model"):
        greater_than(tokenizer, 4)


@pytest.mark.parametrize("vocabulary_of", ["tokenizer", "gpt2_tokenizer"])
def test_world_capitals_by_hand(vocabulary_of, request):
    tokenizer, capitals = (
        request.getfixturevalue(vocabulary_of),
        dict(pair.split() for pair in vocabulary("capitals")),
    )
    assert len(capitals) == len(set(capitals.values())) >= 30
    for country, capital in capitals.items():
        single_token(tokenizer, country), single_token(tokenizer, capital)
    prompts = world_capitals(tokenizer, 100)
    for i, tokens in enumerate(prompts.tokens):
        form = r"The capital of (\w+) is (\w+). The capital of (\w+) is"
        first, capital, country = re.fullmatch(form, prompts.texts[i]).groups()
        assert first != country and capital == capitals[first]
        other = re.fullmatch(form, prompts.corrupted_texts[i])[3]
        assert (
            prompts.corrupted_texts[i]
            == f"The capital of {first} is {capital}. The capital of {other} is"
        )
        answers = [
            tokenizer.decode(token) for token in (prompts.answers[i], prompts.distractors[i])
        ]
        assert (
            answers == [f" {capitals[country]}", f" {capitals[other]}"]
            and len({first, country, other}) == 3
        )
        assert [
            tokenizer.decode(token).strip() for token in (tokens[3], tokens[5], tokens[10])
        ] == [
            first,
            capital,
            country,
        ]
    assert {name: set(where) for name, where in prompts.positions.items()} == {
        **{"COUNTRY0": {3}, "ANSWER0": {5}, "COUNTRY": {10}, "END": {11}}
    }
    assert prompts == world_capitals(tokenizer, 100) != world_capitals(tokenizer, 100, seed=1)


@pytest.mark.parametrize("task", [colored_objects, laundry_list, world_capitals])
def test_a_task_of_no_prompts_is_refused(task, tokenizer):
    with pytest.raises(TaskError, match="A task needs at least one prompt; give n >= 1"):
        task(tokenizer, 0)


@pytest.mark.parametrize(
    "task, count", [(colored_objects, "Only 0 objects"), (world_capitals, "Only 0 countries")]
)
def test_a_vocabulary_without_the_words_is_refused(task, count):
    """Here every letter is a token."""
    with pytest.raises(TaskError, match=f"{count} .* cannot run on this model"):
        task(lambda text, add_special_tokens: {"input_ids": list(text.encode())}, 4)


# Laundry List
# ---------------------------------------------------------------------------------------


def test_a_laundry_list_by_hand(tokenizer):
    """Three items: the middle one is left; the partner leaves the last; the fourth round of
    templates is reversed.
    """
    tasks = laundry_list(tokenizer, 12, size=3, items=["pencil", "shirt", "key"])
    first, second, third = (tokenizer.decode(token).strip() for token in tasks.choices[1])
    name = tasks.texts[1].split("'s ")[0].removeprefix("On ")
    begin = f"On {name}'s shopping list there is a {first}, a {second}, and a {third}. {name} already found"
    assert tasks.texts[1] == f"{begin} the {first} and the {third}. {name} still needs to find the"
    assert (
        tasks.corrupted_texts[1]
        == f"{begin} the {first} and the {second}. {name} still needs to find the"
    )
    one = tasks.select([1])
    words = {
        role: tokenizer.decode(one.tokens[0][where[0]]) for role, where in one.positions.items()
    }
    listed = {"ITEM0": f" {first}", "ITEM1": f" {second}", "ITEM2": f" {third}"}
    assert words == listed | {
        "DONE0": f" {first}",
        "DONE1": f" {third}",
        "TARGET": f" {second}",
        "END": " the",
    }
    assert one.position("TARGET")[0] == one.position("ITEM1")[0] < one.position("DONE0")[0]
    assert [tokenizer.decode(t) for t in (*one.answers, *one.distractors)] == [
        f" {second}",
        f" {third}",
    ]
    first, second, third = (tokenizer.decode(token).strip() for token in tasks.choices[6])
    assert f"already found the {third} and the {second}." in tasks.texts[6]
    assert "So far" in tasks.texts[3] and "wants to buy a" in tasks.texts[9]


@pytest.mark.parametrize("size", [2, 5, 12])
def test_laundry_lists_are_balanced_and_partners_fit(size, tokenizer, gpt2_tokenizer):
    for each in (tokenizer, gpt2_tokenizer):
        tasks = laundry_list(each, 4 * size, size=size, seed=3)
        target = [
            choices.index(answer)
            for choices, answer in zip(tasks.choices, tasks.answers, strict=True)
        ]
        assert Counter(target) == dict.fromkeys(range(size), 4)
        assert Counter(zip(target, tasks.templates, strict=True)) == {
            (i, t): 2 for i in range(size) for t in (0, 1)
        }
        for i, (clean, partner) in enumerate(zip(tasks.tokens, tasks.corrupted, strict=True)):
            done = [clean[tasks.position(f"DONE{j}")[i]] for j in range(size - 1)]
            assert sorted((*done, tasks.answers[i])) == sorted(tasks.choices[i])
            assert clean.count(tasks.answers[i]) == 1 and partner.count(tasks.answers[i]) == 2
            assert partner.count(tasks.distractors[i]) == 1


def test_halves_share_nothing_and_the_seed_decides(tokenizer):
    items = vocabulary("items")
    train, test = halves(items, seed=0)
    assert sorted(train + test) == sorted(items) and not set(train) & set(test)
    assert abs(len(train) - len(test)) <= 1 and min(len(train), len(test)) >= 12
    assert halves(items, seed=0) == (train, test) != halves(items, seed=1)
    used = {
        token for row in laundry_list(tokenizer, 40, size=5, items=train).choices for token in row
    }
    assert not used & {single_token(tokenizer, item) for item in test}
    assert laundry_list(tokenizer, 5, size=5) == laundry_list(tokenizer, 5, size=5)
    assert (
        laundry_list(tokenizer, 5, size=5).texts != laundry_list(tokenizer, 5, size=5, seed=1).texts
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n": 0}, "at least one prompt"),
        ({"size": 0}, "give a size of 2 to 60"),
        ({"size": 1}, "give a size of 2 to 60"),
        ({"size": 61}, "list of 61 of 60 items"),
        ({"items": ["cup", "pen", "cup"], "size": 2}, "repeat a word"),
        ({"items": ["cup", "basketball court"], "size": 2}, "'basketball court' is 2 tokens"),
    ],
)
def test_laundry_lists_refuse(arguments, message, tokenizer):
    with pytest.raises(TaskError, match=message):
        laundry_list(tokenizer, **{"n": 4} | arguments)
