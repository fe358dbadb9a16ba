"""Path patching, fast beside published: same prompts, same process, all senders; writes
results.json and a plot here.

python -m benchmarks.path_patching --with-notebooks            what `make bench` does python -m
benchmarks.path_patching --device cuda --model PATH  another model, its entries added under names of
their own
"""

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import linregress
from torch.utils.flop_counter import FlopCounterMode
from transformer_lens.model_bridge import TransformerBridge

from helpers.circuits import IOI, Rule, find_circuit
from helpers.heads import Head
from helpers.models import load_model
from helpers.path_patching import Receiver, path_patch
from helpers.plots import COLORS
from helpers.published import path_patch_reference
from helpers.tasks import Prompts, ioi, vocabulary
from scripts.run_notebooks import plan
from suite.errors import ClaimError, ModelError
from suite.files import atomic_path, write_text
from suite.provenance import peak_memory_gib
from suite.registry import PROJECT, resolve
from suite.results import plain

MODEL, DEVICE = "smollm2", "cpu"
FOLDER = PROJECT / "benchmarks"
PREAMBLE = (
    "The weather had been cold and wet for most of the week, but on the weekend the sun came out at last. "
    "Many people were glad to be outside again, and the streets were full of noise and music until the late evening. "
)
# Least speed-up over the published loop, by receiver; prompts of about 15 tokens, or of about 62
# where named so.
TARGETS = {
    "logits_15": 80,
    "logits_62": 150,
    "q": 80,
    "q_62": 150,
    "v": 10,
    "v_62": 10,
    "k": 5,
    "k_62": 5,
}
LIMITS = {"max_difference": 1e-5, "flop_ratio": 1.5, "peak_memory_gib": 4, "held_out_error": 0.3}
NOTEBOOK_SECONDS, REPRODUCE_SECONDS = 360, 1500
LEAST_R_SQUARED = 0.99


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 if every target is met (or --quick), 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help="short name, hub id or folder")
    parser.add_argument("--device", default=DEVICE)
    parser.add_argument(
        "--with-notebooks", action="store_true", help="also time `make reproduce`, into build/bench"
    )
    parser.add_argument(
        "--only-notebooks", action="store_true", help="time `make reproduce`, nothing else"
    )
    parser.add_argument(
        "--quick", action="store_true", help="4 prompts, 3 senders, once: for development"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the outputs (default: benchmarks, none with --quick)"
    )
    options = parser.parse_args(arguments)
    out = options.out or (None if options.quick else FOLDER)
    if options.only_notebooks:
        entries = notebook_entries()
        save_entries(entries, options.out or FOLDER)
        return judged(entries)
    try:
        # First of all, since a child process inherits this one's peak memory.
        entries = notebook_entries() if options.with_notebooks else []
        if out:
            save_entries(entries, out)
        model = load_model(options.model, device=options.device)
        default = (options.model, options.device) == (MODEL, DEVICE)
        suffix = "" if default else f"-{resolve(options.model).slug}-{options.device}"
        entries += patching_entries(model, suffix, options.quick)
        linear, figure = linear_entry(
            model, suffix, (4, 8, 16) if options.quick else (16, 32, 64, 128, 256)
        )
        if out:
            save_entries([*entries, linear], out)
            save_figure(figure, out / f"path_patching{suffix}.png")
    except (ModelError, ClaimError) as error:
        sys.exit(f"Error: {error}")
    if options.quick:
        print("Quick run: targets not judged.")
        return 0
    return judged([*entries, linear])


def judged(entries: Sequence[dict[str, Any]]) -> int:
    """Print what is missed; exit status: 0 if nothing is."""
    failures = [failure for entry in entries for failure in missed(entry)]
    print("\n".join(failures) or "Every target is met.")
    return int(bool(failures))


def patching_entries(model: TransformerBridge, suffix: str, quick: bool) -> list[dict[str, Any]]:
    """Every kind of receiver at both lengths; the receivers are the circuit found on the short
    prompts.
    """
    n, sample, repeats = (4, 3, 1) if quick else (16, 10, 3)
    template = vocabulary("ioi_templates")[0]
    prompts = {
        start: ioi(model.tokenizer, n, templates=[start + template]) for start in ("", PREAMBLE)
    }
    receivers, entries = found_receivers(model, prompts[""]), []
    for case, target in TARGETS.items():
        receiver, batch = (
            receivers[case.split("_")[0]],
            prompts[PREAMBLE if case.endswith("62") else ""],
        )
        measured = compare(model, batch, receiver, sample=sample, repeats=repeats)
        entries.append(
            entry(f"path_patching_{case}{suffix}", target=None if suffix else target, **measured)
        )
    return entries


