"""Rewrite README.md's tables from data/claims.yaml, data/results and benchmarks; --check only says if one is stale."""

import argparse
import json
import re
import sys
from pathlib import Path

from helpers.claims import Claim, ClaimError, Metric, get_claim, load_claims, write_text
from helpers.models import PROJECT

START, END = "<!-- results:start -->", "<!-- results:end -->"
LEGEND = (
    "Baseline: for path patching the published loop, which visits every head; for component scores dense matrices, a "
    "sample scaled to all. Ratio: its time over ours; paths only: for the heads that have a path to the receiver. "
    "Difference: the largest, of the normalised effect or of a score. Operations: executed over needed. GiB: peak "
    "memory. For `path_patching_linear` see its note."
)
BENCHMARKS_START, BENCHMARKS_END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done or up to date, 1 stale or no place for the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", type=Path, default=PROJECT / "README.md")
    parser.add_argument("--results", type=Path, default=PROJECT / "data" / "results")
    parser.add_argument("--benchmarks", type=Path, default=PROJECT / "benchmarks" / "results.json")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if the table is stale")
    options = parser.parse_args(arguments)
    try:
        old = options.readme.read_text(encoding="utf-8")
        new = with_table(old, table(read_results(options.results)), START, END)
        if BENCHMARKS_START in old:
            entries = json.loads(options.benchmarks.read_text(encoding="utf-8"))
            new = with_table(new, benchmark_table(entries), BENCHMARKS_START, BENCHMARKS_END)
    except OSError as error:
        return _fail(f"{error.filename} cannot be read ({error.strerror}): restore it from the repository.")
    except ValueError as error:
        return _fail(str(error))
    if old == new:
        return 0
    if options.check:
        return _fail(f"The table in {options.readme.name} is stale: run `python scripts/readme_table.py`.")
    write_text(options.readme, new)
    return 0


def read_results(folder: Path) -> dict[str, list[dict]]:
    """Result rows by model, from <folder>/<model>/<notebook>.json."""
    rows: dict[str, list[dict]] = {}
    for path in sorted(folder.glob("*/*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        rows.setdefault(content["model"], []).extend(content["claims"])
    return rows


def with_table(readme: str, table: str, start: str, end: str) -> str:
    """The text with whatever stands between the two markers replaced."""
    if readme.count(start) != 1 or readme.count(end) != 1 or readme.index(start) > readme.index(end):
        raise ClaimError(f"README.md has no place for the table: add the lines {start} and {end} once each.")
    return readme.split(start)[0] + f"{start}\n{table}\n{end}" + readme.split(end)[1]


def table(results: dict[str, list[dict]]) -> str:
    """Markdown: one row per measured metric, one per claim not measured; the paper's model apart from all others."""
    others = sorted({model for model, rows in results.items() for row in rows if _metric(row).model != model})
    lines = [["Claim", "Metric", "Paper", "Measured on the paper's model", *(f"Measured on {m}" for m in others)]]
    lines.append(["---"] * len(lines[0]))
    for claim in load_claims().values():
        lines += _claim_lines(claim, results, others)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def benchmark_table(entries: list[dict]) -> str:
    """Markdown: one row per entry of benchmarks/results.json, then the machines it was measured on."""
    header = "Benchmark,Seconds,Baseline,Ratio,Paths only,Target,Difference,Operations,GiB".split(",")
    lines = [header, ["---"] * len(header)]
    keys = ("seconds", "baseline_seconds", "ratio", "ratio_with_path", "target", "max_difference")
    keys += ("flop_ratio", "peak_memory_gib")
    lines += [[f"`{entry['name']}`", *(_digits(entry.get(key)) for key in keys)] for entry in entries]
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    machines = dict.fromkeys(_machine(entry["machine"]) for entry in entries)
    return f"{rows}\n\n{LEGEND} Measured on {'; '.join(machines)}."


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _machine(machine: dict) -> str:
    processor = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB"
    return f"{machine['gpu']} ({processor})" if "gpu" in machine else processor


def _claim_lines(claim: Claim, results: dict[str, list[dict]], others: list[str]) -> list[list[str]]:
    measured = {model: {r["metric"]: r for r in rows if r["id"] == claim.id} for model, rows in results.items()}
    names = list(dict.fromkeys(name for model in results for name in measured[model]))
    title = f"**{claim.id}** {claim.title}"
    if not names:
        said = "; ".join(f"`{name}` {_said(m)}" for name, m in claim.metrics.items() if _said(m))
        return [[title, "", said, _not_run(claim), *[""] * len(others)]]
    lines = []
    for name in names:
        metric = claim.metric(name)
        cells = {model: _cell(metric, rows[name]) for model, rows in measured.items() if name in rows}
        own = cells.pop(metric.model, None) or (
            "" if re.search(r"L\d+H\d+", name) else _not_run(claim)
        )  # its own heads
        said = f"{_said(metric)} ({metric.model})" if _said(metric) else "no value given"
        lines.append(["" if lines else title, f"`{name}`", said, own, *(cells.get(model, "") for model in others)])
    return lines


def _metric(row: dict) -> Metric:
    return get_claim(row["id"]).metric(row["metric"])


def _said(metric: Metric) -> str:
    return metric.text(metric.paper) or metric.says


def _cell(metric: Metric, row: dict) -> str:
    beside = [f"n = {row['n']}", metric.control_text(row["control"])]
    interval = metric.interval_text(row)
    value = f"{metric.text(row['value'])} {interval}".strip()
    return f"{value} ({'; '.join(filter(None, beside))}): *{row['verdict']}*"


def _not_run(claim: Claim) -> str:
    if claim.notebook is None:
        return ""
    if not any((PROJECT / "notebooks").glob(f"{claim.notebook}_*.ipynb")):
        return f"not run: notebook {claim.notebook} is not written yet"
    return f"not run: `make reproduce MODEL={claim.model or 'smollm2'}`"


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
