"""Rewrite README.md's tables from data/claims.yaml, data/results and benchmarks; --check only says if one is stale."""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from helpers.claims import ClaimError, write_text
from helpers.models import PROJECT
from helpers.scorecard import headlines, markdown, measurements

START, END = "<!-- results:start -->", "<!-- results:end -->"
LEGEND = (
    "Baseline: for path patching the published loop, which visits every head; for component scores dense matrices, a "
    "sample scaled to all; for `channel_grid` full forward passes, likewise. Ratio: its time over ours; paths only: "
    "for the heads that have a path to the receiver. Difference: the largest, of the normalised effect, a score or a "
    "logit difference. Operations: executed over needed. GiB: peak memory of the largest process. "
    "`path_patching_linear`:"
)
BENCHMARKS_START, BENCHMARKS_END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"
SCALING_START, SCALING_END = "<!-- scaling:start -->", "<!-- scaling:end -->"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done or up to date, 1 stale or no place for the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", type=Path, default=PROJECT / "README.md")
    parser.add_argument("--root", type=Path, default=PROJECT, help="folder that holds data/results")
    parser.add_argument("--benchmarks", type=Path, default=PROJECT / "benchmarks" / "results.json")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if the table is stale")
    options = parser.parse_args(arguments)
    try:
        old = options.readme.read_text(encoding="utf-8")
        new = with_table(old, markdown(headlines(measurements(options.root))), START, END)
        if BENCHMARKS_START in old:
            entries = json.loads(options.benchmarks.read_text(encoding="utf-8"))
            scaling = next((entry for entry in entries if entry["name"] == "scaling"), None)
            others = [entry for entry in entries if entry is not scaling]
            new = with_table(new, benchmark_table(others), BENCHMARKS_START, BENCHMARKS_END)
            new = with_table(new, scaling_table(scaling), SCALING_START, SCALING_END)
    except OSError as error:
        return _fail(f"{error.filename} cannot be read ({error.strerror}): restore it from the repository.")
    except json.JSONDecodeError as error:
        return _fail(f"{options.benchmarks} is damaged ({error}): restore it from the repository.")
    except ValueError as error:
        return _fail(str(error))
    if old == new:
        return 0
    if options.check:
        return _fail(f"The table in {options.readme.name} is stale: run `.venv/bin/python -m scripts.readme_table`.")
    write_text(options.readme, new)
    return 0


def with_table(readme: str, table: str, start: str, end: str) -> str:
    """The text with whatever stands between the two markers replaced."""
    if readme.count(start) != 1 or readme.count(end) != 1 or readme.index(start) > readme.index(end):
        raise ClaimError(f"README.md has no place for the table: add the lines {start} and {end} once each.")
    return readme.split(start)[0] + f"{start}\n{table}\n{end}" + readme.split(end)[1]


def benchmark_table(entries: list[dict]) -> str:
    """Markdown: one row per entry of benchmarks/results.json by name, then the machines it was measured on."""
    header = "Benchmark,Seconds,Baseline,Ratio,Paths only,Target,Difference,Operations,GiB".split(",")
    keys = ("seconds", "baseline_seconds", "ratio", "ratio_with_path", "target", "max_difference")
    keys += ("flop_ratio", "peak_memory_gib")
    entries = sorted(entries, key=lambda entry: entry["name"])
    rows = [[f"`{entry['name']}`", *(_digits(entry.get(key)) for key in keys)] for entry in entries]
    machines = dict.fromkeys(_machine(entry["machine"]) for entry in entries)
    note = next((entry["note"] for entry in entries if "linear" in entry["name"]), "not measured")
    table = markdown(pd.DataFrame(rows, columns=header))
    return f"{table}\n\n{LEGEND} {note}. Measured on {'; '.join(machines)}."


def scaling_table(entry: dict | None) -> str:
    """Markdown: notebook 01's path patching by model, measured or extrapolated, and what the cost model rests on."""
    if entry is None:
        return "Not measured yet: `make bench`."
    rows = [
        {
            "Model": model["name"],
            "Layers x heads": f"{model['layers']} x {model['heads']}",
            "Operations": f"{model['operations']:.1e}",
            "Seconds": f"{_digits(model['measured'] or model['predicted'])} "
            + (f"measured (model: {_digits(model['predicted'])})" if model["measured"] else "extrapolated"),
            "Memory, GiB": f"{model['weights_gib']:.1f} weights + at most {entry['working_bound_gib']:.0f}",
        }
        for model in entry["models"]
    ]
    grows = ", ".join(f"{factor}^{seconds:.2f}" for factor, (seconds, *_) in entry["slopes"].items())
    prompts, milliseconds = entry["models"][0]["prompts"], 1000 * entry["seconds_per_layer"]
    return (
        f"{markdown(pd.DataFrame(rows))}\n\nAll four stages on {prompts} prompts, random weights, "
        f"{_machine(entry['machine'])}. Paths to the logits take time as {grows}; heads are 64 wide, so one widens the "
        f"model. Extrapolated: {milliseconds:.1f} ms a layer and stage, and {entry['gflop_per_second']:.0f} billion "
        f"needed operations a second; at most {100 * entry['held_out_error']:.0f} % off on shapes and stages to which "
        "this was not fitted."
    )


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _machine(machine: dict) -> str:
    processor = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB"
    return f"{machine['gpu']} ({processor})" if "gpu" in machine else processor


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
