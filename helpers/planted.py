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
from typing import NamedTuple

import torch
from jaxtyping import Float
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from helpers.heads import Head
from suite.errors import ModelError
from suite.registry import read_data

N_LAYERS = 6
N_HEADS = 4
D_HEAD = 64
D_MODEL = 256
N_POSITIONS = 128
D_FEATURES = D_MODEL - 1  # the mean of the residual stream is no feature: LayerNorm removes it
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
SERVANTS = ["previous_token", "duplicate_token", "induction"]  # roles that only serve inhibition
PERIODS = [2, 4, 8, 16, 32, 64, 128]
PARTS = 4  # query, key, value and output of a head

# One coordinate per feature direction, before the residual basis is chosen.
Rows = Float[Tensor, "_ feature"]


@dataclass(frozen=True)
class Plan:
    """What to build. Raises ModelError for what is impossible."""

    channel_rank: int = 2  # 1, 2 or 3
    noise: float = 0.0
    """Gaussian noise in every attention matrix: its Frobenius norm over that of the planted matrix
    (over the planted heads' mean where nothing is planted). It leaves the carrier alone. The
    circuit search finds the plan up to 0.1."""
    distractors: int = 4  # heads with large random weights that write into directions nobody reads
    rotate: bool = True
    """Turn the residual basis at random. The all-ones direction stays: LayerNorm removes it."""
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
        if not 1 <= self.channel_rank <= len(SINGULAR):
            raise ModelError(
                f"channel_rank is {self.channel_rank}: a channel has 1 to {len(SINGULAR)} "
                "coordinates."
            )
        if self.noise < 0 or self.inhibition < 0:
            raise ModelError("noise and inhibition are sizes: give 0 or more.")
        if self.circuits not in (1, 2):
            raise ModelError(
                f"circuits is {self.circuits}: two inhibition heads can serve 1 or 2 channels."
            )
        self._check_heads()

    def _check_heads(self) -> None:
        """Raises ModelError where copies and distractors need more heads than there are."""
        layers = [layer for role in LAYERS.values() for layer in role]
        fullest = max(layers.count(layer) for layer in layers)
        most_copies = N_HEADS // fullest
        if not 1 <= self.copies <= most_copies:
            raise ModelError(
                f"copies is {self.copies}: a layer has {N_HEADS} heads for its roles, give 1 to "
                f"{most_copies}."
            )
        free = N_HEADS * N_LAYERS - self.copies * len(layers)
        if not 0 <= self.distractors <= free:
            raise ModelError(
                f"distractors is {self.distractors}: only {free} heads have no role, give 0 to "
                f"{free}."
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
    directions: dict[str, Float[Tensor, "d_model _"]]
    """The directions of each feature; a second circuit's channel comes after the first's."""
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
    prefer: Float[Tensor, " feature"] = torch.zeros(D_FEATURES)
    query: Rows = torch.zeros(0, D_FEATURES)
    key: Rows = torch.zeros(0, D_FEATURES)


class _Placement(NamedTuple):
    """Which heads of the model are whose."""

    wires: dict[Head, _Wires]
    roles: dict[str, tuple[Head, ...]]
    free: list[Head]  # in random order


def build(plan: Plan | None = None) -> Planted:
    """Write the weights; the same plan gives the same model."""
    plan = plan or Plan()
    words = read_data("vocabulary.yaml")
    random = torch.Generator().manual_seed(plan.seed)
    tokenizer = _tokenizer(words)
    features = _features(plan, len(words["names"]))
    gain = _score_gain(plan)
    basis = _basis(plan.rotate, random)
    placement = _place_heads(plan, _wire_roles(plan, features, gain), random)
    wires = dict(placement.wires)
    distractors = tuple(placement.free[: plan.distractors])
    for head in distractors:
        wires[head] = _distractor(features, random)

    model = _empty_model(vocab_size=len(tokenizer))
    names = tokenizer.convert_tokens_to_ids(words["names"])
    _write_embeddings(model, features, basis, names)
    _write_constant_queries(model, list(wires))
    _write_attention(model, _matrices(wires, plan.noise, random) @ basis.T)
    directions = {name: basis @ rows.T for name, rows in features.items()}
    return Planted(model, tokenizer, plan, placement.roles, distractors, directions, gain)


def save(planted: Planted, folder: Path | str) -> None:
    """Write config, safetensors and tokenizer as the hub keeps them; `load_model(str(folder))`
    reads it.
    """
    with redirect_stderr(io.StringIO()):  # progress bars
        planted.hf_model.save_pretrained(folder)
    planted.tokenizer.save_pretrained(folder)


# The parts of the model that every plan has


def _tokenizer(words: dict[str, list[str]]) -> PreTrainedTokenizerFast:
    """One token for each word and punctuation mark of the vocabulary file, <unk> for any other."""
    every_entry = " ".join(" ".join(entries) for entries in words.values())
    text = re.sub(r"\{\w+\}", " ", every_entry)  # without the templates' placeholders
    found = sorted(set(re.findall(r"\w+|[^\w\s]+", text)))
    ids = {word: i for i, word in enumerate(["<end>", "<unk>", *found])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")


def _features(plan: Plan, n_names: int) -> dict[str, Rows]:
    """Feature -> its rows in feature space (one-hot); `junk` is what is left."""
    if n_names >= D_HEAD:
        raise ModelError(
            f"data/vocabulary.yaml has {n_names} names: a head of {D_HEAD} dimensions has room for "
            f"{D_HEAD - 1}."
        )
    channels = plan.channel_rank * plan.circuits
    sizes = {
        "carrier": 1,
        "name": 1,
        "early": 1,
        "sink": 1,
        "clock": 2 * len(PERIODS),
        "place": 4,
        "identity": n_names,
        "previous": n_names,
        "output": n_names,
        "channel_in": channels,
        "channel": channels,
    }
    sizes["junk"] = D_FEATURES - sum(sizes.values())
    rows = torch.eye(D_FEATURES).split(list(sizes.values()))
    return dict(zip(sizes, rows, strict=True))


def _score_gain(plan: Plan) -> float:
    """The gain of a mover's score with which delta is SCORE_GAP, for ranks 1 and 2."""
    used = SINGULAR[: min(plan.channel_rank, 2)]
    return SCORE_GAP / sum(singular**3 for singular in used)


def _basis(rotate: bool, random: torch.Generator) -> Float[Tensor, "d_model feature"]:
    """Orthonormal directions without mean: nearly the coordinates themselves (a Householder
    mirror), or turned.
    """
    mirror = torch.full((D_MODEL, 1), -(D_MODEL**-0.5), dtype=torch.float64)
    mirror[-1] += 1
    householder = torch.eye(D_MODEL) - 2 * mirror @ mirror.T / (mirror.T @ mirror)
    basis = householder[:, :-1]
    if rotate:
        gaussian = torch.randn(D_FEATURES, D_FEATURES, generator=random, dtype=torch.float64)
        basis = basis @ torch.linalg.qr(gaussian)[0]
    return basis.float()


def _empty_model(vocab_size: int) -> GPT2LMHeadModel:
    """A GPT-2 that writes nothing; each LayerNorm's gain hands on features as they are."""
    config = GPT2Config(
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_embd=D_MODEL,
        n_inner=4,
        n_positions=N_POSITIONS,
        vocab_size=vocab_size,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        is_norm_gain = "ln_" in name and name.endswith("weight")
        parameter.fill_(CARRIER / D_MODEL**0.5 if is_norm_gain else 0)
    return model


def _write_embeddings(
    model: GPT2LMHeadModel,
    features: dict[str, Rows],
    basis: Float[Tensor, "d_model feature"],
    names: list[int],
) -> None:
    """What tokens and positions embed, and how the output is read; names: the names' token ids."""
    tokens = (CARRIER * features["carrier"]).repeat(model.config.vocab_size, 1)
    tokens[names] += features["name"] + features["identity"]
    model.transformer.wte.weight.copy_(tokens @ basis.T)
    model.transformer.wpe.weight.copy_(_positions(features) @ basis.T)
    model.lm_head.weight[names] = LOGIT * features["output"] @ basis.T


def _positions(features: dict[str, Rows]) -> Float[Tensor, "pos feature"]:
    """What each position embeds."""
    position = torch.arange(N_POSITIONS)[:, None]
    hands = {}
    for period in PERIODS:
        angle = 2 * math.pi * position / period - math.pi / 4
        hands[period] = torch.cat([angle.cos(), angle.sin()], dim=1)
    place = torch.cat([hands[4], hands[8]], dim=1) * (position > 0)
    values = {
        "clock": torch.cat(list(hands.values()), dim=1),
        "place": place,
        "early": position < 8,
        "sink": position == 0,
    }
    return sum(value.float() @ features[name] for name, value in values.items())


def _write_constant_queries(model: GPT2LMHeadModel, heads: list[Head]) -> None:
    """Give each head a last query dimension that is constant, for what it prefers whatever asks."""
    for layer, head in heads:
        last_dimension = D_HEAD * (head + 1) - 1
        model.transformer.h[layer].attn.c_attn.bias[last_dimension] = D_HEAD**0.5


def _write_attention(
    model: GPT2LMHeadModel, matrices: Float[Tensor, "layer head part d_head d_model"]
) -> None:
    """Write query, key, value and output of every head."""
    by_part = matrices.transpose(1, 2)
    for block, parts in zip(model.transformer.h, by_part, strict=True):
        query_key_value, out = parts[:3], parts[3]
        block.attn.c_attn.weight.copy_(query_key_value.flatten(0, 2).T)
        block.attn.c_proj.weight.copy_(out.flatten(0, 1))


# The heads


def _wire_roles(plan: Plan, features: dict[str, Rows], gain: float) -> dict[str, list[_Wires]]:
    """Role -> its heads, as the module's docstring says."""
    identity = features["identity"]
    clock_before = SHARP / 2 * _one_step_back(features["clock"], PERIODS)
    previous_token = _Wires(
        identity, features["previous"], query=clock_before, key=features["clock"]
    )
    duplicate_token, induction = _wire_channel_writers(plan, features)
    movers = _wire_movers(plan, features, gain)
    return {
        "previous_token": [previous_token],
        "duplicate_token": [duplicate_token],
        "induction": [induction],
        "inhibition": _wire_inhibition(plan, features),
        "movers": movers,
        "negative_movers": [_wire_negative_mover(plan, features, gain)],
    }


def _one_step_back(hands: Rows, periods: list[int]) -> Rows:
    """Rows that read at p what `hands` read at p-1."""
    turns = []
    for period in periods:
        step = 2 * math.pi / period
        cos, sin = math.cos(step), math.sin(step)
        turns.append(torch.tensor([[cos, sin], [-sin, cos]]))
    return torch.block_diag(*turns) @ hands


def _singular_values(plan: Plan) -> Float[Tensor, "rank 1"]:
    return torch.tensor(SINGULAR[: plan.channel_rank])[:, None]


def _shares(plan: Plan) -> tuple[float, float]:
    """How two heads share their work; in a channel of its own a head does all of it."""
    return (1.0, 1.0) if plan.circuits == 2 else SHARES


def _channels(plan: Plan, rows: Rows) -> tuple[Rows, Rows]:
    """The rows of the two channels; with one circuit both are the same."""
    channels = rows.split(plan.channel_rank)
    return channels[0], channels[-1]


def _late_name(features: dict[str, Rows]) -> Float[Tensor, " feature"]:
    """The preference for the late name, S2."""
    return SHARP * (features["name"] - features["early"])[0]


def _wire_channel_writers(plan: Plan, features: dict[str, Rows]) -> tuple[_Wires, _Wires]:
    """The duplicate-token and the induction head, which write S1's place into `channel_in`."""
    # Scores in units of SHARP: a match has 4, the sink 3, others have 2.
    prefer = 2 * SHARP * (features["early"] + features["sink"] / 2)[0]
    match = 2 * SHARP * features["identity"]
    singular = _singular_values(plan)
    first, second = _channels(plan, features["channel_in"])
    first_share, second_share = _shares(plan)
    place = features["place"][: plan.channel_rank]
    place_before = _one_step_back(features["place"], [4, 8])[: plan.channel_rank]
    duplicate_token = _Wires(
        place, first_share * singular * first, prefer, match, features["identity"]
    )
    induction = _Wires(
        place_before, second_share * singular * second, prefer, match, features["previous"]
    )
    return duplicate_token, induction


def _wire_inhibition(plan: Plan, features: dict[str, Rows]) -> list[_Wires]:
    """The heads that carry `channel_in` from the late name into the channel."""
    if not plan.inhibition:
        return []
    singular = _singular_values(plan)
    heads = []
    for read, share, write in zip(
        _channels(plan, features["channel_in"]),
        _shares(plan),
        _channels(plan, features["channel"]),
        strict=True,
    ):
        out = plan.inhibition * share * singular * write
        heads.append(_Wires(read, out, _late_name(features)))
    return heads


def _wire_movers(plan: Plan, features: dict[str, Rows], gain: float) -> list[_Wires]:
    channels = _channels(plan, features["channel"])
    return [
        _wire_reader(plan, features, channel, weight=weight, gain=-gain)
        for channel, weight in zip(channels, SHARES, strict=True)
    ]


def _wire_negative_mover(plan: Plan, features: dict[str, Rows], gain: float) -> _Wires:
    """It attends to the late name; where the channel is shared, to the early one it points at."""
    if plan.shared:
        channel = _channels(plan, features["channel"])[0]
        return _wire_reader(plan, features, channel, weight=-NEGATIVE, gain=gain)
    return _Wires(features["identity"], -NEGATIVE * features["output"], _late_name(features))


def _wire_reader(
    plan: Plan, features: dict[str, Rows], channel: Rows, *, weight: float, gain: float
) -> _Wires:
    """A head that attends to the early names by how their place agrees with the channel (with a
    negative gain: disagrees), and writes that name's output.
    """
    return _Wires(
        value=features["identity"],
        out=weight * features["output"],
        prefer=SHARP * (features["name"] + features["early"])[0],
        query=gain * _singular_values(plan) * channel,
        key=features["place"][: plan.channel_rank],
    )


def _distractor(features: dict[str, Rows], random: torch.Generator) -> _Wires:
    """Attends at random (scores of a few units), and writes about four times what a planted head
    does.
    """
    width = D_HEAD - 1
    read = 1 - features["carrier"][0] - features["junk"].sum(0)
    query, key, value = 0.2 * torch.randn(3, width, D_FEATURES, generator=random) * read
    into_junk = torch.randn(width, len(features["junk"]), generator=random) / D_HEAD**0.5
    return _Wires(value, into_junk @ features["junk"], query=query, key=key)


def _place_heads(plan: Plan, wires: dict[str, list[_Wires]], random: torch.Generator) -> _Placement:
    """Give every head of the plan a place in its layer, at random."""
    free_in_layer = []
    for layer in range(N_LAYERS):
        order = torch.randperm(N_HEADS, generator=random).tolist()
        free_in_layer.append([Head(layer, head) for head in order])
    placed: dict[Head, _Wires] = {}
    roles: dict[str, tuple[Head, ...]] = {}
    for role, of_role in wires.items():
        roles[role] = ()
        for layer, wire in zip(LAYERS[role], of_role, strict=False):  # inhibition may have none
            copies = [free_in_layer[layer].pop(0) for _ in range(plan.copies)]
            for head in copies:
                placed[head] = replace(wire, out=wire.out / plan.copies)
            roles[role] += tuple(copies)
    if not plan.inhibition:
        for role in SERVANTS:
            roles[role] = ()
    rest = [head for heads in free_in_layer for head in heads]
    order = torch.randperm(len(rest), generator=random)
    return _Placement(placed, roles, [rest[i] for i in order])


def _matrices(
    wires: dict[Head, _Wires], noise: float, random: torch.Generator
) -> Float[Tensor, "layer head part d_head feature"]:
    """Rows of query, key, value and output in feature space, with noise in every one."""
    matrices = torch.zeros(N_LAYERS, N_HEADS, PARTS, D_HEAD, D_FEATURES)
    for head, of_head in wires.items():
        _fill_matrices(matrices[head], of_head)
    if noise:
        matrices += _scaled_noise(matrices, noise, random)
    return matrices


def _fill_matrices(parts: Float[Tensor, "part d_head feature"], wires: _Wires) -> None:
    query = wires.query * D_HEAD**0.5
    for part, rows in zip(parts, [query, wires.key, wires.value, wires.out], strict=True):
        part[: len(rows)] = rows
    parts[1, -1] = wires.prefer  # it meets a query that is constant: `_write_constant_queries`


def _scaled_noise(
    matrices: Float[Tensor, "layer head part d_head feature"],
    noise: float,
    random: torch.Generator,
) -> Float[Tensor, "layer head part d_head feature"]:
    """Noise in all but the carrier. noise: its norm over that of the planted matrix, or over the
    planted heads' mean where nothing is planted.
    """
    norms = matrices.norm(dim=(-2, -1), keepdim=True)
    is_planted = norms[:, :, 2:3] > 0
    planted_norms = norms[is_planted[:, :, 0, 0, 0]]
    norms = torch.where(is_planted, norms, planted_norms.mean(0))
    gaussian = torch.randn(matrices.shape, generator=random)
    gaussian[..., 0] = 0  # the carrier
    return noise * norms * gaussian / gaussian.norm(dim=(-2, -1), keepdim=True)
