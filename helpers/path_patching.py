"""Path patching (Wang et al. 2022, Merullo et al. 2024): how much one head tells a receiver
directly.

The sender's output `z` is taken from the corrupted run while every other head keeps its clean `z`;
MLPs are recomputed or frozen. What then arrives at the receiver (the final residual, or some heads'
q, k or v at one position) is inserted into an otherwise clean run. `path_patch` is exact and fast;
`published.path_patch_reference` is the published loop.

Why the fast version is exact. With every other head frozen nothing moves between positions, so what
arrives at position p is a function of the residual stream at p alone: one vector per sender and
prompt, carried through the MLPs, all senders at once. Inserting it changes nothing before p, so
keys and values of earlier positions are reused.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from helpers.behavior import logit_difference
from helpers.engine import (
    Decoder,
    Edit,
    cached_run,
    prompts_at_once,
    require_heads,
    resume,
    variants_at_once,
)
from helpers.heads import Head
from helpers.tasks.prompts import Prompts

Kind = Literal["logits", "q", "k", "v"]
"""`logits`: the final residual at END. `q`, `k`, `v`: that input of some heads."""


Mlps = Literal["recompute", "freeze"]
"""`recompute`: MLPs respond to the patched head (the papers' default). `freeze`: MLPs keep their
clean output.
"""


@dataclass(frozen=True)
class Receiver:
    """Where paths end: `logits` (the final residual at END), or `heads`' q, k or v at `position`,
    inserted together.

    In a grouped-query model a key or value head serves several query heads; only the named query
    heads see the new k or v.
    """

    kind: Kind
    heads: tuple[Head, ...] = ()
    position: str = "END"


@dataclass(frozen=True)
class PathEffects:
    """Logit differences, answer minus distractor at END, per prompt; NaN where a sender has no path
    to the receiver.
    """

    clean: Float[np.ndarray, " batch"]
    corrupted: Float[np.ndarray, " batch"]
    patched: Float[np.ndarray, "layer head batch"]

    @property
    def change(self) -> Float[np.ndarray, "layer head batch"]:
        """Patched minus clean, in logits; negative where the sender's clean output helped the
        answer.
        """
        return self.patched - self.clean

    @property
    def gap(self) -> Float[np.ndarray, " batch"]:
        """Corrupted minus clean, in logits: what the whole corruption does."""
        return self.corrupted - self.clean

    @property
    def percent(self) -> Float[np.ndarray, "layer head"]:
        """Mean change over mean gap: 0 = the path carries nothing, 100 = the whole gap, < 0 = it
        works against.
        """
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

    senders: every head before the receiver by default. memory_gib: bound on the working memory
    beside the model; prompts and senders are processed in chunks that fit. Raises ValueError for an
    unknown head or mode, a receiver before its sender or named twice, a bound too small for one
    prompt, and where recomputing the clean run does not give the model's own logits (an unknown
    architecture, values too large for float32: use `path_patch_reference`).
    """
    senders = checked_senders(model, receiver, senders, mlps)
    patched = np.full((model.cfg.n_layers, model.cfg.n_heads, len(prompts)), np.nan)
    clean, corrupted = np.zeros(len(prompts)), np.zeros(len(prompts))
    for index in prompts.groups(
        receiver.position, size=prompts_at_once(model, prompts, len(senders), memory_gib)
    ):
        batch = prompts.select(index)
        runs = _CachedRuns(model, batch, receiver, mlps)
        clean[index], corrupted[index] = runs.differences.cpu()
        differences = runs.patched(
            senders, variants_at_once(model, batch, runs.at, memory_gib)
        ).cpu()
        if not np.allclose(differences[0], clean[index], atol=1e-3):
            raise ValueError(
                "Recomputing the clean run does not give the model's own logits (an architecture that path_patch does "
                "not know, or values too large for float32): use path_patch_reference."
            )
        for sender, difference in zip(senders, differences[1:], strict=True):
            patched[*sender, index] = difference
    return PathEffects(clean, corrupted, patched)


class _CachedRuns:
    """The clean and corrupted runs of equally long prompts, and what follows from patching one path
    between them.
    """

    def __init__(
        self, model: TransformerBridge, batch: Prompts, receiver: Receiver, mlps: Mlps
    ) -> None:
        tokens, n = torch.cat(batch.tensors()).to(model.cfg.device), len(batch)
        self.decoder = Decoder(model, tokens.shape[1])
        self.batch, self.receiver, self.mlps = batch, receiver, mlps
        self.at = int(batch.position(receiver.position)[0])
        names = ["hook_resid_pre", "hook_attn_out", "attn.hook_z"]
        names += [] if receiver.kind == "logits" else ["attn.hook_k", "attn.hook_v"]
        names += ["hook_mlp_out"] if mlps == "freeze" else []
        both = cached_run(model, tokens, names)
        self.clean, self.corrupted = (
            both.apply_slice_to_batch_dim(part) for part in (slice(n), slice(n, None))
        )
        self.differences = logit_difference(
            model, both["resid_post", -1][:, -1].unflatten(0, (2, n)), batch
        )

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
        """The residual [variant batch 1 d_model] entering each of these layers: clean, then one per
        earlier sender.
        """
        here, decoder = slice(self.at, self.at + 1), self.decoder
        carried = self.clean["resid_pre", 0][None, :, here]
        for layer in range(max(stops)):
            if layer in stops:
                yield layer, carried
            heads = [sender.head for sender in senders if sender.layer == layer]
            change = (self.corrupted["z", layer] - self.clean["z", layer])[:, self.at, heads]
            written = torch.einsum(
                "bhd,hdm->hbm", change, decoder.model.blocks[layer].attn.W_O[heads]
            )
            pre = self.clean["resid_pre", layer][None, :, here]
            pre = torch.cat([carried, pre.expand(len(heads), *pre.shape[1:])])
            mid = pre + self.clean["attn_out", layer][:, here]
            mid[len(carried) :] += written[:, :, None]
            frozen = self.mlps == "freeze"
            carried = mid + (
                self.clean["mlp_out", layer][:, here] if frozen else decoder.mlp(layer, pre, mid)
            )
        yield max(stops), carried


def checked_senders(
    model: TransformerBridge, receiver: Receiver, senders: Iterable[Head] | None, mlps: str
) -> list[Head]:
    """Senders in order, each once, after checking that every one of them comes before some
    receiver.
    """
    if mlps not in get_args(Mlps):
        raise ValueError(f"Unknown mode mlps={mlps!r}; choose 'recompute' or 'freeze'.")
    if receiver.kind not in get_args(Kind):
        raise ValueError(
            f"Unknown receiver {receiver.kind!r}; choose one of {', '.join(get_args(Kind))}."
        )
    if (receiver.kind == "logits") == bool(receiver.heads):
        raise ValueError(
            "A q, k or v receiver needs at least one head, and the logits receiver takes none."
        )
    if len(set(receiver.heads)) < len(receiver.heads):
        raise ValueError(
            f"The receiver names a head twice ({', '.join(map(str, receiver.heads))}); name each once."
        )
    if receiver.kind == "logits" and receiver.position != "END":
        raise ValueError(
            f"The logits are read at END, so a path to them cannot end at {receiver.position}."
        )
    last = (
        model.cfg.n_layers
        if receiver.kind == "logits"
        else max(head.layer for head in receiver.heads)
    )
    if senders is None:
        senders = [Head(layer, head) for layer in range(last) for head in range(model.cfg.n_heads)]
    senders = sorted(set(senders))
    require_heads(model, (*receiver.heads, *senders))
    if not senders or senders[-1].layer >= last:
        raise ValueError(
            f"A sender must lie in a layer before the receiver's (here: before layer {last})."
        )
    return senders
