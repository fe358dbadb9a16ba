"""The scorecard: every claim, what its paper says, and what each model's run measured."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from suite.ledger import Claim, Metric, get_claim, load_claims
from suite.registry import PROJECT, output_root

VERDICTS = ("reproduced", "transfers", "qualitative", "partly", "differs", "does not")
"""From the best to the worst: on the paper's own model reproduced, qualitative and differs, else
the others.
"""


ON_ITS_OWN = {"transfers": "qualitative", "partly": "differs", "does not": "differs"}
"""A verdict said of another model, as `verdict` gives it on the paper's own where the paper gives
no value.
"""


COLUMNS = "claim metric model own paper value raw interval n seed control verdict notebook minutes".split()


def measurements(root: Path | None = None) -> pd.DataFrame:
    """One row per measured metric and model, by claim and metric in the order of the ledger.

    Columns: claim; metric; model; own, whether the paper's value is about this model; paper, value,
    interval and control as text; raw, the value as it is; n; seed; verdict; notebook; minutes,
    those of the whole notebook. root: a folder that holds data/results, by default where results
    are written. A claim about its model alone has no rows of other models, one that compares models
    none before all of them were measured. Raises ClaimError for a claim or metric that does not
    exist.
    """
    rows = []
    for path in results_files(root):
        content = json.loads(path.read_text(encoding="utf-8"))
        shared = {"model": content["model"], "notebook": content["notebook"]}
        shared["minutes"] = content["provenance"]["wall_time_s"] / 60
        rows += [
            shared | line for row in content["claims"] for line in _measured(row, content["model"])
        ]
    seen = {(row["claim"], row["model"]) for row in rows}
    rows = [
        row
        for row in rows
        if all((row["claim"], model) in seen for model in compared(get_claim(row["claim"])))
    ]
    places = [
        (claim.id, template) for claim in load_claims().values() for template in claim.metrics
    ]
    rows.sort(key=lambda row: places.index((row["claim"], row["template"])))
    return pd.DataFrame(rows, columns=COLUMNS).astype(
        {"own": bool, "seed": "Int64"}
    )  # a row may have no seed


def results_files(root: Path | None = None) -> list[Path]:
    """Results of every model and notebook: those of the run where there are, else the committed.

    root: a folder that holds data/results; then only its own.
    """
    found = {}
    for path in sorted(((root or PROJECT) / "data" / "results").glob("*/[0-9][0-9].json")):
        found[path.parent.name, path.stem] = path
    if root is None:
        for path in sorted(output_root().glob("*/results/[0-9][0-9].json")):
            found[path.parent.parent.name, path.stem] = path
    return [found[key] for key in sorted(found)]


def _measured(row: dict, model: str) -> Iterator[dict]:
    """The row for its claim, and for a claim about this model that takes such rows (B9)."""
    claim = get_claim(row["id"])
    if not claim.alone or claim.metric(row["metric"]).model == model:
        yield _line(claim, row, model)
    for other in load_claims().values():
        if claim.id in other.rows_of and other.model == model:
            yield _line(other, row | {"verdict": ON_ITS_OWN[row["verdict"]]}, model)


def _line(claim: Claim, row: dict, model: str) -> dict:
    """A row of results, as text where a reader sees it, with what the ledger says beside it."""
    metric = claim.metric(row["metric"])
    line = {
        "claim": claim.id,
        "template": claim.template(row["metric"]),
        "own": metric.model == model,
    }
    line |= {"paper": paper_text(metric), "value": metric.text(row["value"]), "raw": row["value"]}
    return (
        row
        | line
        | {"interval": metric.interval_text(row), "control": metric.control_text(row["control"])}
    )


def paper_text(metric: Metric) -> str:
    """What the paper says of a metric: its value, else its words."""
    return metric.text(metric.paper) or metric.says or "no value given"


def compared(claim: Claim) -> list[str]:
    """The models that a claim compares: those of its metrics, if there are several."""
    models = dict.fromkeys(metric.model for metric in claim.metrics.values())
    return list(models) if len(models) > 1 else []


def not_run(claim: Claim) -> str:
    """How to measure a claim on the paper's model, or on all that it compares."""
    models = compared(claim) or [claim.model]
    return (
        f"not run: {', '.join(f'`make reproduce MODEL={model}`' for model in models)}"
        if claim.model
        else ""
    )


