"""The scorecard: every claim, what its paper says, and what each model's run measured."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from suite.errors import ClaimError
from suite.ledger import Claim, Metric, get_claim, load_claims
from suite.registry import (
    PROJECT,
    committed_results,
    notebooks_in,
    output_root,
    results_of_runs,
)

VERDICTS = ("reproduced", "transfers", "qualitative", "partly", "differs", "does not")
"""From the best to the worst: on the paper's own model reproduced, qualitative and differs, else
the others.
"""


ON_ITS_OWN = {"transfers": "qualitative", "partly": "differs", "does not": "differs"}
"""A verdict on another model, as `verdict` gives it on the paper's own where the paper gives no
value.
"""


COLUMNS = [
    "claim",
    "metric",
    "model",
    "own",
    "paper",
    "value",
    "raw",
    "interval",
    "n",
    "seed",
    "control",
    "verdict",
    "notebook",
    "minutes",
]


# What was measured --------------------------------------------------------------------------------


def measurements(root: Path | None = None) -> pd.DataFrame:
    """One row per measured metric and model, by claim and metric in the order of the ledger.

    Columns: claim; metric; model; own, whether the paper's value is about this model; paper, value,
    interval and control as text; raw, the value as it is; n; seed; verdict; notebook; minutes,
    those of the whole notebook. root: see `results_files`. A claim about its model alone has no
    rows of other models. One that compares models has none before all of them were measured. Raises
    ClaimError for a claim or metric that does not exist, and for a damaged results file.
    """
    rows = []
    for path in results_files(root):
        rows += _rows_of(_read(path))
    rows = _with_complete_comparisons(rows)
    rows.sort(key=_place_in_ledger())
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"own": bool, "seed": "Int64"})  # a row may have no seed


def results_files(root: Path | None = None) -> list[Path]:
    """Results of every model and notebook, by model.

    By default those of the run (output_root()/<model>/results/NN.json), and where it has none the
    committed ones (data/results/<model>/NN.json). root: a checkout or the folder of a run; then
    only what lies in there. A file counts if its model and notebook are those of its place, so
    copies, notes and backups do not. Raises ClaimError for a damaged file.
    """
    folders = [PROJECT, output_root()] if root is None else [root]
    found = {}
    for folder in folders:
        for path in committed_results(folder):
            found |= _results_at(path, model=path.parent.name)
        for path in results_of_runs(folder):
            found |= _results_at(path, model=path.parents[1].name)
    return [found[key] for key in sorted(found)]


def _results_at(path: Path, *, model: str) -> dict[tuple[str, str], Path]:
    """The file under its model and notebook, or nothing if its content is of another place."""
    content = _read(path)
    belongs = (
        isinstance(content, dict)
        and content.get("model") == model
        and content.get("notebook") == path.stem
    )
    return {(model, path.stem): path} if belongs else {}


def _read(path: Path) -> Any:
    """What a JSON file contains: results, or a note beside them."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ClaimError(
            f"{path} is damaged ({error}): restore it from the repository, or run its notebook."
        ) from error


def _rows_of(content: dict) -> list[dict]:
    """The rows of one results file, as a reader sees them."""
    model = content["model"]
    shared = {
        "model": model,
        "notebook": content["notebook"],
        "minutes": content["provenance"]["wall_time_s"] / 60,
    }
    rows = []
    for row in content["claims"]:
        rows += [shared | line for line in _lines(row, model)]
    return rows


def _lines(row: dict, model: str) -> Iterator[dict]:
    """The row for its claim, and for a claim about this model that takes such rows (B9)."""
    claim = get_claim(row["id"])
    if not claim.alone or claim.metric(row["metric"]).model == model:
        yield _line(claim, row, model)
    for other in load_claims().values():
        if claim.id in other.rows_of and other.model == model:
            verdict = ON_ITS_OWN[row["verdict"]]
            yield _line(other, row | {"verdict": verdict}, model)


def _line(claim: Claim, row: dict, model: str) -> dict:
    """A row of results, as text where a reader sees it, with what the ledger says beside it."""
    metric = claim.metric(row["metric"])
    return {
        **row,
        "claim": claim.id,
        "template": claim.template(row["metric"]),
        "own": metric.model == model,
        "paper": paper_text(metric),
        "value": metric.text(row["value"]),
        "raw": row["value"],
        "interval": metric.interval_text(row),
        "control": metric.control_text(row["control"]),
    }


def _with_complete_comparisons(rows: list[dict]) -> list[dict]:
    """The rows without those of claims that compare models, not all of which were measured."""
    measured: dict[str, set[str]] = {}
    for row in rows:
        measured.setdefault(row["claim"], set()).add(row["model"])
    incomplete = set()
    for claim, models in measured.items():
        if not models.issuperset(compared(get_claim(claim))):
            incomplete.add(claim)
    return [row for row in rows if row["claim"] not in incomplete]


def _place_in_ledger() -> Callable[[dict], int]:
    """A sort key: where a row's claim and metric stand in data/claims.yaml."""
    places = {}
    for claim in load_claims().values():
        for template in claim.metrics:
            places[claim.id, template] = len(places)

    def place(row: dict) -> int:
        return places[row["claim"], row["template"]]

    return place


