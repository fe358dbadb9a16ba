"""What notebook 05 does to a channel: remove it, read it, set it, and look where the movers attend.

All of it acts at END, where the inhibition heads write what the movers read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from helpers.channels import scaling_matrix, writing_vectors
from helpers.decoder import ROWS_AT_ONCE, output_weights
from helpers.engine import (
    Edit,
    cached_run,
    decoder_for,
    resume,
)
from helpers.heads import Head
from helpers.tasks.prompts import Prompts

BATCH = 32


@dataclass(frozen=True)
class Channel:
    """One component of one head: the direction along which the head speaks to the movers."""

    head: Head
    component: int
    basis: Float[Tensor, "d_model component"]
    """All directions that the head writes along, orthonormal."""
    W_O: Float[Tensor, "d_head d_model"]

    @property
    def direction(self) -> Float[Tensor, " d_model"]:
        """The unit vector of the channel."""
        return self.basis[:, self.component]

    def random_direction(self, rng: np.random.Generator) -> Float[Tensor, " d_model"]:
        """A unit vector that the head can write, without any part along the channel."""
        size = self.basis.shape[1]
        mix = torch.tensor(rng.normal(size=size), dtype=torch.float32)
        mix[self.component] = 0
        return self.basis @ (mix / mix.norm())


@dataclass(frozen=True)
class Removal:
    """One measure of each prompt: unedited, without a head, without or with only one component."""

    unedited: Float[np.ndarray, " batch"]
    without_head: Float[np.ndarray, " batch"]
    without: Float[np.ndarray, "component batch"]
    alone: Float[np.ndarray, "component batch"]

    @classmethod
    def from_variants(cls, values: Float[np.ndarray, "variant batch"]) -> "Removal":
        """From a run of the variants that `removal_matrices` makes."""
        components = (len(values) - 2) // 2
        without, alone = np.split(values[2:], [components])
        return cls(values[0], values[1], without, alone)

    @property
    def lost_with_head(self) -> Float[np.ndarray, " batch"]:
        """What is lost without the head."""
        return self.unedited - self.without_head

    @property
    def lost(self) -> Float[np.ndarray, "component batch"]:
        """What is lost without each component."""
        return self.unedited - self.without


def removal_matrices(
    W_O: Float[Tensor, "d_head d_model"], basis: Float[Tensor, "d_model component"]
) -> Float[Tensor, "variant d_head d_head"]:
    """M for: nothing, the whole head removed, each component removed, each kept alone."""
    n = basis.shape[1]
    eye = torch.eye(n)
    factors = torch.cat([torch.ones(1, n), torch.zeros(1, n), 1 - eye, eye])
    return torch.stack([scaling_matrix(W_O, basis, row) for row in factors])


def output_edit(head: Head, matrices: Float[Tensor, "variant d_head d_head"]) -> Edit:
    """Edit that passes the head's output z through each of these matrices."""
    n, d_head, _ = matrices.shape
    return Edit("z", head, torch.zeros(n, 1, d_head), matrices)


def coordinate_edit(
    channel: Channel,
    directions: Sequence[Float[Tensor, " d_model"]],
    values: Shaped[np.ndarray, "direction step prompt"],
) -> Edit:
    """Edit that sets the head's coordinate, one direction at a time, to each step.

    values: its first axis may be 1 (the same for all directions), its last 1 (for all prompts).
    Variants are all steps of the first direction, then those of the next.
    """
    W_O = channel.W_O
    n_steps, n_prompts = values.shape[1:]
    values = np.broadcast_to(values, (len(directions), n_steps, n_prompts))
    units = []
    rests = []
    for direction in directions:
        column = direction[:, None]
        units.append(writing_vectors(W_O, column))
        rests.append(scaling_matrix(W_O, column, torch.zeros(1)))
    coordinates = torch.tensor(values, dtype=torch.float32)
    shift = torch.einsum("dsp,dz->dspz", coordinates, torch.cat(units))
    matrices = torch.stack(rests).repeat_interleave(n_steps, dim=0)
    return Edit("z", channel.head, shift.flatten(0, 1), matrices)


