"""Component composition scores, all of a model at once beside dense matrices pair by pair; writes
to results.json here.

python -m benchmarks.component_scores      the embedded model, and GPT-2 Small's tensors where
CIRCUITS_ASSETS has them
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.path_patching import FOLDER, entry, judged, save_entries, timed
from helpers.channels import component_scores, components
from helpers.models import AttentionWeights, attention_weights
from suite.errors import ModelError

SIDES = ("query", "key", "value")
LIMITS = {"seconds": 60, "peak_memory_gib": 3}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 if every limit is kept, 1 if one is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of results.json")
    out = parser.parse_args(arguments).out
    entries, models = [], {"component_scores": "smollm2", "component_scores_gpt2": "gpt2"}
    for name, model in models.items():
        try:
            weights = attention_weights(model)
        except ModelError as error:
            if model == "smollm2":
                sys.exit(f"Error: {error}")
            print(f"{name}: not measured. {error}")
            continue
        entries.append(entry(name, limits=LIMITS, **compare(weights)))
        save_entries(entries, out)
    return judged(entries)


def compare(weights: AttentionWeights, *, sample: int = 200, repeats: int = 3) -> dict[str, Any]:
    """All scores of the three sides at once, beside a random sample of them by dense matrices,
    scaled to all.
    """
    runs = [
        timed(lambda: {side: component_scores(weights, side) for side in SIDES})
        for _ in range(repeats)
    ]
    scores, times = runs[-1][1], [seconds for seconds, _ in runs]
    slow, differences = dense_sample(weights, scores, sample)
    n = sum(int((~table.isnan()).sum()) for table in scores.values())
    seconds, baseline = median(times), slow / (sample * len(SIDES)) * n
    return {
        "ratio": baseline / seconds,
        "max_difference": max(differences),
        "seconds": seconds,
        "baseline_seconds": baseline,
        "n": n,
        "pairs_timed": sample * len(SIDES),
        "repeats": times,
        "note": f"n: scores of one component with one later head, three sides; baseline: {sample} random ones of each "
        "side, d_model x d_model matrices multiplied and their norms taken (forming them not counted), scaled linearly "
        "to all; seconds: median of the repeats, singular value decomposition included",
    }


def dense_sample(
    weights: AttentionWeights, scores: dict[str, torch.Tensor], sample: int
) -> tuple[float, list[float]]:
    """Seconds of the dense computation on random pairs of each side, and how far each score is from
    ours.
    """
    rng, seconds, differences = np.random.default_rng(0), 0.0, []
    U, S, V = (x.flatten(0, 1) for x in vars(components(weights, "OV")).values())
    group = weights.n_heads // weights.n_kv_heads
    W_K, W_V = (w.repeat_interleave(group, dim=1).flatten(0, 1) for w in (weights.W_K, weights.W_V))
    W_Q, W_O = weights.W_Q.flatten(0, 1), weights.W_O.flatten(0, 1)
    factors = {"query": (W_Q, W_K.mT), "key": (W_K, W_Q.mT), "value": (W_V, W_O)}
    for side, (left, right) in factors.items():
        pairs = (~scores[side].isnan()).nonzero()
        for sender, k, receiver in pairs[rng.choice(len(pairs), sample, replace=False)].tolist():
            A = S[sender, k] * torch.outer(U[sender, :, k], V[sender, :, k])
            B = left[receiver] @ right[receiver]
            took, score = timed(lambda A=A, B=B: (A @ B).norm() / (A.norm() * B.norm()))
            seconds += took
            differences.append(abs(float(score - scores[side][sender, k, receiver])))
    return seconds, differences


if __name__ == "__main__":
    sys.exit(main())
