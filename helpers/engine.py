"""The engine: a cached run, and runs resumed from it with some heads edited at one position.

Attention at the recomputed positions is computed here, for all variants at once, over the cached
keys and values of earlier positions. All else is left to the model's own modules: a `Decoder` runs
a layer up to its scores, or with the output of its attention given. Norms before and after a
sublayer, norms of queries and keys, rotation, scaled residuals and experts are theirs, so a new
family needs no code here. And nothing is taken on trust: `decoder_for` reruns some prompts and
compares their logits with the model's.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.exceptions import StopAtLayerException
from transformers import Cache
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

from helpers.behavior import final_logits
from helpers.heads import Head, check_heads
from helpers.tasks.prompts import Prompts
from suite.errors import ModelError

ROWS_AT_ONCE = 1024
"""Residual vectors per matrix product: enough for full speed, few enough that intermediates stay in
the CPU's cache.
"""

TRIED_PROMPTS = 4
"""How many prompts a model is tried on, for each length."""

HIDDEN = -1e4
"""Attention masks add 0 to the scores of keys that are seen, and less than this to the others."""


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


# What a model's layers do ------------------------------------------------------------------------


class Projections(NamedTuple):
    """What a layer's scores and outputs are made of: queries and keys as they are compared (normed
    and rotated where the model does that), and values.
    """

    q: Float[Tensor, "variant batch pos head d_head"]
    k: Float[Tensor, "variant batch pos kv_head d_head"]
    v: Float[Tensor, "variant batch pos kv_head d_head"]


class Decoder:
    """A model's layers, run in pieces by the model's own modules, so that edits of weights count.

    Knows what the layers are told about prompts of one length, such as rotations and masks. Made by
    `decoder_for`, which tries it first. `group`: how many query heads in a row share each key and
    value head.
    """

    def __init__(self, model: TransformerBridge, tokens: Int[Tensor, "batch pos"]) -> None:
        cfg = model.cfg
        self.model = model
        self.n_layers = cfg.n_layers
        self.group = cfg.n_heads // (cfg.n_key_value_heads or cfg.n_heads)
        rotated_key = "blocks.0.attn.hook_rot_k"
        with _recorded_calls(model) as calls:
            _, cache = model.run_with_cache(tokens, names_filter=rotated_key.__eq__)
        self.calls = calls
        self.hooks_see_rotation = rotated_key in cache
        """Whether hooks show queries and keys as they are compared, or before rotation."""

    @property
    def cached_names(self) -> tuple[str, ...]:
        """The activations that a cache needs for `resume`."""
        key = "attn.hook_rot_k" if self.hooks_see_rotation else "attn.hook_k"
        return ("hook_resid_pre", key, "attn.hook_v")

    def cached_keys(
        self, cache: ActivationCache, layer: int, stop: int
    ) -> Float[Tensor, "batch pos kv_head d_head"]:
        """The keys before position `stop`, as queries are compared with them."""
        if self.hooks_see_rotation:
            return cache["rot_k", layer][:, :stop]
        return self._rotate(cache["k", layer][:, :stop], layer, range(stop))

    def project(
        self,
        layer: int,
        resid: Float[Tensor, "variant batch pos d_model"],
        positions: Sequence[int],
    ) -> Projections:
        """The layer, run up to its scores on the residual stream that enters it at these
        positions.
        """
        kept: dict[str, Tensor] = {}
        attention = f"blocks.{layer}.attn"
        prefix = "rot_" if self.hooks_see_rotation else ""
        sites = {"q": f"hook_{prefix}q", "k": f"hook_{prefix}k", "v": "hook_v"}
        hooks = [
            (f"{attention}.{site}", partial(_keep, kept, name)) for name, site in sites.items()
        ]
        hooks.append((f"{attention}.hook_attn_scores", _stop))
        args, kwargs = self.calls[layer].at(positions)
        with self.model.hooks(fwd_hooks=hooks), suppress(StopAtLayerException):
            self.model.blocks[layer](resid.flatten(0, 1), *args, **kwargs)
        q, k, v = (kept[name].unflatten(0, resid.shape[:2]) for name in "qkv")
        if self.hooks_see_rotation:
            return Projections(q, k, v)
        return Projections(self._rotate(q, layer, positions), self._rotate(k, layer, positions), v)

    def _rotate(
        self, heads: Float[Tensor, "... pos heads d_head"], layer: int, positions: Sequence[int]
    ) -> Float[Tensor, "... pos heads d_head"]:
        """q or k turned by its position, where the model rotates out of the sight of hooks."""
        rotation = self.calls[layer].kwargs.get("position_embeddings")
        if rotation is None:
            return heads
        cos, sin = (part[0, list(positions)] for part in rotation)
        turned, _ = apply_rotary_pos_emb(heads, heads, cos, sin, unsqueeze_dim=-2)
        return turned

    def finish(
        self,
        layer: int,
        resid: Float[Tensor, "... d_model"],
        attention_output: Float[Tensor, "... d_model"],
        mlp_output: Float[Tensor, "... d_model"] | None = None,
    ) -> Float[Tensor, "... d_model"]:
        """The residual stream after a layer whose attention gives this output, before any norm of
        it; so does the MLP, where its output is given.
        """
        block = self.model.blocks[layer]
        args, kwargs = self.calls[layer].at([0])  # the same for every position: attention is given
        given = [attention_output] if mlp_output is None else [attention_output, mlp_output]
        rows = [part.expand_as(attention_output).flatten(0, -2) for part in (resid, *given)]
        outputs = []
        for into, attended, *rest in zip(*(part.split(ROWS_AT_ONCE) for part in rows), strict=True):
            with ExitStack() as stack:
                stack.enter_context(_gives(block.attn, (attended[None], None)))
                if rest:
                    stack.enter_context(_gives(block.mlp, rest[0][None]))
                output = block(into[None], *args, **kwargs)
            outputs.append(output[0] if isinstance(output, tuple) else output)
        return torch.cat(outputs, dim=1).view(attention_output.shape)

    def scores(
        self, layer: int, products: Float[Tensor, "variant batch head query pos"]
    ) -> Float[Tensor, "variant batch head query pos"]:
        """Scores before the mask, of the products of queries and keys: scaled, and capped where the
        model does that.
        """
        attention = self.model.blocks[layer].attn.original_component
        scores = products.mul_(attention.scaling)
        cap = getattr(attention, "attn_logit_softcapping", None)
        return scores if cap is None else cap * torch.tanh(scores / cap)

    def written(
        self,
        head: Head,
        z: Float[Tensor, "... d_head"],
        attention_output: Float[Tensor, "... d_model"],
    ) -> Float[Tensor, "... d_model"]:
        """What a head adds to the residual stream: z W_O, and where the model norms the output of
        attention, its share of what the norm gives.
        """
        block = self.model.blocks[head.layer]
        alone = z @ block.attn.W_O[head.head]
        norm = getattr(block, "ln1_post", None)
        if norm is None:
            return alone
        return alone * _norm_factors(norm, attention_output)


@dataclass(frozen=True)
class LayerCall:
    """What a model tells a layer beside the residual stream, on prompts of one length."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    blocked: Bool[Tensor, "query key"]
    """Which keys a query does not see: later ones, and those that its window has left."""

    def at(self, positions: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same for some of the positions, without cache and mask."""
        args = tuple(_at_positions(value, positions) for value in self.args)
        kwargs = {name: _at_positions(value, positions) for name, value in self.kwargs.items()}
        return args, kwargs


def _at_positions(value: Any, positions: Sequence[int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_at_positions(part, positions) for part in value)
    if isinstance(value, Cache) or _is_mask(value):
        return None
    if isinstance(value, Tensor):  # [prompt, pos, ...], and prompts of one length are told the same
        return value[:1, list(positions)]
    return value


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4  # [prompt, head, query, key]


@contextmanager
def _recorded_calls(model: TransformerBridge) -> Iterator[list[LayerCall]]:
    """What each layer is told in the run inside this block, in order."""
    calls: list[LayerCall] = []

    def record(block: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        told = dict(kwargs)
        resid = told.pop("hidden_states", None)
        others = args
        if resid is None:
            resid, *others = args
        masks = [value for value in (*others, *told.values()) if _is_mask(value)]
        calls.append(LayerCall(tuple(others), told, _blocked(masks, resid.shape[1], resid.device)))

    handles = [block.register_forward_pre_hook(record, with_kwargs=True) for block in model.blocks]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _blocked(
    masks: Sequence[Tensor], length: int, device: torch.device
) -> Bool[Tensor, "query key"]:
    """Raises ModelError for a mask that does more than to hide keys."""
    if not masks:
        square = torch.ones(length, length, dtype=torch.bool, device=device)
        return square.triu(1)
    mask = masks[0][0, 0]
    if mask.dtype == torch.bool:
        return ~mask
    blocked = mask < HIDDEN
    if mask[~blocked].any():
        raise ModelError(REFUSAL)
    return blocked


def _keep(kept: dict[str, Tensor], name: str, now: Tensor, hook: object) -> None:
    kept[name] = now


@contextmanager
def _gives(module: torch.nn.Module, output: Any) -> Iterator[None]:
    """While this lasts, a module gives this output whatever enters it.

    Raises ModelError where the model does not call it.
    """
    was_called = False

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal was_called
        was_called = True
        return output

    own = vars(module)  # the bridge hands what is set on its modules on to the wrapped ones
    own["forward"] = forward
    try:
        yield
    finally:
        del own["forward"]
    if not was_called:
        raise ModelError(
            f"The layers of this model do not call their {type(module).__name__}, so its output "
            "cannot be given: use path_patch_reference, or mlps='recompute'."
        )


def _norm_factors(
    norm: torch.nn.Module, x: Float[Tensor, "... d_model"]
) -> Float[Tensor, "... d_model"]:
    """What an RMSNorm multiplies x by: its gain, the same for every x, over the size of this x."""
    gain = norm_gain(norm, x.shape[-1])
    scaled = x * gain
    size = (scaled * norm(x)).sum(-1, keepdim=True) / scaled.square().sum(-1, keepdim=True)
    return gain * size


def norm_gain(norm: torch.nn.Module, width: int) -> Float[Tensor, " width"]:
    """The gain of an RMSNorm however it is stored: what becomes of ones, whose size is one."""
    example = next(norm.parameters())
    ones = torch.ones(1, 1, width, dtype=example.dtype, device=example.device)
    return norm(ones)[0, 0].detach()


def output_weights(model: TransformerBridge, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """W_O as it acts on the residual stream: where a norm follows attention, with its gain."""
    block = model.blocks[layer]
    W_O = block.attn.W_O
    norm = getattr(block, "ln1_post", None)
    return W_O if norm is None else W_O * norm_gain(norm, W_O.shape[-1])


def rotation_per_token(model: TransformerBridge) -> Float[Tensor, "layer pair"] | None:
    """By how many radians a token turns each pair of dimensions, on the CPU; None without rotary
    positions.
    """
    two_tokens = torch.zeros(1, 2, dtype=torch.long, device=model.cfg.device)
    with torch.no_grad(), _recorded_calls(model) as calls:
        model(two_tokens)
    if any("position_embeddings" not in call.kwargs for call in calls):
        return None
    angles = []
    for call in calls:
        cos, sin = call.kwargs["position_embeddings"]
        pairs = cos.shape[-1] // 2  # each angle is there twice
        angles.append(torch.atan2(sin[0, 1, :pairs], cos[0, 1, :pairs]))
    return torch.stack(angles).cpu()


# Whether they are understood ----------------------------------------------------------------------

REFUSAL = (
    "Recomputing a run of this model does not give the model's own logits (an architecture that is "
    "not known here, or values too large for its precision): use path_patch_reference and hooks."
)

_tried: weakref.WeakKeyDictionary[TransformerBridge, dict[int, Decoder]]
_tried = weakref.WeakKeyDictionary()


def decoder_for(model: TransformerBridge, tokens: Int[Tensor, "batch pos"]) -> Decoder:
    """The model's decoder for prompts of this length, tried once on a few of these.

    Raises ModelError where the rerun does not give the model's own logits: for an architecture that
    is not known, and for values too large for the precision.
    """
    by_length = _tried.setdefault(model, {})
    length = tokens.shape[1]
    if length not in by_length:
        by_length[length] = _tried_decoder(model, tokens[:TRIED_PROMPTS])
    return by_length[length]


def _tried_decoder(model: TransformerBridge, tokens: Int[Tensor, "batch pos"]) -> Decoder:
    with torch.no_grad():
        expected = model(tokens, logits_to_keep=1)[:, -1]
        try:
            decoder = Decoder(model, tokens)
            logits = _rerun(decoder, tokens)
        except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(REFUSAL) from error
    if not torch.allclose(logits, expected, rtol=1e-4, atol=1e-3):
        raise ModelError(REFUSAL)
    return decoder


def _rerun(decoder: Decoder, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch d_vocab"]:
    """The logits at END of a run whose second half is recomputed from the first layer on, after an
    edit that changes nothing.
    """
    model = decoder.model
    cache = cached_run(model, tokens, decoder.cached_names)
    no_change = torch.zeros(1, 1, tokens.shape[1], device=tokens.device)
    edit = Edit("scores", Head(0, 0), no_change)
    resid, _ = resume(decoder, cache, tokens.shape[1] // 2, [edit])
    return final_logits(model, resid)[0]


# Runs resumed -------------------------------------------------------------------------------------

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
    written: Float[Tensor, "variant batch d_model"]  # what the head adds to the residual stream


def resume(
    decoder: Decoder,
    cache: ActivationCache,
    start: int,
    edits: Sequence[Edit],
    *,
    watch: Iterable[Head] = (),
    n_layers: int | None = None,
) -> tuple[Float[Tensor, "variant batch d_model"], dict[Head, WatchedHead]]:
    """Runs that equal the cached one but for `edits` at position `start`: the final residual and
    watched heads, at END.

    cache: with `decoder.cached_names`. Only positions from `start` on and layers from the first
    edit on are computed; earlier keys and values are the cache's. n_layers: stop after as many,
    with the residual there. A watched head lies in the first edit's layer or later.
    """
    first = min(edit.head.layer for edit in edits)
    last = (n_layers or decoder.n_layers) - 1
    watched: dict[Head, WatchedHead] = {}
    resid = cache["resid_pre", first][None, :, start:]
    positions = range(start, start + resid.shape[2])
    for layer in range(first, last + 1):
        layer_edits = [edit.to(resid) for edit in edits if edit.head.layer == layer]
        q, k, v = decoder.project(layer, resid, positions)
        if layer == last and all(edit.kind in ("k", "v") for edit in layer_edits):
            q = q[:, :, -1:]  # from here on END alone is needed
            resid = resid[:, :, -1:]
        z, pattern = _attention(decoder, cache, layer, Projections(q, k, v), layer_edits)
        attention_output = decoder.model.blocks[layer].attn.o(z.flatten(-2))
        for head in watch:
            if head.layer == layer:
                own_z = z[:, :, -1, head.head]
                written = decoder.written(head, own_z, attention_output[:, :, -1])
                watched[head] = WatchedHead(pattern[:, :, head.head, -1], own_z, written)
        resid = decoder.finish(layer, resid, attention_output)
    return resid[:, :, -1], watched


def _attention(
    decoder: Decoder,
    cache: ActivationCache,
    layer: int,
    projections: Projections,
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
    q, k, v = projections
    n_variants = max([len(q), *(len(edit.value) for edit in edits)])
    q, k, v = (part.expand(n_variants, *part.shape[1:]) for part in (q, k, v))
    start = cache["v", layer].shape[1] - k.shape[2]
    old_k = decoder.cached_keys(cache, layer, start)
    old_v = cache["v", layer][:, :start]

    if of_kind["q"]:
        q = q.clone()
    for edit in of_kind["q"]:
        q[:, :, 0, edit.head.head] = edit.value

    grouped_q = q.unflatten(-2, (-1, decoder.group))
    old_products = torch.einsum("nbqkgd,bpkd->nbkgqp", grouped_q, old_k)
    new_products = torch.einsum("nbqkgd,nbskd->nbkgqs", grouped_q, k)
    products = torch.cat([old_products, new_products], dim=-1).flatten(2, 3)
    for edit in of_kind["k"]:
        head_q = q[..., edit.head.head, :]
        product = torch.einsum("nbqd,nbd->nbq", head_q, edit.value)
        products[:, :, edit.head.head, :, start] = product
    scores = decoder.scores(layer, products)
    blocked = decoder.calls[layer].blocked[-q.shape[2] :]
    scores = scores.masked_fill(blocked, -torch.inf)
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


# How much fits ------------------------------------------------------------------------------------


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