def found_receivers(model: TransformerBridge, prompts: Prompts) -> dict[str, Receiver]:
    """Receiver by kind: the final residual, and the roles that `find_circuit` finds.

    Random weights have no circuit: their strongest three heads of each role stand in.
    """
    stages = {
        kind: (role, at)
        for stage, at in IOI.places.items()
        for role, _, kind in [stage.rpartition(".")]
    }
    roles = find_circuit(model, prompts).roles
    if not all(roles[role] for role, _ in stages.values() if role):
        roles = find_circuit(model, prompts, rule=Rule(0, 0, 0, 0)).roles
        roles = {
            role: tuple(head for head in heads if head.layer > 0)[:3]
            for role, heads in roles.items()
        }
    return {kind: Receiver(kind, roles.get(role, ()), at) for kind, (role, at) in stages.items()}


def compare(
    model: TransformerBridge, prompts: Prompts, receiver: Receiver, *, sample: int, repeats: int
) -> dict[str, Any]:
    """Fast beside published, interleaved: fast, published (a sample of senders, scaled to all),
    fast again.

    A first, untimed fast run warms up and counts its operations.
    """
    last = max((head.layer for head in receiver.heads), default=model.cfg.n_layers)
    senders = [Head(layer, head) for layer in range(last) for head in range(model.cfg.n_heads)]
    some = [senders[i] for i in np.linspace(0, len(senders) - 1, sample).round().astype(int)]
    with FlopCounterMode(display=False) as counter:
        fast = path_patch(model, prompts, receiver)

    times = [timed(lambda: path_patch(model, prompts, receiver))[0]]
    cached, _ = timed(lambda: cached_runs(model, prompts, receiver))
    sampled, slow = timed(lambda: path_patch_reference(model, prompts, receiver, senders=some))
    times += [timed(lambda: path_patch(model, prompts, receiver))[0] for _ in range(repeats - 1)]

    seconds, each, heads = (
        median(times),
        (sampled - cached) / len(some),
        model.cfg.n_layers * model.cfg.n_heads,
    )
    baseline = cached + each * heads
    where = tuple(zip(*some, strict=True))
    difference = np.abs(fast.patched[where] - slow.patched[where]).max() / abs(slow.gap.mean())
    needed = needed_flops(model.cfg, prompts, receiver, senders)
    return {
        "ratio": baseline / seconds,
        "max_difference": difference,
        "seconds": seconds,
        "baseline_seconds": baseline,
        "n": len(prompts),
        "tokens": len(prompts.tokens[0]),
        "receivers": [str(head) for head in receiver.heads],
        "senders": heads,
        "senders_with_path": len(senders),
        "ratio_with_path": (cached + each * len(senders)) / seconds,
        "senders_timed": len(some),
        "repeats": times,
        "flops": counter.get_total_flops(),
        "needed_flops": needed,
        "flop_ratio": counter.get_total_flops() / needed,
        "note": f"baseline: {len(some)} senders timed, evenly spread over the layers before the receiver, and scaled "
        "to all heads, as the published loop visits every head for every receiver (ratio_with_path: only those that "
        "have a path); its two cached runs counted once; seconds: median of the repeats",
    }


