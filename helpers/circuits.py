"""From path patching to a circuit: four stages, each receiving what the one before found (Merullo
et al. 2024).

A head has a role when its path to the stage's receivers matters *and* it attends where the role
says. No head is named here: `find_circuit` discovers them, and `Rule` says how much is enough.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import hypergeom
from transformer_lens.model_bridge import TransformerBridge

from helpers.engine import cached_run
from helpers.heads import Head, Heads
from helpers.path_patching import Mlps, PathEffects, Receiver, path_patch
from helpers.stats import LEVEL, RESAMPLES, Interval, bootstrap_indices, jaccard, ratio_interval
from helpers.tasks.prompts import Prompts


@dataclass(frozen=True)
class Role:
    """What a head must do to have this role."""

    name: str
    stage: str
    query: str
    keys: tuple[str, ...]
    """The query's attention must fall on one of these positions more than on any other position of
    the task's roles.

    `FIRST:LAST` stands for all positions from the one to the other."""
    spread: bool = False
    """The keys share the attention: it is their sum that counts, not the largest."""
    copies: Literal[-1, 0, 1] = 0
    """Required sign of the copying score; 0 = not asked."""


@dataclass(frozen=True)
class Scheme:
    """A task's circuit as stages: who may have which role, and where the paths arrive."""

    roles: tuple[Role, ...]
    places: dict[str, str]
    """Stages in order, `receiving role.input` (or `logits`), with the position at which the path
    arrives.
    """
    others: tuple[tuple[str, str], ...]
    """(query, key) pairs of positions that no role asks for, whose attention is compared with those
    that one does.
    """
    copied: dict[str, Callable[[Prompts], Sequence[int]]]
    """Source position -> the token that a head copying from there would raise, per prompt."""

    def role(self, name: str) -> Role:
        """The role of that name. Raises ValueError if there is none."""
        for role in self.roles:
            if role.name == name:
                return role
        raise ValueError(
            f"Unknown role {name!r}; choose one of {', '.join(role.name for role in self.roles)}."
        )


IOI = Scheme(
    roles=(
        Role("movers", "logits", "END", ("IO",), copies=1),
        Role("negative_movers", "logits", "END", ("IO", "S1", "S2"), copies=-1),
        Role("inhibition", "movers.q", "END", ("S2",)),
        Role("duplicate_token", "inhibition.v", "S2", ("S1",)),
        Role("induction", "inhibition.v", "S2", ("S1+1",)),
        Role("previous_token", "induction.k", "S1+1", ("S1",)),
    ),
    places={"logits": "END", "movers.q": "END", "inhibition.v": "S2", "induction.k": "S1+1"},
    others=(("S2", "IO"),),
    copied={
        "IO": attrgetter("answers"),
        "S1": attrgetter("distractors"),
        "S2": attrgetter("distractors"),
    },
)


COLORED_OBJECTS = Scheme(
    roles=(
        Role("movers", "logits", "END", ("C0", "C1", "C2"), spread=True, copies=1),
        Role("negative_movers", "logits", "END", ("C0", "C1", "C2"), spread=True, copies=-1),
        Role("content_gatherers", "movers.q", "END", ("WHAT:Q", "ASKED"), spread=True),
        Role("duplicate_token", "content_gatherers.v", "Q", ("ASKED",)),
        Role("induction", "content_gatherers.v", "Q", ("ASKED+1",)),
    ),
    places={"logits": "END", "movers.q": "END", "content_gatherers.v": "Q"},
    others=(
        *(("END", key) for key in ("RIGHT", "WRONG0", "WRONG1", "OTHER0", "OTHER1", "ANSWER0")),
        *(("Q", key) for key in ("OTHER0", "OTHER1")),
        ("ASKED+1", "ASKED"),
    ),
    copied={
        f"C{j}": lambda prompts, j=j: [colors[j] for colors in prompts.choices] for j in range(3)
    },
)
"""No fourth stage: a prompt and its partner are the same up to Q, so a path that arrives at ASKED+1
carries nothing.

No inhibition: the repeated word that such a head attends to in IOI is the asked object here, a
content gatherer's key.
"""


@dataclass(frozen=True)
class Rule:
    """When a head counts. Every condition must hold on the mean over prompts."""

    min_percent: float = 2.0
    """|effect|, in percent of the gap."""
    min_errors: float = 1.96
    """|effect|, in standard errors over prompts: 1.96 = its 95 % interval excludes 0."""
    min_attention: float = 0.2
    """Attention on the role's key position, which must also get more than the other named
    positions.
    """
    min_copying: float = 1.0
    """|copying score|, in standard deviations, where a role asks for its sign."""

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise ValueError("The thresholds of a selection rule cannot be negative.")


