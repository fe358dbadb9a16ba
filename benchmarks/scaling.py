"""How path patching's cost grows with layers, heads, prompts and tokens, on random GPT-2s;
extrapolated to GPT-2 XL.

python -m benchmarks.scaling             what `make bench` does
python -m benchmarks.scaling --out DIR   results.json and the figure go there

One factor is varied at a time around BASE; heads are 64 wide, as in every GPT-2, so d_model grows
with them. The cost model has two numbers, fitted on the paths to the logits and to queries: seconds
per layer (Python and small tensors) and seconds per needed operation, which `needed_flops` counts.
It is then held against shapes and stages that it has not seen.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import nnls
from scipy.stats import linregress
from tokenizers import Tokenizer, models
from torch.profiler import ProfilerActivity, profile
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.path_patching import (
    FOLDER,
    entry,
    judged,
    needed_flops,
    save_entries,
    save_figure,
    timed,
)
from helpers.heads import Head
from helpers.models import load_model
from helpers.path_patching import Receiver, path_patch
from helpers.plots import COLORS
from helpers.tasks import Prompts
from suite.registry import known_models

Row = dict[str, Any]
D_HEAD, WORDS = 64, 100
BOUND_GIB = 2.0  # on path patching's working memory beside the model, as in notebook 01


class Shape(NamedTuple):
    """A GPT-2, and the prompts on which paths are patched in it."""

    layers: int
    heads: int
    prompts: int
    tokens: int


BASE = Shape(layers=8, heads=8, prompts=16, tokens=16)
FACTORS = {
    "layers": (4, 8, 16, 24),
    "heads": (4, 8, 12, 16),
    "prompts": (4, 8, 16, 32, 64),
    "tokens": (8, 16, 64, 128),
}
NOTEBOOK_01 = {"prompts": 48, "tokens": 15}  # what it patches
NAMES = ("gpt2", "gpt2-medium", "gpt2-xl")
DEPTHS = {"logits": 1, "q": 3 / 4, "v": 2 / 3, "k": 7 / 12}
"""Where a stage's three receivers lie: about where notebook 01 finds them in the embedded model."""


def shape_of(name: str) -> Shape:
    """A known model with the prompts of notebook 01."""
    return Shape(known_models()[name]["layers"], known_models()[name]["heads"], **NOTEBOOK_01)


# All four stages are measured on these; gpt2-medium itself takes more than 4 GiB while it is built.
HELD_OUT = (shape_of("gpt2"), Shape(layers=24, heads=12, prompts=4, tokens=NOTEBOOK_01["tokens"]))


def receiver(kind: str, shape: Shape) -> Receiver:
    """The receiver of one of the four stages."""
    heads = (
        ()
        if kind == "logits"
        else tuple(Head(round(DEPTHS[kind] * shape.layers), head) for head in range(3))
    )
    return Receiver(kind, heads, {"v": "S2", "k": "S1+1"}.get(kind, "END"))