def written_along(
    model: TransformerBridge,
    prompts: Prompts,
    head: Head,
    directions: Float[Tensor, "d_model direction"],
    *,
    corrupted: bool = False,
) -> Float[np.ndarray, "direction batch"]:
    """What a head writes along each direction at END, of the prompts or of their partners."""
    result = np.zeros((directions.shape[1], len(prompts)))
    W_O = output_weights(model, head.layer)[head.head].cpu()
    for index in prompts.groups(size=BATCH):
        clean, partner = prompts.select(index).tensors()
        tokens = partner if corrupted else clean
        cache = cached_run(model, tokens.to(model.cfg.device), ("attn.hook_z",))
        z = cache["z", head.layer][:, -1, head.head].cpu()
        result[:, index] = (z @ W_O @ directions).T
    return result


def attention_from_end(
    model: TransformerBridge,
    prompts: Prompts,
    edit: Edit,
    *,
    keys: Sequence[str],
    watch: Sequence[Head],
) -> Float[np.ndarray, "variant key batch"]:
    """Attention from END to the keys under each variant of an edit, mean over the watched heads
    that come after it.

    The same as the attention of `steer`, but nothing after the last watched head is computed.
    """
    watch = [head for head in watch if head.layer > edit.head.layer]
    last_layer = max(head.layer for head in watch)
    result = np.zeros((len(edit.value), len(keys), len(prompts)))
    for index in prompts.groups(size=BATCH):
        batch = prompts.select(index)
        masks = np.array([batch.position_mask(key) for key in keys])
        places = torch.tensor(masks, dtype=torch.float32, device=model.cfg.device)
        tokens = batch.tensors()[0].to(model.cfg.device)
        length = tokens.shape[1]
        decoder = decoder_for(model, tokens)
        cache = cached_run(model, tokens, decoder.cached_names)
        own_edit = edit.of(index, length)
        at_once = max(1, ROWS_AT_ONCE // len(index))
        for start in range(0, len(edit.value), at_once):
            part = slice(start, start + at_once)
            edits = [own_edit.only(part)]
            _, watched = resume(
                decoder, cache, length - 1, edits, watch=watch, n_layers=last_layer + 1
            )
            pattern = sum(watched[head].pattern for head in watch) / len(watch)
            to_keys = torch.einsum("vbp,kbp->vkb", pattern.float(), places)
            result[part, :, index] = to_keys.cpu()
    return result


def unedited_attention_from_end(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    positions: Int[np.ndarray, " batch"],
    heads: Sequence[Head],
) -> Float[np.ndarray, " batch"]:
    """Attention from END to one position of each prompt, mean over heads."""
    rows = torch.arange(len(tokens))
    cache = cached_run(model, tokens.to(model.cfg.device), ("attn.hook_pattern",))
    looked = []
    for head in heads:
        pattern = cache["pattern", head.layer]
        looked.append(pattern[rows, head.head, -1, positions])
    return torch.stack(looked).mean(0).cpu().numpy()


def explained_variance(
    values: Float[np.ndarray, " n"], *labels: Shaped[np.ndarray, " n"]
) -> tuple[float, float]:
    """Share of the variance that the means of groups explain: as it is, and adjusted for the
    number of groups.
    """
    n = len(values)
    groups = pd.Series(values).groupby(list(labels))
    within = (values - groups.transform("mean")).pow(2).sum()
    left = float(within) / (n * values.var())
    degrees_of_freedom = n - groups.ngroups
    adjusted = left * (n - 1) / degrees_of_freedom
    return 1 - left, 1 - adjusted


def nearest_place(
    coordinates: Float[np.ndarray, "dimension batch"], places: Int[np.ndarray, " batch"]
) -> Shaped[np.ndarray, " batch"]:
    """1 where the nearest mean of the other prompts is that of the prompt's own place, else 0.

    Distances are in standard deviations; every place needs at least two prompts.
    """
    x = coordinates / coordinates.std(1, keepdims=True)
    hits = np.zeros(len(places))
    everyone = np.arange(len(places))
    for i, own_place in enumerate(places):
        others = everyone != i
        means = []
        for place in range(max(places) + 1):
            members = others & (places == place)
            means.append(x[:, members].mean(1))
        distance = np.linalg.norm(np.array(means) - x[:, i], axis=1)
        hits[i] = distance.argmin() == own_place
    return hits
