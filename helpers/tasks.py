"""Tasks: prompts with an answer, a distractor, named token positions and a corrupted partner.

A task is a seeded generator that returns `Prompts`. Words are single tokens in every vocabulary the suite uses, which
is checked for the tokenizer at hand, and positions are found by aligning words with tokens, never assumed.
"""

import functools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from transformer_lens.model_bridge import TransformerBridge

from helpers.models import DATA, read_data


class TaskError(ValueError):
    """A prompt or a generator's argument that the task cannot be built from."""


class VocabularyError(TaskError):
    """Words of a task that this model's vocabulary splits, so that the task cannot run on it."""


@dataclass(frozen=True)
class Prompts:
    """Prompts of a task, each beside a corrupted partner of the same length.

    tokens, corrupted: one tuple of token ids per prompt. answers, distractors: token ids of the clean prompt's right
    and wrong answer. positions: name -> the token index of that role in each prompt. templates: template index per
    prompt. choices: token ids of the answers that each prompt's context offers, the right one among them; empty where
    they are the answer and the distractor. Raises TaskError where a prompt and its partner differ in length.
    """

    texts: tuple[str, ...]
    corrupted_texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    corrupted: tuple[tuple[int, ...], ...]
    answers: tuple[int, ...]
    distractors: tuple[int, ...]
    positions: dict[str, tuple[int, ...]]
    templates: tuple[int, ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.tokens:
            raise TaskError("A task needs at least one prompt; give n >= 1.")
        for i, (n, m) in enumerate(zip(map(len, self.tokens), map(len, self.corrupted), strict=True)):
            if n != m:
                raise TaskError(f"Prompt {i} has {n} tokens and its corrupted partner {m}; give both the same number.")

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, indices: Sequence[int] | np.ndarray) -> "Prompts":
        """The prompts at these indices, in this order."""

        def pick(field: tuple) -> tuple:
            return tuple(field[i] for i in indices) if field else ()

        fields = {name: pick(getattr(self, name)) for name in self.__dataclass_fields__ if name != "positions"}
        return replace(self, **fields, positions={name: pick(where) for name, where in self.positions.items()})

    def position(self, name: str) -> Int[np.ndarray, " batch"]:
        """Token index of a named role in each prompt. Raises TaskError for a role this task does not have."""
        if name not in self.positions:
            raise TaskError(f"This task has no position {name!r}; it has {', '.join(self.positions)}.")
        return np.array(self.positions[name])

    def span(self, name: str) -> Bool[np.ndarray, "batch pos"]:
        """True at a named position, or from the first to the last of `FIRST:LAST`; as long as the longest prompt."""
        first, _, last = name.partition(":")
        place = np.arange(max(map(len, self.tokens)))
        return (place >= self.position(first)[:, None]) & (place <= self.position(last or first)[:, None])

    def tensors(self) -> tuple[Int[torch.Tensor, "batch pos"], Int[torch.Tensor, "batch pos"]]:
        """Clean and corrupted tokens of prompts of one length. Raises TaskError where lengths differ."""
        least, most = min(map(len, self.tokens)), max(map(len, self.tokens))
        if least < most:
            raise TaskError(f"Prompts of {least} and {most} tokens cannot share a batch; iterate over `groups()`.")
        return torch.tensor(self.tokens), torch.tensor(self.corrupted)

    def groups(self, *names: str, size: int | None = None) -> Iterator[np.ndarray]:
        """Indices of prompts that share their length and the positions of `names`, at most `size` at a time."""
        keys = np.stack([[len(tokens) for tokens in self.tokens], *map(self.position, names)], axis=1)
        for key in np.unique(keys, axis=0):
            members = np.flatnonzero((keys == key).all(axis=1))
            step = size or len(members)
            yield from np.split(members, range(step, len(members), step))


@dataclass(frozen=True)
class Behaviour:
    """What a model answers at END, per prompt; leading axes are those of the logits, such as variants of a run."""

    logit_difference: Float[np.ndarray, "*variant batch"]
    """logit(answer) - logit(distractor)."""
    predicted: Int[np.ndarray, "*variant batch"]
    """The most likely token of the full vocabulary."""
    correct: Bool[np.ndarray, "*variant batch"]
    """The prediction is the answer (full-vocabulary accuracy)."""
    chosen: Bool[np.ndarray, "*variant batch"]
    """The answer beats every other choice, by default the distractor (forced choice)."""
    in_context: Bool[np.ndarray, "*variant batch"]
    """The prediction is one of the choices."""


