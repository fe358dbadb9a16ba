"""What a task is: prompts with an answer, a distractor, named token positions and a corrupted
partner.

A task is a seeded generator that returns `Prompts`. Words are single tokens in every vocabulary the
suite uses, which is checked for the tokenizer at hand, and positions are found by aligning words
with tokens, never assumed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from helpers.tasks.words import token_ids
from suite.errors import TaskError


@dataclass(frozen=True)
class Prompts:
    """Prompts of a task, each beside a corrupted partner of the same length.

    tokens, corrupted: one tuple of token ids per prompt. answers, distractors: token ids of the
    clean prompt's right and wrong answer. positions: name -> the token index of that role in each
    prompt. templates: template index per prompt. choices: token ids of the answers that each
    prompt's context offers, the right one among them; empty where they are the answer and the
    distractor. Raises TaskError where a prompt and its partner differ in length.
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
        for i, (n, m) in enumerate(
            zip(map(len, self.tokens), map(len, self.corrupted), strict=True)
        ):
            if n != m:
                raise TaskError(
                    f"Prompt {i} has {n} tokens and its corrupted partner {m}; give both the same number."
                )

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, indices: Sequence[int] | np.ndarray) -> "Prompts":
        """The prompts at these indices, in this order."""

        def pick(field: tuple) -> tuple:
            return tuple(field[i] for i in indices) if field else ()

        fields = {
            name: pick(getattr(self, name))
            for name in self.__dataclass_fields__
            if name != "positions"
        }
        return replace(
            self, **fields, positions={name: pick(where) for name, where in self.positions.items()}
        )

    def position(self, name: str) -> Int[np.ndarray, " batch"]:
        """Token index of a named role in each prompt. Raises TaskError for a role this task does
        not have.
        """
        if name not in self.positions:
            raise TaskError(
                f"This task has no position {name!r}; it has {', '.join(self.positions)}."
            )
        return np.array(self.positions[name])

    def position_mask(self, name: str) -> Bool[np.ndarray, "batch pos"]:
        """True at a named position, or from the first to the last of `FIRST:LAST`; as long as the
        longest prompt.
        """
        first, _, last = name.partition(":")
        place = np.arange(max(map(len, self.tokens)))
        return (place >= self.position(first)[:, None]) & (
            place <= self.position(last or first)[:, None]
        )

    def tensors(self) -> tuple[Int[torch.Tensor, "batch pos"], Int[torch.Tensor, "batch pos"]]:
        """Clean and corrupted tokens of prompts of one length. Raises TaskError where lengths
        differ.
        """
        least, most = min(map(len, self.tokens)), max(map(len, self.tokens))
        if least < most:
            raise TaskError(
                f"Prompts of {least} and {most} tokens cannot share a batch; iterate over `groups()`."
            )
        return torch.tensor(self.tokens), torch.tensor(self.corrupted)

    def groups(self, *names: str, size: int | None = None) -> Iterator[np.ndarray]:
        """Indices of prompts that share their length and the positions of `names`, at most `size`
        at a time.
        """
        keys = np.stack(
            [[len(tokens) for tokens in self.tokens], *map(self.position, names)], axis=1
        )
        for key in np.unique(keys, axis=0):
            members = np.flatnonzero((keys == key).all(axis=1))
            step = size or len(members)
            yield from np.split(members, range(step, len(members), step))


def prompt_row(tokenizer: Any, text: str, partner: str, ends: dict[str, int]) -> dict[str, Any]:
    """Texts, tokens and positions of a prompt; ends: role -> the character at which its word ends
    (`X+1`: X's word).
    """
    encoding, ends = tokenizer(text, add_special_tokens=False), ends | {"END": len(text)}
    positions = {
        role: encoding.char_to_token(end - 1) + role.endswith("+1") for role, end in ends.items()
    }
    tokens, corrupted = tuple(encoding["input_ids"]), token_ids(tokenizer, partner)
    return {
        "texts": text,
        "corrupted_texts": partner,
        "tokens": tokens,
        "corrupted": corrupted,
        "positions": positions,
    }


def prompts_from_rows(rows: Sequence[dict[str, Any]]) -> Prompts:
    """Prompts from one dict per prompt, its keys the fields of Prompts."""
    columns = {
        name: tuple(row[name] for row in rows if name in row)
        for name in Prompts.__dataclass_fields__
    }
    roles = rows[0]["positions"] if rows else ()
    columns["positions"] = {role: tuple(row["positions"][role] for row in rows) for role in roles}
    return Prompts(**columns)
