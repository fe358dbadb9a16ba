"""Tasks: prompts with an answer, a distractor, named token positions and a corrupted partner.

A task is a seeded generator that returns `Prompts`. Words are single tokens in every vocabulary the suite uses, which
is checked for the tokenizer at hand, and positions are found by aligning words with tokens, never assumed.
"""

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Bool, Float, Int
from transformer_lens.model_bridge import TransformerBridge

from helpers.models import DATA

Corruption = Literal["abc", "swap"]
"""`abc`: three fresh names, so no name is repeated. `swap`: the second subject becomes the indirect object."""


class TaskError(ValueError):
    """A prompt or a generator's argument that the task cannot be built from."""


@dataclass(frozen=True)
class Prompts:
    """Prompts of a task, each beside a corrupted partner of the same length.

    tokens, corrupted: one tuple of token ids per prompt. answers, distractors: token ids of the clean prompt's right
    and wrong answer. positions: name -> the token index of that role in each prompt. templates: template index per
    prompt. Raises TaskError where a prompt and its partner differ in length, or a field in size.
    """

    texts: tuple[str, ...]
    corrupted_texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    corrupted: tuple[tuple[int, ...], ...]
    answers: tuple[int, ...]
    distractors: tuple[int, ...]
    positions: dict[str, tuple[int, ...]]
    templates: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.tokens:
            raise TaskError("A task needs at least one prompt; give n >= 1.")
        for i, (clean, corrupted) in enumerate(zip(self.tokens, self.corrupted, strict=True)):
            if len(clean) != len(corrupted):
                raise TaskError(
                    f"Prompt {i} has {len(clean)} tokens and its corrupted partner {len(corrupted)}; "
                    "path patching needs equal lengths, so replace words by words of as many tokens."
                )

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

    def tensors(self) -> tuple[Int[torch.Tensor, "batch pos"], Int[torch.Tensor, "batch pos"]]:
        """Clean and corrupted tokens of prompts of one length. Raises TaskError where lengths differ."""
        lengths = sorted({len(t) for t in self.tokens})
        if len(lengths) > 1:
            raise TaskError(
                f"Prompts of {lengths[0]} and {lengths[-1]} tokens cannot share a batch; iterate over `groups()`."
            )
        return torch.tensor(self.tokens), torch.tensor(self.corrupted)

    def groups(self, *names: str, size: int | None = None) -> Iterator[np.ndarray]:
        """Indices of prompts that share their length and the positions of `names`, at most `size` at a time."""
        keys: dict[tuple, list[int]] = {}
        for i, tokens in enumerate(self.tokens):
            keys.setdefault((len(tokens), *(int(self.position(n)[i]) for n in names)), []).append(i)
        for _, members in sorted(keys.items()):
            for start in range(0, len(members), size or len(members)):
                yield np.array(members[start : start + (size or len(members))])


@dataclass(frozen=True)
class Behaviour:
    """What a model answers at END, per prompt."""

    logit_difference: Float[np.ndarray, " batch"]
    """logit(answer) - logit(distractor)."""
    predicted: Int[np.ndarray, " batch"]
    """The most likely token of the full vocabulary."""
    correct: Bool[np.ndarray, " batch"]
    """The prediction is the answer (full-vocabulary accuracy)."""
    chosen: Bool[np.ndarray, " batch"]
    """The answer beats the distractor (forced choice)."""


def evaluate(model: TransformerBridge, prompts: Prompts, *, corrupted: bool = False, batch_size: int = 32) -> Behaviour:
    """Run the prompts, or their corrupted partners, and compare with the clean prompts' answers and distractors."""
    difference, predicted = np.zeros(len(prompts)), np.zeros(len(prompts), dtype=int)
    for index in prompts.groups(size=batch_size):
        batch = prompts.select(index)
        tokens = batch.tensors()[int(corrupted)].to(model.cfg.device)
        logits, rows = model(tokens, logits_to_keep=1)[:, -1], range(len(batch))
        difference[index] = (logits[rows, list(batch.answers)] - logits[rows, list(batch.distractors)]).cpu()
        predicted[index] = logits.argmax(-1).cpu()
    return Behaviour(difference, predicted, predicted == np.array(prompts.answers), difference > 0)


@functools.cache
def vocabulary(kind: str) -> list[str]:
    """Words of a kind (`names`, `places`, `objects`) from data/vocabulary.yaml."""
    return yaml.safe_load((DATA / "vocabulary.yaml").read_text())[kind]


def single_token(tokenizer: Any, word: str) -> int:
    """The id of ` word`. Raises TaskError where the tokenizer splits it."""
    ids = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise TaskError(f"{word!r} is {len(ids)} tokens in this model's vocabulary; choose a word of one token.")
    return ids[0]


