"""The papers' claims, what a run measured beside them, and the verdict: data/claims.yaml in, data/results/ out."""

import difflib
import functools
import hashlib
import json
import math
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from helpers.models import DATA, PROJECT, Head, model_provenance, read_data, resolve
from helpers.stats import Interval

Number = float | int
Verdict = Literal["reproduced", "qualitative", "differs", "transfers", "partly", "does not"]


class ClaimError(ValueError):
    """A claim, metric or measurement that cannot be used; the message says what to do."""


class NotApplicable(ClaimError):
    """A notebook has nothing to measure on this model; the message says why. The runner goes on with the next one."""


@dataclass(frozen=True)
class Metric:
    """One quantity of a claim: the paper's value and how ours is judged; the fields are explained in claims.yaml."""

    name: str
    model: str | None
    kind: Literal["number", "heads", "list"] = "number"
    unit: str = ""
    paper: Number | list[str] | None = None
    says: str = ""
    direction: Literal["above", "below", "equal"] | None = None
    reference: Number | None = None
    tolerance: Number = 0.0
    repeat_tolerance: Number | None = None
    control: str | None = None

    def text(self, value) -> str:
        """A value as a reader sees it: shares in percent, counts whole, numbers to three digits, heads by name."""
        if isinstance(value, list):
            return (" " if self.kind == "heads" else ", ").join(map(self.text, value)) or "none"
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, int) and self.unit != "share":
            return str(value)
        return f"{100 * value:.1f} %" if self.unit == "share" else f"{value:.3g}{' points' * (self.unit == 'points')}"

    def interval_text(self, row: dict) -> str:
        """[low, high] of a results row or of its control, empty where there is none."""
        return "" if row["low"] is None else f"[{self.text(row['low'])}, {self.text(row['high'])}]"

    def control_text(self, row: dict | None) -> str:
        """The control of a results row: name, value and interval."""
        return f"{row['name']}: {self.text(row['value'])} {self.interval_text(row)}".strip() if row else ""


@dataclass(frozen=True)
class Claim:
    """One claim; `paper` is A, B or None (ours), `model` the paper's, `known` what the paper takes as given.

    alone: about its model only, so it is not measured on others. rows_of: earlier claims whose rows on it are its own.
    """

    id: str
    paper: str | None
    title: str
    where: str | None
    model: str | None
    notebook: str | None
    metrics: dict[str, Metric]
    figure: str | None = None
    known: dict[str, Any] = field(default_factory=dict)
    alone: bool = False
    rows_of: Sequence[str] = ()

    def template(self, name: str) -> str:
        """The name in claims.yaml of a metric, such as attention_<from>_<to> for attention_END_IO."""
        for template in self.metrics:
            if re.fullmatch(re.sub("<.*?>", ".+", template), name):
                return template
        raise _unknown(f"metric of {self.id}", name, self.metrics)

    def metric(self, name: str) -> Metric:
        """The metric of that name. Raises ClaimError if there is none."""
        return replace(self.metrics[self.template(name)], name=name)


@dataclass(frozen=True)
class Control:
    """The same measurement where the claim predicts no effect, e.g. on random heads."""

    name: str
    value: Number
    low: Number | None = None
    high: Number | None = None

    @classmethod
    def of(cls, name: str, interval: Interval) -> "Control":
        """A control from an estimate with its interval."""
        return cls(name, interval.value, interval.low, interval.high)


@functools.cache
def load_claims() -> dict[str, Claim]:
    """Every claim of data/claims.yaml by its id."""
    ledger, claims = read_data("claims.yaml"), {}
    try:
        models = {paper: entry["model"] for paper, entry in ledger["papers"].items()}
        for entry in ledger["claims"]:
            model = entry.get("model", models.get(entry["paper"]))
            metrics = {name: Metric(**{"name": name, "model": model} | spec) for name, spec in entry["metrics"].items()}
            for other in entry.get("rows_of", ()):  # what a paper says of one model is not said of the other
                for metric in claims[other].metrics.values():
                    metrics[metric.name] = replace(metric, model=model, paper=None, says="")
            claims[entry["id"]] = Claim(**entry | {"model": model, "alone": "model" in entry, "metrics": metrics})
        return claims
    except (AttributeError, KeyError, TypeError) as error:
        raise ClaimError(f"data/claims.yaml has an entry that is not whole ({error}): mend or restore it.") from error


def get_claim(claim_id: str) -> Claim:
    """One claim. Raises ClaimError with the nearest ids if there is none."""
    if claim_id not in load_claims():
        raise _unknown("claim (data/claims.yaml)", claim_id, load_claims())
    return load_claims()[claim_id]


def output_root() -> Path:
    """Where results and figures go: $CIRCUITS_OUT if set, else the project."""
    return Path(os.environ.get("CIRCUITS_OUT") or PROJECT)


def results_path(model: str, notebook: str) -> Path:
    """The results file of one notebook on one model."""
    return output_root() / "data" / "results" / resolve(model).slug / f"{notebook}.json"


