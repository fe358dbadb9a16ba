"""Colored Objects: generated, or read from a file in the authors' format."""

import json
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers.tasks.prompts import Prompts, prompt_row, prompts_from_rows
from helpers.tasks.words import single_token, token_ids, vocabulary
from suite.errors import TaskError, VocabularyError


@dataclass(frozen=True)
class Scene:
    """One question of Colored Objects: (color, object) pairs on a surface, and the index of the
    object asked for.
    """

    surface: str
    opening: str
    items: tuple[tuple[str, str], ...]
    asked: int

    @property
    def answer(self) -> str:
        """The color asked for, as an answer is written: with a capital."""
        return self.items[self.asked][0].capitalize()

    def __str__(self) -> str:
        nouns = [
            f"{'an' if color[0] in 'aeiou' else 'a'} {color} {thing}" for color, thing in self.items
        ]
        listed = f"{', '.join(nouns[:-1])}, and {nouns[-1]}"
        return f"Q: On the {self.surface}, {self.opening} {listed}. What color is the {self.items[self.asked][1]}?\nA:"


SCENE = re.compile(r"Q: On the (\w+), (\w+ \w+) (.+)\. (What) color is the (\w+)\?\nA:")


ITEM = re.compile(r"\ban? (\w+) (\w+)")


def render(example: Scene, question: Scene) -> str:
    """A prompt of Colored Objects: the example with its answer, then the question without (Merullo
    et al. 2024).
    """
    return f"{example} {example.answer}\n{question}"


def colored_objects(tokenizer: Any, n: int, *, seed: int = 0) -> Prompts:
    """Colored Objects (Merullo et al. 2024): a list of three objects is described, and the color of
    one is asked for.

    One solved example comes first. As in the authors' prompts, the two lists share no color and no
    object, while surfaces, openings and the objects asked for are drawn independently. Objects that
    are several tokens are left out.

    Positions: C0 C1 C2 and O0 O1 O2 (colors and objects of the question's list), RIGHT and ASKED
    (the color and object asked for), ASKED+1, WRONG0 WRONG1 and OTHER0 OTHER1 (the other colors and
    their objects, in order), WHAT (where the question begins), Q (the object in it), EC0 EC1 EC2
    (colors of the example's list), ANSWER0 (the example's answer), END; the last token of an object
    that has several. Choices: the three colors of the question's list. The partner asks for the
    next object of the list (cyclic); its answer is the distractor. Raises TaskError for n < 1, a
    color of several tokens, fewer than six objects of one token.
    """
    things = [
        thing for thing in vocabulary("things") if len(token_ids(tokenizer, f" {thing}")) == 1
    ]
    if len(things) < 6:
        raise VocabularyError(
            f"Only {len(things)} objects are one token, not six: the task cannot run on this model."
        )
    rng, rows = random.Random(seed), []
    for _ in range(n):
        items = tuple(zip(rng.sample(vocabulary("colors"), 6), rng.sample(things, 6), strict=True))
        scenes = [
            Scene(
                rng.choice(vocabulary("surfaces")),
                rng.choice(vocabulary("openings")),
                part,
                rng.randrange(3),
            )
            for part in (items[:3], items[3:])
        ]
        rows.append(_colored_prompt(tokenizer, render(*scenes)))
    return prompts_from_rows(rows)


def colored_objects_file(tokenizer: Any, path: str | Path) -> Prompts:
    """The prompts of a file in the format of the authors' own: fields as `colored_objects`.

    The file is a JSON list of [prompt, answer] pairs, whose lists are of one length;
    `circuits.COLORED_OBJECTS` has roles for three objects. An object may be several tokens, but a
    row is left out where no other object of its list has as many as the one asked for: it has no
    partner of equal length in this vocabulary. Raises TaskError, with the row, for what is missing
    or is not of this form; and where no prompt remains.
    """
    path, rows = Path(path), []
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(
            f"{path} cannot be read ({error.strerror}): give a JSON file of prompts."
        ) from error
    except ValueError as error:
        raise TaskError(
            f"{path} is not JSON ({error}): give a list of [prompt, answer] pairs."
        ) from error
    if not isinstance(pairs, list):
        raise TaskError(f"{path} holds no list: give a list of [prompt, answer] pairs.")
    for i, pair in enumerate(pairs):
        try:
            for k, field in enumerate(("prompt", "answer")):
                if not isinstance(pair, list) or len(pair) <= k or not isinstance(pair[k], str):
                    raise TaskError(f"it has no {field}; give a pair of strings [prompt, answer].")
            row = _colored_prompt(tokenizer, *pair[:2])
            if row and rows and row["positions"].keys() != rows[0]["positions"].keys():
                raise TaskError(
                    "it lists more or fewer objects than the rows before; give lists of one length."
                )
        except TaskError as error:
            raise TaskError(f"Row {i} of {path}: {error}") from error
        rows += [row] if row else []
    if not rows:
        raise TaskError(
            f"{path} has no prompt with a partner of equal length in this model's vocabulary; give others."
        )
    return prompts_from_rows(rows)


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
    sizes = [len(token_ids(tokenizer, f" {thing}")) for _, thing in question.items]
    others = [other % n for other in range(k + 1, k + n) if sizes[other % n] == sizes[k]]
    if not others:
        return None
    partner = render(example, replace(question, asked=others[0]))
    choices = tuple(single_token(tokenizer, color.capitalize()) for color, _ in question.items)
    rest = listed[:k] + listed[k + 1 :]
    roles = {
        "EC": (examples, 1),
        "C": (listed, 1),
        "O": (listed, 2),
        "WRONG": (rest, 1),
        "OTHER": (rest, 2),
    }
    ends = {
        f"{role}{j}": item.end(part)
        for role, (items, part) in roles.items()
        for j, item in enumerate(items)
    }
    ends |= {"RIGHT": listed[k].end(1), "ASKED": listed[k].end(2), "ASKED+1": listed[k].end(2)}
    ends |= {
        "WHAT": found[1].end(4),
        "Q": found[1].end(5),
        "ANSWER0": found[0].end() + len(f" {example.answer}"),
    }
    words = {"answers": choices[k], "distractors": choices[others[0]], "choices": choices}
    return words | prompt_row(tokenizer, text, partner, ends)


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
        raise TaskError(
            f"a question asks for the {found[5]}, which its list does not name; ask for one that it does."
        )
    return Scene(found[1], found[2], items, things.index(found[5])), listed