def cached_runs(model: TransformerBridge, prompts: Prompts, receiver: Receiver) -> None:
    """The two cached runs with which the published loop begins."""
    for index in prompts.groups(receiver.position):
        for tokens in prompts.select(index).tensors():
            model.run_with_cache(
                tokens.to(model.cfg.device), names_filter=lambda name: name.endswith("hook_z")
            )


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, on a GPU until it has finished, and what it returns."""
    finish = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    finish()
    began = time.perf_counter()
    result = call()
    finish()
    return time.perf_counter() - began, result


def linear_entry(
    model: TransformerBridge, suffix: str, sizes: Sequence[int], repeats: int = 2
) -> tuple[dict[str, Any], plt.Figure]:
    """Time against the number of prompts, paths to the logits: the record and the figure."""
    prompts = ioi(model.tokenizer, max(sizes), templates=vocabulary("ioi_templates")[:1])
    path_patch(model, prompts.select(range(sizes[0])), Receiver("logits"))  # warms up
    runs = [
        [
            timed(lambda n=n: path_patch(model, prompts.select(range(n)), Receiver("logits")))[0]
            for n in sizes
        ]
        for _ in range(repeats)
    ]
    times = np.min(runs, axis=0)
    line = linregress(sizes, times)
    figure, ax = plt.subplots(figsize=(4.6, 3.2))
    ax.plot(sizes, times, "o", color=COLORS["inhibition"])
    ax.plot(
        [0, sizes[-1]],
        line.intercept + line.slope * np.array([0, sizes[-1]]),
        color="0.6",
        lw=1,
        zorder=0,
    )
    ax.text(
        0.05,
        0.9,
        f"{1000 * line.slope:.0f} ms a prompt, $r^2$ = {line.rvalue**2:.4f}",
        transform=ax.transAxes,
    )
    title = "Path patching, all heads to the logits"
    ax.set(xlabel="prompts of 15 tokens", ylabel="seconds", title=title, xticks=sizes, ylim=0)
    return entry(
        f"path_patching_linear{suffix}",
        ratio=times[-1] / (sizes[-1] / sizes[0] * times[0]),
        seconds=times[-1],
        n=sizes[-1],
        prompts=list(sizes),
        times=times.tolist(),
        slope=line.slope,
        intercept=line.intercept,
        r_squared=line.rvalue**2,
        note=f"best of {repeats} runs; ratio: time of {sizes[-1]} prompts over {sizes[-1] // sizes[0]} times that of "
        f"{sizes[0]}; 1 = linear",
    ), figure


def notebook_entries() -> list[dict[str, Any]]:
    """Time what `make reproduce` does, forced, with results in build/bench so that those of the
    project stay.
    """
    out = PROJECT / "build" / "bench"
    jobs = plan(PROJECT, MODEL, [], "")
    command = [sys.executable, "-m", "scripts.run_notebooks", "--model", MODEL, "--force"]
    began = time.perf_counter()
    if subprocess.run(command, cwd=PROJECT, env=os.environ | {"CIRCUITS_OUT": str(out)}).returncode:
        sys.exit(
            "Error: a notebook failed: run `make reproduce` to see where, then `make bench` again."
        )
    seconds, entries = time.perf_counter() - began, []
    for job in jobs:
        number = job.notebook.name[:2]
        executed = out / "build" / job.model.slug / job.notebook.name
        run = json.loads(executed.read_text(encoding="utf-8"))["metadata"]["papermill"]
        path = out / "data" / "results" / job.model.slug / f"{number}.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        memory, n = (
            results["provenance"]["peak_memory_gib"],
            results["provenance"]["parameters"].get("N_PROMPTS", 1),
        )
        entries.append(
            entry(f"notebook_{number}", seconds=run["duration"], n=n, peak_memory_gib=memory)
        )
    memory, note = (
        peak_memory_gib(resource.RUSAGE_CHILDREN),
        f"n: notebooks, each within {NOTEBOOK_SECONDS} s",
    )
    return [
        *entries,
        entry("reproduce", seconds=seconds, n=len(jobs), peak_memory_gib=memory, note=note),
    ]


def needed_flops(cfg: Any, prompts: Prompts, receiver: Receiver, senders: Sequence[Head]) -> int:
    """Floating-point operations of the matrix products that exact path patching cannot do without.

    Per prompt: two whole runs up to the unembedding (of which two logits are read); then per sender
    its output projection, the MLPs from its layer to the last receiver's at one position, and the
    projections of the receiving heads behind it. What a head receives reaches the logits through a
    run from the first receiving layer behind the sender: there the change of the receiving heads' z
    and the MLP, above it whole layers, all at positions from the receiver's on (each attending to
    what comes before); in the last layer only keys and values for all of them, the rest at END.
    """
    ends = zip(prompts.tokens, prompts.position(receiver.position), strict=True)
    return sum(_prompt_flops(cfg, len(tokens), int(at), receiver, senders) for tokens, at in ends)


def _prompt_flops(
    cfg: Any, length: int, at: int, receiver: Receiver, senders: Sequence[Head]
) -> int:
    d, d_head, inner, top = cfg.d_model, cfg.d_head, cfg.n_heads * cfg.d_head, cfg.n_layers - 1
    keys_values = 4 * d * d_head * (cfg.n_key_value_heads or cfg.n_heads)
    mlp = 2 * d * cfg.d_mlp * (3 if cfg.gated_mlp else 2)
    here = length - at

    def seen(
        start: int,
    ) -> int:  # positions seen by the queries from `start` on: itself and all before it
        return sum(range(start + 1, length + 1))

    def layer(
        start: int,
    ) -> int:  # keys and values, q and output, MLP; scores and z of every pair seen
        return (length - start) * (keys_values + 4 * d * inner + mlp) + 4 * inner * seen(start)

    def rerun(first: int) -> int:
        heads, rows = (
            sum(head.layer == first for head in receiver.heads),
            1 if first == top else here,
        )
        z = 2 * d_head * {"q": 2 * seen(at), "k": here + seen(at), "v": here}[receiver.kind]
        above = (top - 1 - first) * layer(at) + layer(length - 1) + (here - 1) * keys_values
        return heads * (z + 2 * d_head * d * rows) + mlp * rows + (above if first < top else 0)

    total = 2 * cfg.n_layers * layer(0)
    last = max((head.layer for head in receiver.heads), default=cfg.n_layers)
    for sender in senders:
        behind = [head.layer for head in receiver.heads if head.layer > sender.layer]
        total += 2 * d_head * d + (last - sender.layer) * mlp + len(behind) * 2 * d * d_head
        total += rerun(min(behind)) if behind else 0
    return total


def entry(name: str, **measured: Any) -> dict[str, Any]:
    """One entry of results.json, printed as it is made; floats to four significant digits."""
    fixed = dict.fromkeys(
        ("ratio", "max_difference", "seconds", "baseline_seconds", "peak_memory_gib", "n", "target")
    )
    fixed |= {"peak_memory_gib": peak_memory_gib(resource.RUSAGE_SELF)} | measured
    packages = ("torch", "transformer_lens", "transformers")
    versions = {"python": platform.python_version()} | {
        package: version(package) for package in packages
    }
    record = plain({"name": name} | fixed | {"machine": machine(), "versions": versions}, digits=4)
    shown = (
        "ratio",
        "max_difference",
        "seconds",
        "baseline_seconds",
        "flop_ratio",
        "peak_memory_gib",
    )
    print(
        f"{name}:",
        *(f"{key} {record[key]}" for key in shown if record.get(key) is not None),
        flush=True,
    )
    return record


def machine() -> dict[str, Any]:
    """Processor, its cores, memory, and the GPU if one is used."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = re.search(r"model name\s*: (.*)", info)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": memory,
    }
    if torch.cuda.is_initialized():
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "gpu_peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        }
    return found


