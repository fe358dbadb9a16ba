"""Path patching (Wang et al. 2022, Merullo et al. 2024): how much one head tells a receiver directly.

The sender's output `z` is taken from the corrupted run while every other head keeps its clean `z`; MLPs are recomputed
or frozen. What then arrives at the receiver (the final residual, or some heads' q, k or v at one position) is inserted
into an otherwise clean run. `path_patch` is exact and fast, `path_patch_reference` is the published loop.

Why the fast version is exact. With every other head frozen nothing moves between positions, so what arrives at position
p is a function of the residual stream at p alone: one vector per sender and prompt, carried through the MLPs, all
senders at once. Inserting it changes nothing before p, so keys and values of earlier positions are reused.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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

from helpers.models import Head, check_heads
from helpers.tasks import Prompts, judge

Kind = Literal["logits", "q", "k", "v"]
"""`logits`: the final residual at END. `q`, `k`, `v`: that input of some heads."""

Mlps = Literal["recompute", "freeze"]
"""`recompute`: MLPs respond to the patched head (the papers' default). `freeze`: MLPs keep their clean output."""

ROWS_AT_ONCE = 1024
"""Residual vectors per matrix product: enough for full speed, few enough that intermediates stay in the CPU's cache."""


@dataclass(frozen=True)
class Receiver:
    """Where paths end: `logits` (the final residual at END), or `heads`' q, k or v at `position`, inserted together.

    In a grouped-query model a key or value head serves several query heads; only the named query heads see the new k or
    v.
    """

    kind: Kind
    heads: tuple[Head, ...] = ()
    position: str = "END"


@dataclass(frozen=True)
class PathEffects:
    """Logit differences, answer minus distractor at END, per prompt; NaN where a sender has no path to the receiver."""

    clean: Float[np.ndarray, " batch"]
    corrupted: Float[np.ndarray, " batch"]
    patched: Float[np.ndarray, "layer head batch"]

    @property
    def change(self) -> Float[np.ndarray, "layer head batch"]:
        """Patched minus clean, in logits; negative where the sender's clean output helped the answer."""
        return self.patched - self.clean

    @property
    def gap(self) -> Float[np.ndarray, " batch"]:
        """Corrupted minus clean, in logits: what the whole corruption does."""
        return self.corrupted - self.clean

    @property
    def percent(self) -> Float[np.ndarray, "layer head"]:
        """Mean change over mean gap: 0 = the path carries nothing, 100 = the whole gap, < 0 = it works against."""
        return 100 * self.change.mean(-1) / self.gap.mean()


def path_patch(
    model: TransformerBridge,
    prompts: Prompts,
    receiver: Receiver,
    *,
    senders: Iterable[Head] | None = None,
    mlps: Mlps = "recompute",
    memory_gib: float = 2.0,
) -> PathEffects:
    """Effect of the direct path from each sender to the receiver: exact, all senders batched.

    senders: every head before the receiver by default. memory_gib: bound on the working memory beside the model;
    prompts and senders are processed in chunks that fit. Raises ValueError for an unknown head or mode, a receiver
    before its sender or named twice, a bound too small for one prompt, and where recomputing the clean run does not
    give the model's own logits (an unknown architecture, values too large for float32: use `path_patch_reference`).
    """
    senders = _checked(model, receiver, senders, mlps)
    patched = np.full((model.cfg.n_layers, model.cfg.n_heads, len(prompts)), np.nan)
    clean, corrupted = np.zeros(len(prompts)), np.zeros(len(prompts))
    for index in prompts.groups(receiver.position, size=prompts_at_once(model, prompts, len(senders), memory_gib)):
        batch = prompts.select(index)
        runs = _CachedRuns(model, batch, receiver, mlps)
        clean[index], corrupted[index] = runs.differences.cpu()
        differences = runs.patched(senders, variants_at_once(model, batch, runs.at, memory_gib)).cpu()
        if not np.allclose(differences[0], clean[index], atol=1e-3):
            raise ValueError(
                "Recomputing the clean run does not give the model's own logits (an architecture that path_patch does "
                "not know, or values too large for float32): use path_patch_reference."
            )
        for sender, difference in zip(senders, differences[1:], strict=True):
            patched[*sender, index] = difference
    return PathEffects(clean, corrupted, patched)


class _CachedRuns:
    """The clean and corrupted runs of equally long prompts, and what follows from patching one path between them."""

    def __init__(self, model: TransformerBridge, batch: Prompts, receiver: Receiver, mlps: Mlps) -> None:
        tokens, n = torch.cat(batch.tensors()).to(model.cfg.device), len(batch)
        self.decoder = Decoder(model, tokens.shape[1])
        self.batch, self.receiver, self.mlps = batch, receiver, mlps
        self.at = int(batch.position(receiver.position)[0])
        names = ["hook_resid_pre", "hook_attn_out", "attn.hook_z"]
        names += [] if receiver.kind == "logits" else ["attn.hook_k", "attn.hook_v"]
        names += ["hook_mlp_out"] if mlps == "freeze" else []
        both = cached_run(model, tokens, names)
        self.clean, self.corrupted = (both.apply_slice_to_batch_dim(part) for part in (slice(n), slice(n, None)))
        self.differences = logit_difference(model, both["resid_post", -1][:, -1].unflatten(0, (2, n)), batch)

    def patched(self, senders: Sequence[Head], at_once: int) -> Float[Tensor, "variant batch"]:
        """Logit difference when no sender is patched (variant 0), then for each sender in turn."""
        model, n = self.decoder.model, 1 + len(senders)
        if self.receiver.kind == "logits":
            ((_, resid),) = self._arrivals(senders, {self.decoder.n_layers})
            return logit_difference(model, resid[:, :, 0], self.batch)
        edits = []
        for layer, resid in self._arrivals(senders, {head.layer for head in self.receiver.heads}):
            values = self.decoder.project(self.receiver.kind, layer, resid, [self.at])[:, :, 0]
            values = torch.cat([values, values[:1].expand(n - len(values), *values.shape[1:])])
            for head in (h for h in self.receiver.heads if h.layer == layer):
                where = head.head if self.receiver.kind == "q" else head.head // self.decoder.group
                edits.append(Edit(self.receiver.kind, head, values[:, :, where]))
        chunks = [[e.only(slice(i, i + at_once)) for e in edits] for i in range(0, n, at_once)]
        resids = (resume(self.decoder, self.clean, self.at, chunk)[0] for chunk in chunks)
        return torch.cat([logit_difference(model, resid, self.batch) for resid in resids])

    def _arrivals(self, senders: Sequence[Head], stops: set[int]) -> Iterator[tuple[int, Tensor]]:
        """The residual [variant batch 1 d_model] entering each of these layers: clean, then one per earlier sender."""
        here, decoder = slice(self.at, self.at + 1), self.decoder
        carried = self.clean["resid_pre", 0][None, :, here]
        for layer in range(max(stops)):
            if layer in stops:
                yield layer, carried
            heads = [sender.head for sender in senders if sender.layer == layer]
            change = (self.corrupted["z", layer] - self.clean["z", layer])[:, self.at, heads]
            written = torch.einsum("bhd,hdm->hbm", change, decoder.model.blocks[layer].attn.W_O[heads])
            pre = self.clean["resid_pre", layer][None, :, here]
            pre = torch.cat([carried, pre.expand(len(heads), *pre.shape[1:])])
            mid = pre + self.clean["attn_out", layer][:, here]
            mid[len(carried) :] += written[:, :, None]
            frozen = self.mlps == "freeze"
            carried = mid + (self.clean["mlp_out", layer][:, here] if frozen else decoder.mlp(layer, pre, mid))
        yield max(stops), carried


def cached_run(model: TransformerBridge, tokens: Int[Tensor, "batch pos"], names: Sequence[str]) -> ActivationCache:
    """The activations of these names in every layer, and the last residual; ends before the unembedding."""
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    wanted = {f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers) for name in names} | {last}
    with model.hooks(fwd_hooks=[("ln_final.hook_in", _stop)]):
        return model.run_with_cache(tokens, names_filter=wanted.__contains__)[1]


