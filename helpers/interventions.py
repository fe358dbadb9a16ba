"""Interventions on heads: context managers that leave the model as it was, and `steer`, fast for what acts at END."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import temporarily_swap_parameter

from helpers.models import Head
from helpers.patching import (
    Decoder,
    Edit,
    by_layer,
    cached_run,
    logit_difference,
    prompts_at_once,
    require_heads,
    resume,
    variants_at_once,
)
from helpers.tasks import Prompts

Change = Callable[[Float[torch.Tensor, "batch pos d_head"]], Float[torch.Tensor, "batch pos d_head"]]
"""What becomes of a head's output z."""

Weight = Literal["W_O", "W_V"]
"""The matrix to edit: `W_O` writes, `W_V` reads. Both edits have the same effect on the head itself."""


class InterventionError(ValueError):
    """A weight or a head that an intervention cannot change."""


@contextmanager
def heads_changed(model: TransformerBridge, changes: Mapping[Head, Change]) -> Iterator[TransformerBridge]:
    """The model with the output z of some heads passed through a function, at every position, until the block ends."""
    require_heads(model, changes)
    hooks = [
        (f"blocks.{layer}.attn.hook_z", partial(_change, changes={head.head: changes[head] for head in members}))
        for layer, members in by_layer(changes).items()
    ]
    with model.hooks(fwd_hooks=hooks):
        yield model


def _change(z: torch.Tensor, hook: object, *, changes: Mapping[int, Change]) -> torch.Tensor:
    z = z.clone()
    for head, change in changes.items():
        z[:, :, head] = change(z[:, :, head])
    return z


@contextmanager
def knocked_out(model: TransformerBridge, heads: Iterable[Head], donor: ActivationCache) -> Iterator[TransformerBridge]:
    """The model with these heads' output, at every position, taken from another run (resample ablation).

    donor: a cache that holds `hook_z` of prompts of the same shape, such as the corrupted partners.
    """
    taken = {head: (lambda z, head=head: donor["z", head.layer][:, :, head.head]) for head in heads}
    with heads_changed(model, taken):
        yield model


@contextmanager
def weights_edited(
    model: TransformerBridge, maps: Mapping[Head, Float[torch.Tensor, "d_head d_head"]], *, weight: Weight = "W_O"
) -> Iterator[TransformerBridge]:
    """The model with each head's W_O replaced by M W_O, or its W_V by W_V M; the weights are restored exactly.

    `channels.scaling` gives the M that removes, scales or keeps components. Raises InterventionError for another weight
    and for W_V of a model whose query heads share their values, and PatchingError for an unknown head.
    """
    require_heads(model, maps)
    if weight not in get_args(Weight):
        raise InterventionError(f"Unknown weight {weight!r}; choose 'W_O' or 'W_V'.")
    if weight == "W_V" and model.cfg.n_key_value_heads not in (None, model.cfg.n_heads):
        raise InterventionError("Several query heads of this model read one W_V, so edit the head's own W_O.")
    with ExitStack() as stack:
        for layer, heads in by_layer(maps).items():
            attention = model.blocks[layer].attn
            parameter = (attention.o if weight == "W_O" else attention.v).weight
            stack.enter_context(temporarily_swap_parameter(parameter, parameter.detach().clone()))
            for _, head in heads:  # attention.W_O and W_V are views of the parameter, whose old value comes back
                M = maps[Head(layer, head)]
                if weight == "W_O":
                    attention.W_O[head] = M @ attention.W_O[head]
                else:
                    attention.W_V[head] = attention.W_V[head] @ M
        yield model


def forced(
    model: TransformerBridge, prompts: Prompts, heads: Sequence[Head], keys: Sequence[str], *, scale: float = 1.0
) -> list[Edit]:
    """Edits for `steer` that put each head's attention from END on the named positions, in equal shares that add up to
    `scale` (Merullo et al. 2024: inhibition heads forced to look at the wrong colors).

    Raises PatchingError for an unknown head, TaskError for an unknown position, InterventionError without positions or
    for END itself, whose values change with the edits.
    """
    require_heads(model, heads)
    if not keys or "END" in keys:
        raise InterventionError("Forced attention needs at least one position to look at, all of them before END.")
    decoder, where = Decoder(model, 1), np.stack([prompts.position(key) for key in keys], axis=1)  # [batch key]
    values = torch.zeros(len(heads), 1, len(prompts), model.cfg.d_head, device=model.cfg.device)
    for index in prompts.groups(size=32):
        cache = cached_run(model, prompts.select(index).tensors()[0].to(model.cfg.device), ("attn.hook_v",))
        for i, head in enumerate(heads):
            seen = cache["v", head.layer][np.arange(len(index))[:, None], where[index], decoder.kv_head(head.head)]
            values[i, 0, index] = scale * seen.mean(1)
    return [Edit("z", head, value) for head, value in zip(heads, values, strict=True)]


@dataclass(frozen=True)
class Steered:
    """Runs with heads edited at END, per variant and prompt."""

    logit_difference: Float[np.ndarray, "variant batch"]
    """logit(answer) - logit(distractor)."""
    attention: Float[np.ndarray, "variant head key batch"]
    """Attention of the watched heads from END to the named positions."""


def steer(
    model: TransformerBridge,
    prompts: Prompts,
    edits: Sequence[Edit],
    *,
    watch: Sequence[Head] = (),
    keys: Sequence[str] = (),
    memory_gib: float = 2.0,
) -> Steered:
    """Every variant of z edits at END, from one cached run per prompt: equal to full forward passes, far cheaper.

    edits: of kind z, `value` [variant prompt d_head] (or one prompt for all). watch, keys: heads and position names
    whose attention from END is wanted; a head before the first edit attends as in the clean run and is refused.
    Raises InterventionError for another kind of edit, PatchingError for an unknown head or too small a bound.
    """
    require_heads(model, [*watch, *(edit.head for edit in edits)])
    if {edit.kind for edit in edits} != {"z"} or len({len(edit.value) for edit in edits}) != 1:
        raise InterventionError("Steering takes edits of kind z with as many variants each; give at least one.")
    if any(head.layer < min(edit.head.layer for edit in edits) for head in watch):
        raise InterventionError("A watched head lies before every edited head, so nothing can change there.")
    n = len(edits[0].value)
    difference = np.zeros((n, len(prompts)))
    attention = np.zeros((n, len(watch), len(keys), len(prompts)))
    for index in prompts.groups(size=prompts_at_once(model, prompts, 0, memory_gib)):
        batch = prompts.select(index)
        tokens = batch.tensors()[0].to(model.cfg.device)
        end, decoder = tokens.shape[1] - 1, Decoder(model, tokens.shape[1])
        cache = cached_run(model, tokens, ("hook_resid_pre", "attn.hook_k", "attn.hook_v"))
        at_once = variants_at_once(model, batch, end, memory_gib)
        mine = [edit if edit.value.shape[1] == 1 else replace(edit, value=edit.value[:, index]) for edit in edits]
        for part in (slice(start, start + at_once) for start in range(0, n, at_once)):
            resid, patterns = resume(decoder, cache, end, [edit.only(part) for edit in mine], watch=watch)
            difference[part, index] = logit_difference(model, resid, batch).cpu()
            for i, head in enumerate(watch):
                for j, key in enumerate(keys):
                    seen = patterns[head][:, range(len(batch)), batch.position(key)]
                    attention[part, i, j, index] = seen.cpu()
    return Steered(difference, attention)
