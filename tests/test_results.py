"""What the committed notebooks measure when replayed, beside the committed results: run after nbval (make test)."""

import json
import math
import os
from pathlib import Path

import pytest

from helpers.claims import get_claim
from helpers.models import PROJECT

RESULTS = Path("data/results")
REPLAYED = PROJECT / "build" / "nbval" / RESULTS
COMMITTED = sorted((PROJECT / RESULTS).glob("*/*.json"))


def differences(committed: dict, replayed: dict) -> list[str]:
    """What a reader would see differ between two results files of one notebook."""
    if (was := committed["provenance"]["parameters"]) != (now := replayed["provenance"]["parameters"]):
        return [f"measured with {was}, replayed with {now}: get the default results back with make notebooks"]
    old, new = ({(row["id"], row["metric"]): row for row in results["claims"]} for results in (committed, replayed))
    if old.keys() != new.keys():
        return [f"measured in one of them only: {sorted(old.keys() ^ new.keys())}"]
    return [f"{key}: {problem}" for key in old for problem in row_differences(old[key], new[key])]


def row_differences(old: dict, new: dict) -> list[str]:
    metric = get_claim(old["id"]).metric(old["metric"])
    controls = [row["control"] or {} for row in (old, new)]
    found = [f"control {controls}"] if controls[0].get("name") != controls[1].get("name") else []
    pairs = {field: (old[field], new[field]) for field in ("value", "low", "high")}
    pairs |= {f"control {f}": (controls[0].get(f), controls[1].get(f)) for f in ("value", "low", "high")}
    pairs |= {field: (old[field], new[field]) for field in ("n", "seed", "verdict")}
    return found + [
        f"{name} {a} is now {b}" for name, (a, b) in pairs.items() if not same(a, b, metric.repeat_tolerance)
    ]


def same(a, b, tolerance: float | None) -> bool:
    """Heads equal as sets, numbers within the tolerance (None: 1e-3 of the value plus 1e-4), the rest equal."""
    if isinstance(a, list) and isinstance(b, list):
        if any(isinstance(x, str) for x in a + b):
            return set(a) == set(b)
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float | int) and isinstance(b, float | int):
        return abs(a - b) <= (tolerance if tolerance is not None else 1e-4 + 1e-3 * abs(a))
    return a == b


def results(**row) -> dict:
    """A results file with one row of A1 logit_difference (repeat tolerance in claims.yaml), for the tests below."""
    full = {"id": "A1", "metric": "logit_difference", "value": 3.0, "low": 2.9, "high": 3.1, "n": 8, "seed": 0}
    full |= {"verdict": "transfers", "control": {"name": "swapped names", "value": -3.0, "low": None, "high": None}}
    return {"provenance": {"parameters": {"N_PROMPTS": 8}}, "claims": [full | row]}


def test_comparison_accepts_last_digits_only():
    tolerance = get_claim("A1").metric("logit_difference").repeat_tolerance
    assert differences(results(), results(value=3.0 + 0.9 * tolerance)) == []
    assert differences(results(), results(value=3.0 + 1.1 * tolerance)) == [
        f"('A1', 'logit_difference'): value 3.0 is now {3.0 + 1.1 * tolerance}"
    ]
    assert same(0.5, 0.50059, None) and not same(0.5, 0.50061, None)
    assert not same(1.0, math.nan, None) and not same(None, 1.0, None)


def test_comparison_sees_each_kind_of_difference():
    heads = {"id": "A2", "metric": "movers", "value": ["L1H2", "L3H4"], "low": None, "high": None}
    assert differences(results(**heads), results(**heads | {"value": ["L3H4", "L1H2"]})) == []
    assert len(differences(results(**heads), results(**heads | {"value": ["L3H4"]}))) == 1
    assert len(differences(results(), results(verdict="partly"))) == 1
    assert len(differences(results(), results(control=None))) == 2  # its name and its value
    assert len(differences(results(), results(metric="accuracy"))) == 1
    other = results()
    other["provenance"]["parameters"] = {"N_PROMPTS": 4}
    assert "make notebooks" in differences(results(), other)[0]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_replay_gives_the_committed_results(path):
    if not REPLAYED.is_dir():
        pytest.skip("no replayed results: make test replays the notebooks before it comes here")
    replayed = REPLAYED / path.parent.name / path.name
    if path.parent.name == "gpt2" and not replayed.exists() and not os.environ.get("CIRCUITS_ASSETS"):
        pytest.skip(
            "GPT-2's tensors were not there: set CIRCUITS_ASSETS to the folder that holds models/gpt2-attention"
        )
    assert replayed.exists(), f"the replay left no {path.name} of {path.parent.name}"
    assert differences(json.loads(path.read_text()), json.loads(replayed.read_text())) == []