def figures_dir(model: str) -> Path:
    """The folder of one model's figures."""
    return output_root() / "figures" / resolve(model).slug


def found_heads(model: str, *, needed: Sequence[str] = ()) -> dict[str, tuple[Head, ...]]:
    """Role -> heads that notebook 01 found in this model, most important first.

    Raises ClaimError, with the command, where it has not been run on the model, and NotApplicable if a needed role is
    empty.
    """
    path = results_path(model, "01")
    if not path.is_file():
        raise ClaimError(f"Notebook 01 has not looked for heads in {model} yet: run `make reproduce MODEL={model}`.")
    rows = json.loads(path.read_text(encoding="utf-8"))["claims"]
    roles = {row["metric"]: tuple(map(Head.parse, row["value"])) for row in rows if isinstance(row["value"], list)}
    if empty := [role for role in needed if not roles.get(role)]:
        raise NotApplicable(f"Notebook 01 found no {' and no '.join(empty)} heads in {resolve(model).slug}.")
    return roles


def verdict(
    metric: Metric,
    value: Number | list,
    *,
    same_model: bool,
    low: Number | None = None,
    high: Number | None = None,
    control: Control | None = None,
    supported: bool | None = None,
) -> Verdict:
    """Judge one measurement.

    A number is *clear* if its whole interval lies on the claimed side of the control's interval and of the metric's
    `reference` (chance or zero), where there are such (else of zero); for direction `equal`, within the tolerance.

    On the paper's model: **reproduced** if the paper's number is in the interval or within the declared tolerance of
    the value, or the heads are exactly the paper's; else **qualitative** if the number is clear, or at least half of
    the paper's heads are found; else **differs**.
    On any other model nothing is held against the paper's value. Numbers: **transfers** if clear, **partly** if only
    the point estimates differ as claimed, else **does not**. Heads: **does not** if none are found, **transfers** if
    they are `supported` (says the notebook: effect interval without 0, attention as in the role), else **partly**.
    Lists of numbers, and heads for which the paper names none, count as clear if `supported`.
    """
    reference = None if metric.reference is None else Control("reference", metric.reference)
    bounds = [bound for bound in (control, reference) if bound] or [Control("zero", 0)]
    if metric.kind == "number":
        low, high = (value, value) if low is None else (low, high)
        clear = all(_as_claimed(metric, low, high, bound) for bound in bounds)
        hint = all(_as_claimed(metric, value, value, Control(bound.name, bound.value)) for bound in bounds)
    else:
        clear, hint = bool(value and supported), bool(value and metric.kind == "heads")
    if not same_model:
        return "transfers" if clear else "partly" if hint else "does not"
    if metric.kind == "heads" and metric.paper is not None:
        found, paper = set(value), set(metric.paper)
        return "reproduced" if found == paper else "qualitative" if 2 * len(found & paper) >= len(paper) else "differs"
    if metric.paper is not None and (low <= metric.paper <= high or abs(value - metric.paper) <= metric.tolerance):
        return "reproduced"
    return "qualitative" if clear else "differs"