def _stop(resid: Tensor, hook: object) -> None:
    raise StopAtLayerException(resid)  # TransformerLens' own way to end a forward pass early


def logit_difference(
    model: TransformerBridge, resid: Float[Tensor, "... batch d_model"], prompts: Prompts
) -> Float[Tensor, "... batch"]:
    """logit(answer) - logit(distractor) read from the final residual at END, without the full unembedding."""
    bias = model.b_U[list(prompts.answers)] - model.b_U[list(prompts.distractors)]
    return (model.ln_final(resid) * answer_direction(model, prompts)).sum(-1) + bias


def answer_direction(model: TransformerBridge, prompts: Prompts) -> Float[Tensor, "batch d_model"]:
    """W_U[answer] - W_U[distractor]: what the normed final residual is read along for the logit difference."""
    return (model.W_U[:, list(prompts.answers)] - model.W_U[:, list(prompts.distractors)]).T


class Decoder:
    """The model's layers as functions of any leading shape, calling the bridge's own modules (so weight edits count).

    Shapes: residuals [... pos d_model]; q [... pos head d_head]; k and v [... pos kv_head d_head], q and k rotated
    where the model rotates. `length`: the longest position that will be asked for. `group`: how many query heads in a
    row share each key and value head.
    """

    def __init__(self, model: TransformerBridge, length: int) -> None:
        self.model, cfg = model, model.cfg
        self.n_layers, self.d_head = cfg.n_layers, cfg.d_head
        self.group = cfg.n_heads // (cfg.n_key_value_heads or cfg.n_heads)
        self.rotary = cfg.positional_embedding_type == "rotary"
        if self.rotary:
            dummy = torch.zeros(1, length, cfg.d_model, device=cfg.device)
            self.cos, self.sin = (t[0] for t in model.rotary_emb(dummy, torch.arange(length, device=cfg.device)[None]))

    def project(
        self, kind: str, layer: int, resid: Float[Tensor, "... pos d_model"], positions: Sequence[int]
    ) -> Float[Tensor, "... pos heads d_head"]:
        """q, k or v of a layer from the residual stream that enters it."""
        block = self.model.blocks[layer]
        heads = getattr(block.attn, kind)(block.ln1(resid)).unflatten(-1, (-1, self.d_head))
        return heads if kind == "v" else self.rotate(heads, positions)

    def rotate(
        self, heads: Float[Tensor, "... pos heads d_head"], positions: Sequence[int]
    ) -> Float[Tensor, "... pos heads d_head"]:
        """q or k turned by its position in a rotary model (only the part that the model turns), else as it is."""
        if not self.rotary:
            return heads
        cos, sin = self.cos[list(positions)], self.sin[list(positions)]
        turned, rest = heads[..., : cos.shape[-1]], heads[..., cos.shape[-1] :]
        turned, _ = apply_rotary_pos_emb(turned, turned, cos, sin, unsqueeze_dim=-2)
        return torch.cat([turned, rest], dim=-1)

    def mlp(
        self, layer: int, pre: Float[Tensor, "... d_model"], mid: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """MLP output of a layer from the residual before and after attention; a parallel block reads the former."""
        block = self.model.blocks[layer]
        rows = (pre if self.model.cfg.parallel_attn_mlp else mid).flatten(0, -2).split(ROWS_AT_ONCE)
        return torch.cat([block.mlp(block.ln2(row[None]))[0] for row in rows]).view(mid.shape)


EditKind = Literal["q", "k", "v", "z", "scores", "pattern"]
"""What an `Edit` changes in a head."""


@dataclass(frozen=True)
class Edit:
    """What becomes of one head at the first recomputed position, one per variant of the run.

    q, k, v: `value` is inserted. z (the head's output): z becomes z @ `matrix` + `value`, or `value` without a matrix.
    Of length pos instead of d_head: scores (before the softmax), to which `value` is added; pattern (attention after
    it), which becomes `value` except where that is NaN.
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
        return replace(self, value=self.value.to(like), matrix=None if self.matrix is None else self.matrix.to(like))

    def of(self, prompts: Sequence[int] | np.ndarray, length: int) -> "Edit":
        """The same edit for some of the prompts, which are `length` tokens long."""
        value = self.value if self.value.shape[1] == 1 else self.value[:, prompts]
        return replace(self, value=value[..., :length] if self.kind in ("scores", "pattern") else value)


class Seen(NamedTuple):
    """What a watched head did at END."""

    pattern: Float[Tensor, "variant batch key"]
    z: Float[Tensor, "variant batch d_head"]


def resume(
    decoder: Decoder, cache: ActivationCache, start: int, edits: Sequence[Edit], *, watch: Iterable[Head] = ()
) -> tuple[Float[Tensor, "variant batch d_model"], dict[Head, Seen]]:
    """Runs that equal the cached one but for `edits` at position `start`: the final residual and watched heads, at END.

    Only positions from `start` on and layers from the first edit on are computed; earlier keys and values are the
    cache's. A watched head lies in the first edit's layer or later.
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
        seen |= {h: Seen(pattern[:, :, h.head, -1], z[:, :, -1, h.head]) for h in watch if h.layer == layer}
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
) -> tuple[Float[Tensor, "variant batch query head d_head"], Float[Tensor, "variant batch head query pos"]]:
    """z and attention of the recomputed positions, which attend to the cached prefix and to each other.

    In the products heads are split as [... kv_head member ...]: `member` counts a key/value head's query heads.
    """
    of_kind = {kind: [edit for edit in edits if edit.kind == kind] for kind in get_args(EditKind)}
    q = q.expand(max([len(q), *(len(edit.value) for edit in edits)]), *q.shape[1:]).clone()
    for edit in of_kind["q"]:
        q[:, :, 0, edit.head.head] = edit.value
    grouped = q.unflatten(-2, (-1, decoder.group))
    start = cache["v", layer].shape[1] - k.shape[2]
    old_k, old_v = decoder.rotate(cache["k", layer][:, :start], range(start)), cache["v", layer][:, :start]
    old_scores = torch.einsum("nbqkgd,bpkd->nbkgqp", grouped, old_k)
    new_scores = torch.einsum("nbqkgd,nbskd->nbkgqs", grouped, k.expand(len(q), *k.shape[1:]))
    scores = torch.cat([old_scores, new_scores], dim=-1).flatten(2, 3)
    for edit in of_kind["k"]:
        scores[:, :, edit.head.head, :, start] = torch.einsum("nbqd,nbd->nbq", q[..., edit.head.head, :], edit.value)
    future = torch.ones(k.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)[-q.shape[2] :]
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
        z[..., edit.head.head, :] += torch.einsum("nbq,nbd->nbqd", pattern[:, :, edit.head.head, :, start], change)
    for edit in of_kind["z"]:
        now = z[:, :, 0, edit.head.head]
        z[:, :, 0, edit.head.head] = edit.value if edit.matrix is None else now @ edit.matrix + edit.value
    return z, pattern