# What claims say ----------------------------------------------------------------------------------


def paper_text(metric: Metric) -> str:
    """What the paper says of a metric: its value, else its words."""
    return metric.text(metric.paper) or metric.says or "no value given"


def compared(claim: Claim) -> list[str]:
    """The models that a claim compares: those of its metrics, if there are several."""
    models = dict.fromkeys(metric.model for metric in claim.metrics.values() if metric.model)
    return list(models) if len(models) > 1 else []


def not_run(claim: Claim) -> str:
    """How to measure a claim on the paper's model, or on all that it compares."""
    if not claim.model:
        return ""
    models = compared(claim) or [claim.model]
    commands = [f"`make reproduce MODEL={model}`" for model in models]
    return f"not run: {', '.join(commands)}"


def applies(claim: Claim, model: str) -> bool:
    """Whether a claim can be measured on a model as one that its paper did not study."""
    return not claim.alone and claim.model != model


# Tables -------------------------------------------------------------------------------------------


def headlines(measured: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: its headline, which is its first metric, on the paper's model and on every
    other one.

    A cell contains value, interval, n, seed, control and verdict; where a claim has several rows,
    also how many have which verdict.
    """
    others = sorted(set(measured.model[~measured.own]))
    lines = []
    for claim in load_claims().values():
        rows = measured[measured.claim == claim.id]
        line = {
            "Claim": f"**{claim.id}** {claim.title}",
            "Paper": _paper_cell(claim),
            "On the paper's model": _cell(rows[rows.own]) or not_run(claim),
        }
        for model in others:
            cell = _cell(rows[~rows.own & (rows.model == model)])
            empty = "" if applies(claim, model) else "-"
            line[f"On {model}"] = cell or empty
        line["See"] = ", ".join(_links(claim, rows))
        lines.append(line)
    return pd.DataFrame(lines)


def _paper_cell(claim: Claim) -> str:
    """What the paper says about the first metric."""
    if not claim.metrics:
        return ""
    first = next(iter(claim.metrics.values()))
    return f"{paper_text(first)} ({first.name})"


def _cell(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    first = rows.iloc[0]
    value = f"`{first.metric}` {first.value} {first.interval}".strip()
    examples = f"n = {first.n}"
    if not pd.isna(first.seed):
        examples += f", seed {first.seed}"
    beside = f"{examples}; {first.control}" if first.control else examples
    cell = f"{value} ({beside}): *{first.verdict}*"
    if len(rows) == 1:
        return cell
    return f"{cell}. All {len(rows)}: {tally(rows)}"


def tally(rows: pd.DataFrame) -> str:
    """How many rows have which verdict, the best first: "3 transfers, 1 does not"."""
    counts = Counter(rows.verdict)
    found = [verdict for verdict in VERDICTS if counts[verdict]]
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in found)


def gaps(measured: pd.DataFrame) -> pd.DataFrame:
    """Rows with the verdict "not run": metrics of a claim that lack on a model on which others of
    it were measured.

    A metric whose name is a template, such as score_drop_<head>, is no single one that could lack.
    """
    rows = []
    for (claim_id, model), found in measured.groupby(["claim", "model"], sort=False):
        claim = get_claim(claim_id)
        for name, metric in claim.metrics.items():
            is_template = "<" in name
            is_of_this_model = metric.model == model or not claim.alone
            if is_template or not is_of_this_model or name in set(found.metric):
                continue
            row = {
                "claim": claim_id,
                "metric": name,
                "model": model,
                "paper": paper_text(metric),
                "verdict": "not run",
            }
            rows.append(row)
    return pd.DataFrame(rows).reindex(columns=COLUMNS, fill_value="")


def costs(measured: pd.DataFrame) -> pd.DataFrame:
    """One row per notebook: its claims, its minutes (0.1 or more) on each model that it ran on, and
    its command.
    """
    rows = []
    for path in notebooks_in(PROJECT / "notebooks"):
        number = path.name[:2]
        claims = [claim.id for claim in load_claims().values() if claim.notebook == number]
        row = {
            "Notebook": f"[{path.stem}](notebooks/{path.name})",
            "Claims": " ".join(claims),
            "Minutes": _minutes(measured[measured.notebook == number]),
            "Command": f"`make reproduce ONLY={number}`",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _minutes(rows: pd.DataFrame) -> str:
    """How long one notebook took on each model."""
    by_model = rows.groupby("model").minutes.first()
    times = [f"{max(minutes, 0.1):.1f} on {model}" for model, minutes in by_model.items()]
    return ", ".join(times) or "not run"


def _links(claim: Claim, rows: pd.DataFrame) -> Iterator[str]:
    """The committed notebook, and the committed figure of each model that was measured."""
    for path in sorted((PROJECT / "notebooks").glob(f"{claim.notebook}_*.ipynb")):
        yield f"[notebook](notebooks/{path.name})"
    for model in dict.fromkeys(rows.model):
        path = Path("figures", model, f"{claim.notebook}_{claim.figure}.png")
        if (PROJECT / path).is_file():
            yield f"[{model}]({path.as_posix()})"


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table of text cells."""
    header = list(frame.columns)
    rule = ["---"] * len(header)
    rows = [header, rule, *frame.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
