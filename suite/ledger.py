"""The papers' claims (data/claims.yaml) and the rule by which a measurement is judged."""

import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from helpers.stats import Interval
from suite.errors import ClaimError
from suite.registry import read_data

Number = float | int


Verdict = Literal["reproduced", "qualitative", "differs", "transfers", "partly", "does not"]


@dataclass(frozen=True)
class Metric:
    """One quantity of a claim: the paper's value and how ours is judged; the fields are explained
    in claims.yaml.
    """

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
        """A value as a reader sees it: shares in percent, counts whole, numbers to three digits,
        heads by name.
        """
        if isinstance(value, list):
            return (" " if self.kind == "heads" else ", ").join(map(self.text, value)) or "none"
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, int) and self.unit != "share":
            return str(value)
        return (
            f"{100 * value:.1f} %"
            if self.unit == "share"
            else f"{value:.3g}{' points' * (self.unit == 'points')}"
        )

    def interval_text(self, row: dict) -> str:
        """[low, high] of a results row or of its control, empty where there is none."""
        return "" if row["low"] is None else f"[{self.text(row['low'])}, {self.text(row['high'])}]"

    def control_text(self, row: dict | None) -> str:
        """The control of a results row: name, value and interval."""
        return (
            f"{row['name']}: {self.text(row['value'])} {self.interval_text(row)}".strip()
            if row
            else ""
        )


@dataclass(frozen=True)
class Claim:
    """One claim; `paper` is A, B or None (ours), `model` the paper's, `known` what the paper takes
    as given.

    alone: about its model only, so it is not measured on others. rows_of: earlier claims whose rows
    on it are its own.
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
        """The name in claims.yaml of a metric, such as attention_<from>_<to> for
        attention_END_IO.
        """
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
            metrics = {
                name: Metric(**{"name": name, "model": model} | spec)
                for name, spec in entry["metrics"].items()
            }
            for other in entry.get(
                "rows_of", ()
            ):  # what a paper says of one model is not said of the other
                for metric in claims[other].metrics.values():
                    metrics[metric.name] = replace(metric, model=model, paper=None, says="")
            claims[entry["id"]] = Claim(
                **entry | {"model": model, "alone": "model" in entry, "metrics": metrics}
            )
        return claims
    except (AttributeError, KeyError, TypeError) as error:
        raise ClaimError(
            f"data/claims.yaml has an entry that is not whole ({error}): mend or restore it."
        ) from error


def get_claim(claim_id: str) -> Claim:
    """One claim. Raises ClaimError with the nearest ids if there is none."""
    if claim_id not in load_claims():
        raise _unknown("claim (data/claims.yaml)", claim_id, load_claims())
    return load_claims()[claim_id]


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

    A number is *clear* if its whole interval lies on the claimed side of the control's interval and
    of the metric's `reference` (chance or zero), where there are such (else of zero); for direction
    `equal`, within the tolerance.

    On the paper's model: **reproduced** if the paper's number is in the interval or within the
    declared tolerance of the value, or the heads are exactly the paper's; else **qualitative** if
    the number is clear, or at least half of the paper's heads are found; else **differs**. On any
    other model nothing is held against the paper's value. Numbers: **transfers** if clear,
    **partly** if only the point estimates differ as claimed, else **does not**. Heads: **does not**
    if none are found, **transfers** if they are `supported` (says the notebook: effect interval
    without 0, attention as in the role), else **partly**. Lists of numbers, and heads for which the
    paper names none, count as clear if `supported`.
    """
    reference = None if metric.reference is None else Control("reference", metric.reference)
    bounds = [bound for bound in (control, reference) if bound] or [Control("zero", 0)]
    if metric.kind == "number":
        low, high = (value, value) if low is None else (low, high)
        clear = all(_as_claimed(metric, low, high, bound) for bound in bounds)
        hint = all(
            _as_claimed(metric, value, value, Control(bound.name, bound.value)) for bound in bounds
        )
    else:
        clear, hint = bool(value and supported), bool(value and metric.kind == "heads")
    if not same_model:
        return "transfers" if clear else "partly" if hint else "does not"
    if metric.kind == "heads" and metric.paper is not None:
        found, paper = set(value), set(metric.paper)
        return (
            "reproduced"
            if found == paper
            else "qualitative"
            if 2 * len(found & paper) >= len(paper)
            else "differs"
        )
    if metric.paper is not None and (
        low <= metric.paper <= high or abs(value - metric.paper) <= metric.tolerance
    ):
        return "reproduced"
    return "qualitative" if clear else "differs"


def _as_claimed(metric: Metric, low: Number, high: Number, control: Control) -> bool:
    floor, ceiling = (
        (control.value, control.value) if control.low is None else (control.low, control.high)
    )
    if metric.direction == "equal":
        return floor - metric.tolerance <= low and high <= ceiling + metric.tolerance
    return low > ceiling if metric.direction == "above" else high < floor


def _unknown(what: str, name: str, known) -> ClaimError:
    near = difflib.get_close_matches(name, known) or sorted(known)
    return ClaimError(f"Unknown {what} {name!r}: use {', '.join(near)}.")