def require_heads(model: TransformerBridge, heads: Iterable[Head]) -> None:
    """Raises ValueError for a head that this model does not have."""
    check_heads(heads, model.cfg.n_layers, model.cfg.n_heads)


def _checked(model: TransformerBridge, receiver: Receiver, senders: Iterable[Head] | None, mlps: str) -> list[Head]:
    """Senders in order, each once, after checking that every one of them comes before some receiver."""
    if mlps not in get_args(Mlps):
        raise ValueError(f"Unknown mode mlps={mlps!r}; choose 'recompute' or 'freeze'.")
    if receiver.kind not in get_args(Kind):
        raise ValueError(f"Unknown receiver {receiver.kind!r}; choose one of {', '.join(get_args(Kind))}.")
    if (receiver.kind == "logits") == bool(receiver.heads):
        raise ValueError("A q, k or v receiver needs at least one head, and the logits receiver takes none.")
    if len(set(receiver.heads)) < len(receiver.heads):
        raise ValueError(f"The receiver names a head twice ({', '.join(map(str, receiver.heads))}); name each once.")
    if receiver.kind == "logits" and receiver.position != "END":
        raise ValueError(f"The logits are read at END, so a path to them cannot end at {receiver.position}.")
    last = model.cfg.n_layers if receiver.kind == "logits" else max(head.layer for head in receiver.heads)
    if senders is None:
        senders = [Head(layer, head) for layer in range(last) for head in range(model.cfg.n_heads)]
    senders = sorted(set(senders))
    require_heads(model, (*receiver.heads, *senders))
    if not senders or senders[-1].layer >= last:
        raise ValueError(f"A sender must lie in a layer before the receiver's (here: before layer {last}).")
    return senders


