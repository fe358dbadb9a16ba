"""A GPT-2 whose weights are written by hand, so that its circuit is known: every method is first
tried on it.

The architecture is Hugging Face's own (LayerNorm, learned positions, biases); MLPs write nothing.
It solves indirect object identification for the words of data/vocabulary.yaml, and can be worked
out with pen and paper:

Features. The residual stream holds named features, each in directions of its own, all orthogonal. A
constant *carrier*, CARRIER times larger than a feature, fixes LayerNorm's scale: with a gain of
CARRIER / sqrt(d_model), LayerNorm hands on every other feature as it is (to about 0.1 %). A word
embeds `name` = 1 and its own `identity` if it is a name. A position p embeds `clock`, hands of
period 2, 4, ..., 128, each (cos, sin) of 2 pi p / period - pi / 4; `place`, copies of the hands of
period 4 and 8; `early` = 1 where p < 8 (the templates introduce both people there); and `sink` = 1
at p = 0, where `place` is zero, so that who attends to the sink copies nothing.

Heads. A head's score is (query features) . (key features) + (preferred features of the key); SHARP
= 12 separates the best key from the next, so a head attends where it should but for exp(-12) per
wrong key. previous_token   every p to p-1, by turning the clock one step: identity -> previous
duplicate_token  a name to its early mention S1, else to the sink: place of S1 -> channel_in
induction        a name to the early position after its mention (`previous` = identity), else to the
sink: place, turned back one step so that it is S1's, -> channel_in inhibition       to the late
name, S2: channel_in -> channel movers           to the early names, less so the more their place
agrees with the channel: identity -> output negative_movers  to the late name: minus identity ->
output The two names stand two positions apart, half a turn of the period-4 hand, hence the first
two coordinates of `place` (each +-sqrt(1/2)) have opposite signs at the two names: a channel of
rank 1 is the first of them, rank 2 both, rank 3 also the cos of period 8. Every map on the way
(into the channel, through inhibition, the movers' query-key) has the singular values SINGULAR. The
two heads that write `channel_in`, the two of inhibition and the two movers share their work in the
proportions SHARES.

Numbers. With delta = gain * sum_k SINGULAR_k^3 place_k(S1) (place_k(S1) - place_k(IO)), which is
SCORE_GAP for ranks 1 and 2, a mover attends to IO and S1 in the proportion exp(delta) : 1, and the
logit difference is LOGIT * (tanh(delta / 2) + NEGATIVE). A head with share s removed from the
channel leaves (1 - s) delta.
"""

import io
import math
import re
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from helpers.heads import Head
from suite.errors import ModelError
from suite.registry import read_data

N_LAYERS, N_HEADS, D_HEAD, D_MODEL, N_POSITIONS = 6, 4, 64, 256, 128
CARRIER = 128.0
SHARP = 12.0
SCORE_GAP = 4.0
LOGIT = 20.0  # logit of a name that is fully attended to
NEGATIVE = 0.3  # weight of the negative mover beside the movers' 1
SINGULAR = (1.0, 0.9, 0.5)
SHARES = (0.6, 0.4)
LAYERS = {
    "previous_token": (0,),
    "duplicate_token": (1,),
    "induction": (2,),
    "inhibition": (3, 3),
    "movers": (4, 5),
    "negative_movers": (5,),
}
PERIODS = [2**k for k in range(1, 8)]

Rows = Float[
    Tensor, "_ feature"
]  # one coordinate per feature direction, before the residual basis is chosen


