"""Rewrite the tables of README.md and TEACHING.md from data/claims.yaml, data/results and
benchmarks; --check only says if one is stale.

A table stands between the lines <!-- NAME:start --> and <!-- NAME:end -->; `tables` lists the
names.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import pandas as pd

from suite.errors import ClaimError
from suite.files import write_text
from suite.registry import PROJECT
from suite.scorecard import costs, headlines, markdown, measurements

LEGEND = (
    "Baseline: for path patching the published loop, which visits every head; for component scores dense matrices, a "
    "sample scaled to all; for `channel_grid` full forward passes, likewise. Ratio: its time over ours; paths only: "
    "for the heads that have a path to the receiver. Difference: the largest, of the normalised effect, a score or a "
    "logit difference. Operations: executed over needed. GiB: peak memory of the largest process. "
    "`path_patching_linear`:"
)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done or up to date, 1 stale or no place for a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--pages", nargs="+", type=Path, default=[PROJECT / "README.md", PROJECT / "TEACHING.md"]
    )
    parser.add_argument("--root", type=Path, default=PROJECT, help="folder that holds data/results")
    parser.add_argument("--benchmarks", type=Path, default=PROJECT / "benchmarks" / "results.json")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 if a table is stale"
    )
    options = parser.parse_args(arguments)
    try:
        current = tables(options.root, json.loads(options.benchmarks.read_text(encoding="utf-8")))
        old = {page: page.read_text(encoding="utf-8") for page in options.pages}
        new = {page: with_tables(text, current, page.name) for page, text in old.items()}
    except OSError as error:
        return _fail(
            f"{error.filename} cannot be read ({error.strerror}): restore it from the repository."
        )
    except json.JSONDecodeError as error:
        return _fail(f"{options.benchmarks} is damaged ({error}): restore it from the repository.")
    except ValueError as error:
        return _fail(str(error))
    stale = [page for page in old if old[page] != new[page]]
    if stale and options.check:
        return _fail(
            f"A table in {stale[0].name} is stale: run `.venv/bin/python -m scripts.readme_table`."
        )
    for page in stale:
        write_text(page, new[page])
    return 0


def tables(root: Path, benchmarks: list[dict]) -> dict[str, str]:
    """Every table, in Markdown, by its name in the pages."""
    measured = measurements(root)
    cost = costs(measured)
    scaling = next((entry for entry in benchmarks if entry["name"] == "scaling"), None)
    return {
        "results": markdown(headlines(measured)),
        "costs": markdown(cost),
        "minutes": markdown(cost[["Notebook", "Minutes"]]),
        "benchmarks": benchmark_table([entry for entry in benchmarks if entry is not scaling]),
        "scaling": scaling_table(scaling),
    }


def with_tables(text: str, tables: dict[str, str], page: str) -> str:
    """The text with whatever stands between a table's markers replaced by it. Raises ClaimError
    where they lack.
    """
    found = [name for name in tables if re.search(f"<!-- {name}:(start|end) -->", text)]
    for name in found or tables:
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        if not text.count(start) == text.count(end) == 1 or text.index(start) > text.index(end):
            raise ClaimError(
                f"{page} has no place for the table: add the lines {start} and {end} once each."
            )
        text = text.split(start)[0] + f"{start}\n{tables[name]}\n{end}" + text.split(end)[1]
    return text


def benchmark_table(entries: list[dict]) -> str:
    """Markdown: one row per entry of benchmarks/results.json by name, then the machines it was
    measured on.
    """
    header = "Benchmark,Seconds,Baseline,Ratio,Paths only,Target,Difference,Operations,GiB".split(
        ","
    )
    keys = ("seconds", "baseline_seconds", "ratio", "ratio_with_path", "target", "max_difference")
    keys += ("flop_ratio", "peak_memory_gib")
    entries = sorted(entries, key=lambda entry: entry["name"])
    rows = [[f"`{entry['name']}`", *(_digits(entry.get(key)) for key in keys)] for entry in entries]
    machines = dict.fromkeys(_machine(entry["machine"]) for entry in entries)
    note = next((entry["note"] for entry in entries if "linear" in entry["name"]), "not measured")
    table = markdown(pd.DataFrame(rows, columns=header))
    return f"{table}\n\n{LEGEND} {note}. Measured on {'; '.join(machines)}."


def scaling_table(entry: dict | None) -> str:
    """Markdown: notebook 01's path patching by model, measured or extrapolated, and what the cost
    model rests on.
    """
    if entry is None:
        return "Not measured yet: `make bench`."
    rows = [
        {
            "Model": model["name"],
            "Layers x heads": f"{model['layers']} x {model['heads']}",
            "Operations": f"{model['operations']:.1e}",
            "Seconds": f"{_digits(model['measured'] or model['predicted'])} "
            + (
                f"measured (model: {_digits(model['predicted'])})"
                if model["measured"]
                else "extrapolated"
            ),
            "Memory, GiB": f"{model['weights_gib']:.1f} weights + at most {entry['working_bound_gib']:.0f}",
        }
        for model in entry["models"]
    ]
    grows = ", ".join(
        f"{factor}^{seconds:.2f}" for factor, (seconds, *_) in entry["slopes"].items()
    )
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
