"""Induction: a sequence without meaning begins again, and goes on as it did before."""

import random
from typing import Any

from helpers.tasks.prompts import PromptRow, Prompts, prompts_from_rows
from helpers.tasks.words import vocabulary, word_ids
from suite.errors import TaskError, VocabularyError

KINDS = ("places", "objects", "items", "events", "colors", "things")
"""Where the words come from: any will do."""

START = "Words:"
"""Before the first word, which would be another token without a space before it."""


def induction(tokenizer: Any, n: int, *, size: int = 8, again: int = 4, seed: int = 0) -> Prompts:
    """Induction on random words: "Words: ring lamp war blue ... ring lamp" wants " war".

    `size` different words in random order, then the first `again` of them once more; the answer
    followed the last of these before. In the partner that word and a later one have changed places,
    so that the later one, the distractor, is right; the last token is the same. Words of several
    tokens are left out. Positions: FIRST (the first mention of the last word), FIRST+1 (the answer,
    after it), LATER (the distractor) and END. Raises TaskError for n < 1, fewer than one word
    repeated, no word after the answer, and more words than this vocabulary has.
    """
    words = _random_words(tokenizer)
    if not 1 <= again <= size - 2:
        raise TaskError(
            f"{again} of {size} words cannot be repeated: give 1 to {size - 2}, so that the answer "
            "and one more word follow."
        )
    if size > len(words):
        raise VocabularyError(
            f"Only {len(words)} words are one token, not {size}: give a smaller size."
        )
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        listed = rng.sample(list(words), size)
        later = rng.randrange(again + 1, size)
        changed = list(listed)
        changed[again] = listed[later]
        changed[later] = listed[again]
        ends = _word_ends(listed)
        row = PromptRow(
            text=_repeat(listed, again),
            corrupted_text=_repeat(changed, again),
            answer=words[listed[again]],
            distractor=words[listed[later]],
            word_ends={
                "FIRST": ends[again - 1],
                "FIRST+1": ends[again - 1],
                "LATER": ends[later],
            },
        )
        rows.append(row)
    return prompts_from_rows(tokenizer, rows)


def _random_words(tokenizer: Any) -> dict[str, int]:
    """Words of one token each, which differ, with these tokens."""
    found: dict[str, int] = {}
    for kind in KINDS:
        for word in vocabulary(kind):
            tokens = word_ids(tokenizer, word)
            if len(tokens) == 1 and tokens[0] not in found.values():
                found[word] = tokens[0]
    return found


def _repeat(listed: list[str], again: int) -> str:
    return " ".join([START, *listed, *listed[:again]])


def _word_ends(listed: list[str]) -> list[int]:
    """The character after each word of the list."""
    ends = []
    end = len(START)
    for word in listed:
        end += 1 + len(word)
        ends.append(end)
    return ends