@dataclass(frozen=True)
class Plan:
    """What to build. Raises ModelError for what is impossible."""

    channel_rank: int = 2  # 1, 2 or 3
    noise: float = 0.0
    """Gaussian noise in every attention matrix: its Frobenius norm over that of the planted matrix
    (over the planted heads' mean where nothing is planted). It leaves the carrier alone. The
    circuit search finds the plan up to 0.1."""
    distractors: int = 4  # heads with large random weights that write into directions nobody reads
    rotate: bool = True  # turn the residual basis at random (the all-ones direction stays, LayerNorm removes it)
    seed: int = 0
    inhibition: float = 1.0
    """Strength of the inhibition heads: at 0 there are none, and what only serves them has no role;
    from 2 on each head is redundant, since what the others leave already saturates the movers."""
    circuits: int = 1
    """2: two channels for one task; each has one of the heads that write it, one inhibition head
    and one mover.
    """
    copies: int = 1  # every planted head this often, each copy with its share of the weight
    shared: bool = False
    """A second reader of the (first) channel: the negative mover attends to the early name that it
    points at.
    """

    def __post_init__(self) -> None:
        layers = [layer for role in LAYERS.values() for layer in role]
        most = N_HEADS // max(map(layers.count, layers))
        free = N_HEADS * N_LAYERS - self.copies * len(layers)
        if not 1 <= self.channel_rank <= len(SINGULAR):
            raise ModelError(
                f"channel_rank is {self.channel_rank}: a channel has 1 to {len(SINGULAR)} coordinates."
            )
        if self.noise < 0 or self.inhibition < 0:
            raise ModelError("noise and inhibition are sizes: give 0 or more.")
        if self.circuits not in (1, 2):
            raise ModelError(
                f"circuits is {self.circuits}: two inhibition heads can serve 1 or 2 channels."
            )
        if not 1 <= self.copies <= most:
            raise ModelError(
                f"copies is {self.copies}: a layer has {N_HEADS} heads for its roles, give 1 to {most}."
            )
        if not 0 <= self.distractors <= free:
            raise ModelError(
                f"distractors is {self.distractors}: only {free} heads have no role, give 0 to {free}."
            )


@dataclass(frozen=True)
class Planted:
    """The model and its truth. Directions are unit vectors of the residual stream, one per
    column.
    """

    hf_model: GPT2LMHeadModel
    tokenizer: PreTrainedTokenizerFast
    plan: Plan
    roles: dict[str, tuple[Head, ...]]  # as in `circuits.IOI.roles`, by falling share of the work
    distractors: tuple[Head, ...]
    directions: dict[
        str, Float[Tensor, "d_model _"]
    ]  # of each feature; a second circuit's channel behind the first's
    gain: float  # of the movers' query-key score: see delta above

    @property
    def channel(self) -> Float[Tensor, "d_model rank"]:
        """What inhibition writes and the movers read, by falling singular value."""
        return self.directions["channel"]


@dataclass(frozen=True)
class _Wires:
    """One head in feature space. Score = (query x_q).(key x_k) + prefer.x_k; what is written =
    out^T value x_k.
    """

    value: Rows
    out: Rows
    prefer: Float[Tensor, " feature"] = torch.zeros(D_MODEL - 1)
    query: Rows = torch.zeros(0, D_MODEL - 1)
    key: Rows = torch.zeros(0, D_MODEL - 1)


