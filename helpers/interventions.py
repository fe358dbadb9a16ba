"""Interventions on heads: context managers that leave the model as it was, and `steer`, fast for
what acts at END.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import temporarily_swap_parameter

from helpers.behavior import (
    Behavior,
    answer_direction,
    empty_behavior,
    logit_difference,
    score_logits,
)
from helpers.channels import scaling_matrix, writing_vectors
from helpers.engine import (
    ROWS_AT_ONCE,
    Decoder,
    Edit,
    cached_run,
    prompts_at_once,
    require_heads,
    resume,
    variants_at_once,
)
from helpers.heads import Head, Heads
from helpers.tasks.prompts import Prompts

Change = Callable[[Float[Tensor, "batch pos d_head"]], Float[Tensor, "batch pos d_head"]]
"""What becomes of a head's output z."""


Weight = Literal["W_O", "W_V"]


@contextmanager
def change_heads(
    model: TransformerBridge, changes: Mapping[Head, Change]
) -> Iterator[TransformerBridge]:
    """The model with the output z of some heads passed through a function, at every position, until
    the block ends.
    """
    require_heads(model, changes)
    hooks = [
        (
            f"blocks.{layer}.attn.hook_z",
            partial(_change, changes={head.head: changes[head] for head in members}),
        )
        for layer, members in groupby(sorted(changes), attrgetter("layer"))
    ]
    with model.hooks(fwd_hooks=hooks):
        yield model


def _change(z: Tensor, hook: object, *, changes: Mapping[int, Change]) -> Tensor:
    z = z.clone()
    for head, change in changes.items():
        z[:, :, head] = change(z[:, :, head])
    return z


@contextmanager
def resample_heads(
    model: TransformerBridge, heads: Iterable[Head], donor: ActivationCache
) -> Iterator[TransformerBridge]:
    """The model with these heads' output, at every position, taken from another run (resample
    ablation).

    donor: a cache that holds `hook_z` of prompts of the same shape, such as the corrupted partners.
    """
    taken = {head: (lambda z, head=head: donor["z", head.layer][:, :, head.head]) for head in heads}
    with change_heads(model, taken):
        yield model


def knock_out(
    model: TransformerBridge,
    prompts: Prompts,
    sets: Sequence[Sequence[Head]],
    *,
    batch_size: int = 32,
) -> Float[np.ndarray, "set batch"]:
    """Logit difference per prompt with each set of heads resampled from the corrupted partner, at
    every position.
    """
    result = np.zeros((len(sets), len(prompts)))
    for index in prompts.groups(size=batch_size):
        batch = prompts.select(index)
        tokens, partner = (t.to(model.cfg.device) for t in batch.tensors())
        donor = cached_run(model, partner, ("attn.hook_z",))
        for i, heads in enumerate(sets):
            with resample_heads(model, heads, donor):
                resid = cached_run(model, tokens, ())["resid_post", -1]
            result[i, index] = logit_difference(model, resid[:, -1], batch).cpu()
    return result


def random_sets(
    model: TransformerBridge, heads: Sequence[Head], *, draws: int = 20, seed: int = 0
) -> list[Heads]:
    """Sets of as many heads per layer as `heads` has, drawn from the heads of those layers that are
    not in it.

    Where a layer has too few other heads, its members fill up.
    """
    rng, sets = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn: list[Head] = []
        for layer in sorted({head.layer for head in heads}):
            members = [head.head for head in heads if head.layer == layer]
            others = rng.permutation([h for h in range(model.cfg.n_heads) if h not in members])
            drawn += [Head(layer, int(h)) for h in [*others, *members][: len(members)]]
        sets.append(tuple(drawn))
    return sets


@contextmanager
def edit_weights(
    model: TransformerBridge,
    maps: Mapping[Head, Float[Tensor, "d_head d_head"]],
    *,
    weight: Weight = "W_O",
) -> Iterator[TransformerBridge]:
    """The model with each head's W_O replaced by M W_O, or its W_V by W_V M: what it writes or what
    it reads, with the same effect on the head itself; the weights are restored exactly.

    `channels.scaling` gives the M that removes, scales or keeps components. Raises ValueError for
    another weight, for W_V of a model whose query heads share their values, and for an unknown
    head.
    """
    require_heads(model, maps)
    if weight not in get_args(Weight):
        raise ValueError(f"Unknown weight {weight!r}; choose 'W_O' or 'W_V'.")
    if weight == "W_V" and model.cfg.n_key_value_heads not in (None, model.cfg.n_heads):
        raise ValueError(
            "Several query heads of this model read one W_V, so edit the head's own W_O."
        )
    with ExitStack() as stack:
        for layer, members in groupby(sorted(maps), attrgetter("layer")):
            attention = model.blocks[layer].attn
            parameter = (attention.o if weight == "W_O" else attention.v).weight
            stack.enter_context(temporarily_swap_parameter(parameter, parameter.detach().clone()))
            for head in (
                members
            ):  # attention.W_O and W_V are views of the parameter, whose old value comes back
                M = maps[head].to(parameter)
                if weight == "W_O":
                    attention.W_O[head.head] = M @ attention.W_O[head.head]
                else:
                    attention.W_V[head.head] = attention.W_V[head.head] @ M
        yield model


