"""One table of a sweep, sweep.csv and sweep.md: every metric, its value per seed, their spread, and
who agrees.

python -m scripts.sweep_table build/sweep
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from statistics import stdev

import pandas as pd

from suite.errors import ClaimError, ModelError
from suite.files import write_text
from suite.ledger import Metric, get_claim, load_claims
from suite.scorecard import markdown, measurements, tally

HEAD = "# Claims over models and seeds\n\nWritten by `scripts/sweep_table.py`, the last step of `make sweep`."
LEGEND = (
    "Spread: the sample standard deviation over seeds (of a list of numbers the largest of any place), or how many of "
    "all the heads found are found with every seed. Agree: how many seeds share the commonest verdict, of those that "
    "measured the metric; its name may hold heads, which differ between seeds."
)


def gathered(out: Path) -> pd.DataFrame:
    """The scorecard's rows of every seed's results, below out/seed-<n>, in the order of the ledger.

    The column `seed` is the sweep's. Raises ClaimError where no seed has results.
    """
    folders = {
        int(path.name[5:]): path
        for path in out.glob("seed-*")
        if re.fullmatch(r"seed-\d+", path.name)
    }
    frames = [measurements(folders[seed]).assign(seed=seed) for seed in sorted(folders)]
    frames = [frame for frame in frames if not frame.empty]
    if not frames:
        raise ClaimError(
            f"{out} holds no results of a sweep: run `make sweep`, or name the folder of one."
        )
    order = list(load_claims()).index
    return pd.concat(frames, ignore_index=True).sort_values(
        "claim", key=lambda ids: ids.map(order), kind="stable"
    )


def spread(metric: Metric, values: list) -> float | str | None:
    """How far the values of several seeds lie apart; None for a single one."""
    if len(values) < 2:
        return None
    if metric.kind == "heads":
        found = [set(heads) for heads in values]
        return f"{len(set.intersection(*found))} of {len(set.union(*found))}"
    return max(
        map(stdev, zip(*values, strict=False) if metric.kind == "list" else [values]), default=None
    )


def table(measured: pd.DataFrame, *, text: bool) -> pd.DataFrame:
    """One row per model, claim and metric: value per seed, spread, agreement, verdicts, n.

    text: as a reader sees values (Markdown); else numbers as they are (CSV).
    """
    seeds, lines = sorted(set(measured.seed)), []
    for (model, claim, name), rows in measured.groupby(["model", "claim", "metric"], sort=False):
        metric, values = get_claim(claim).metric(name), dict(zip(rows.seed, rows.raw, strict=True))
        apart, commonest = (
            spread(metric, list(values.values())),
            max(Counter(rows.verdict).values()),
        )

        def shown(value, metric: Metric = metric):
            return metric.text(value) if text or isinstance(value, list) else value

        line = {"model": model, "claim": claim, "metric": name}
        line |= {f"seed {seed}": shown(values.get(seed)) for seed in seeds}
        line |= {
            "spread": shown(apart),
            "agree": f"{commonest} of {len(rows)}",
            "verdicts": tally(rows),
        }
        lines.append(line | {"n": ", ".join(map(str, sorted(set(rows.n))))})
    return pd.DataFrame(lines).sort_values("model", kind="stable", ignore_index=True)


def summary(measured: pd.DataFrame) -> str:
    """Per model: on how many of the metrics measured with every seed these agree in the verdict, on
    which not.
    """
    lines = []
    for model, rows in measured.groupby("model"):
        seeds, metrics = sorted(set(rows.seed)), rows.groupby(["claim", "metric"], sort=False)
        shared = metrics.verdict.nunique()[metrics.size() == len(seeds)]
        apart = [f"{claim} `{metric}`" for claim, metric in shared.index[shared > 1]]
        named = ", ".join(f"seed {seed}" for seed in seeds)
        line = (
            f"- {model}, {named}: one verdict on {sum(shared == 1)} of {len(shared)} shared metrics"
        )
        lines.append(line + (f"; not on {', '.join(apart)}" if apart else ""))
    return "\n".join(lines)


def skipped(out: Path) -> str:
    """What the runner skipped, in its own words, by seed."""
    logs = sorted(out.glob("seed-*/done/*/*.txt"))
    found = [
        (path, line)
        for path in logs
        for line in path.read_text().splitlines()
        if ": skipped, " in line
    ]
    return "\n".join(f"- {path.relative_to(out).parts[0]}: {line}" for path, line in found)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the sweep, with seed-0, seed-1, ...")
    out = parser.parse_args(argv).out
    try:
        measured = gathered(out)
        write_text(out / "sweep.csv", table(measured, text=False).to_csv(index=False))
        parts = [
            HEAD,
            summary(measured),
            skipped(out),
            LEGEND,
            markdown(table(measured, text=True)),
        ]
        write_text(out / "sweep.md", "\n\n".join(filter(None, parts)) + "\n")
    except (ClaimError, ModelError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"{summary(measured)}\n{out / 'sweep.md'} and sweep.csv hold the table.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
