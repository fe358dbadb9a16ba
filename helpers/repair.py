"""What notebook 03 does to Colored Objects: runs with forced attention by name, where to look
without knowing the answer, and what kind of answer was given.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from transformer_lens.model_bridge import TransformerBridge

from helpers.effects import Vocabulary, right_answers
from helpers.engine import Edit, cached_run
from helpers.heads import Head
from helpers.interventions import Steered, combine_edits, set_attention, steer
from helpers.stats import Interval, proportion
from helpers.tasks.prompts import Prompts

ANSWER_KINDS = (
    "right",
    "wrong color of the list",
    "color of the example",
    "another color",
    "no color",
)


@dataclass(frozen=True)
class NamedRuns:
    """The variants of one `steer` by name."""

    run: Steered
    rows: dict[Hashable, int]

    def hits(self, vocabulary: Vocabulary, name: Hashable) -> Bool[np.ndarray, " prompt"]:
        """Which prompts a variant answers rightly."""
        return right_answers(self.run, vocabulary)[self.rows[name]]

    def attention(self, name: Hashable) -> Float[np.ndarray, "head key prompt"]:
        """Attention of the watched heads from END to the keys under a variant."""
        return self.run.attention[self.rows[name]]

    def predicted(self, name: Hashable) -> Int[np.ndarray, " prompt"]:
        """What a variant answers in the full vocabulary."""
        return self.run.predicted[self.rows[name]]

    def factors(self, name: Hashable) -> dict[str, Interval]:
        """The full-vocabulary accuracy of a variant as a product of two shares."""
        in_list = self.run.in_context[self.rows[name]]
        correct = self.hits("full vocabulary", name)
        return {
            "in the list": accuracy(in_list),
            "right, if in the list": accuracy(correct[in_list]),
            "product: full vocabulary": accuracy(correct),
            "forced choice": accuracy(self.hits("forced choice", name)),
        }


def steer_by_name(
    model: TransformerBridge,
    prompts: Prompts,
    variants: Mapping[Hashable, Sequence[Edit]],
    *,
    watch: Sequence[Head] = (),
    keys: Sequence[str] = (),
    memory_gib: float = 2.0,
) -> NamedRuns:
    """One `steer` of several interventions, each under its name; an empty one changes nothing."""
    run = steer(
        model,
        prompts,
        combine_edits(variants.values()),
        watch=watch,
        keys=keys,
        memory_gib=memory_gib,
    )
    return NamedRuns(run, {name: row for row, name in enumerate(variants)})


def accuracy(hits: Bool[np.ndarray, " n"]) -> Interval:
    """Share of True with its exact 95 % interval; without any prompt, 0 with nearly [0, 1]."""
    return proportion(int(hits.sum()), max(1, hits.size))


def numbered_positions(prompts: Prompts, name: str) -> list[str]:
    """Positions that are called `name` and one digit, such as C0, C1 and C2."""
    return [key for key in prompts.positions if key[:-1] == name]


def random_rows(
    prompts: Prompts, count: int, rng: np.random.Generator
) -> Float[np.ndarray, "batch pos"]:
    """Attention in equal shares on `count` random tokens before END."""
    longest = max(map(len, prompts.tokens))
    rows = np.zeros((len(prompts), longest))
    for row, end in zip(rows, prompts.position("END"), strict=True):
        chosen = rng.choice(end, count, replace=False)
        row[chosen] = 1 / count
    return rows


def is_right(prompts: Prompts, colors: Sequence[str]) -> Float[np.ndarray, "color batch"]:
    """1 for the right color of the list, 0 for the others."""
    right = prompts.position("RIGHT")
    return np.array([prompts.position(key) == right for key in colors]).astype(float)


def blame_of_others(right: Float[np.ndarray, "color batch"]) -> Float[np.ndarray, "color batch"]:
    """Blame for each color, 1 in all, from shares of belief that it is the right one."""
    return (1 - right) / (len(right) - 1)


def look_at_blamed(
    model: TransformerBridge,
    prompts: Prompts,
    blame: Float[np.ndarray, "color batch"],
    doses: Mapping[Head, tuple[float, float]],
    *,
    colors: Sequence[str],
    example: Sequence[str],
) -> list[Edit]:
    """Edits that make each head look at the list's colors in proportion to their blame, and at the
    example's in equal shares.

    doses: per head the sum of its attention on the list's colors, and on the example's.
    """
    listed = np.zeros((len(prompts), 1))
    for share, key in zip(blame, colors, strict=True):
        listed = listed + share[:, None] * prompts.position_mask(key)
    solved = np.mean([prompts.position_mask(key) for key in example], axis=0)
    edits = []
    for head, (on_list, on_example) in doses.items():
        rows = on_list * listed + on_example * solved
        edits += set_attention(model, [head], rows)
    return edits


def unedited_rows(
    model: TransformerBridge, prompts: Prompts, heads: Sequence[Head], query: str
) -> Float[np.ndarray, "head batch pos"]:
    """Attention of each head from one position, in the unedited run."""
    longest = max(map(len, prompts.tokens))
    rows = np.zeros((len(heads), len(prompts), longest))
    for index in prompts.groups(size=32):
        batch = prompts.select(index)
        tokens = batch.tensors()[0].to(model.cfg.device)
        cache = cached_run(model, tokens, ("attn.hook_pattern",))
        queries = batch.position(query)
        for row, head in zip(rows, heads, strict=True):
            pattern = cache["pattern", head.layer][:, head.head]
            row[index, : tokens.shape[1]] = pattern[range(len(batch)), queries].cpu()
    return rows


def attention_to_items(
    prompts: Prompts,
    rows: Float[np.ndarray, "head batch pos"],
    places: Sequence[str],
    *,
    shift: int = 0,
) -> Float[np.ndarray, "item batch"]:
    """Attention summed over heads to each place, or `shift` tokens behind it."""
    prompt = range(len(prompts))
    looked = []
    for place in places:
        position = prompts.position(place) + shift
        looked.append(rows[:, prompt, position].sum(0))
    return np.array(looked)


def answer_kinds(
    prompts: Prompts,
    predicted: Int[np.ndarray, " prompt"],
    *,
    capital: Mapping[int, int],
    example: Sequence[str],
) -> list[str]:
    """Which of `ANSWER_KINDS` each answer is.

    capital: the token of every color -> its capitalized token, which is how colors are answered.
    example: positions of the colors of the solved example.
    """
    shown = [prompts.position(key) for key in example]
    kinds = []
    for i, token in enumerate(predicted):
        words = prompts.tokens[i]
        of_example = {capital.get(words[position[i]]) for position in shown}
        if token == prompts.answers[i]:
            kinds.append("right")
        elif token in prompts.choices[i]:
            kinds.append("wrong color of the list")
        elif token in of_example:
            kinds.append("color of the example")
        elif token in capital.values():
            kinds.append("another color")
        else:
            kinds.append("no color")
    return kinds