def force_attention(
    model: TransformerBridge,
    prompts: Prompts,
    heads: Sequence[Head],
    keys: Sequence[str],
    *,
    scale: float = 1.0,
) -> list[Edit]:
    """Edits for `steer` that put each head's attention from END on the named positions, in equal
    shares that add up to `scale` (Merullo et al. 2024: inhibition heads forced to look at the wrong
    colors).

    All positions of a span `FIRST:LAST` count. Raises ValueError for an unknown head and where a
    prompt has none of the positions, TaskError for an unknown position.
    """
    where = sum(
        (prompts.position_mask(key).astype(int) for key in keys), np.zeros((len(prompts), 1), int)
    )
    if not where.any(-1).all():
        raise ValueError("Forced attention needs at least one position to look at in every prompt.")
    return set_attention(model, heads, scale / where.sum(-1, keepdims=True) * where)


def set_attention(
    model: TransformerBridge, heads: Sequence[Head], pattern: Float[np.ndarray, "batch pos"]
) -> list[Edit]:
    """Edits for `steer` that replace each head's attention from END by these rows, as long as the
    longest prompt.

    Raises ValueError for an unknown head.
    """
    require_heads(model, heads)
    value = torch.tensor(pattern, dtype=model.cfg.dtype, device=model.cfg.device)[None]
    return [Edit("pattern", head, value) for head in heads]


def block_attention(
    model: TransformerBridge, prompts: Prompts, heads: Sequence[Head], key: str
) -> list[Edit]:
    """Edits for `steer` that keep each head from attending from END to a position, or to a span
    `FIRST:LAST`.

    What it attended there goes to the other positions in proportion. Raises ValueError for an
    unknown head and where a prompt has no such span before END, TaskError for an unknown position.
    """
    require_heads(model, heads)
    hidden = prompts.position_mask(key)
    if not hidden.any(-1).all() or hidden[range(len(prompts)), prompts.position("END")].any():
        raise ValueError(f"{key} is no span of every prompt that ends before END.")
    value = torch.tensor(
        np.where(hidden, -np.inf, 0), dtype=model.cfg.dtype, device=model.cfg.device
    )[None]
    return [Edit("scores", head, value) for head in heads]


def combine_edits(conditions: Iterable[Sequence[Edit]]) -> list[Edit]:
    """Several interventions as the variants of one `steer`, in order; one without edits leaves its
    run as it is.

    Each condition is a list of edits with as many variants each. Raises ValueError for q, k and v
    edits, which have no neutral value, where the edits of a condition differ in the number of
    variants or name a head twice, and where no condition edits anything.
    """
    places, n = defaultdict(list), 0
    for edits in conditions:
        sizes = {len(edit.value) for edit in edits} or {1}
        if len(sizes) > 1 or len({(edit.kind, edit.head) for edit in edits}) < len(edits):
            raise ValueError(
                "A condition's edits need as many variants each, and one edit of a kind for each head."
            )
        variants = slice(n, n + max(sizes))
        n = variants.stop
        for edit in edits:
            places[edit.kind, edit.head].append((variants, edit))
    if not places or any(kind in "qkv" for kind, _ in places):
        raise ValueError("Only z, scores and pattern edits go together; give at least one.")
    return [_merge_edits(parts, n) for parts in places.values()]


def _merge_edits(parts: Sequence[tuple[slice, Edit]], n: int) -> Edit:
    """Edits of one kind and head, each at its variants of n, as one edit that leaves the other
    variants as they are.
    """
    like, size = parts[0][1], parts[0][1].value.shape[-1]
    batch = max(edit.value.shape[1] for _, edit in parts)
    value = like.value.new_full((n, batch, size), torch.nan if like.kind == "pattern" else 0.0)
    matrix = torch.eye(size).to(value).repeat(n, 1, 1)
    for variants, edit in parts:
        value[variants] = edit.value
        matrix[variants] = 0 if edit.matrix is None else edit.matrix
    return replace(like, value=value, matrix=matrix if like.kind == "z" else None)


