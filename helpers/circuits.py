"""From path patching to a circuit: four stages, each receiving what the one before found (Merullo et al. 2024).

A head has a role when its path to the stage's receivers matters *and* it attends where the role says. No head is named
here: `find_circuit` discovers them, and `Rule` says how much is enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from helpers.interventions import knocked_out
from helpers.models import Head
from helpers.patching import Mlps, PathEffects, Receiver, cached_run, logit_difference, path_patch
from helpers.stats import bootstrap_indices, jaccard, ratio_interval
from helpers.tasks import Prompts


class CircuitError(ValueError):
    """A role or a rule that the circuit search does not know."""


@dataclass(frozen=True)
class Role:
    """What a head must do to have this role."""

    name: str
    stage: str
    query: str
    keys: tuple[str, ...]
    """The query's attention must fall on one of these positions more than on any other position of the task's roles."""
    copies: Literal[-1, 0, 1] = 0
    """Required sign of the copying score; 0 = not asked."""


ROLES = (
    Role("movers", "logits", "END", ("IO",), copies=1),
    Role("negative_movers", "logits", "END", ("IO", "S1", "S2"), copies=-1),
    Role("inhibition", "movers.q", "END", ("S2",)),
    Role("duplicate_token", "inhibition.v", "S2", ("S1",)),
    Role("induction", "inhibition.v", "S2", ("S1+1",)),
    Role("previous_token", "induction.k", "S1+1", ("S1",)),
)
PLACES = {"logits": "END", "movers.q": "END", "inhibition.v": "S2", "induction.k": "S1+1"}
"""The four stages in order, `receiving role.input`, with the position at which the path arrives."""


@dataclass(frozen=True)
class Rule:
    """When a head counts. Every condition must hold on the mean over prompts."""

    min_percent: float = 2.0
    """|effect|, in percent of the gap."""
    min_errors: float = 1.96
    """|effect|, in standard errors over prompts: 1.96 = its 95 % interval excludes 0."""
    min_attention: float = 0.2
    """Attention on the role's key position, which must also get more than the other named positions."""
    min_copying: float = 1.0
    """|copying score|, in standard deviations, where a role asks for its sign."""

    def __post_init__(self) -> None:
        if min(self.min_percent, self.min_errors, self.min_attention, self.min_copying) < 0:
            raise CircuitError("The thresholds of a selection rule cannot be negative.")


@dataclass(frozen=True)
class Evidence:
    """All that roles are decided on, per prompt, so that a selection can be repeated on a resample."""

    attention: dict[tuple[str, str], Float[np.ndarray, "layer head batch"]]
    """(query, key) -> attention from one named position to another."""
    copying: Float[np.ndarray, "layer head batch"]
    """Copying score: see `attention_and_copying`."""
    stages: dict[str, PathEffects]
    """Stage -> effects of every head; a stage whose receivers were not found is missing."""


@dataclass(frozen=True)
class Circuit:
    """Roles and the evidence for them."""

    roles: dict[str, tuple[Head, ...]]
    evidence: Evidence
    rule: Rule

    @property
    def heads(self) -> tuple[Head, ...]:
        """Every head that has a role, by layer."""
        return tuple(sorted({head for heads in self.roles.values() for head in heads}))


def find_circuit(
    model: TransformerBridge,
    prompts: Prompts,
    *,
    rule: Rule | None = None,
    mlps: Mlps = "recompute",
    memory_gib: float = 2.0,
) -> Circuit:
    """Run the four stages and name the roles. A role nobody fills is empty, and stages behind it do not run."""
    rule = rule or Rule()
    attention, copying = attention_and_copying(model, prompts)
    evidence, roles = Evidence(attention, copying, {}), {role.name: () for role in ROLES}
    for stage, position in PLACES.items():
        receivers, _, kind = stage.rpartition(".")
        heads = roles.get(receivers, ())
        if receivers and not any(head.layer > 0 for head in heads):
            continue
        receiver = Receiver(kind, heads, position)
        evidence.stages[stage] = path_patch(model, prompts, receiver, mlps=mlps, memory_gib=memory_gib)
        for role in (role for role in ROLES if role.stage == stage):
            roles[role.name] = select(evidence, role.name, rule)
    return Circuit(roles, evidence, rule)


def select(
    evidence: Evidence, role: str, rule: Rule, index: Sequence[int] | np.ndarray | None = None
) -> tuple[Head, ...]:
    """Heads that fill a role on these prompts, largest effect first. Raises CircuitError for an unknown role."""
    known = {r.name: r for r in ROLES}
    if role not in known:
        raise CircuitError(f"Unknown role {role!r}; choose one of {', '.join(known)}.")
    spec = known[role]
    if spec.stage not in evidence.stages:
        return ()
    index = np.arange(evidence.copying.shape[-1]) if index is None else np.asarray(index)
    effects = evidence.stages[spec.stage]
    change, gap = effects.change[..., index], effects.gap[index].mean()
    percent = 100 * np.nan_to_num(change.mean(-1) / gap)
    error = 100 * np.nan_to_num(change.std(-1, ddof=1) / abs(gap)) / np.sqrt(len(index))
    there = {key: a[..., index].mean(-1) for (query, key), a in evidence.attention.items() if query == spec.query}
    wanted = np.max([there[key] for key in spec.keys], axis=0)
    fits = (np.abs(percent) >= rule.min_percent) & (np.abs(percent) > rule.min_errors * error)
    fits &= (wanted >= rule.min_attention) & (wanted >= np.max(list(there.values()), axis=0))
    if spec.copies:
        fits &= spec.copies * evidence.copying[..., index].mean(-1) >= rule.min_copying
    found = [Head(int(layer), int(head)) for layer, head in zip(*np.nonzero(fits), strict=True)]
    return tuple(sorted(found, key=lambda h: -abs(percent[h])))


