"""What a notebook measured on a model: rows recorded, shown as a table, saved as JSON."""

import hashlib
import json
import math
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from helpers.circuits import Circuit
from helpers.heads import Head, Heads
from helpers.models import model_provenance
from helpers.path_patching import PathEffects
from helpers.stats import Interval
from suite.errors import ClaimError, NotApplicable
from suite.files import atomic_path, write_text
from suite.ledger import Control, Number, Verdict, get_claim, verdict
from suite.provenance import git_state, package_versions, peak_memory_gib
from suite.registry import DATA, circuit_path, figures_dir, resolve, results_path


def found_heads(model: str, *, needed: Sequence[str] = ()) -> dict[str, Heads]:
    """Role -> heads that notebook 01 found in this model, most important first.

    Raises ClaimError, with the command, where it has not been run on the model, and NotApplicable
    if a needed role is empty.
    """
    slug = resolve(model).slug
    path = circuit_path(slug)
    if not path.is_file():
        raise ClaimError(
            f"Notebook 01 has not looked for heads in {model} yet: run `make reproduce MODEL={model}`."
        )
    content = json.loads(path.read_text(encoding="utf-8"))
    roles = {
        role: tuple(Head.parse(member["head"]) for member in members)
        for role, members in content["roles"].items()
    }
    if empty := [role for role in needed if not roles.get(role)]:
        raise NotApplicable(f"Notebook 01 found no {' and no '.join(empty)} heads in {slug}.")
    return roles


class Results:
    """What one notebook measured on one model: record rows, show them as a table, save them as
    JSON.
    """

    def __init__(self, *, model: str, notebook: str, parameters: dict[str, Any]):
        self.source, self.model = model, resolve(model).slug
        self.notebook, self.parameters = notebook, parameters
        self._rows: dict[tuple[str, str], dict] = {}
        self._start, self._git = time.perf_counter(), git_state()

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
        """Keep one measurement (a second one of the same metric replaces it) and return its
        verdict.

        `value` is an Interval (or a number with low and high), heads by importance, or a list of
        numbers with its axis in `note`. `seed` defaults to the parameter SEED. Numbers are kept to
        six significant digits. Raises ClaimError on an unknown claim or metric, NaN, a value
        outside its interval, or n < 1.
        """
        spec, name = get_claim(claim_id).metric(metric), f"{claim_id} {metric}"
        if isinstance(value, Interval):
            value, low, high = value.value, value.low, value.high
        value, low, high = plain(value), plain(low), plain(high)
        control = control and Control(**plain(asdict(control)))
        if n < 1:
            raise ClaimError(
                f"{name} was measured on n = {n} examples: record it with n of at least 1."
            )
        if isinstance(value, str) or isinstance(value, list) == (spec.kind == "number"):
            raise ClaimError(
                f"{name} is of kind {spec.kind}, not {value!r}: record what data/claims.yaml declares."
            )
        for head in value if spec.kind == "heads" else ():
            Head.parse(head)
        _check_interval(name, value, low, high)
        if control:
            _check_interval(
                f"{name}, control {control.name}", control.value, control.low, control.high
            )
        same = self.model == spec.model
        judged = verdict(
            spec, value, same_model=same, low=low, high=high, control=control, supported=supported
        )
        row = {
            "id": claim_id,
            "metric": metric,
            "value": value,
            "low": low,
            "high": high,
            "n": int(n),
            "note": note,
        }
        seed = self.parameters.get("SEED") if seed is None else seed
        self._rows[claim_id, metric] = row | {
            "seed": seed,
            "control": control and asdict(control),
            "verdict": judged,
        }
        return judged

    def table(self) -> pd.DataFrame:
        """Paper beside measured, rounded; a number of another model stands in a column named after
        that model.
        """
        lines = []
        for row in self._rows.values():
            metric = get_claim(row["id"]).metric(row["metric"])
            line = {"claim": row["id"], "metric": row["metric"]}
            line |= {"paper": metric.text(metric.paper) or metric.says, "paper model": metric.model}
            line |= {
                "measured" if metric.model == self.model else self.model: metric.text(row["value"])
            }
            line |= {"95 % interval": metric.interval_text(row), "n": str(row["n"])}
            lines.append(
                line | {"control": metric.control_text(row["control"]), "verdict": row["verdict"]}
            )
        return pd.DataFrame(lines).fillna("")

    def save_figure(self, figure: Figure, name: str) -> None:
        """Write figures/NN_<name>.png and .svg of this run, whole or not at all."""
        for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            path = figures_dir(self.model) / f"{self.notebook}_{name}.{suffix}"
            with atomic_path(path) as part:
                figure.savefig(part, format=suffix, metadata=metadata)

    def save_circuit(self, circuit: Circuit) -> None:
        """Write circuit.json of this run: roles with effects and the rule that chose them."""
        content = {
            "model": self.model,
            "weights_sha256": model_provenance(self.source)["weights_sha256"],
            "rule": asdict(circuit.rule),
            "roles": {
                role: [
                    {"head": str(head), "effect_percent": circuit.effect_percent(role, head)}
                    for head in heads
                ]
                for role, heads in circuit.roles.items()
            },
        }
        write_text(circuit_path(self.model), json.dumps(plain(content), indent=1) + "\n")

    def save_path_effects(self, stages: Mapping[str, PathEffects]) -> None:
        """Write results/NN_path_effects.npz: clean, corrupted and patched logit differences per
        stage, in float32, named `<stage>/<array>`.
        """
        arrays = {
            f"{stage}/{name}": getattr(effects, name).astype(np.float32)
            for stage, effects in stages.items()
            for name in ("clean", "corrupted", "patched")
        }
        path = results_path(self.model, f"{self.notebook}_path_effects").with_suffix(".npz")
        with atomic_path(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def save(self) -> Path:
        """Write data/results/<model>/<notebook>.json, whole or not at all; two runs differ only in
        its provenance.
        """
        path, device = (
            results_path(self.model, self.notebook),
            torch.device(self.parameters.get("DEVICE", "cpu")),
        )
        data = [
            p for p in sorted(DATA.rglob("*")) if p.is_file() and DATA / "results" not in p.parents
        ]
        provenance = {
            **model_provenance(self.source),
            **self._git,
            "packages": package_versions(),
            "data_sha256": {
                str(p.relative_to(DATA)): hashlib.sha256(p.read_bytes()).hexdigest() for p in data
            },
            "seed": self.parameters.get("SEED"),
            "parameters": self.parameters,
            "dtype": self.parameters.get("DTYPE", "float32"),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "wall_time_s": time.perf_counter() - self._start,
            "peak_memory_gib": peak_memory_gib(resource.RUSAGE_SELF),
            "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        content = {
            "model": self.model,
            "notebook": self.notebook,
            "claims": list(self._rows.values()),
        }
        content |= {"provenance": plain(provenance)}
        write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
        return path


def plain(value, digits: int = 6):
    """What JSON can hold: heads by name, tensors and arrays as lists, floats to so many significant
    digits.
    """
    if isinstance(value, Head):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(v, digits) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, digits) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), digits)
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _check_interval(name: str, value, low: Number | None, high: Number | None) -> None:
    numbers = [*(value if isinstance(value, list) else [value]), low, high]
    if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
        raise ClaimError(
            f"{name} holds NaN or infinity: check the measurement before recording it."
        )
    if (low is None) != (high is None) or (low is not None and not low <= value <= high):
        raise ClaimError(
            f"{name}: [{low}, {high}] does not hold {value}; give low <= value <= high, or neither."
        )
