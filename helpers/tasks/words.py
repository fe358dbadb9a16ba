"""Words of the tasks: data/vocabulary.yaml, held-out prose, and their tokens."""

import functools
import random
from collections.abc import Sequence
from typing import Any

from suite.errors import TaskError, VocabularyError
from suite.registry import DATA, read_data


@functools.cache
def vocabulary(kind: str) -> list[str]:
    """Words of a kind (`names`, `places`, `colors` ...) from data/vocabulary.yaml."""
    words = read_data("vocabulary.yaml")
    if kind not in words:
        raise TaskError(
            f"data/vocabulary.yaml has no {kind}: add them, or restore it from version control."
        )
    return words[kind]


def single_token(tokenizer: Any, word: str) -> int:
    """The id of ` word`. Raises TaskError where the tokenizer splits it."""
    ids = token_ids(tokenizer, f" {word}")
    if len(ids) != 1:
        raise VocabularyError(
            f"{word!r} is {len(ids)} tokens in this model's vocabulary; choose a word of one token."
        )
    return ids[0]


def token_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def halves(words: Sequence[str], *, seed: int) -> tuple[list[str], list[str]]:
    """Two halves of some words that share none: one to choose settings on, one to measure them
    on.
    """
    shuffled = random.Random(seed).sample(list(words), len(words))
    return shuffled[: len(words) // 2], shuffled[len(words) // 2 :]


def english(n: int) -> list[str]:
    """The first n paragraphs of data/english.txt, the suite's own held-out prose. Raises TaskError
    if it has fewer.
    """
    lines = (DATA / "english.txt").read_text(encoding="utf-8").splitlines()
    if not 1 <= n <= len(lines):
        raise TaskError(f"{n} paragraphs were asked for: give 1 to {len(lines)}.")
    return lines[:n]