def prompts_at_once(model: TransformerBridge, prompts: Prompts, n_senders: int, memory_gib: float) -> int:
    """How many prompts fit in half of the bound: cached runs, and some copies of one residual per sender."""
    cfg, length = model.cfg, max(len(tokens) for tokens in prompts.tokens)
    floats = 10 * cfg.n_layers * length * cfg.d_model + 6 * n_senders * cfg.d_model
    return _at_least_one(memory_gib / 2 * 2**30 / (4 * floats), memory_gib)


def variants_at_once(model: TransformerBridge, batch: Prompts, start: int, memory_gib: float) -> int:
    """How many variants of these prompts fit in the other half, and no more than keep the processor busy."""
    cfg, length = model.cfg, len(batch.tokens[0])
    rows = len(batch) * (length - start)
    floats = rows * (10 * cfg.d_model + 3 * cfg.n_heads * length)
    return _at_least_one(min(memory_gib / 2 * 2**30 / (4 * floats), max(1, 8 * ROWS_AT_ONCE / rows)), memory_gib)


def _at_least_one(count: float, memory_gib: float) -> int:
    if count < 1:
        raise ValueError(f"memory_gib={memory_gib} is too small for a single prompt of this length; raise it.")
    return int(count)


def path_patch_reference(
    model: TransformerBridge,
    prompts: Prompts,
    receiver: Receiver,
    *,
    senders: Iterable[Head] | None = None,
    mlps: Mlps = "recompute",
) -> PathEffects:
    """The published loop, two forward passes per sender: slow, plain, and the oracle for `path_patch`."""
    senders = _checked(model, receiver, senders, mlps)
    patched = np.full((model.cfg.n_layers, model.cfg.n_heads, len(prompts)), np.nan)
    clean_difference, corrupted_difference = np.zeros(len(prompts)), np.zeros(len(prompts))

    def kept(name: str) -> bool:
        return name.endswith(("hook_z", "hook_mlp_out", "hook_resid_post", "hook_q", "hook_k", "hook_v"))

    for index in prompts.groups(receiver.position):
        batch = prompts.select(index)
        tokens, corrupted_tokens = (t.to(model.cfg.device) for t in batch.tensors())
        at = int(batch.position(receiver.position)[0])
        clean_logits, clean = model.run_with_cache(tokens, names_filter=kept)
        corrupted_logits, corrupted = model.run_with_cache(corrupted_tokens, names_filter=kept)
        clean_difference[index] = judge(batch, clean_logits[:, -1]).logit_difference
        corrupted_difference[index] = judge(batch, corrupted_logits[:, -1]).logit_difference
        for sender in senders:
            # 1. every head frozen to its clean z, the sender's from the corrupted run: record what arrives
            with model.hooks(fwd_hooks=_freeze(clean, corrupted, sender, mlps)):
                _, arrived = model.run_with_cache(tokens, names_filter=kept)
            # 2. the clean run again, with only the receiver's value replaced
            logits = model.run_with_hooks(tokens, fwd_hooks=_insert(model, receiver, arrived, at))
            patched[*sender, index] = judge(batch, logits[:, -1]).logit_difference
    return PathEffects(clean_difference, corrupted_difference, patched)