@dataclass(frozen=True)
class Evidence:
    """All that roles are decided on, per prompt, so that a selection can be repeated on a
    resample.
    """

    attention: dict[tuple[str, str], Float[np.ndarray, "layer head batch"]]
    """(query, key) -> attention from one named position to another."""
    copying: Float[np.ndarray, "layer head batch"]
    """Copying score: see `attention_and_copying`."""
    stages: dict[str, PathEffects]
    """Stage -> effects of every head; a stage whose receivers were not found is missing."""
    scheme: Scheme = IOI


@dataclass(frozen=True)
class Circuit:
    """Roles and the evidence for them."""

    roles: dict[str, Heads]
    evidence: Evidence
    rule: Rule

    def effect_percent(self, role: str, head: Head) -> float:
        """Mean effect of a head's path to its role's receivers, in percent of the gap."""
        stage = self.evidence.scheme.role(role).stage
        return float(self.evidence.stages[stage].percent[head])

    @property
    def heads(self) -> Heads:
        """Every head that has a role, by layer."""
        return tuple(sorted({head for heads in self.roles.values() for head in heads}))


def find_circuit(
    model: TransformerBridge,
    prompts: Prompts,
    *,
    scheme: Scheme = IOI,
    rule: Rule | None = None,
    mlps: Mlps = "recompute",
    memory_gib: float = 2.0,
) -> Circuit:
    """Run the four stages and name the roles. A role nobody fills is empty, and stages behind it do
    not run.
    """
    rule, roles = rule or Rule(), {role.name: () for role in scheme.roles}
    evidence = Evidence(*attention_and_copying(model, prompts, scheme=scheme), {}, scheme)
    for stage, position in scheme.places.items():
        receivers, _, kind = stage.rpartition(".")
        heads = roles.get(receivers, ())
        if receivers and not any(head.layer > 0 for head in heads):
            continue
        receiver = Receiver(kind, heads, position)
        evidence.stages[stage] = path_patch(
            model, prompts, receiver, mlps=mlps, memory_gib=memory_gib
        )
        roles |= {
            role.name: select_heads(evidence, role.name, rule)
            for role in scheme.roles
            if role.stage == stage
        }
    return Circuit(roles, evidence, rule)


def select_heads(
    evidence: Evidence, role: str, rule: Rule, index: Sequence[int] | np.ndarray | None = None
) -> Heads:
    """Heads that fill a role on these prompts, largest effect first.

    Raises ValueError for an unknown role, and for fewer than two prompts.
    """
    spec = evidence.scheme.role(role)
    if spec.stage not in evidence.stages:
        return ()
    index = np.arange(evidence.copying.shape[-1]) if index is None else np.asarray(index)
    if len(index) < 2:
        raise ValueError(
            "One prompt has no standard error, so no head can be chosen on it: give at least 2 prompts."
        )
    effects = evidence.stages[spec.stage]
    change, gap = effects.change[..., index], effects.gap[index].mean()
    percent = 100 * np.nan_to_num(change.mean(-1) / gap)
    error = 100 * np.nan_to_num(change.std(-1, ddof=1) / abs(gap)) / np.sqrt(len(index))
    there = {
        key: a[..., index].mean(-1)
        for (query, key), a in evidence.attention.items()
        if query == spec.query
    }
    wanted = (np.sum if spec.spread else np.max)([there[key] for key in spec.keys], axis=0)
    fits = (np.abs(percent) >= rule.min_percent) & (np.abs(percent) > rule.min_errors * error)
    fits &= (wanted >= rule.min_attention) & (wanted >= np.max(list(there.values()), axis=0))
    if spec.copies:
        fits &= spec.copies * evidence.copying[..., index].mean(-1) >= rule.min_copying
    found = [Head(int(layer), int(head)) for layer, head in zip(*np.nonzero(fits), strict=True)]
    return tuple(sorted(found, key=lambda h: -abs(percent[h])))