def applies(claim: Claim, model: str) -> bool:
    """Whether a claim can be measured on a model as one that its paper did not study."""
    return not claim.alone and claim.model != model


def headlines(measured: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: its headline, which is its first metric, on the paper's model and on every
    other one.

    A cell holds value, interval, n, seed, control and verdict; where a claim has several rows, all
    verdicts are told.
    """
    lines, others = [], sorted(set(measured.model[~measured.own]))
    for claim in load_claims().values():
        rows, first = measured[measured.claim == claim.id], next(iter(claim.metrics.values()), None)
        line = {
            "Claim": f"**{claim.id}** {claim.title}",
            "Paper": f"{paper_text(first)} ({first.name})" if first else "",
        }
        line["On the paper's model"] = _cell(rows[rows.own]) or not_run(claim)
        for model in others:
            cell = _cell(rows[~rows.own & (rows.model == model)])
            line[f"On {model}"] = cell or ("" if applies(claim, model) else "-")
        lines.append(line | {"See": ", ".join(_links(claim, rows))})
    return pd.DataFrame(lines)


def _cell(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    first = rows.iloc[0]
    seed = "" if pd.isna(first.seed) else f", seed {first.seed}"
    beside = "; ".join(filter(None, [f"n = {first.n}{seed}", first.control]))
    cell = (
        f"`{first.metric}` {first.value} {first.interval}".strip()
        + f" ({beside}): *{first.verdict}*"
    )
    return cell if len(rows) == 1 else f"{cell}. All {len(rows)}: {tally(rows)}"


def tally(rows: pd.DataFrame) -> str:
    """How many rows have which verdict, the best first: "3 transfers, 1 does not"."""
    counts = Counter(rows.verdict)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def gaps(measured: pd.DataFrame) -> pd.DataFrame:
    """Rows with the verdict "not run": metrics of a claim that lack on a model on which others of
    it were measured.

    A metric whose name is a template, such as score_drop_<head>, is no single one that could lack.
    """
    rows = []
    for (name, model), found in measured.groupby(["claim", "model"], sort=False):
        claim = get_claim(name)
        rows += [
            {
                "claim": name,
                "metric": key,
                "model": model,
                "paper": paper_text(metric),
                "verdict": "not run",
            }
            for key, metric in claim.metrics.items()
            if "<" not in key
            and key not in set(found.metric)
            and (metric.model == model or not claim.alone)
        ]
    return pd.DataFrame(rows).reindex(columns=COLUMNS, fill_value="")


def costs(measured: pd.DataFrame) -> pd.DataFrame:
    """One row per notebook: its claims, its minutes (0.1 or more) on each model that it ran on, and
    its command.
    """
    rows = []
    for path in sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        number = path.name[:2]
        minutes = measured[measured.notebook == number].groupby("model").minutes.first()
        times = [f"{max(taken, 0.1):.1f} on {model}" for model, taken in minutes.items()]
        claims = " ".join(claim.id for claim in load_claims().values() if claim.notebook == number)
        row = {"Notebook": f"[{path.stem}](notebooks/{path.name})", "Claims": claims}
        rows.append(
            row
            | {
                "Minutes": ", ".join(times) or "not run",
                "Command": f"`make reproduce ONLY={number}`",
            }
        )
    return pd.DataFrame(rows)


def _links(claim: Claim, rows: pd.DataFrame) -> Iterator[str]:
    for path in sorted((PROJECT / "notebooks").glob(f"{claim.notebook}_*.ipynb")):
        yield f"[notebook](notebooks/{path.name})"
    for model in dict.fromkeys(rows.model):
        path = Path("figures", model, f"{claim.notebook}_{claim.figure}.png")
        if (PROJECT / path).is_file():
            yield f"[{model}]({path.as_posix()})"


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table of text cells."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