def random_prompts(shape: Shape) -> Prompts:
    """Random words; S1+1 and S2 at a third and at two thirds of the prompt, about as in IOI."""
    n, rng = shape.prompts, np.random.default_rng(0)
    clean, corrupted = (
        tuple(map(tuple, rng.integers(1, WORDS, (n, shape.tokens)).tolist())) for _ in range(2)
    )
    places = {"END": shape.tokens - 1, "S2": 2 * shape.tokens // 3, "S1+1": shape.tokens // 3}
    positions = {name: (place,) * n for name, place in places.items()}
    return Prompts(("",) * n, ("",) * n, clean, corrupted, (1,) * n, (2,) * n, positions)


def random_model(shape: Shape) -> TransformerBridge:
    """Random weights, and a vocabulary of words that nobody reads."""
    sizes = {
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_embd": shape.heads * D_HEAD,
        "n_positions": 128,
    }
    words = Tokenizer(models.WordLevel({"w": 0}, unk_token="w"))
    with tempfile.TemporaryDirectory() as folder, quiet():
        config = GPT2Config(**sizes, vocab_size=WORDS, bos_token_id=0, eos_token_id=0)
        GPT2LMHeadModel(config).save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=words, eos_token="w", bos_token="w"
        ).save_pretrained(folder)
        return load_model(folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on stderr, not even what the profiler's C++ writes there."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def operations(shape: Shape, kind: str) -> int:
    """Needed floating-point operations of one stage, every head before the receivers sending."""
    d, last = shape.heads * D_HEAD, round(DEPTHS[kind] * shape.layers)
    cfg = SimpleNamespace(
        n_layers=shape.layers, n_heads=shape.heads, d_head=D_HEAD, d_model=d, d_mlp=4 * d
    )
    cfg.gated_mlp, cfg.n_key_value_heads = False, None
    senders = [Head(layer, head) for layer in range(last) for head in range(shape.heads)]
    return needed_flops(cfg, random_prompts(shape), receiver(kind, shape), senders)


def measure(
    model: TransformerBridge, shape: Shape, kinds: Sequence[str], repeats: int
) -> list[Row]:
    """Per stage operations and the best of some times, after a run that finds the first one's
    working memory.
    """
    prompts = random_prompts(shape)
    calls = {
        kind: partial(path_patch, model, prompts, receiver(kind, shape), memory_gib=BOUND_GIB)
        for kind in kinds
    }
    shared = shape._asdict() | {"working_gib": working_gib(calls[kinds[0]])}
    return [
        {**shared, "kind": kind, "operations": operations(shape, kind)}
        | {"seconds": min(timed(call)[0] for _ in range(repeats))}
        for kind, call in calls.items()
    ]


def working_gib(call: partial) -> float:
    """Most memory that the tensors made by a call hold at one time."""
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = [
        event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    return (
        max(
            accumulate(
                event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())
            )
        )
        / 2**30
    )


def fit(rows: Sequence[Row]) -> tuple[float, float]:
    """Seconds per layer and seconds per operation, neither negative, with the least squared
    relative error.
    """
    features = np.array([[row["layers"], row["operations"]] for row in rows], dtype=float)
    scale, seconds = features.max(0), np.array([row["seconds"] for row in rows])
    per_layer, per_operation = (
        nnls(features / scale / seconds[:, None], np.ones(len(rows)))[0] / scale
    )
    return float(per_layer), float(per_operation)


def predicted(costs: tuple[float, float], row: Row) -> float:
    """Seconds of one stage by the cost model."""
    return costs[0] * row["layers"] + costs[1] * row["operations"]


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent b of y = a x^b, by least squares on logarithms."""
    return float(linregress(np.log(xs), np.log(ys)).slope)


def by_factor(points: Sequence[Row]) -> dict[str, list[Row]]:
    """The points to the logits that differ from the base in one factor only, and the base, in
    order.
    """
    shapes = {
        Shape(*(row[name] for name in Shape._fields)): row
        for row in points
        if row["kind"] == "logits"
    }
    return {
        factor: [shapes[BASE._replace(**{factor: size})] for size in FACTORS[factor]]
        for factor in FACTORS
    }


def of_model(name: str, costs: tuple[float, float], held_out: Sequence[Row]) -> Row:
    """Notebook 01's four stages on one model: predicted, and measured if the held-out runs have as
    many prompts.
    """
    shape, d = shape_of(name), shape_of(name).heads * D_HEAD
    stages = [{"layers": shape.layers, "operations": operations(shape, kind)} for kind in DEPTHS]
    whole = [
        row["seconds"] for row in held_out if [row[field] for field in Shape._fields] == list(shape)
    ]
    return {
        "name": name,
        "layers": shape.layers,
        "heads": shape.heads,
        "prompts": shape.prompts,
    } | {
        "operations": sum(stage["operations"] for stage in stages),
        "predicted": sum(predicted(costs, stage) for stage in stages),
        "measured": sum(whole) or None,
        "weights_gib": 4 * (12 * shape.layers * d * d + (50257 + 1024) * d) / 2**30,
    }


def scaling_entry(repeats: int) -> tuple[Row, plt.Figure]:
    """Measure, fit, check and extrapolate: the record and the figure."""
    shapes = dict.fromkeys(
        BASE._replace(**{factor: size}) for factor, sizes in FACTORS.items() for size in sizes
    )
    points, held_out, model, built = [], [], None, None
    for shape in sorted(shapes):  # by layers and heads: a model is built once
        model = model if shape[:2] == built else random_model(shape)
        points, built = points + measure(model, shape, ("logits", "q"), repeats), shape[:2]
    costs = fit(points)
    for shape in HELD_OUT:
        del model  # before the next one is built
        model = random_model(shape)
        held_out += measure(model, shape, tuple(DEPTHS), 1)
    held_out = [row | {"predicted": predicted(costs, row)} for row in held_out]
    lines = by_factor(points)
    columns = ("seconds", "operations", "working_gib")
    slopes = {
        f: [slope(FACTORS[f], [row[key] for row in line]) for key in columns]
        for f, line in lines.items()
    }
    base = lines["prompts"][FACTORS["prompts"].index(BASE.prompts)]
    return entry(
        "scaling",
        seconds=base["seconds"],
        n=BASE.prompts,
        seconds_per_layer=costs[0],
        gflop_per_second=1e-9 / costs[1]
        if costs[1]
        else None,  # tiny models: no time that grows with operations
        slopes=slopes,
        held_out_error=max(abs(row["predicted"] / row["seconds"] - 1) for row in held_out),
        working_gib=max(row["working_gib"] for row in points + held_out),
        working_bound_gib=BOUND_GIB,
        models=[of_model(name, costs, held_out) for name in NAMES],
        held_out=held_out,
        points=points,
        note="seconds: the base, paths to the logits; slopes: exponents of seconds, operations, working memory of "
        "such paths; held_out: shapes and stages on which the cost model was not fitted",
    ), scaling_figure(lines, costs, slopes)


def scaling_figure(
    lines: dict[str, list[Row]], costs: tuple[float, float], slopes: dict
) -> plt.Figure:
    """Paths to the logits, by factor: seconds measured and by the cost model."""
    figure, axes = plt.subplots(1, len(lines), figsize=(11, 2.8), sharey=True, layout="constrained")
    for ax, (factor, line) in zip(axes, lines.items(), strict=True):
        ax.loglog(
            FACTORS[factor],
            [row["seconds"] for row in line],
            "o",
            color=COLORS["inhibition"],
            label="measured",
        )
        model = [predicted(costs, row) for row in line]
        ax.loglog(FACTORS[factor], model, color="0.6", lw=1, zorder=0, label="cost model")
        ax.set_xticks(FACTORS[factor], map(str, FACTORS[factor]))
        ax.minorticks_off()
        ax.set(xlabel=factor, title=f"{factor}: exponent {slopes[factor][0]:.2f}")
    axes[0].set_ylabel("seconds")
    axes[0].legend(frameon=False)
    return figure


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 if the predictions hold, 1 if one is further off than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs counts")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the outputs")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    record, figure = scaling_entry(options.repeats)
    save_entries([record], options.out)
    save_figure(figure, options.out / "scaling.png")
    return judged([record])


if __name__ == "__main__":
    sys.exit(main())