def evaluate(model: TransformerBridge, prompts: Prompts, *, corrupted: bool = False, batch_size: int = 32) -> Behaviour:
    """Run the prompts, or their corrupted partners, and compare with the clean prompts' answers and choices."""
    result = no_behaviour(len(prompts))
    for index in prompts.groups(size=batch_size):
        batch = prompts.select(index)
        tokens = batch.tensors()[int(corrupted)].to(model.cfg.device)
        for name, values in vars(judge(batch, model(tokens, logits_to_keep=1)[:, -1])).items():
            result[name][index] = values
    return Behaviour(**result)


def judge(prompts: Prompts, logits: Float[torch.Tensor, "*variant batch d_vocab"]) -> Behaviour:
    """Logits at END compared with the prompts' answers and choices."""
    rows = torch.arange(len(prompts), device=logits.device)
    answers, distractors = (rows.new_tensor(tokens) for tokens in (prompts.answers, prompts.distractors))
    offered = prompts.choices or list(zip(prompts.answers, prompts.distractors, strict=True))
    most = max(map(len, offered))  # shorter rows repeat their first choice
    choices = rows.new_tensor([row + row[:1] * (most - len(row)) for row in offered])
    right, predicted = logits[..., rows, answers], logits.argmax(-1)
    others = logits[..., rows[:, None], choices].masked_fill(choices == answers[:, None], -torch.inf)
    fields = {
        "logit_difference": right - logits[..., rows, distractors],
        "predicted": predicted,
        "correct": predicted == answers,
        "chosen": right > others.amax(-1),
        "in_context": (predicted[..., None] == choices).any(-1),
    }
    return Behaviour(**{name: values.cpu().numpy() for name, values in fields.items()})


def no_behaviour(*shape: int) -> dict[str, np.ndarray]:
    """Room for a Behaviour of this shape, by field, to be filled batch by batch."""
    kinds = {"logit_difference": float, "predicted": int}
    return {name: np.zeros(shape, dtype=kinds.get(name, bool)) for name in Behaviour.__dataclass_fields__}


@functools.cache
def vocabulary(kind: str) -> list[str]:
    """Words of a kind (`names`, `places`, `colors` ...) from data/vocabulary.yaml."""
    words = read_data("vocabulary.yaml")
    if kind not in words:
        raise TaskError(f"data/vocabulary.yaml has no {kind}: add them, or restore it from version control.")
    return words[kind]