def missed(entry: dict[str, Any]) -> list[str]:
    """A sentence for every target that an entry misses."""
    name, faults = entry["name"], []
    if entry["target"] and entry["ratio"] < entry["target"]:
        faults.append(
            f"{name}: {entry['ratio']:.1f} times the baseline's speed, the target is {entry['target']}."
        )
    for key, limit in (LIMITS | entry.get("limits", {})).items():
        if entry.get(key) is not None and entry[key] > limit:
            faults.append(f"{name}: {key} is {entry[key]:.3g}, the limit {limit}.")
    most = NOTEBOOK_SECONDS if name.startswith("notebook_") else REPRODUCE_SECONDS
    if name.startswith(("notebook_", "reproduce")) and entry["seconds"] > most:
        faults.append(f"{name}: {entry['seconds']:.0f} s, the limit is {most} s.")
    if entry.get("r_squared", 1) < LEAST_R_SQUARED:
        faults.append(f"{name}: time is not linear in prompts, r^2 = {entry['r_squared']:.3f}.")
    return faults


def save_entries(entries: list[dict[str, Any]], folder: Path) -> None:
    """Write results.json whole or not at all, keeping entries under other names."""
    results = folder / "results.json"
    old = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
    new = {item["name"]: item for item in [*old, *entries]}
    write_text(results, json.dumps(list(new.values()), indent=1, allow_nan=False) + "\n")


def save_figure(figure: plt.Figure, plot: Path) -> None:
    """Write the figure whole or not at all."""
    with atomic_path(plot) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main())
