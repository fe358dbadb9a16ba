"""Many points of a channel, from one cached run per prompt, beside full forward passes; writes to
results.json here.

python -m benchmarks.channel_grid      lists of 8 items, about 60 tokens, on the embedded model
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.path_patching import FOLDER, entry, judged, save_entries, timed
from helpers.behavior import evaluate
from helpers.channels import components
from helpers.engine import Edit
from helpers.heads import Head
from helpers.interventions import change_heads, set_coordinates, steer
from helpers.models import attention_weights, load_model
from helpers.tasks import Prompts, laundry_list
from suite.errors import ClaimError, ModelError
from suite.results import found_heads

MODEL, TARGET = "smollm2", 100
LIMITS = {"max_difference": 1e-4}  # of logit differences


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 if the target and every limit are met, 1 if one is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of results.json")
    out = parser.parse_args(arguments).out
    try:
        head = found_heads(MODEL, needed=["inhibition"])["inhibition"][0]
        model = load_model(MODEL)
        directions = {head: components(attention_weights(MODEL), "OV").V[head][:, :2]}
    except (ClaimError, ModelError) as error:
        sys.exit(f"Error: {error}")
    prompts = laundry_list(model.tokenizer, 16, size=8)
    item = entry(
        "channel_grid", target=TARGET, limits=LIMITS, **compare(model, prompts, directions)
    )
    save_entries([item], out)
    return judged([item])


def compare(
    model: TransformerBridge,
    prompts: Prompts,
    directions: dict[Head, torch.Tensor],
    *,
    side: int = 32,
    sample: int = 3,
    repeats: int = 3,
) -> dict[str, Any]:
    """A grid of side x side points of two coordinates, cached run included, beside full passes of
    `sample` of them.
    """
    [(head, V)] = directions.items()
    axis = torch.linspace(-40, 40, side)
    points = torch.cartesian_prod(axis, axis)[:, None].to(V)
    edits = set_coordinates(model, {head: V}, {head: points})
    runs = [timed(lambda: steer(model, prompts, edits)) for _ in range(repeats)]
    seconds, fast = median(took for took, _ in runs), runs[-1][1]
    evaluate(model, prompts)  # warm
    picked = np.random.default_rng(0).choice(len(points), sample, replace=False)
    slow = [timed(lambda i=i: full_pass(model, prompts, edits, int(i))) for i in picked]
    baseline = sum(took for took, _ in slow) / sample * len(points)
    differences = [
        np.abs(fast.logit_difference[i] - found).max()
        for i, (_, found) in zip(picked, slow, strict=True)
    ]
    return {
        "ratio": baseline / seconds,
        "max_difference": float(max(differences)),
        "seconds": seconds,
        "baseline_seconds": baseline,
        "n": len(prompts),
        "tokens": max(map(len, prompts.tokens)),
        "points": len(points),
        "points_timed": sample,
        "repeats": [took for took, _ in runs],
        "note": f"points: settings of two coordinates of one head at END, every prompt with each; baseline: {sample} "
        "random points by full forward passes with a hook, scaled linearly to all; seconds: median of the repeats, the "
        "cached run included",
    }


def full_pass(
    model: TransformerBridge, prompts: Prompts, edits: list[Edit], variant: int
) -> np.ndarray:
    """Logit differences of full forward passes with one variant of the edits at END."""
    changes = {
        e.head: lambda z, e=e: torch.cat(
            [z[:, :-1], z[:, -1:] @ e.matrix[variant] + e.value[variant, 0]], dim=1
        )
        for e in edits
    }
    with change_heads(model, changes):
        return evaluate(model, prompts).logit_difference


if __name__ == "__main__":
    sys.exit(main())