def build(plan: Plan | None = None) -> Planted:
    """Write the weights; the same plan gives the same model."""
    plan, words = plan or Plan(), read_data("vocabulary.yaml")
    random = torch.Generator().manual_seed(plan.seed)
    tokenizer = _tokenizer(words)
    features = _features(plan, len(words["names"]))
    gain = SCORE_GAP / sum(s**3 for s in SINGULAR[: min(plan.channel_rank, 2)])
    basis = _basis(plan.rotate, random)
    heads, roles, free = _place(plan, _wires(plan, features, gain), random)
    distractors = tuple(free[: plan.distractors])
    heads |= {head: _distractor(features, random) for head in distractors}
    sizes = {
        "n_layer": N_LAYERS,
        "n_head": N_HEADS,
        "n_embd": D_MODEL,
        "n_inner": 4,
        "n_positions": N_POSITIONS,
    }
    config = GPT2Config(
        **sizes,
        vocab_size=len(tokenizer),
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.fill_(CARRIER / D_MODEL**0.5 if "ln_" in name and name.endswith("weight") else 0)
    ids = tokenizer.convert_tokens_to_ids(words["names"])
    tokens = (CARRIER * features["carrier"]).repeat(len(tokenizer), 1)
    tokens[ids] += features["name"] + features["identity"]
    model.transformer.wte.weight.copy_(tokens @ basis.T)
    model.transformer.wpe.weight.copy_(_positions(features) @ basis.T)
    model.lm_head.weight[ids] = LOGIT * features["output"] @ basis.T
    for head in heads:
        model.transformer.h[head.layer].attn.c_attn.bias[D_HEAD * (head.head + 1) - 1] = D_HEAD**0.5
    matrices = _matrices(heads, plan.noise, random) @ basis.T
    for block, parts in zip(model.transformer.h, matrices.transpose(1, 2), strict=True):
        block.attn.c_attn.weight.copy_(parts[:3].flatten(0, 2).T)
        block.attn.c_proj.weight.copy_(parts[3].flatten(0, 1))
    directions = {name: basis @ rows.T for name, rows in features.items()}
    return Planted(model, tokenizer, plan, roles, distractors, directions, gain)


def save(planted: Planted, folder: Path | str) -> None:
    """Write config, safetensors and tokenizer as the hub keeps them; `load_model(str(folder))`
    reads it.
    """
    with redirect_stderr(io.StringIO()):  # progress bars
        planted.hf_model.save_pretrained(folder)
    planted.tokenizer.save_pretrained(folder)


def _tokenizer(words: dict[str, list[str]]) -> PreTrainedTokenizerFast:
    """One token for each word and punctuation mark of the vocabulary file, <unk> for any other."""
    text = re.sub(r"\{\w+\}", " ", " ".join(word for kind in words.values() for word in kind))
    found = sorted(set(re.findall(r"\w+|[^\w\s]+", text)))
    ids = {word: i for i, word in enumerate(["<end>", "<unk>", *found])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")


def _features(plan: Plan, n_names: int) -> dict[str, Rows]:
    """Feature -> its rows in feature space (one-hot); `junk` is what is left."""
    if n_names >= D_HEAD:
        raise ModelError(
            f"data/vocabulary.yaml has {n_names} names, and a head of {D_HEAD} dimensions holds one less."
        )
    sizes = dict.fromkeys(["carrier", "name", "early", "sink"], 1) | {
        "clock": 2 * len(PERIODS),
        "place": 4,
    }
    sizes |= dict.fromkeys(["identity", "previous", "output"], n_names)
    sizes |= dict.fromkeys(["channel_in", "channel"], plan.channel_rank * plan.circuits)
    sizes["junk"] = D_MODEL - 1 - sum(sizes.values())
    return dict(zip(sizes, torch.eye(D_MODEL - 1).split(list(sizes.values())), strict=True))


def _basis(rotate: bool, random: torch.Generator) -> Float[Tensor, "d_model feature"]:
    """Orthonormal directions without mean: nearly the coordinates themselves (a Householder
    mirror), or turned.
    """
    mirror = torch.full((D_MODEL, 1), -(D_MODEL**-0.5), dtype=torch.float64)
    mirror[-1] += 1
    basis = (torch.eye(D_MODEL) - 2 * mirror @ mirror.T / (mirror.T @ mirror))[:, :-1]
    if rotate:
        basis = (
            basis
            @ torch.linalg.qr(
                torch.randn(D_MODEL - 1, D_MODEL - 1, generator=random, dtype=torch.float64)
            )[0]
        )
    return basis.float()


def _positions(features: dict[str, Rows]) -> Float[Tensor, "pos feature"]:
    """What each position embeds."""
    at = torch.arange(N_POSITIONS)[:, None]
    angles = {period: 2 * math.pi * at / period - math.pi / 4 for period in PERIODS}
    hands = {
        period: torch.cat([angle.cos(), angle.sin()], dim=1) for period, angle in angles.items()
    }
    place = torch.cat([hands[4], hands[8]], dim=1) * (at > 0)
    values = {
        "clock": torch.cat(list(hands.values()), dim=1),
        "place": place,
        "early": at < 8,
        "sink": at == 0,
    }
    return sum(value.float() @ features[name] for name, value in values.items())


def _one_step_back(hands: Rows, periods: list[int]) -> Rows:
    """Rows that read at p what `hands` read at p-1."""
    steps = [2 * math.pi / period for period in periods]
    turns = [torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]) for a in steps]
    return torch.block_diag(*turns) @ hands