@dataclass(frozen=True)
class Steered(Behavior):
    """Behavior of runs with heads edited at END, per variant and prompt, and what the watched heads
    do in them.
    """

    attention: Float[np.ndarray, "variant head key batch"]
    """Attention of the watched heads from END to the named positions."""
    attribution: Float[np.ndarray, "variant head batch"]
    """What the watched heads write to the logit difference directly, through the final norm as it
    is in that run.
    """


def steer(
    model: TransformerBridge,
    prompts: Prompts,
    edits: Sequence[Edit],
    *,
    watch: Sequence[Head] = (),
    keys: Sequence[str] = (),
    memory_gib: float = 2.0,
) -> Steered:
    """Every variant of edits at END, from one cached run per prompt: equal to full forward passes,
    far cheaper.

    edits: of kinds z, scores and pattern (`together` makes one list of several interventions).
    watch, keys: heads whose attribution, and positions or spans `FIRST:LAST` to which their
    attention from END, is wanted; a head before the first edit does as in the clean run and is
    refused. Raises ValueError for another kind of edit, edits of other prompts, an unknown head or
    too small a bound.
    """
    require_heads(model, [*watch, *(edit.head for edit in edits)])
    if (
        not edits
        or {edit.kind for edit in edits} & set("qkv")
        or len({len(edit.value) for edit in edits}) != 1
    ):
        raise ValueError(
            "Give at least one edit, of kind z, scores or pattern, with as many variants each."
        )
    if any(edit.value.shape[1] not in (1, len(prompts)) for edit in edits):
        raise ValueError(
            f"An edit is not of these {len(prompts)} prompts: give one value for all, or one for each."
        )
    if any(head.layer < min(edit.head.layer for edit in edits) for head in watch):
        raise ValueError(
            "A watched head lies before every edited head, so nothing can change there."
        )
    n = len(edits[0].value)
    result = empty_behavior(n, len(prompts))
    result["attention"] = np.zeros((n, len(watch), len(keys), len(prompts)))
    result["attribution"] = np.zeros((n, len(watch), len(prompts)))
    for index in prompts.groups(size=prompts_at_once(model, prompts, 0, memory_gib)):
        batch = prompts.select(index)
        tokens = batch.tensors()[0].to(model.cfg.device)
        end, decoder = tokens.shape[1] - 1, Decoder(model, tokens.shape[1])
        cache = cached_run(model, tokens, ("hook_resid_pre", "attn.hook_k", "attn.hook_v"))
        at_once = variants_at_once(model, batch, end, memory_gib)
        mine = [edit.of(index, end + 1) for edit in edits]
        places = [torch.tensor(batch.position_mask(key), device=model.cfg.device) for key in keys]
        for part in (slice(start, start + at_once) for start in range(0, n, at_once)):
            resid, seen = resume(
                decoder, cache, end, [edit.only(part) for edit in mine], watch=watch
            )
            normed = model.ln_final(resid)
            some = normed.split(
                max(1, ROWS_AT_ONCE // len(batch))
            )  # a chunk's logits are larger than all else
            judged = [vars(score_logits(batch, model.unembed(rows))) for rows in some]
            for name in judged[0]:
                result[name][part, index] = np.concatenate([chunk[name] for chunk in judged])
            scale = (resid * normed).sum(-1, keepdim=True) / (normed * normed).sum(-1, keepdim=True)
            direction = (
                answer_direction(model, batch) / scale
            )  # by which the final norm, its gain folded, divides
            for i, head in enumerate(watch):
                written = seen[head].z @ model.blocks[head.layer].attn.W_O[head.head]
                result["attribution"][part, i, index] = (written * direction).sum(-1).cpu()
                for j, place in enumerate(places):
                    result["attention"][part, i, j, index] = (
                        (seen[head].pattern * place).sum(-1).cpu()
                    )
    return Steered(**result)


Directions = Mapping[Head, Float[Tensor, "d_model _"]]
"""Orthonormal directions that each head can write, such as some v_k of its W_OV."""


def coordinates_at_end(
    model: TransformerBridge, prompts: Prompts, directions: Directions
) -> dict[Head, Tensor]:
    """What each head writes along its directions at END. [prompt direction]"""
    require_heads(model, directions)
    result = {head: torch.zeros(len(prompts), V.shape[1]) for head, V in directions.items()}
    for index in prompts.groups(size=32):
        tokens = prompts.select(index).tensors()[0].to(model.cfg.device)
        cache = cached_run(model, tokens, ("attn.hook_z",))
        for head, V in directions.items():
            result[head][index] = _written(model, cache, head, V).to(result[head])
    return result


def set_coordinates(
    model: TransformerBridge,
    directions: Directions,
    values: Mapping[Head, Float[Tensor, "variant _ _"]],
) -> list[Edit]:
    """Edits for `steer` that set what heads write at END along their directions, and leave the rest
    of it alone.

    values: [variant, prompt or 1, direction]. Raises ValueError for an unknown head, and for
    directions that are not orthonormal or that a head cannot write: those of another head or model.
    """
    units = {head: _unit_and_rest(model, head, V) for head, V in directions.items()}
    return [
        Edit("z", head, values[head].to(unit) @ unit, rest.expand(len(values[head]), -1, -1))
        for head, (unit, rest) in units.items()
    ]


def learn_coordinates(
    model: TransformerBridge,
    prompts: Prompts,
    subspaces: Sequence[Directions],
    groups: Int[np.ndarray, " prompt"],
    *,
    steps: int = 15,
    rate: float = 2.0,
) -> list[dict[Head, Float[Tensor, "group _"]]]:
    """For each subspace, the coordinates at END, one row per group of prompts, that make the
    answers most likely.

    Adam on the cross-entropy over the full vocabulary, all prompts at once and every subspace on
    its own, from the mean of each group's own coordinates. rate: the size of a step, in root mean
    squares of a head's own coordinates. Raises ValueError without a subspace or where a group has
    no prompt, else as `set_coordinates`.
    """
    if not subspaces or len(groups) != len(prompts) or not np.bincount(groups).all():
        raise ValueError(
            "Give at least one subspace, and a group for every prompt, numbered from 0 on."
        )
    units = [
        {head: _unit_and_rest(model, head, V) for head, V in directions.items()}
        for directions in subspaces
    ]
    runs, own = (
        [],
        [{h: torch.zeros(len(prompts), V.shape[1]) for h, V in d.items()} for d in subspaces],
    )
    for index in prompts.groups():
        tokens = prompts.select(index).tensors()[0].to(model.cfg.device)
        names = ("hook_resid_pre", "attn.hook_k", "attn.hook_v", "attn.hook_z")
        cache, decoder = cached_run(model, tokens, names), Decoder(model, tokens.shape[1])
        runs.append(
            (
                index,
                decoder,
                cache,
                tokens.shape[1] - 1,
                tokens.new_tensor(prompts.select(index).answers),
            )
        )
        for directions, mine in zip(subspaces, own, strict=True):
            for head, V in directions.items():
                mine[head][index] = _written(model, cache, head, V).to(mine[head])
    rows = [np.flatnonzero(groups == group) for group in range(max(groups) + 1)]
    learned = [
        {
            head: torch.stack([x[row].mean(0) for row in rows]).to(model.W_U).requires_grad_()
            for head, x in mine.items()
        }
        for mine in own
    ]
    sizes = [float(x.square().mean().sqrt()) for mine in own for x in mine.values()]
    parameters = [x for mine in learned for x in mine.values()]
    adam = torch.optim.Adam(
        [{"params": [x], "lr": rate * s} for x, s in zip(parameters, sizes, strict=True)]
    )
    for _ in range(steps):
        adam.zero_grad()
        for index, decoder, cache, end, answers in runs:
            with torch.enable_grad():
                edits = combine_edits(
                    [
                        Edit("z", h, mine[h][groups[index]][None] @ unit, rest[None])
                        for h, (unit, rest) in at.items()
                    ]
                    for mine, at in zip(learned, units, strict=True)
                )
                logits = model.unembed(model.ln_final(resume(decoder, cache, end, edits)[0]))
                wanted = answers.expand(len(logits), -1)
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), wanted.flatten(), reduction="sum"
                )
                (loss / len(prompts)).backward()
        adam.step()
    return [{head: x.detach().cpu() for head, x in mine.items()} for mine in learned]


def _written(
    model: TransformerBridge, cache: ActivationCache, head: Head, V: Float[Tensor, "d_model c"]
) -> Float[Tensor, "batch c"]:
    W_O = model.blocks[head.layer].attn.W_O[head.head]
    return cache["z", head.layer][:, -1, head.head] @ (W_O @ V.to(W_O))


def _unit_and_rest(
    model: TransformerBridge, head: Head, V: Float[Tensor, "d_model c"]
) -> tuple[Float[Tensor, "c d_head"], Float[Tensor, "d_head d_head"]]:
    """The z that write one unit along each direction, and the matrix that leaves of z what writes
    along none.
    """
    require_heads(model, [head])
    W_O = model.blocks[head.layer].attn.W_O[head.head]
    return writing_vectors(W_O, V), scaling_matrix(W_O, V, torch.zeros(V.shape[1]))
