"""What notebook 06 asks about laundry lists: where heads look, what they write by place, and edits
that set it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import spearmanr
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from helpers.behavior import Behavior, evaluate
from helpers.channels import scaling_matrix
from helpers.engine import Edit, cached_run
from helpers.heads import Head
from helpers.interventions import (
    Directions,
    Steered,
    change_heads,
    set_attention,
    set_coordinates,
)
from helpers.models import AttentionWeights
from helpers.stats import RESAMPLES, Interval, bootstrap_indices, draw_range
from helpers.tasks import laundry_list
from helpers.tasks.prompts import Prompts

BATCH = 32


@dataclass(frozen=True)
class Lists:
    """Prompts with lists of one size, every place of the target equally often."""

    prompts: Prompts
    place: Int[np.ndarray, " prompt"]
    """The place of the target in the list, from 0."""
    size: int

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, count: int) -> Prompts:
        """The first prompts, at most `count`."""
        return self.prompts.select(np.arange(min(count, len(self))))


def balanced_lists(tokenizer: Any, size: int, n: int, *, seed: int, items: Sequence[str]) -> Lists:
    """At most n prompts, as many for each place."""
    n = n // size * size
    prompts = laundry_list(tokenizer, n, size=size, seed=seed, items=items)
    return Lists(prompts, np.arange(n) % size, size)


def thirds(lists: Lists) -> dict[str, Bool[np.ndarray, " prompt"]]:
    """Which prompts have their target first, between, or last in the list."""
    first = lists.place == 0
    last = lists.place == lists.size - 1
    return {"first": first, "middle": ~first & ~last, "last": last}


def mean_over_lengths(
    groups: Sequence[Bool[np.ndarray, " _"]], seed: int
) -> Float[np.ndarray, " draw"]:
    """Mean of the accuracies of several lengths: as measured, then with each length's prompts drawn
    anew.
    """
    rows = []
    for i, hits in enumerate(groups):
        as_measured = np.arange(len(hits))
        drawn = bootstrap_indices(len(hits), RESAMPLES, seed + i)
        picked = np.vstack([as_measured, drawn])
        rows.append(hits[picked].mean(1))
    return np.mean(rows, axis=0)


def interval_of_draws(draws: Float[np.ndarray, " draw"]) -> Interval:
    """The first value with the middle 95 % of the others, moved where they do not contain it."""
    value, *others = draws
    ends = draw_range(np.array(others))
    return Interval(value, min(value, ends.low), max(value, ends.high))


def evaluate_with_outputs(
    model: TransformerBridge, prompts: Prompts, heads: Sequence[Head]
) -> tuple[Behavior, dict[Head, Float[Tensor, "prompt d_head"]]]:
    """Behavior, and the output z of some heads at END, from the same runs."""
    outputs = {head: [] for head in heads}

    def keep(head: Head, z: Tensor) -> Tensor:
        outputs[head].append(z[:, -1].cpu().clone())
        return z

    with change_heads(model, {head: partial(keep, head) for head in heads}):
        behavior = evaluate(model, prompts, batch_size=BATCH)
    batches = list(prompts.groups(size=BATCH))  # in the order of `evaluate`
    order = np.argsort(np.concatenate(batches))
    return behavior, {head: torch.cat(parts)[order] for head, parts in outputs.items()}


def attention_patterns(
    model: TransformerBridge, prompts: Prompts, heads: Iterable[Head]
) -> dict[Head, Float[np.ndarray, "prompt query key"]]:
    """Attention of these heads; queries count back from END, as long as the longest prompt."""
    heads = list(heads)
    longest = max(map(len, prompts.tokens))
    shape = (len(prompts), longest, longest)
    found = {head: np.zeros(shape, dtype=np.float32) for head in heads}
    for index in prompts.groups(size=BATCH):
        tokens = prompts.select(index).tensors()[0].to(model.cfg.device)
        length = tokens.shape[1]
        cache = cached_run(model, tokens, ("attn.hook_pattern",))
        for head in heads:
            pattern = cache["pattern", head.layer][:, head.head]
            found[head][index, -length:, :length] = pattern.cpu().numpy()
    return found


def least_looked_at(
    lists: Lists,
    patterns: Mapping[Head, Float[np.ndarray, "prompt query key"]],
    heads: Sequence[Head],
    offset: int,
) -> Int[np.ndarray, " prompt"]:
    """The place in the list that these heads look back to least from the done items.

    offset: 1 where the heads look at the token behind an item, as induction heads do.
    """
    prompts = lists.prompts
    prompt = np.arange(len(lists))
    end = prompts.position("END")
    looked = np.zeros((lists.size, len(lists)))
    for head in heads:
        for place in range(lists.size):
            item = prompts.position(f"ITEM{place}") + offset
            for done in range(lists.size - 1):
                query = prompts.position(f"DONE{done}") - end - 1
                looked[place] += patterns[head][prompt, query, item]
    return looked.argmin(0)


def order_and_separation(
    x: Float[np.ndarray, " prompt"], place: Int[np.ndarray, " prompt"]
) -> tuple[float, float]:
    """|Spearman| of coordinates and places, and how well neighboring places are told apart: the
    share of pairs in the more frequent order, from 0.5 to 1.
    """
    rho = abs(spearmanr(x, place).statistic)
    apart = []
    for i in range(place.max()):
        here = x[place == i]
        after = x[place == i + 1]
        above = (here[:, None] > after).mean()
        apart.append(max(above, 1 - above))
    return rho, float(np.mean(apart))


def random_subspace(
    space: Directions,
    bases: Mapping[Head, Float[Tensor, "d_model component"]],
    generator: torch.Generator,
) -> dict[Head, Float[Tensor, "d_model _"]]:
    """As many orthonormal directions of the same heads, drawn among those in their bases."""
    mixes = {}
    for head, directions in space.items():
        size = (bases[head].shape[1], directions.shape[1])
        mixes[head] = torch.randn(*size, generator=generator)
    return {head: bases[head] @ torch.linalg.qr(mix).Q for head, mix in mixes.items()}


def edits_at_points(
    model: TransformerBridge, space: Directions, points: Float[np.ndarray, "point axis"]
) -> list[Edit]:
    """Edits that set the coordinates to each point in turn, the axes head by head."""
    values = {}
    axis = 0
    for head, directions in space.items():
        count = directions.shape[1]
        columns = points[:, axis : axis + count]
        values[head] = torch.tensor(columns, dtype=torch.float32)[:, None]
        axis += count
    return set_coordinates(model, space, values)


def edits_at_places(
    model: TransformerBridge,
    space: Directions,
    rows: Mapping[Head, Float[Tensor, "place _"]],
    place: Int[np.ndarray, " prompt"],
) -> list[Edit]:
    """Edits that set each prompt's coordinates to the row of its place."""
    values = {head: x[place][None] for head, x in rows.items()}
    return set_coordinates(model, space, values)


