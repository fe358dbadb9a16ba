"""Laundry List: which of the listed items is left?"""

import functools
import random
import re
from collections.abc import Sequence
from typing import Any

from helpers.tasks.prompts import Prompts, prompt_row, prompts_from_rows
from helpers.tasks.words import single_token, vocabulary
from suite.errors import TaskError


def laundry_list(
    tokenizer: Any, n: int, *, size: int = 6, seed: int = 0, items: list[str] | None = None
) -> Prompts:
    """Laundry List (Merullo et al. 2024): `size` items are listed, all but one are done, the one
    that is left is asked.

    "On Mark's shopping list there is a pencil, a shirt, and a key. Mark already found the pencil
    and the key. Mark still needs to find the" wants " shirt". Every index of the target takes its
    turn, then every template, then the order of the done items: that of the list, or reversed.
    Positions: ITEM0 ... (the list), DONE0 ... (the done items as they are mentioned), TARGET (the
    answer in the list) and END. Choices: all items of the list. In the partner the next item
    (cyclic) is left, which is the distractor. Raises TaskError for n < 1, a size below 2 or above
    the number of items, and items that repeat or are several tokens.
    """
    items = vocabulary("items") if items is None else items
    if len(set(items)) < len(items):
        raise TaskError("The items repeat a word, so a list could name it twice; give each once.")
    if not 2 <= size <= len(items):
        raise TaskError(
            f"A list of {size} of {len(items)} items cannot be drawn; give a size of 2 to {len(items)}."
        )
    rng, ids, rows = (
        random.Random(seed),
        {item: single_token(tokenizer, item) for item in items},
        [],
    )
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
        ends = {
            f"ITEM{j}": re.search(rf"\ba {item}\b", texts[0]).end() for j, item in enumerate(listed)
        }
        ends |= {
            f"DONE{j}": re.search(rf"\bthe {item}\b", texts[0]).end()
            for j, item in enumerate(rests[0])
        }
        ends["TARGET"] = ends[f"ITEM{target}"]
        words = {
            "answers": ids[right],
            "distractors": ids[wrong],
            "choices": tuple(ids[item] for item in listed),
        }
        rows.append(words | {"templates": template} | prompt_row(tokenizer, *texts, ends))
    return prompts_from_rows(rows)


def _listed(article: str, items: Sequence[str]) -> str:
    """As people list things: "a cup", "a cup and a pen", "a cup, a pen, and a key"."""
    *most, last = (f"{article} {item}" for item in items)
    return f"{', '.join(most)}{',' * (len(most) > 1)}{' and ' * bool(most)}{last}"
