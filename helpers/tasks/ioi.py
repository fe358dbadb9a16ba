"""Indirect object identification, and the same with longer lists of names."""

import functools
import random
import re
from collections.abc import Sequence
from typing import Any, Literal

from helpers.tasks.prompts import Prompts, prompt_row, prompts_from_rows
from helpers.tasks.words import single_token, vocabulary
from suite.errors import TaskError


def ioi(
    tokenizer: Any,
    n: int,
    *,
    seed: int = 0,
    corruption: Literal["abc", "swap"] = "abc",
    templates: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> Prompts:
    """Indirect object identification (Wang et al. 2022): "{A} and {B} ... {S} gave ... to" wants
    the other name.

    Templates take turns, and after each round of them the order does: the subject second (ABBA),
    then first (BABA), so that n has as many of both if it is a multiple of twice the templates.
    Positions: IO, S1, S1+1, S2 and END. The corrupted partner replaces all names by three fresh
    ones (`abc`) or the second subject by the indirect object (`swap`). Raises TaskError for n < 1,
    an unknown corruption, fewer than five names, a word of several tokens, and a template that does
    not name each person behind a space, one of them twice.
    """
    if corruption not in ("abc", "swap"):
        raise TaskError(f"Unknown corruption {corruption!r}; choose 'abc' or 'swap'.")
    templates, names = templates or vocabulary("ioi_templates"), names or vocabulary("names")
    if len(names) < 5:
        raise TaskError(
            f"IOI needs at least five names, two and three fresh ones; {len(names)} were given."
        )
    rng, rows = random.Random(seed), []
    for i in range(n):
        turn, template = divmod(i, len(templates))
        io, subject, *fresh = rng.sample(list(names), 5)
        first, second = (subject, io) if turn % 2 else (io, subject)
        words = {
            "place": rng.choice(vocabulary("places")),
            "object": rng.choice(vocabulary("objects")),
        }
        fill = functools.partial(templates[template].format, **words)
        text = fill(A=first, B=second, S=subject)
        partner = (
            fill(A=fresh[0], B=fresh[1], S=fresh[2])
            if corruption == "abc"
            else fill(A=first, B=second, S=io)
        )
        named = [
            [found.end() for found in re.finditer(rf" {name}\b", text)] for name in (io, subject)
        ]
        if list(map(len, named)) != [1, 2]:
            raise TaskError(
                f"Template {templates[template]!r} needs {{A}}, {{B}} and {{S}} once, each behind a space."
            )
        [[at], [s1, s2]] = named
        ends = {"IO": at, "S1": s1, "S1+1": s1, "S2": s2}
        words = {
            "answers": single_token(tokenizer, io),
            "distractors": single_token(tokenizer, subject),
        }
        rows.append(words | {"templates": template} | prompt_row(tokenizer, text, partner, ends))
    return prompts_from_rows(rows)


def repeated_name(tokenizer: Any, n: int, *, size: int = 6, seed: int = 0) -> Prompts:
    """A list of `size` names, one of which is named again, each equally often: "Then, {A}, {B} and
    {C} ... {B} gave".

    What IOI is for two names. Positions: N0 ... (the names in order), S1, S2 and END; the
    distractor is the repeated name, the answer its neighbour in the list (cyclic); the partner
    repeats a name outside of the list. Raises TaskError for n < 1, fewer than two names or more
    than the vocabulary has.
    """
    names, rng, rows = vocabulary("names"), random.Random(seed), []
    if not 2 <= size < len(names):
        raise TaskError(f"size is {size}: give 2 to {len(names) - 1} names.")
    for i in range(n):
        *listed, outsider = rng.sample(names, size + 1)
        target, place, thing = (
            i % size,
            rng.choice(vocabulary("places")),
            rng.choice(vocabulary("objects")),
        )
        start = f"Then, {', '.join(listed[:-1])} and {listed[-1]} went to the {place}. "
        texts = [f"{start}{name} gave a {thing} to" for name in (listed[target], outsider)]
        ends = {f"N{j}": re.search(rf"\b{name}\b", start).end() for j, name in enumerate(listed)}
        ends |= {"S1": ends[f"N{target}"], "S2": len(start) + len(listed[target])}
        answer, distractor = (
            single_token(tokenizer, listed[k % size]) for k in (target + 1, target)
        )
        rows.append(
            {"answers": answer, "distractors": distractor} | prompt_row(tokenizer, *texts, ends)
        )
    return prompts_from_rows(rows)