def single_token(tokenizer: Any, word: str) -> int:
    """The id of ` word`. Raises TaskError where the tokenizer splits it."""
    ids = _ids(tokenizer, f" {word}")
    if len(ids) != 1:
        raise VocabularyError(f"{word!r} is {len(ids)} tokens in this model's vocabulary; choose a word of one token.")
    return ids[0]


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def ioi(
    tokenizer: Any,
    n: int,
    *,
    seed: int = 0,
    corruption: Literal["abc", "swap"] = "abc",
    templates: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> Prompts:
    """Indirect object identification (Wang et al. 2022): "{A} and {B} ... {S} gave ... to" wants the other name.

    Templates take turns, and after each round of them the order does: the subject second (ABBA), then first (BABA), so
    that n has as many of both if it is a multiple of twice the templates. Positions: IO, S1, S1+1, S2 and END. The
    corrupted partner replaces all names by three fresh ones (`abc`) or the second subject by the indirect object
    (`swap`). Raises TaskError for n < 1, an unknown corruption, fewer than five names, a word of several tokens, and a
    template that does not name each person behind a space, one of them twice.
    """
    if corruption not in ("abc", "swap"):
        raise TaskError(f"Unknown corruption {corruption!r}; choose 'abc' or 'swap'.")
    templates, names = templates or vocabulary("ioi_templates"), names or vocabulary("names")
    if len(names) < 5:
        raise TaskError(f"IOI needs at least five names, two and three fresh ones; {len(names)} were given.")
    rng, rows = random.Random(seed), []
    for i in range(n):
        turn, template = divmod(i, len(templates))
        io, subject, *fresh = rng.sample(list(names), 5)
        first, second = (subject, io) if turn % 2 else (io, subject)
        words = {"place": rng.choice(vocabulary("places")), "object": rng.choice(vocabulary("objects"))}
        fill = functools.partial(templates[template].format, **words)
        text = fill(A=first, B=second, S=subject)
        partner = fill(A=fresh[0], B=fresh[1], S=fresh[2]) if corruption == "abc" else fill(A=first, B=second, S=io)
        named = [[found.end() for found in re.finditer(rf" {name}\b", text)] for name in (io, subject)]
        if list(map(len, named)) != [1, 2]:
            raise TaskError(f"Template {templates[template]!r} needs {{A}}, {{B}} and {{S}} once, each behind a space.")
        [[at], [s1, s2]] = named
        ends = {"IO": at, "S1": s1, "S1+1": s1, "S2": s2}
        words = {"answers": single_token(tokenizer, io), "distractors": single_token(tokenizer, subject)}
        rows.append(words | {"templates": template} | _row(tokenizer, text, partner, ends))
    return _prompts(rows)


def repeated_name(tokenizer: Any, n: int, *, size: int = 6, seed: int = 0) -> Prompts:
    """A list of `size` names, one of which is named again, each equally often: "Then, {A}, {B} and {C} ... {B} gave".

    What IOI is for two names. Positions: N0 ... (the names in order), S1, S2 and END; the distractor is the repeated
    name, the answer its neighbour in the list (cyclic); the partner repeats a name outside of the list. Raises
    TaskError for n < 1, fewer than two names or more than the vocabulary has.
    """
    names, rng, rows = vocabulary("names"), random.Random(seed), []
    if not 2 <= size < len(names):
        raise TaskError(f"size is {size}: give 2 to {len(names) - 1} names.")
    for i in range(n):
        *listed, outsider = rng.sample(names, size + 1)
        target, place, thing = i % size, rng.choice(vocabulary("places")), rng.choice(vocabulary("objects"))
        start = f"Then, {', '.join(listed[:-1])} and {listed[-1]} went to the {place}. "
        texts = [f"{start}{name} gave a {thing} to" for name in (listed[target], outsider)]
        ends = {f"N{j}": re.search(rf"\b{name}\b", start).end() for j, name in enumerate(listed)}
        ends |= {"S1": ends[f"N{target}"], "S2": len(start) + len(listed[target])}
        answer, distractor = (single_token(tokenizer, listed[k % size]) for k in (target + 1, target))
        rows.append({"answers": answer, "distractors": distractor} | _row(tokenizer, *texts, ends))
    return _prompts(rows)


@dataclass(frozen=True)
class Scene:
    """One question of Colored Objects: (color, object) pairs on a surface, and the index of the object asked for."""

    surface: str
    opening: str
    items: tuple[tuple[str, str], ...]
    asked: int

    @property
    def answer(self) -> str:
        """The color asked for, as an answer is written: with a capital."""
        return self.items[self.asked][0].capitalize()

    def __str__(self) -> str:
        nouns = [f"{'an' if color[0] in 'aeiou' else 'a'} {color} {thing}" for color, thing in self.items]
        listed = f"{', '.join(nouns[:-1])}, and {nouns[-1]}"
        return f"Q: On the {self.surface}, {self.opening} {listed}. What color is the {self.items[self.asked][1]}?\nA:"


SCENE = re.compile(r"Q: On the (\w+), (\w+ \w+) (.+)\. (What) color is the (\w+)\?\nA:")
ITEM = re.compile(r"\ban? (\w+) (\w+)")


def render(example: Scene, question: Scene) -> str:
    """A prompt of Colored Objects: the example with its answer, then the question without (Merullo et al. 2024)."""
    return f"{example} {example.answer}\n{question}"


def colored_objects(tokenizer: Any, n: int, *, seed: int = 0) -> Prompts:
    """Colored Objects (Merullo et al. 2024): a list of three objects is described, and the color of one is asked for.

    One solved example comes first. As in the authors' prompts, the two lists share no color and no object, while
    surfaces, openings and the objects asked for are drawn independently. Objects that are several tokens are left out.

    Positions: C0 C1 C2 and O0 O1 O2 (colors and objects of the question's list), RIGHT and ASKED (the color and object
    asked for), ASKED+1, WRONG0 WRONG1 and OTHER0 OTHER1 (the other colors and their objects, in order), WHAT (where the
    question begins), Q (the object in it), EC0 EC1 EC2 (colors of the example's list), ANSWER0 (the example's answer),
    END; the last token of an object that has several. Choices: the three colors of the question's list. The partner
    asks for the next object of the list (cyclic); its answer is the distractor. Raises TaskError for n < 1, a color of
    several tokens, fewer than six objects of one token.
    """
    things = [thing for thing in vocabulary("things") if len(_ids(tokenizer, f" {thing}")) == 1]
    if len(things) < 6:
        raise VocabularyError(f"Only {len(things)} objects are one token, not six: the task cannot run on this model.")
    rng, rows = random.Random(seed), []
    for _ in range(n):
        items = tuple(zip(rng.sample(vocabulary("colors"), 6), rng.sample(things, 6), strict=True))
        scenes = [
            Scene(rng.choice(vocabulary("surfaces")), rng.choice(vocabulary("openings")), part, rng.randrange(3))
            for part in (items[:3], items[3:])
        ]
        rows.append(_colored_prompt(tokenizer, render(*scenes)))
    return _prompts(rows)


def colored_objects_file(tokenizer: Any, path: str | Path) -> Prompts:
    """The prompts of a file in the format of the authors' own: fields as `colored_objects`.

    The file is a JSON list of [prompt, answer] pairs, whose lists are of one length; `circuits.COLORED_OBJECTS` has
    roles for three objects. An object may be several tokens, but a row is left out where no other object of its list
    has as many as the one asked for: it has no partner of equal length in this vocabulary.
    Raises TaskError, with the row, for what is missing or is not of this form; and where no prompt remains.
    """
    path, rows = Path(path), []
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(f"{path} cannot be read ({error.strerror}): give a JSON file of prompts.") from error
    except ValueError as error:
        raise TaskError(f"{path} is not JSON ({error}): give a list of [prompt, answer] pairs.") from error
    if not isinstance(pairs, list):
        raise TaskError(f"{path} holds no list: give a list of [prompt, answer] pairs.")
    for i, pair in enumerate(pairs):
        try:
            for k, field in enumerate(("prompt", "answer")):
                if not isinstance(pair, list) or len(pair) <= k or not isinstance(pair[k], str):
                    raise TaskError(f"it has no {field}; give a pair of strings [prompt, answer].")
            row = _colored_prompt(tokenizer, *pair[:2])
            if row and rows and row["positions"].keys() != rows[0]["positions"].keys():
                raise TaskError("it lists more or fewer objects than the rows before; give lists of one length.")
        except TaskError as error:
            raise TaskError(f"Row {i} of {path}: {error}") from error
        rows += [row] if row else []
    if not rows:
        raise TaskError(f"{path} has no prompt with a partner of equal length in this model's vocabulary; give others.")
    return _prompts(rows)


def _colored_prompt(tokenizer: Any, text: str, answer: str | None = None) -> dict[str, Any] | None:
    """The fields of a prompt, read from its text; None where it has no partner of equal length."""
    found = list(SCENE.finditer(text))
    if len(found) != 2:
        raise TaskError(
            f"its prompt has {len(found)} questions of the form 'Q: On the <surface>, <opening> a <color> <object>, "
            "... What color is the <object>?', with 'A:' on a new line; give a solved example and a question."
        )
    (example, examples), (question, listed) = (_scene(match) for match in found)
    if text != render(example, question):
        raise TaskError(f"its prompt should read {render(example, question)!r}.")
    if answer not in (None, f" {question.answer}"):
        raise TaskError(f"its answer is {answer!r} but should be {f' {question.answer}'!r}.")
    k, n = question.asked, len(question.items)
    for color, _ in (*example.items, *question.items):
        single_token(tokenizer, color)
    sizes = [len(_ids(tokenizer, f" {thing}")) for _, thing in question.items]
    others = [other % n for other in range(k + 1, k + n) if sizes[other % n] == sizes[k]]
    if not others:
        return None
    partner = render(example, replace(question, asked=others[0]))
    choices = tuple(single_token(tokenizer, color.capitalize()) for color, _ in question.items)
    rest = listed[:k] + listed[k + 1 :]
    roles = {"EC": (examples, 1), "C": (listed, 1), "O": (listed, 2), "WRONG": (rest, 1), "OTHER": (rest, 2)}
    ends = {f"{role}{j}": item.end(part) for role, (items, part) in roles.items() for j, item in enumerate(items)}
    ends |= {"RIGHT": listed[k].end(1), "ASKED": listed[k].end(2), "ASKED+1": listed[k].end(2)}
    ends |= {"WHAT": found[1].end(4), "Q": found[1].end(5), "ANSWER0": found[0].end() + len(f" {example.answer}")}
    words = {"answers": choices[k], "distractors": choices[others[0]], "choices": choices}
    return words | _row(tokenizer, text, partner, ends)


def _scene(found: re.Match) -> tuple[Scene, list[re.Match]]:
    """A question, and where its (color, object) pairs stand."""
    listed = list(ITEM.finditer(found.string, *found.span(3)))
    items = tuple(item.groups() for item in listed)
    colors, things = ([item[i] for item in items] for i in (0, 1))
    if len(items) < 2:
        raise TaskError("a question lists fewer than two objects; give at least two.")
    if len(set(colors)) < len(items) or len(set(things)) < len(items):
        raise TaskError("a question names a color or an object twice; let those of a list differ.")
    if found[5] not in things:
        raise TaskError(f"a question asks for the {found[5]}, which its list does not name; ask for one that it does.")
    return Scene(found[1], found[2], items, things.index(found[5])), listed


def greater_than(tokenizer: Any, n: int, *, seed: int = 0) -> Prompts:
    """Greater-Than (Hanna et al. 2023): "The war lasted from the year 1732 to the year 17" wants a number above 32.

    Answer and distractor are one number above and one below the start, of the three drawn at random (02 to 99); so
    `correct` says little here, and the logit difference is what counts. The partner starts in 01, which allows both.
    Positions: YY (the start) and END. Raises TaskError for n < 1 and where years are not a century and two digits.
    """
    rng, rows, century = random.Random(seed), [], _ids(tokenizer, " 17")
    years = {year: _ids(tokenizer, f" 17{year:02d}") for year in range(1, 100)}
    years = {year: ids[-1] for year, ids in years.items() if ids[:-1] == century}
    if 1 not in years or len(years) < 4:
        raise VocabularyError(
            "This vocabulary does not write a year as its century and one token: the task cannot run on this model."
        )
    for _ in range(n):
        low, start, high = sorted(rng.sample(sorted(years.keys() - {1}), 3))
        begin = f"The {rng.choice(vocabulary('events'))} lasted from the year 17"
        text, partner = (f"{begin}{year:02d} to the year 17" for year in (start, 1))
        words = {"answers": years[high], "distractors": years[low]}
        rows.append(words | _row(tokenizer, text, partner, {"YY": len(begin) + 2}))
    return _prompts(rows)


def world_capitals(tokenizer: Any, n: int, *, seed: int = 0) -> Prompts:
    """World Capitals: "The capital of Italy is Rome. The capital of France is" wants " Paris" (a fact, not in context).

    The partner asks for a third country, whose capital is the distractor. Countries and capitals of several tokens are
    left out. Positions: COUNTRY0 and ANSWER0 (the example's country and capital), COUNTRY and END. Raises TaskError for
    n < 1 and fewer than three countries of one token.
    """
    rng, rows, pairs = random.Random(seed), [], [pair.split() for pair in vocabulary("capitals")]
    pairs = [pair for pair in pairs if all(len(_ids(tokenizer, f" {word}")) == 1 for word in pair)]
    if len(pairs) < 3:
        raise VocabularyError(
            f"Only {len(pairs)} countries and capitals are single tokens, not three: the task cannot run on this model."
        )
    for _ in range(n):
        (country0, capital0), (country, capital), (other, wrong) = rng.sample(pairs, 3)
        example = f"The capital of {country0} is {capital0}."
        text, partner = (f"{example} The capital of {name} is" for name in (country, other))
        words = {"answers": single_token(tokenizer, capital), "distractors": single_token(tokenizer, wrong)}
        ends = {"COUNTRY0": example.index(" is "), "ANSWER0": len(example) - 1, "COUNTRY": text.rindex(" is")}
        rows.append(words | _row(tokenizer, text, partner, ends))
    return _prompts(rows)


def halves(words: Sequence[str], *, seed: int) -> tuple[list[str], list[str]]:
    """Two halves of some words that share none: one to choose settings on, one to measure them on."""
    shuffled = random.Random(seed).sample(list(words), len(words))
    return shuffled[: len(words) // 2], shuffled[len(words) // 2 :]


def laundry_list(tokenizer: Any, n: int, *, size: int = 6, seed: int = 0, items: list[str] | None = None) -> Prompts:
    """Laundry List (Merullo et al. 2024): `size` items are listed, all but one are done, the one that is left is asked.

    "On Mark's shopping list there is a pencil, a shirt, and a key. Mark already found the pencil and the key. Mark
    still needs to find the" wants " shirt". Every index of the target takes its turn, then every template, then the
    order of the done items: that of the list, or reversed. Positions: ITEM0 ... (the list), DONE0 ... (the done items
    as they are mentioned), TARGET (the answer in the list) and END. Choices: all items of the list. In the partner the
    next item (cyclic) is left, which is the distractor. Raises TaskError for n < 1, a size below 2 or above the number
    of items, and items that repeat or are several tokens.
    """
    items = vocabulary("items") if items is None else items
    if len(set(items)) < len(items):
        raise TaskError("The items repeat a word, so a list could name it twice; give each once.")
    if not 2 <= size <= len(items):
        raise TaskError(f"A list of {size} of {len(items)} items cannot be drawn; give a size of 2 to {len(items)}.")
    rng, ids, rows = random.Random(seed), {item: single_token(tokenizer, item) for item in items}, []
    templates = vocabulary("laundry_templates")
    for i in range(n):
        turn, target = divmod(i, size)
        turn, template = divmod(turn, len(templates))
        listed, name = rng.sample(items, size), rng.choice(vocabulary("names"))
        right, wrong = listed[target], listed[(target + 1) % size]
        mentioned = listed[::-1] if turn % 2 else listed
        rests = [[item for item in mentioned if item != left] for left in (right, wrong)]
        fill = functools.partial(templates[template].format, N=name, LIST=_listed("a", listed))
        texts = [fill(DONE=_listed("the", rest)) for rest in rests]
        ends = {f"ITEM{j}": re.search(rf"\ba {item}\b", texts[0]).end() for j, item in enumerate(listed)}
        ends |= {f"DONE{j}": re.search(rf"\bthe {item}\b", texts[0]).end() for j, item in enumerate(rests[0])}
        ends["TARGET"] = ends[f"ITEM{target}"]
        words = {"answers": ids[right], "distractors": ids[wrong], "choices": tuple(ids[item] for item in listed)}
        rows.append(words | {"templates": template} | _row(tokenizer, *texts, ends))
    return _prompts(rows)


def _listed(article: str, items: Sequence[str]) -> str:
    """As people list things: "a cup", "a cup and a pen", "a cup, a pen, and a key"."""
    *most, last = (f"{article} {item}" for item in items)
    return f"{', '.join(most)}{',' * (len(most) > 1)}{' and ' * bool(most)}{last}"


def _row(tokenizer: Any, text: str, partner: str, ends: dict[str, int]) -> dict[str, Any]:
    """Texts, tokens and positions of a prompt; ends: role -> the character at which its word ends (`X+1`: X's word)."""
    encoding, ends = tokenizer(text, add_special_tokens=False), ends | {"END": len(text)}
    positions = {role: encoding.char_to_token(end - 1) + role.endswith("+1") for role, end in ends.items()}
    tokens, corrupted = tuple(encoding["input_ids"]), _ids(tokenizer, partner)
    return {"texts": text, "corrupted_texts": partner, "tokens": tokens, "corrupted": corrupted, "positions": positions}


def _prompts(rows: Sequence[dict[str, Any]]) -> Prompts:
    """Prompts from one dict per prompt, its keys the fields of Prompts."""
    columns = {name: tuple(row[name] for row in rows if name in row) for name in Prompts.__dataclass_fields__}
    roles = rows[0]["positions"] if rows else ()
    columns["positions"] = {role: tuple(row["positions"][role] for row in rows) for role in roles}
    return Prompts(**columns)


def english(n: int) -> list[str]:
    """The first n paragraphs of data/english.txt, the suite's own held-out prose. Raises TaskError if it has fewer."""
    lines = (DATA / "english.txt").read_text(encoding="utf-8").splitlines()
    if not 1 <= n <= len(lines):
        raise TaskError(f"{n} paragraphs were asked for: give 1 to {len(lines)}.")
    return lines[:n]


def surprisal(
    model: TransformerBridge, texts: Sequence[str]
) -> tuple[Float[np.ndarray, " text"], Int[np.ndarray, " text"]]:
    """Sum of -log p(next token) of each text, in nats, and how many tokens were predicted (all but the first).

    Perplexity = exp(sum of the one / sum of the other). Raises TaskError for a text of fewer than two tokens.
    """
    sums, counts = np.zeros(len(texts)), np.zeros(len(texts), dtype=int)
    for i, text in enumerate(texts):
        tokens = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]], device=model.cfg.device)
        if tokens.shape[1] < 2:
            raise TaskError(f"Text {i} has {tokens.shape[1]} tokens; give texts of at least two.")
        sums[i] = torch.nn.functional.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:], reduction="sum").item()
        counts[i] = tokens.shape[1] - 1
    return sums, counts