Hooks = list[tuple[str, Callable]]


def _freeze(clean: ActivationCache, corrupted: ActivationCache, sender: Head, mlps: Mlps) -> Hooks:
    """Hooks that hold every head (and, if frozen, every MLP) at its clean output, the sender at its corrupted one."""
    sites = ("hook_z", "hook_mlp_out") if mlps == "freeze" else "hook_z"
    held = {name: output for name, output in clean.items() if name.endswith(sites)}
    own = f"blocks.{sender.layer}.attn.hook_z"
    held[own] = _with(held[own], corrupted[own][:, :, sender.head], slice(None), slice(None), sender.head)
    return [(name, lambda now, hook, output=output: output) for name, output in held.items()]


def _insert(model: TransformerBridge, receiver: Receiver, arrived: ActivationCache, at: int) -> Hooks:
    """Hooks that put what arrived into the receiver at position `at` and leave the rest of the run alone.

    q is replaced where it is made. A key or value may serve several query heads, so a receiver's own view of it is
    replaced: its column of attention scores, or its share of z.
    """
    final, hooks = arrived["resid_post", -1], []
    if receiver.kind == "logits":
        site = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
        return [(site, lambda now, hook: _with(now, final[:, at], slice(None), at))]
    insert = {"q": _insert_q, "k": _insert_k, "v": _insert_v}[receiver.kind]
    for layer, head in receiver.heads:
        sites = insert(Decoder(model, final.shape[1]), head, arrived[receiver.kind, layer][:, at], at)
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

    see_v, see_pattern = (lambda now, hook: seen.update(v=now)), (lambda now, hook: seen.update(pattern=now))
    return {"hook_v": see_v, "hook_pattern": see_pattern, "hook_z": z}


def _with(tensor: Tensor, value: Tensor, *where: int | slice) -> Tensor:
    """A copy of the tensor with `value` at `where`."""
    tensor = tensor.clone()
    tensor[where] = value
    return tensor