class Results:
    """What one notebook measured on one model: record rows, show them as a table, save them as JSON."""

    def __init__(self, *, model: str, notebook: str, parameters: dict[str, Any]):
        self.source, self.model = model, resolve(model).slug
        self.notebook, self.parameters = notebook, parameters
        self._rows: dict[tuple[str, str], dict] = {}
        self._start, self._git = time.perf_counter(), _git_state()

    def record(
        self,
        claim_id: str,
        metric: str,
        value,
        *,
        n: int,
        low: Number | None = None,
        high: Number | None = None,
        seed: int | None = None,
        control: Control | None = None,
        supported: bool | None = None,
        note: str = "",
    ) -> Verdict:
        """Keep one measurement (a second one of the same metric replaces it) and return its verdict.

        `value` is an Interval (or a number with low and high), heads by importance, or a list of numbers with its
        axis in `note`.
        `seed` defaults to the parameter SEED. Numbers are kept to six significant digits.
        Raises ClaimError on an unknown claim or metric, NaN, a value outside its interval, or n < 1.
        """
        spec, name = get_claim(claim_id).metric(metric), f"{claim_id} {metric}"
        if isinstance(value, Interval):
            value, low, high = value.value, value.low, value.high
        value, low, high = plain(value), plain(low), plain(high)
        control = control and Control(**plain(asdict(control)))
        if n < 1:
            raise ClaimError(f"{name} was measured on n = {n} examples: record it with n of at least 1.")
        if isinstance(value, str) or isinstance(value, list) == (spec.kind == "number"):
            raise ClaimError(f"{name} is of kind {spec.kind}, not {value!r}: record what data/claims.yaml declares.")
        for head in value if spec.kind == "heads" else ():
            Head.parse(head)
        _check_interval(name, value, low, high)
        if control:
            _check_interval(f"{name}, control {control.name}", control.value, control.low, control.high)
        same = self.model == spec.model
        judged = verdict(spec, value, same_model=same, low=low, high=high, control=control, supported=supported)
        row = {"id": claim_id, "metric": metric, "value": value, "low": low, "high": high, "n": int(n), "note": note}
        seed = self.parameters.get("SEED") if seed is None else seed
        self._rows[claim_id, metric] = row | {"seed": seed, "control": control and asdict(control), "verdict": judged}
        return judged

    def table(self) -> pd.DataFrame:
        """Paper beside measured, rounded; a number of another model stands in a column named after that model."""
        lines = []
        for row in self._rows.values():
            metric = get_claim(row["id"]).metric(row["metric"])
            line = {"claim": row["id"], "metric": row["metric"]}
            line |= {"paper": metric.text(metric.paper) or metric.says, "paper model": metric.model}
            line |= {"measured" if metric.model == self.model else self.model: metric.text(row["value"])}
            line |= {"95 % interval": metric.interval_text(row), "n": str(row["n"])}
            lines.append(line | {"control": metric.control_text(row["control"]), "verdict": row["verdict"]})
        return pd.DataFrame(lines).fillna("")

    def save(self) -> Path:
        """Write data/results/<model>/<notebook>.json, whole or not at all; two runs differ only in its provenance."""
        path, device = results_path(self.source, self.notebook), torch.device(self.parameters.get("DEVICE", "cpu"))
        data = [p for p in sorted(DATA.rglob("*")) if p.is_file() and DATA / "results" not in p.parents]
        provenance = {
            **model_provenance(self.source),
            **self._git,
            "packages": package_versions(),
            "data_sha256": {str(p.relative_to(DATA)): hashlib.sha256(p.read_bytes()).hexdigest() for p in data},
            "seed": self.parameters.get("SEED"),
            "parameters": self.parameters,
            "dtype": self.parameters.get("DTYPE", "float32"),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "wall_time_s": time.perf_counter() - self._start,
            "peak_memory_gib": peak_memory_gib(resource.RUSAGE_SELF),
            "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        content = {"model": self.model, "notebook": self.notebook, "claims": list(self._rows.values())}
        content |= {"provenance": plain(provenance)}
        write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
        return path


def peak_memory_gib(who: int) -> float:
    """Largest resident memory so far, of this process (`resource.RUSAGE_SELF`) or of a finished child."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


def plain(value, digits: int = 6):
    """What JSON can hold: heads by name, tensors and arrays as lists, floats to so many significant digits."""
    if isinstance(value, Head):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(v, digits) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, digits) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), digits)
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` if the block ends well. Raises ClaimError where that is not possible.

    Named `.NAME.PID.part`: the runner removes what a killed process leaves.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise ClaimError(f"{path}: {error.strerror}; set CIRCUITS_OUT to a writable folder with space.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises ClaimError where that is not possible."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def _as_claimed(metric: Metric, low: Number, high: Number, control: Control) -> bool:
    floor, ceiling = (control.value, control.value) if control.low is None else (control.low, control.high)
    if metric.direction == "equal":
        return floor - metric.tolerance <= low and high <= ceiling + metric.tolerance
    return low > ceiling if metric.direction == "above" else high < floor


def _check_interval(name: str, value, low: Number | None, high: Number | None) -> None:
    numbers = [*(value if isinstance(value, list) else [value]), low, high]
    if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
        raise ClaimError(f"{name} holds NaN or infinity: check the measurement before recording it.")
    if (low is None) != (high is None) or (low is not None and not low <= value <= high):
        raise ClaimError(f"{name}: [{low}, {high}] does not hold {value}; give low <= value <= high, or neither.")


def _unknown(what: str, name: str, known) -> ClaimError:
    near = difflib.get_close_matches(name, known) or sorted(known)
    return ClaimError(f"Unknown {what} {name!r}: use {', '.join(near)}.")


def package_versions(project: Path = PROJECT) -> dict[str, str]:
    """Installed versions of the packages that the requirements files pin."""
    lines = "\n".join(path.read_text(encoding="utf-8") for path in sorted(project.glob("requirements*.txt")))
    versions = {}
    for name in re.findall(r"^([\w.-]+)(?:\[.*\])?==", lines, re.MULTILINE):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _git_state() -> dict[str, str | bool | None]:
    """Commit, and whether anything but figures and results differs from it; None outside a checkout or without git."""
    commit = git("rev-parse", "--verify", "HEAD")
    changes = git("status", "--porcelain", "--", ".", ":!figures", ":!data/results")
    return {"git_commit": commit, "git_dirty": bool(changes) if commit else None}


def git(*arguments: str) -> str | None:
    """What git says of the project; None where there is no git, no checkout or no such thing in it."""
    command = ["git", f"--git-dir={PROJECT / '.git'}", f"--work-tree={PROJECT}", *arguments]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()
    return None