def describe(circuit: Circuit, *, seed: int = 0) -> pd.DataFrame:
    """One row per head: role, effect in percent of the gap with its 95 % interval, attention, copying score."""
    rows = []
    for role in ROLES:
        for head in circuit.roles[role.name]:
            stage = circuit.evidence.stages[role.stage]
            effect = ratio_interval(100 * stage.change[head], stage.gap, seed)
            key = max(role.keys, key=lambda k, head=head, q=role.query: circuit.evidence.attention[q, k][head].mean())
            rows.append(
                {
                    "role": role.name,
                    "head": str(head),
                    "effect %": effect.value,
                    "low": effect.low,
                    "high": effect.high,
                    "attends": f"{role.query} to {key}",
                    "attention": circuit.evidence.attention[role.query, key][head].mean(),
                    "copying": circuit.evidence.copying[head].mean(),
                }
            )
    return pd.DataFrame(rows)


def stability(circuit: Circuit, *, resamples: int = 500, seed: int = 0) -> dict[str, Float[np.ndarray, " resample"]]:
    """Role -> Jaccard overlap of the selected set with the selection repeated on bootstrap resamples of the prompts.

    1 = the same heads every time. Receivers stay those that were found, so each stage is judged by itself.
    """
    evidence = circuit.evidence
    draws = bootstrap_indices(evidence.copying.shape[-1], resamples, seed)
    return {
        role: np.array([jaccard(found, select(evidence, role, circuit.rule, index)) for index in draws])
        for role, found in circuit.roles.items()
    }


def attention_and_copying(
    model: TransformerBridge, prompts: Prompts, *, batch_size: int = 32
) -> tuple[dict[tuple[str, str], Float[np.ndarray, "layer head batch"]], Float[np.ndarray, "layer head batch"]]:
    """Attention between all named positions (query after key), and the copying score of every head.

    Copying score: the head's output for a source token (its value there times W_O) is read through the unembedding; the
    logit of that same token, standardised over all names that are an answer or a distractor, says in standard
    deviations whether the head raises (> 0) or lowers (< 0) the token it attends to. Mean over IO, S1 and S2.
    """
    pairs = [("END", "IO"), ("END", "S1"), ("END", "S2"), ("S2", "S1"), ("S2", "S1+1"), ("S2", "IO"), ("S1+1", "S1")]
    shape = (model.cfg.n_layers, model.cfg.n_heads, len(prompts))
    attention, copying = {pair: np.zeros(shape) for pair in pairs}, np.zeros(shape)
    names = sorted({*prompts.answers, *prompts.distractors})
    column = {token: i for i, token in enumerate(names)}
    for index in prompts.groups(size=batch_size):
        batch, rows = prompts.select(index), np.arange(len(index))
        tokens = batch.tensors()[0].to(model.cfg.device)
        cache = cached_run(model, tokens, ("attn.hook_pattern", "attn.hook_v"))
        for layer in range(model.cfg.n_layers):
            pattern = cache["pattern", layer]
            for query, key in pairs:
                attention[query, key][layer][:, index] = pattern[
                    rows, :, batch.position(query), batch.position(key)
                ].T.cpu()
            for source in ("IO", "S1", "S2"):
                at = batch.position(source)
                scores = _own_scores(model, layer, cache["v", layer][rows, at], names)
                own = [column[int(t)] for t in tokens[rows, at]]
                copying[layer][:, index] += scores[rows, :, own].T.cpu().numpy() / 3
    return attention, copying


def _own_scores(
    model: TransformerBridge, layer: int, v: Float[torch.Tensor, "batch kv_head d_head"], names: list[int]
) -> Float[torch.Tensor, "batch head name"]:
    """Logits of the names from each head's output for one source position, standardised over the names."""
    v = v.repeat_interleave(model.cfg.n_heads // v.shape[1], dim=1)
    written = torch.einsum("bhd,hdm->bhm", v, model.blocks[layer].attn.W_O)
    logits = written @ model.W_U[:, names]
    return (logits - logits.mean(-1, keepdim=True)) / logits.std(-1, keepdim=True)


def knock_out(
    model: TransformerBridge, prompts: Prompts, sets: Sequence[Sequence[Head]], *, batch_size: int = 32
) -> Float[np.ndarray, "set batch"]:
    """Logit difference per prompt with each set of heads resampled from the corrupted partner, at every position."""
    result = np.zeros((len(sets), len(prompts)))
    for index in prompts.groups(size=batch_size):
        batch = prompts.select(index)
        tokens, partner = (t.to(model.cfg.device) for t in batch.tensors())
        donor = cached_run(model, partner, ("attn.hook_z",))
        for i, heads in enumerate(sets):
            with knocked_out(model, heads, donor):
                resid = cached_run(model, tokens, ())["resid_post", -1]
            result[i, index] = logit_difference(model, resid[:, -1], batch).cpu()
    return result


def random_sets(
    model: TransformerBridge, heads: Sequence[Head], *, draws: int = 20, seed: int = 0
) -> list[tuple[Head, ...]]:
    """Sets of as many heads per layer as `heads` has, drawn from the heads of those layers that are not in it.

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
