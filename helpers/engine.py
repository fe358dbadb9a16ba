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
    n_layers = model.cfg.n_layers
    wanted = {f"blocks.{layer}.{name}" for layer in range(n_layers) for name in names}
    wanted.add(f"blocks.{n_layers - 1}.hook_resid_post")
    with model.hooks(fwd_hooks=[("ln_final.hook_in", _stop)]):
        _, cache = model.run_with_cache(tokens, names_filter=wanted.__contains__)
    return cache


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
        cfg = model.cfg
        self.model = model
        self.n_layers = cfg.n_layers
        self.d_head = cfg.d_head
        self.group = cfg.n_heads // (cfg.n_key_value_heads or cfg.n_heads)
        self.rotary = cfg.positional_embedding_type == "rotary"
        if self.rotary:
            only_its_dtype_counts = torch.zeros(1, length, cfg.d_model, device=cfg.device)
            positions = torch.arange(length, device=cfg.device)[None]
            cos, sin = model.rotary_emb(only_its_dtype_counts, positions)
            self.cos = cos[0]
            self.sin = sin[0]

    def project(
        self,
        kind: str,
        layer: int,
        resid: Float[Tensor, "... pos d_model"],
        positions: Sequence[int],
    ) -> Float[Tensor, "... pos heads d_head"]:
        """q, k or v of a layer from the residual stream that enters it."""
        block = self.model.blocks[layer]
        projection = getattr(block.attn, kind)
        heads = projection(block.ln1(resid)).unflatten(-1, (-1, self.d_head))
        if kind == "v":
            return heads
        return self.rotate(heads, positions)

    def rotate(
        self, heads: Float[Tensor, "... pos heads d_head"], positions: Sequence[int]
    ) -> Float[Tensor, "... pos heads d_head"]:
        """q or k turned by its position in a rotary model (only the part that the model turns),
        else as it is.
        """
        if not self.rotary:
            return heads
        cos = self.cos[list(positions)]
        sin = self.sin[list(positions)]
        rotary_dim = cos.shape[-1]
        turning = heads[..., :rotary_dim]
        rest = heads[..., rotary_dim:]
        turned, _ = apply_rotary_pos_emb(turning, turning, cos, sin, unsqueeze_dim=-2)
        return torch.cat([turned, rest], dim=-1)

    def mlp(
        self, layer: int, pre: Float[Tensor, "... d_model"], mid: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """MLP output of a layer from the residual before and after attention; a parallel block
        reads the former.
        """
        block = self.model.blocks[layer]
        resid = pre if self.model.cfg.parallel_attn_mlp else mid
        chunks = resid.flatten(0, -2).split(ROWS_AT_ONCE)
        outputs = [block.mlp(block.ln2(rows[None]))[0] for rows in chunks]
        return torch.cat(outputs).view(mid.shape)


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
        matrix = None if self.matrix is None else self.matrix.to(like)
        return replace(self, value=self.value.to(like), matrix=matrix)

    def of(self, prompts: Sequence[int] | np.ndarray, length: int) -> "Edit":
        """The same edit for some of the prompts, which are `length` tokens long."""
        value = self.value if self.value.shape[1] == 1 else self.value[:, prompts]
        if self.kind in ("scores", "pattern"):
            value = value[..., :length]
        return replace(self, value=value)


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
    first = min(edit.head.layer for edit in edits)
    watched: dict[Head, WatchedHead] = {}
    resid = cache["resid_pre", first][None, :, start:]
    positions = range(start, start + resid.shape[2])
    for layer in range(first, decoder.n_layers):
        layer_edits = [edit.to(resid) for edit in edits if edit.head.layer == layer]
        k = decoder.project("k", layer, resid, positions)
        v = decoder.project("v", layer, resid, positions)
        is_last = layer == decoder.n_layers - 1
        if is_last and all(edit.kind in ("k", "v") for edit in layer_edits):
            resid = resid[:, :, -1:]  # from here on END alone is needed
            positions = positions[-1:]
        q = decoder.project("q", layer, resid, positions)
        z, pattern = _attention(decoder, cache, layer, q, k, v, layer_edits)
        for head in watch:
            if head.layer == layer:
                watched[head] = WatchedHead(pattern[:, :, head.head, -1], z[:, :, -1, head.head])
        mid = resid + decoder.model.blocks[layer].attn.o(z.flatten(-2))
        resid = mid + decoder.mlp(layer, resid.expand_as(mid), mid)
    return resid[:, :, -1], watched


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
    n_variants = max([len(q), *(len(edit.value) for edit in edits)])
    k = k.expand(n_variants, *k.shape[1:])
    v = v.expand(n_variants, *v.shape[1:])
    n_recomputed = k.shape[2]
    start = cache["v", layer].shape[1] - n_recomputed
    old_k = decoder.rotate(cache["k", layer][:, :start], range(start))
    old_v = cache["v", layer][:, :start]

    q = q.expand(n_variants, *q.shape[1:]).clone()
    for edit in of_kind["q"]:
        q[:, :, 0, edit.head.head] = edit.value

    grouped_q = q.unflatten(-2, (-1, decoder.group))
    old_scores = torch.einsum("nbqkgd,bpkd->nbkgqp", grouped_q, old_k)
    new_scores = torch.einsum("nbqkgd,nbskd->nbkgqs", grouped_q, k)
    scores = torch.cat([old_scores, new_scores], dim=-1).flatten(2, 3)
    for edit in of_kind["k"]:
        head_q = q[..., edit.head.head, :]
        scores[:, :, edit.head.head, :, start] = torch.einsum("nbqd,nbd->nbq", head_q, edit.value)
    square = torch.ones(n_recomputed, n_recomputed, dtype=torch.bool, device=q.device)
    future = square.triu(1)[-q.shape[2] :]
    scores[..., start:].masked_fill_(future, -torch.inf)
    scores.mul_(decoder.d_head**-0.5)
    for edit in of_kind["scores"]:
        scores[:, :, edit.head.head, 0] += edit.value

    pattern = scores.softmax(-1)
    for edit in of_kind["pattern"]:
        row = pattern[:, :, edit.head.head, 0]
        row.copy_(torch.where(edit.value.isnan(), row, edit.value))

    grouped_pattern = pattern.unflatten(2, (-1, decoder.group))
    z = torch.einsum("nbkgqp,bpkd->nbqkgd", grouped_pattern[..., :start], old_v)
    z += torch.einsum("nbkgqs,nbskd->nbqkgd", grouped_pattern[..., start:], v)
    z = z.flatten(-3, -2)
    for edit in of_kind["v"]:
        change = edit.value - v[:, :, 0, edit.head.head // decoder.group]
        attention = pattern[:, :, edit.head.head, :, start]
        z[..., edit.head.head, :] += torch.einsum("nbq,nbd->nbqd", attention, change)
    for edit in of_kind["z"]:
        row = z[:, :, 0, edit.head.head]
        if edit.matrix is None:
            row.copy_(edit.value)
        else:
            row.copy_(row @ edit.matrix + edit.value)
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
    cfg = model.cfg
    length = max(len(tokens) for tokens in prompts.tokens)
    cached = 10 * cfg.n_layers * length * cfg.d_model
    carried = 6 * n_senders * cfg.d_model
    return _at_least_one(_floats_in_half(memory_gib) / (cached + carried), memory_gib)


def variants_at_once(
    model: TransformerBridge, batch: Prompts, start: int, memory_gib: float
) -> int:
    """How many variants of these prompts fit in the other half, and no more than keep the processor
    busy.
    """
    cfg = model.cfg
    length = len(batch.tokens[0])
    rows = len(batch) * (length - start)
    floats = rows * (10 * cfg.d_model + 3 * cfg.n_heads * length)
    fit = _floats_in_half(memory_gib) / floats
    keep_busy = max(1, 8 * ROWS_AT_ONCE / rows)
    return _at_least_one(min(fit, keep_busy), memory_gib)


def _floats_in_half(memory_gib: float) -> float:
    """How many float32 fit in half of the bound."""
    return memory_gib / 2 * 2**30 / 4


def _at_least_one(count: float, memory_gib: float) -> int:
    if count < 1:
        raise ValueError(
            f"memory_gib={memory_gib} is too small for a single prompt of this length; raise it."
        )
    return int(count)
