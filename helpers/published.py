"""Path patching as published (Wang et al. 2022, Merullo et al. 2024): two forward passes per
sender, slow and plain.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from helpers.behavior import score_logits
from helpers.engine import Decoder
from helpers.heads import Head
from helpers.path_patching import Mlps, PathEffects, Receiver, checked_senders
from helpers.tasks.prompts import Prompts


def path_patch_reference(
    model: TransformerBridge,
    prompts: Prompts,
    receiver: Receiver,
    *,
    senders: Iterable[Head] | None = None,
    mlps: Mlps = "recompute",
) -> PathEffects:
    """The published loop, two forward passes per sender: slow, plain, and the oracle for
    `path_patch`.
    """
    senders = checked_senders(model, receiver, senders, mlps)
    patched = np.full((model.cfg.n_layers, model.cfg.n_heads, len(prompts)), np.nan)
    clean_difference, corrupted_difference = np.zeros(len(prompts)), np.zeros(len(prompts))

    def kept(name: str) -> bool:
        return name.endswith(
            ("hook_z", "hook_mlp_out", "hook_resid_post", "hook_q", "hook_k", "hook_v")
        )

    for index in prompts.groups(receiver.position):
        batch = prompts.select(index)
        tokens, corrupted_tokens = (t.to(model.cfg.device) for t in batch.tensors())
        at = int(batch.position(receiver.position)[0])
        clean_logits, clean = model.run_with_cache(tokens, names_filter=kept)
        corrupted_logits, corrupted = model.run_with_cache(corrupted_tokens, names_filter=kept)
        clean_difference[index] = score_logits(batch, clean_logits[:, -1]).logit_difference
        corrupted_difference[index] = score_logits(batch, corrupted_logits[:, -1]).logit_difference
        for sender in senders:
            # 1. every head frozen to its clean z, the sender's from the corrupted run: record what
            # arrives
            with model.hooks(fwd_hooks=_freeze(clean, corrupted, sender, mlps)):
                _, arrived = model.run_with_cache(tokens, names_filter=kept)
            # 2. the clean run again, with only the receiver's value replaced
            logits = model.run_with_hooks(tokens, fwd_hooks=_insert(model, receiver, arrived, at))
            patched[*sender, index] = score_logits(batch, logits[:, -1]).logit_difference
    return PathEffects(clean_difference, corrupted_difference, patched)


Hooks = list[tuple[str, Callable]]


def _freeze(clean: ActivationCache, corrupted: ActivationCache, sender: Head, mlps: Mlps) -> Hooks:
    """Hooks that hold every head (and, if frozen, every MLP) at its clean output, the sender at its
    corrupted one.
    """
    sites = ("hook_z", "hook_mlp_out") if mlps == "freeze" else "hook_z"
    held = {name: output for name, output in clean.items() if name.endswith(sites)}
    own = f"blocks.{sender.layer}.attn.hook_z"
    held[own] = _with(
        held[own], corrupted[own][:, :, sender.head], slice(None), slice(None), sender.head
    )
    return [(name, lambda now, hook, output=output: output) for name, output in held.items()]


def _insert(
    model: TransformerBridge, receiver: Receiver, arrived: ActivationCache, at: int
) -> Hooks:
    """Hooks that put what arrived into the receiver at position `at` and leave the rest of the run
    alone.

    q is replaced where it is made. A key or value may serve several query heads, so a receiver's
    own view of it is replaced: its column of attention scores, or its share of z.
    """
    final, hooks = arrived["resid_post", -1], []
    if receiver.kind == "logits":
        site = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
        return [(site, lambda now, hook: _with(now, final[:, at], slice(None), at))]
    insert = {"q": _insert_q, "k": _insert_k, "v": _insert_v}[receiver.kind]
    for layer, head in receiver.heads:
        sites = insert(
            Decoder(model, final.shape[1]), head, arrived[receiver.kind, layer][:, at], at
        )
        hooks += [(f"blocks.{layer}.attn.{site}", hook) for site, hook in sites.items()]
    return hooks


def _insert_q(decoder: Decoder, head: int, q: Tensor, at: int) -> dict[str, Callable]:
    return {"hook_q": lambda now, hook: _with(now, q[:, head], slice(None), at, head)}


def _insert_k(decoder: Decoder, head: int, k: Tensor, at: int) -> dict[str, Callable]:
    seen, key = {}, decoder.rotate(k[:, None], [at])[:, 0, head // decoder.group]

    def scores(now: Tensor, hook: object) -> Tensor:
        q = decoder.rotate(seen["q"], range(now.shape[-1]))[:, at:, head]
        column = torch.einsum("bqd,bd->bq", q, key) * decoder.d_head**-0.5
        return _with(now, column, slice(None), head, slice(at, None), at)

    return {"hook_q": lambda now, hook: seen.update(q=now), "hook_attn_scores": scores}


def _insert_v(decoder: Decoder, head: int, v: Tensor, at: int) -> dict[str, Callable]:
    seen = {}

    def z(now: Tensor, hook: object) -> Tensor:
        change = (v - seen["v"][:, at])[:, head // decoder.group]
        moved = torch.einsum("bq,bd->bqd", seen["pattern"][:, head, at:, at], change)
        return _with(now, now[:, at:, head] + moved, slice(None), slice(at, None), head)

    see_v, see_pattern = (
        (lambda now, hook: seen.update(v=now)),
        (lambda now, hook: seen.update(pattern=now)),
    )
    return {"hook_v": see_v, "hook_pattern": see_pattern, "hook_z": z}


def _with(tensor: Tensor, value: Tensor, *where: int | slice) -> Tensor:
    """A copy of the tensor with `value` at `where`."""
    tensor = tensor.clone()
    tensor[where] = value
    return tensor
