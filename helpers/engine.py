"""The engine: a cached run, and runs resumed from it with some heads edited at one position."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.exceptions import StopAtLayerException
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from helpers.heads import Head, check_heads
from helpers.tasks.prompts import Prompts

ROWS_AT_ONCE = 1024
"""Residual vectors per matrix product: enough for full speed, few enough that intermediates stay in
the CPU's cache.
"""


def cached_run(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], names: Sequence[str]
) -> ActivationCache:
    """The activations of these names in every layer, and the last residual; ends before the
    unembedding.
    """
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    wanted = {f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers) for name in names} | {
        last
    }
    with model.hooks(fwd_hooks=[("ln_final.hook_in", _stop)]):
        return model.run_with_cache(tokens, names_filter=wanted.__contains__)[1]


def _stop(resid: Tensor, hook: object) -> None:
    raise StopAtLayerException(resid)  # TransformerLens' own way to end a forward pass early


class Decoder:
    """The model's layers as functions of any leading shape, calling the bridge's own modules (so
    weight edits count).

    Shapes: residuals [... pos d_model]; q [... pos head d_head]; k and v [... pos kv_head d_head],
    q and k rotated where the model rotates. `length`: the longest position that will be asked for.
    `group`: how many query heads in a row share each key and value head.
    """

    def __init__(self, model: TransformerBridge, length: int) -> None:
        self.model, cfg = model, model.cfg
        self.n_layers, self.d_head = cfg.n_layers, cfg.d_head
        self.group = cfg.n_heads // (cfg.n_key_value_heads or cfg.n_heads)
        self.rotary = cfg.positional_embedding_type == "rotary"
        if self.rotary:
            dummy = torch.zeros(1, length, cfg.d_model, device=cfg.device)
            self.cos, self.sin = (
                t[0] for t in model.rotary_emb(dummy, torch.arange(length, device=cfg.device)[None])
            )

    def project(
        self,
        kind: str,
        layer: int,
        resid: Float[Tensor, "... pos d_model"],
        positions: Sequence[int],
    ) -> Float[Tensor, "... pos heads d_head"]:
        """q, k or v of a layer from the residual stream that enters it."""
        block = self.model.blocks[layer]
        heads = getattr(block.attn, kind)(block.ln1(resid)).unflatten(-1, (-1, self.d_head))
        return heads if kind == "v" else self.rotate(heads, positions)

    def rotate(
        self, heads: Float[Tensor, "... pos heads d_head"], positions: Sequence[int]
    ) -> Float[Tensor, "... pos heads d_head"]:
        """q or k turned by its position in a rotary model (only the part that the model turns),
        else as it is.
        """
        if not self.rotary:
            return heads
        cos, sin = self.cos[list(positions)], self.sin[list(positions)]
        turned, rest = heads[..., : cos.shape[-1]], heads[..., cos.shape[-1] :]
        turned, _ = apply_rotary_pos_emb(turned, turned, cos, sin, unsqueeze_dim=-2)
        return torch.cat([turned, rest], dim=-1)

    def mlp(
        self, layer: int, pre: Float[Tensor, "... d_model"], mid: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """MLP output of a layer from the residual before and after attention; a parallel block
        reads the former.
        """
        block = self.model.blocks[layer]
        rows = (pre if self.model.cfg.parallel_attn_mlp else mid).flatten(0, -2).split(ROWS_AT_ONCE)
        return torch.cat([block.mlp(block.ln2(row[None]))[0] for row in rows]).view(mid.shape)


EditKind = Literal["q", "k", "v", "z", "scores", "pattern"]
"""What an `Edit` changes in a head."""


@dataclass(frozen=True)
class Edit:
    """What becomes of one head at the first recomputed position, one per variant of the run.

    q, k, v: `value` is inserted. z (the head's output): z becomes z @ `matrix` + `value`, or
    `value` without a matrix. Of length pos instead of d_head: scores (before the softmax), to which
    `value` is added; pattern (attention after it), which becomes `value` except where that is NaN.
    """

    kind: EditKind
    head: Head
    value: Float[Tensor, "variant _ _"]  # [variant, one per prompt or one for all, d_head or pos]
    matrix: Float[Tensor, "variant d_head d_head"] | None = None

    def only(self, variants: slice) -> "Edit":
        """The same edit for some of the variants."""
        matrix = None if self.matrix is None else self.matrix[variants]
        return replace(self, value=self.value[variants], matrix=matrix)

    def to(self, like: Tensor) -> "Edit":
        """The same edit on the device and in the dtype of a tensor."""
        return replace(
            self,
            value=self.value.to(like),
            matrix=None if self.matrix is None else self.matrix.to(like),
        )

    def of(self, prompts: Sequence[int] | np.ndarray, length: int) -> "Edit":
        """The same edit for some of the prompts, which are `length` tokens long."""
        value = self.value if self.value.shape[1] == 1 else self.value[:, prompts]
        return replace(
            self, value=value[..., :length] if self.kind in ("scores", "pattern") else value
        )


class WatchedHead(NamedTuple):
    """What a watched head did at END."""

    pattern: Float[Tensor, "variant batch key"]
    z: Float[Tensor, "variant batch d_head"]


def resume(
    decoder: Decoder,
    cache: ActivationCache,
    start: int,
    edits: Sequence[Edit],
    *,
    watch: Iterable[Head] = (),
) -> tuple[Float[Tensor, "variant batch d_model"], dict[Head, WatchedHead]]:
    """Runs that equal the cached one but for `edits` at position `start`: the final residual and
    watched heads, at END.

    Only positions from `start` on and layers from the first edit on are computed; earlier keys and
    values are the cache's. A watched head lies in the first edit's layer or later.
    """
    first, seen = min(edit.head.layer for edit in edits), {}
    resid = cache["resid_pre", first][None, :, start:]
    positions = range(start, start + resid.shape[2])
    for layer in range(first, decoder.n_layers):
        mine = [edit.to(resid) for edit in edits if edit.head.layer == layer]
        k, v = (decoder.project(kind, layer, resid, positions) for kind in "kv")
        if layer == decoder.n_layers - 1 and all(edit.kind in "kv" for edit in mine):
            resid, positions = resid[:, :, -1:], positions[-1:]
        q = decoder.project("q", layer, resid, positions)
        z, pattern = _attention(decoder, cache, layer, q, k, v, mine)
        seen |= {
            h: WatchedHead(pattern[:, :, h.head, -1], z[:, :, -1, h.head])
            for h in watch
            if h.layer == layer
        }
        mid = resid + decoder.model.blocks[layer].attn.o(z.flatten(-2))
        resid = mid + decoder.mlp(layer, resid.expand_as(mid), mid)
    return resid[:, :, -1], seen


def _attention(
    decoder: Decoder,
    cache: ActivationCache,
    layer: int,
    q: Float[Tensor, "#variant batch query head d_head"],
    k: Float[Tensor, "#variant batch suffix kv_head d_head"],
    v: Float[Tensor, "#variant batch suffix kv_head d_head"],
    edits: Sequence[Edit],
) -> tuple[
    Float[Tensor, "variant batch query head d_head"], Float[Tensor, "variant batch head query pos"]
]:
    """z and attention of the recomputed positions, which attend to the cached prefix and to each
    other.

    In the products heads are split as [... kv_head member ...]: `member` counts a key/value head's
    query heads.
    """
    of_kind = {kind: [edit for edit in edits if edit.kind == kind] for kind in get_args(EditKind)}
    q = q.expand(max([len(q), *(len(edit.value) for edit in edits)]), *q.shape[1:]).clone()
    for edit in of_kind["q"]:
        q[:, :, 0, edit.head.head] = edit.value
    grouped = q.unflatten(-2, (-1, decoder.group))
    start = cache["v", layer].shape[1] - k.shape[2]
    old_k, old_v = (
        decoder.rotate(cache["k", layer][:, :start], range(start)),
        cache["v", layer][:, :start],
    )
    old_scores = torch.einsum("nbqkgd,bpkd->nbkgqp", grouped, old_k)
    new_scores = torch.einsum("nbqkgd,nbskd->nbkgqs", grouped, k.expand(len(q), *k.shape[1:]))
    scores = torch.cat([old_scores, new_scores], dim=-1).flatten(2, 3)
    for edit in of_kind["k"]:
        scores[:, :, edit.head.head, :, start] = torch.einsum(
            "nbqd,nbd->nbq", q[..., edit.head.head, :], edit.value
        )
    future = torch.ones(k.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)[
        -q.shape[2] :
    ]
    scores[..., start:].masked_fill_(future, -torch.inf)
    scores.mul_(decoder.d_head**-0.5)
    for edit in of_kind["scores"]:
        scores[:, :, edit.head.head, 0] += edit.value
    pattern = scores.softmax(-1)
    for edit in of_kind["pattern"]:
        now = pattern[:, :, edit.head.head, 0]
        now.copy_(torch.where(edit.value.isnan(), now, edit.value))
    grouped = pattern.unflatten(2, (-1, decoder.group))
    z = torch.einsum("nbkgqp,bpkd->nbqkgd", grouped[..., :start], old_v)
    z += torch.einsum("nbkgqs,nbskd->nbqkgd", grouped[..., start:], v.expand(len(q), *v.shape[1:]))
    z = z.flatten(-3, -2)
    for edit in of_kind["v"]:
        change = edit.value - v[:, :, 0, edit.head.head // decoder.group]
        z[..., edit.head.head, :] += torch.einsum(
            "nbq,nbd->nbqd", pattern[:, :, edit.head.head, :, start], change
        )
    for edit in of_kind["z"]:
        now = z[:, :, 0, edit.head.head]
        z[:, :, 0, edit.head.head] = (
            edit.value if edit.matrix is None else now @ edit.matrix + edit.value
        )
    return z, pattern


def require_heads(model: TransformerBridge, heads: Iterable[Head]) -> None:
    """Raises ValueError for a head that this model does not have."""
    check_heads(heads, model.cfg.n_layers, model.cfg.n_heads)


def prompts_at_once(
    model: TransformerBridge, prompts: Prompts, n_senders: int, memory_gib: float
) -> int:
    """How many prompts fit in half of the bound: cached runs, and some copies of one residual per
    sender.
    """
    cfg, length = model.cfg, max(len(tokens) for tokens in prompts.tokens)
    floats = 10 * cfg.n_layers * length * cfg.d_model + 6 * n_senders * cfg.d_model
    return _at_least_one(memory_gib / 2 * 2**30 / (4 * floats), memory_gib)


def variants_at_once(
    model: TransformerBridge, batch: Prompts, start: int, memory_gib: float
) -> int:
    """How many variants of these prompts fit in the other half, and no more than keep the processor
    busy.
    """
    cfg, length = model.cfg, len(batch.tokens[0])
    rows = len(batch) * (length - start)
    floats = rows * (10 * cfg.d_model + 3 * cfg.n_heads * length)
    return _at_least_one(
        min(memory_gib / 2 * 2**30 / (4 * floats), max(1, 8 * ROWS_AT_ONCE / rows)), memory_gib
    )


def _at_least_one(count: float, memory_gib: float) -> int:
    if count < 1:
        raise ValueError(
            f"memory_gib={memory_gib} is too small for a single prompt of this length; raise it."
        )
    return int(count)