def role_table(circuit: Circuit, *, seed: int = 0) -> pd.DataFrame:
    """One row per head: role, effect in percent of the gap with its 95 % interval, attention,
    copying score.
    """
    rows = []
    for role in circuit.evidence.scheme.roles:
        for head in circuit.roles[role.name]:
            seen = {
                key: circuit.evidence.attention[role.query, key][head].mean() for key in role.keys
            }
            seen = {" ".join(seen): sum(seen.values())} if role.spread else seen
            key = max(seen, key=seen.get)
            row = {"role": role.name, "head": str(head)} | _effect(
                circuit.evidence.stages[role.stage], head, seed
            )
            row |= {"attends": f"{role.query} to {key}", "attention": seen[key]}
            rows.append(row | {"copying": circuit.evidence.copying[head].mean()})
    return pd.DataFrame(rows)


def heads_without_role(
    circuit: Circuit, stage: str, count: int, *, keys: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """Those of a stage's `count` largest effects whose head has no role there: effect in percent of
    the gap with its 95 % interval, attention from the stage's position to `keys`, copying score."""
    evidence, effects, query = (
        circuit.evidence,
        circuit.evidence.stages[stage],
        circuit.evidence.scheme.places[stage],
    )
    named = {
        head
        for role in evidence.scheme.roles
        if role.stage == stage
        for head in circuit.roles[role.name]
    }
    looks, rows = {f"{query} to {key}": evidence.attention[query, key] for key in keys}, []
    for head in (head for head in top_heads(effects, count) if head not in named):
        row = {"stage": stage, "head": str(head)} | _effect(effects, head, seed)
        row |= {name: seen[head].mean() for name, seen in looks.items()}
        rows.append(row | {"copying": evidence.copying[head].mean()})
    return pd.DataFrame(
        rows, columns=["stage", "head", "effect %", "low", "high", *looks, "copying"]
    )


def _effect(effects: PathEffects, head: Head, seed: int) -> dict[str, float]:
    effect = ratio_interval(100 * effects.change[head], effects.gap, seed)
    return {"effect %": effect.value, "low": effect.low, "high": effect.high}


def stability(
    circuit: Circuit, *, resamples: int = 500, seed: int = 0
) -> dict[str, Float[np.ndarray, " resample"]]:
    """Role -> Jaccard overlap of the selected set with the selection repeated on bootstrap
    resamples of the prompts.

    1 = the same heads every time. Receivers stay those that were found, so each stage is judged by
    itself.
    """
    evidence = circuit.evidence
    draws = bootstrap_indices(evidence.copying.shape[-1], resamples, seed)
    return {
        role: np.array(
            [jaccard(found, select_heads(evidence, role, circuit.rule, index)) for index in draws]
        )
        for role, found in circuit.roles.items()
    }


def top_heads(
    effects: PathEffects, count: int, *, index: Sequence[int] | np.ndarray | None = None
) -> Heads:
    """The `count` heads with the largest |mean effect| of a stage over the prompts of `index`
    (default: all), in order.

    A head without a path is never chosen, so there may be fewer. Raises ValueError for a count
    below one.
    """
    if count < 1:
        raise ValueError(f"{count} heads cannot be chosen; give a count of at least 1.")
    size = np.abs((effects.change if index is None else effects.change[..., index]).mean(-1))
    order = np.argsort(-size, axis=None, kind="stable")[:count]  # NaN last
    heads = (Head(*map(int, np.unravel_index(i, size.shape))) for i in order)
    return tuple(head for head in heads if not np.isnan(size[head]))


@dataclass(frozen=True)
class Overlap:
    """Heads that two circuits share, stage by stage."""

    share: Interval
    """Shared heads over heads chosen, both summed over stages: 0 = none, 1 = the same heads in
    every stage.
    """
    chance: Interval
    """The same for heads drawn at random: hypergeometric expectation and 95 % of draws."""
    chosen: tuple[tuple[Heads, Heads], ...]
    """Per stage: the heads of the first and of the second circuit, largest effect first."""

    @property
    def shared(self) -> tuple[Heads, ...]:
        """Per stage, in the first circuit's order."""
        return tuple(
            tuple(head for head in first if head in second) for first, second in self.chosen
        )


def overlap(
    first: Sequence[PathEffects], second: Sequence[PathEffects], count: int, *, seed: int
) -> Overlap:
    """Share of the `count` strongest heads per stage that two tasks have in common (Merullo et al.
    2024, Figure 3).

    first, second: the effects of matching stages, in one order; heads are chosen among those that
    have a path in both. The interval repeats the choice on bootstrap resamples of each task's
    prompts; its ends are moved to hold the estimate. Raises ValueError for a count below one, and
    where the numbers of stages differ or are zero.
    """
    if not first or len(first) != len(second):
        raise ValueError(
            f"{len(first)} and {len(second)} stages have no match; give the same stages of two tasks."
        )
    pairs = list(zip(first, second, strict=True))
    common = [~np.isnan(a.change[..., :1] + b.change[..., :1]) for a, b in pairs]
    pairs = [
        [replace(effects, patched=np.where(both, effects.patched, np.nan)) for effects in pair]
        for pair, both in zip(pairs, common, strict=True)
    ]

    def choose(*index: np.ndarray | None) -> tuple[tuple[Heads, Heads], ...]:
        return tuple(
            tuple(top_heads(e, count, index=i) for e, i in zip(pair, index, strict=True))
            for pair in pairs
        )

    chosen = choose(None, None)
    sizes = [len(heads) for heads, _ in chosen]

    def share(chosen: tuple[tuple[Heads, Heads], ...]) -> float:
        return sum(len({*a} & {*b}) for a, b in chosen) / sum(sizes)

    resamples = [
        bootstrap_indices(len(e[0].clean), RESAMPLES // 4, seed + i)
        for i, e in enumerate((first, second))
    ]
    draws = [share(choose(*index)) for index in zip(*resamples, strict=True)]
    kinds = [(int(both.sum()), size, size) for both, size in zip(common, sizes, strict=True)]
    expected = sum(size**2 / total for total, size, _ in kinds) / sum(sizes)
    rng = np.random.default_rng(seed)
    by_chance = sum(hypergeom.rvs(*kind, size=RESAMPLES, random_state=rng) for kind in kinds) / sum(
        sizes
    )
    value, ends = share(chosen), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = map(float, np.quantile(draws, ends))
    chance = Interval(expected, *map(float, np.quantile(by_chance, ends)))
    return Overlap(Interval(value, min(value, low), max(value, high)), chance, chosen)


def attention_and_copying(
    model: TransformerBridge, prompts: Prompts, *, scheme: Scheme = IOI, batch_size: int = 32
) -> tuple[
    dict[tuple[str, str], Float[np.ndarray, "layer head batch"]],
    Float[np.ndarray, "layer head batch"],
]:
    """Attention between the scheme's named positions (query after key), and the copying score of
    every head.

    Copying score: the head's output for a source token (its value there times W_O) is read through
    the unembedding; the logit of the token that copying it would raise, standardised over all such
    tokens and all answers and distractors, says in standard deviations whether the head raises (>
    0) or lowers (< 0) it. Mean over the scheme's sources.
    """
    shape = (model.cfg.n_layers, model.cfg.n_heads, len(prompts))
    asked = [(role.query, key) for role in scheme.roles for key in role.keys]
    attention, copying = (
        {pair: np.zeros(shape) for pair in (*asked, *scheme.others)},
        np.zeros(shape),
    )
    targets = {source: tuple(map(int, tokens(prompts))) for source, tokens in scheme.copied.items()}
    names = sorted({*prompts.answers, *prompts.distractors, *itertools.chain(*targets.values())})
    columns = {source: np.searchsorted(names, tokens) for source, tokens in targets.items()}
    for index in prompts.groups(size=batch_size):
        batch, rows = prompts.select(index), np.arange(len(index))
        cache = cached_run(
            model, batch.tensors()[0].to(model.cfg.device), ("attn.hook_pattern", "attn.hook_v")
        )
        inside = {
            key: torch.tensor(batch.position_mask(key), device=model.cfg.device)
            for _, key in attention
        }
        for layer in range(model.cfg.n_layers):
            pattern = cache["pattern", layer]
            for (query, key), seen in attention.items():
                from_query = pattern[rows, :, batch.position(query)]
                seen[layer][:, index] = (from_query * inside[key][:, None]).sum(-1).T.cpu()
            for source, column in columns.items():
                v = cache["v", layer][rows, batch.position(source)]
                v = v.repeat_interleave(
                    model.cfg.n_heads // v.shape[1], dim=1
                )  # one v may serve several heads
                logits = (
                    torch.einsum("bhd,hdm->bhm", v, model.blocks[layer].attn.W_O)
                    @ model.W_U[:, names]
                )
                scores = (logits - logits.mean(-1, keepdim=True)) / logits.std(-1, keepdim=True)
                copying[layer][:, index] += scores[rows, :, column[index]].T.cpu().numpy() / len(
                    targets
                )
    return attention, copying