def _wires(plan: Plan, features: dict[str, Rows], gain: float) -> dict[str, list[_Wires]]:
    """Role -> its heads, as the module's docstring says."""
    rank, f = plan.channel_rank, features
    place, place_before = f["place"][:rank], _one_step_back(f["place"], [4, 8])[:rank]
    early_name, late_name = (SHARP * (f["name"] + sign * f["early"])[0] for sign in (1, -1))
    early_match = (
        2 * SHARP * (f["early"] + f["sink"] / 2)[0]
    )  # scores in units of SHARP: match 4, sink 3, others 2
    match = 2 * SHARP * f["identity"]
    singular = torch.tensor(SINGULAR[:rank])[:, None]
    back = SHARP / 2 * _one_step_back(f["clock"], PERIODS)
    told, channels = (
        (f[name].split(rank) * 2)[:2] for name in ("channel_in", "channel")
    )  # one circuit: its own twice
    shares = (
        (1.0, 1.0) if plan.circuits == 2 else SHARES
    )  # in a channel of its own a head does all the work

    def reader(channel: Rows, weight: float, sign: int = -1) -> _Wires:
        return _Wires(
            f["identity"], weight * f["output"], early_name, sign * gain * singular * channel, place
        )

    negative = _Wires(f["identity"], -NEGATIVE * f["output"], late_name)
    both = zip(told, shares, channels, strict=True)
    inhibition = [
        _Wires(read, plan.inhibition * share * singular * write, late_name)
        for read, share, write in both
    ]
    return {
        "previous_token": [_Wires(f["identity"], f["previous"], query=back, key=f["clock"])],
        "duplicate_token": [
            _Wires(place, shares[0] * singular * told[0], early_match, match, f["identity"])
        ],
        "induction": [
            _Wires(place_before, shares[1] * singular * told[1], early_match, match, f["previous"])
        ],
        "inhibition": inhibition if plan.inhibition else [],
        "movers": [reader(channels[0], SHARES[0]), reader(channels[1], SHARES[1])],
        "negative_movers": [reader(channels[0], -NEGATIVE, sign=1) if plan.shared else negative],
    }


def _distractor(features: dict[str, Rows], random: torch.Generator) -> _Wires:
    """Attends at random (scores of a few units), and writes about four times what a planted head
    does.
    """
    read = 1 - features["carrier"][0] - features["junk"].sum(0)
    query, key, value = 0.2 * torch.randn(3, D_HEAD - 1, D_MODEL - 1, generator=random) * read
    out = (
        torch.randn(D_HEAD - 1, len(features["junk"]), generator=random)
        / D_HEAD**0.5
        @ features["junk"]
    )
    return _Wires(value, out, query=query, key=key)


def _place(
    plan: Plan, wires: dict[str, list[_Wires]], random: torch.Generator
) -> tuple[dict[Head, _Wires], dict[str, tuple[Head, ...]], list[Head]]:
    """Give every head of the plan a place in its layer, at random; also the heads that are left, in
    random order.
    """
    orders = [torch.randperm(N_HEADS, generator=random).tolist() for _ in range(N_LAYERS)]
    free = [[Head(layer, head) for head in order] for layer, order in enumerate(orders)]
    heads, roles = {}, dict.fromkeys(wires, ())
    for role, of_role in wires.items():
        for layer, wire in zip(LAYERS[role], of_role, strict=False):  # there may be no inhibition
            copies = [free[layer].pop(0) for _ in range(plan.copies)]
            heads |= dict.fromkeys(copies, replace(wire, out=wire.out / plan.copies))
            roles[role] += tuple(copies)
    if not plan.inhibition:
        roles |= dict.fromkeys(["previous_token", "duplicate_token", "induction"], ())
    rest = [head for layer in free for head in layer]
    return heads, roles, [rest[i] for i in torch.randperm(len(rest), generator=random)]


def _matrices(heads: dict[Head, _Wires], noise: float, random: torch.Generator) -> Tensor:
    """Rows of query, key, value and output in feature space, [layer head 4 d_head feature], with
    noise in every one.
    """
    maps = torch.zeros(N_LAYERS, N_HEADS, 4, D_HEAD, D_MODEL - 1)
    for head, wires in heads.items():
        for part, rows in enumerate([wires.query * D_HEAD**0.5, wires.key, wires.value, wires.out]):
            maps[head][part, : len(rows)] = rows
        maps[head][1, -1] = (
            wires.prefer
        )  # which meets a query that is constant: the bias that `build` writes
    if noise:
        norms = maps.norm(dim=(-2, -1), keepdim=True)
        planted = norms[:, :, 2:3] > 0
        norms = torch.where(planted, norms, norms[planted[:, :, 0, 0, 0]].mean(0))
        gaussian = torch.randn(maps.shape, generator=random)
        gaussian[..., 0] = 0  # the carrier
        maps += noise * norms * gaussian / gaussian.norm(dim=(-2, -1), keepdim=True)
    return maps
