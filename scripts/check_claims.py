"""Compare new results with the committed ones; exit status 1, with the list of what moved, if they
differ.

python -m scripts.check_claims                   data/results, as a full run left it, with the last
commit's python -m scripts.check_claims --quick FOLDER    FOLDER/data/results, of a run with
PROFILE=quick, with data/results

With $CIRCUITS_OUT set, the full run's results are those below it.
"""

import argparse
import json
import sys
from pathlib import Path

from suite.errors import ClaimError, ModelError
from suite.ledger import get_claim
from suite.provenance import git
from suite.registry import PROJECT, output_root

WORST = {
    "reproduced": "differs",
    "transfers": "does not",
}  # best verdict -> worst, on the paper's model and on others

REMEDY = "Make one with `CIRCUITS_OUT=build/again make reproduce`, then `CIRCUITS_OUT=build/again make check-claims`."


def moved(old: dict, new: dict) -> list[str]:
    """What a reader would see differ between two results files of one notebook, run with the same
    parameters.
    """
    if (was := old["provenance"]["parameters"]) != (now := new["provenance"]["parameters"]):
        return [f"measured with {was}, now with {now}: run it with the default parameters"]
    old, new = rows(old), rows(new)
    found = [
        f"{claim} {metric}: measured in one of them only"
        for claim, metric in sorted(old.keys() ^ new.keys())
    ]
    return found + [
        f"{key[0]} {key[1]}: {text}"
        for key in old
        if key in new
        for text in fields(old[key], new[key])
    ]


def contradicted(old: dict, new: dict) -> list[str]:
    """Where a run on fewer prompts contradicts the old one: a claim is missing, or a metric's row
    is refuted.
    """
    old, new = rows(old), rows(new)
    missing = {claim for claim, _ in old} ^ {claim for claim, _ in new}
    return [f"{claim}: measured in one of them only" for claim in sorted(missing)] + [
        f"{key[0]} {key[1]}: {shown(old[key])}, now {shown(new[key])}"
        for key in old
        if key in new and refuted(old[key], new[key])
    ]


def refuted(old: dict, new: dict) -> bool:
    """Whether a row on fewer prompts says that the old one of its metric was wrong.

    Heads: none of the old ones is found. On fewer prompts a borderline head may be missed or added,
    which moves an average over the heads of its role, so for intervals it is not enough that they
    do not meet: the verdicts differ, too. Without intervals: the best verdict is now the worst; not
    the reverse, since a control of fewer draws is easier to beat.
    """
    if get_claim(old["id"]).metric(old["metric"]).kind == "heads":
        return bool(old["value"]) and not set(old["value"]) & set(new["value"])
    if None in (old["low"], new["low"]):
        return WORST.get(old["verdict"]) == new["verdict"]
    return (old["low"] > new["high"] or new["low"] > old["high"]) and old["verdict"] != new[
        "verdict"
    ]


def shown(row: dict) -> str:
    """A row's verdict, after its interval where it has one, else its value."""
    return f"{row['value'] if row['low'] is None else [row['low'], row['high']]} {row['verdict']}"


def rows(results: dict) -> dict[tuple[str, str], dict]:
    """The rows of a results file by claim and metric."""
    return {(row["id"], row["metric"]): row for row in results["claims"]}


def fields(old: dict, new: dict) -> list[str]:
    """The fields of a row that differ by more than two runs of one model may."""
    tolerance = get_claim(old["id"]).metric(old["metric"]).repeat_tolerance
    controls = [row["control"] or {} for row in (old, new)]
    found = [f"control {controls}"] if controls[0].get("name") != controls[1].get("name") else []
    pairs = {field: (old[field], new[field]) for field in ("value", "low", "high")}
    pairs |= {
        f"control {f}": (controls[0].get(f), controls[1].get(f)) for f in ("value", "low", "high")
    }
    pairs |= {field: (old[field], new[field]) for field in ("n", "seed", "verdict")}
    return found + [
        f"{name} {a} is now {b}" for name, (a, b) in pairs.items() if not same(a, b, tolerance)
    ]


def same(a, b, tolerance: float | None) -> bool:
    """Heads equal as sets, numbers within the tolerance (None: 1e-3 of the value plus 1e-4), the
    rest equal.
    """
    if isinstance(a, list) and isinstance(b, list):
        if any(isinstance(x, str) for x in a + b):
            return set(a) == set(b)
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float | int) and isinstance(b, float | int):
        return abs(a - b) <= (tolerance if tolerance is not None else 1e-4 + 1e-3 * abs(a))
    return a == b


def problems(quick: Path | None) -> list[str]:
    """What differs, file by file. Raises ClaimError where there is nothing to compare."""
    names = (git("ls-files", "data/results") or "").split()
    if quick and not names:
        names = [
            path.relative_to(PROJECT).as_posix()
            for path in sorted(PROJECT.glob("data/results/*/*.json"))
        ]
    found, compared, same_run = [], 0, True
    for name in names:
        new, label = (quick or output_root()) / name, name.removeprefix("data/results/")
        here = quick and (PROJECT / name).is_file()
        old = (PROJECT / name).read_text(encoding="utf-8") if here else git("show", f"HEAD:{name}")
        if not new.parent.exists():
            print(f"{new.parent.name}: not run")
        elif not new.exists():
            found.append(f"{label}: the run left no results")
        elif old:
            before, after = json.loads(old), json.loads(new.read_text(encoding="utf-8"))
            found += [
                f"{label}: {text}" for text in (contradicted if quick else moved)(before, after)
            ]
            compared, same_run = (
                compared + 1,
                same_run and before == after,
            )  # two runs differ in their times
    if not compared and not found:
        raise ClaimError(
            "No results to compare: this needs a git checkout with committed results, and those of a run."
        )
    if same_run and not found:
        raise ClaimError(
            f"No new run: the {compared} files of results are the committed ones. {REMEDY}"
        )
    print(f"{compared} files of results compared.")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", type=Path, metavar="FOLDER", help="output root of a run with PROFILE=quick"
    )
    try:
        found = problems(parser.parse_args(argv).quick)
    except (ClaimError, ModelError) as error:
        sys.exit(f"Error: {error}")
    print("\n".join(found) or "Nothing moved.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