def keep_attention(
    model: TransformerBridge,
    patterns: Mapping[Head, Float[np.ndarray, "prompt query key"]],
    heads: Sequence[Head],
) -> list[Edit]:
    """Edits that keep each head's attention from END as it is in these patterns."""
    edits = []
    for head in heads:
        edits += set_attention(model, [head], patterns[head][:, -1])
    return edits


def places_reached(
    run: Steered, prompts: Prompts
) -> tuple[Float[np.ndarray, "point place"], Float[np.ndarray, "point place"]]:
    """Per point: the movers' attention to each place; the share of prompts that answer it."""
    choices = np.array(prompts.choices)
    answered = run.predicted[:, :, None] == choices
    return run.attention.mean((1, 3)), answered.mean(1)


def scaling_maps(
    weights: AttentionWeights, space: Directions, factor: float
) -> dict[Head, Float[Tensor, "d_head d_head"]]:
    """Matrix M per head that scales what it writes along its directions."""
    maps = {}
    for head, directions in space.items():
        factors = torch.full((directions.shape[1],), factor)
        maps[head] = scaling_matrix(weights.W_O[head], directions, factors)
    return maps


def mean_points_over_draws(
    own: Bool[np.ndarray, " prompt"],
    draws: Shaped[np.ndarray, "draw prompt"],
    *,
    seed: int,
) -> Interval:
    """Points gained over random draws; both are resampled, since other draws would differ too."""
    ahead = 100.0 * own - 100.0 * draws
    picked_draws = bootstrap_indices(ahead.shape[0], RESAMPLES, seed)
    picked_prompts = bootstrap_indices(ahead.shape[1], RESAMPLES, seed + 1)
    means = []
    for rows, columns in zip(picked_draws, picked_prompts, strict=True):
        means.append(ahead[np.ix_(rows, columns)].mean())
    ends = draw_range(np.array(means))
    return Interval(float(ahead.mean()), ends.low, ends.high)
