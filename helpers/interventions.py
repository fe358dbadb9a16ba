"""Interventions on a running model, as context managers that leave it as it was."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from helpers.models import Head


@contextmanager
def knocked_out(model: TransformerBridge, heads: Iterable[Head], donor: ActivationCache) -> Iterator[TransformerBridge]:
    """The model with these heads' output z, at every position, taken from another run (resample ablation).

    donor: a cache that holds `hook_z` of prompts of the same shape, such as the corrupted partners. The hooks are
    removed on leaving, also after an error.
    """
    by_layer: dict[int, list[int]] = {}
    for head in heads:
        by_layer.setdefault(head.layer, []).append(head.head)
    hooks = [
        (f"blocks.{layer}.attn.hook_z", partial(_resample, heads=members, z_donor=donor["z", layer]))
        for layer, members in by_layer.items()
    ]
    with model.hooks(fwd_hooks=hooks):
        yield model


def _resample(z: torch.Tensor, hook: object, *, heads: list[int], z_donor: torch.Tensor) -> torch.Tensor:
    z = z.clone()
    z[:, :, heads] = z_donor[:, :, heads]
    return z