def ioi(
    tokenizer: Any,
    n: int,
    *,
    seed: int = 0,
    corruption: Corruption = "abc",
    templates: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> Prompts:
    """Indirect object identification (Wang et al. 2022): "{A} and {B} ... {S} gave ... to" wants the other name.

    Half of the prompts name the subject first (BABA), half second (ABBA); templates take turns. Positions: IO, S1,
    S1+1, S2 and END. The corrupted partner replaces all names by three fresh ones (`abc`) or the second subject by the
    indirect object (`swap`). Raises TaskError for n < 1, an unknown corruption, fewer than five names, a word of
    several tokens.
    """
    if n < 1:
        raise TaskError(f"n is {n}; a task needs at least one prompt.")
    if corruption not in ("abc", "swap"):
        raise TaskError(f"Unknown corruption {corruption!r}; choose 'abc' or 'swap'.")
    templates = templates or vocabulary("ioi_templates")
    names = names or vocabulary("names")
    if len(names) < 5:
        raise TaskError(
            f"IOI needs at least five names, two for a prompt and three fresh ones; {len(names)} were given."
        )
    rng = random.Random(seed)
    return _prompts([_ioi_prompt(tokenizer, rng, i, templates, names, corruption) for i in range(n)])


def _ioi_prompt(
    tokenizer: Any, rng: random.Random, i: int, templates: Sequence[str], names: Sequence[str], corruption: Corruption
) -> dict[str, Any]:
    template_index, order = i % len(templates), (i // len(templates)) % 2
    io, subject, *fresh = rng.sample(list(names), 5)
    first, second = (io, subject) if order == 0 else (subject, io)
    words = {"place": rng.choice(vocabulary("places")), "object": rng.choice(vocabulary("objects"))}
    fill = templates[template_index].format
    text = fill(A=first, B=second, S=subject, **words)
    if corruption == "abc":
        partner = fill(A=fresh[0], B=fresh[1], S=fresh[2], **words)
    else:
        partner = fill(A=first, B=second, S=io, **words)
    answer, distractor = single_token(tokenizer, io), single_token(tokenizer, subject)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    io_at, (s1, s2) = tokens.index(answer), [p for p, t in enumerate(tokens) if t == distractor]
    return {
        "texts": text,
        "corrupted_texts": partner,
        "tokens": tuple(tokens),
        "corrupted": tuple(tokenizer(partner, add_special_tokens=False)["input_ids"]),
        "answers": answer,
        "distractors": distractor,
        "positions": {"IO": io_at, "S1": s1, "S1+1": s1 + 1, "S2": s2, "END": len(tokens) - 1},
        "templates": template_index,
    }


def repeated_name(tokenizer: Any, n: int, *, size: int = 6, seed: int = 0) -> Prompts:
    """A list of `size` names, one of which is named again, each equally often: "Then, {A}, {B} and {C} ... {B} gave".

    What IOI is for two names. Positions: N0 ... (the names in order), S1, S2 and END; the distractor is the repeated
    name, the answer its neighbour in the list (cyclic); the partner repeats a name outside of the list. Raises
    TaskError for n < 1, fewer than two names or more than the vocabulary has.
    """
    names, rng = vocabulary("names"), random.Random(seed)
    if n < 1 or not 2 <= size < len(names):
        raise TaskError(f"n is {n} and size {size}: give at least one prompt of 2 to {len(names) - 1} names.")
    rows = []
    for i in range(n):
        *listed, outsider = rng.sample(names, size + 1)
        target, place, thing = i % size, rng.choice(vocabulary("places")), rng.choice(vocabulary("objects"))
        start = f"Then, {', '.join(listed[:-1])} and {listed[-1]} went to the {place}. "
        texts = [f"{start}{name} gave a {thing} to" for name in (listed[target], outsider)]
        tokens, corrupted = (tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        ids = [single_token(tokenizer, name) for name in listed]
        where = {f"N{j}": tokens.index(token) for j, token in enumerate(ids)} | {"S1": tokens.index(ids[target])}
        where |= {"S2": len(tokens) - 1 - tokens[::-1].index(ids[target]), "END": len(tokens) - 1}
        answers = {"answers": ids[(target + 1) % size], "distractors": ids[target], "templates": 0}
        rows.append({"texts": texts[0], "corrupted_texts": texts[1], "tokens": tokens, "corrupted": corrupted})
        rows[-1] |= answers | {"positions": where}
    return _prompts(rows)


def _prompts(rows: Sequence[dict[str, Any]]) -> Prompts:
    """Prompts from one dict per prompt, its keys the fields of Prompts."""
    columns = {key: tuple(row[key] for row in rows) for key in rows[0]}
    positions = {key: tuple(p[key] for p in columns["positions"]) for key in rows[0]["positions"]}
    return Prompts(**{**columns, "positions": positions})


@functools.cache
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
        logits = model(tokens)[0, :-1]
        sums[i] = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum").item()
        counts[i] = tokens.shape[1] - 1
    return sums, counts
