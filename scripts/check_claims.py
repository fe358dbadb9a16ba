"""Compare new results with the committed ones; exit status 1, with the list of what moved, if they differ.

python -m scripts.check_claims                   data/results, as a full run left it, with the last commit's
python -m scripts.check_claims --quick FOLDER    FOLDER/data/results, of a run with PROFILE=quick, with data/results

With $CIRCUITS_OUT set, the full run's results are those below it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from helpers.claims import ClaimError, get_claim, output_root
from helpers.models import PROJECT, ModelError


def moved(old: dict, new: dict) -> list[str]:
    """What a reader would see differ between two results files of one notebook, run with the same parameters."""
    if (was := old["provenance"]["parameters"]) != (now := new["provenance"]["parameters"]):
        return [f"measured with {was}, now with {now}: run it with the default parameters"]
    old, new = rows(old), rows(new)
    found = [f"{claim} {metric}: measured in one of them only" for claim, metric in sorted(old.keys() ^ new.keys())]
    return found + [f"{key[0]} {key[1]}: {text}" for key in old if key in new for text in fields(old[key], new[key])]


def contradicted(old: dict, new: dict) -> list[str]:
    """Where a run on fewer prompts contradicts the old one: a claim is missing, or intervals and verdicts differ.

    On fewer prompts a borderline head may be missed, which moves an average over the heads of its role, so intervals
    that do not meet are no contradiction by themselves.
    """
    old, new = rows(old), rows(new)
    missing = {claim for claim, _ in old} ^ {claim for claim, _ in new}
    pairs = {key: (old[key], new[key]) for key in old if key in new and None not in (old[key]["low"], new[key]["low"])}
    return [f"{claim}: measured in one of them only" for claim in sorted(missing)] + [
        f"{claim} {metric}: [{a['low']}, {a['high']}] {a['verdict']}, now [{b['low']}, {b['high']}] {b['verdict']}"
        for (claim, metric), (a, b) in pairs.items()
        if (a["low"] > b["high"] or b["low"] > a["high"]) and a["verdict"] != b["verdict"]
    ]


def rows(results: dict) -> dict[tuple[str, str], dict]:
    """The rows of a results file by claim and metric."""
    return {(row["id"], row["metric"]): row for row in results["claims"]}


def fields(old: dict, new: dict) -> list[str]:
    """The fields of a row that differ by more than two runs of one model may."""
    tolerance = get_claim(old["id"]).metric(old["metric"]).repeat_tolerance
    controls = [row["control"] or {} for row in (old, new)]
    found = [f"control {controls}"] if controls[0].get("name") != controls[1].get("name") else []
    pairs = {field: (old[field], new[field]) for field in ("value", "low", "high")}
    pairs |= {f"control {f}": (controls[0].get(f), controls[1].get(f)) for f in ("value", "low", "high")}
    pairs |= {field: (old[field], new[field]) for field in ("n", "seed", "verdict")}
    return found + [f"{name} {a} is now {b}" for name, (a, b) in pairs.items() if not same(a, b, tolerance)]


def same(a, b, tolerance: float | None) -> bool:
    """Heads equal as sets, numbers within the tolerance (None: 1e-3 of the value plus 1e-4), the rest equal."""
    if isinstance(a, list) and isinstance(b, list):
        if any(isinstance(x, str) for x in a + b):
            return set(a) == set(b)
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float | int) and isinstance(b, float | int):
        return abs(a - b) <= (tolerance if tolerance is not None else 1e-4 + 1e-3 * abs(a))
    return a == b


def git(*words: str) -> str:
    """What git says of the project; nothing where there is no git, no commit or no such file in it."""
    try:
        return subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def problems(quick: Path | None) -> list[str]:
    """What differs, file by file. Raises ClaimError where there is nothing to compare."""
    names = git("ls-files", "data/results").split()
    if quick and not names:
        names = [path.relative_to(PROJECT).as_posix() for path in sorted(PROJECT.glob("data/results/*/*.json"))]
    found, compared = [], 0
    for name in names:
        new, label = (quick or output_root()) / name, name.removeprefix("data/results/")
        here = quick and (PROJECT / name).is_file()
        old = (PROJECT / name).read_text(encoding="utf-8") if here else git("show", f"HEAD:{name}")
        if not new.parent.exists():
            print(f"{new.parent.name}: not run")
        elif not new.exists():
            found.append(f"{label}: the run left no results")
        elif old:
            texts = (contradicted if quick else moved)(json.loads(old), json.loads(new.read_text(encoding="utf-8")))
            found += [f"{label}: {text}" for text in texts]
            compared += 1
    if not compared and not found:
        raise ClaimError("No results to compare: this needs a git checkout with committed results, and those of a run.")
    print(f"{compared} files of results compared.")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", type=Path, metavar="FOLDER", help="output root of a run with PROFILE=quick")
    try:
        found = problems(parser.parse_args(argv).quick)
    except (ClaimError, ModelError) as error:
        sys.exit(f"Error: {error}")
    print("\n".join(found) or "Nothing moved.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
