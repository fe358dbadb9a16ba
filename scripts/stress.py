"""What machines and people do to a run, done on purpose; writes benchmarks/RELIABILITY.md.

python -m scripts.stress [--kills 20] [--only SCENARIO ...]

Exit status 1 if a scenario did not end as it should. --only replaces the rows of these scenarios in
the report; every row says when it was tried. The full run (23 minutes, its times go into
benchmarks/results.json) is made only when asked for: --only full_run; else its old row is kept.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import nbformat
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from scripts import run_notebooks
from scripts.check_notebooks import notebooks_in
from suite.errors import ClaimError, ModelError
from suite.files import write_text
from suite.provenance import git
from suite.registry import PROJECT, known_models

REPORT = PROJECT / "benchmarks" / "RELIABILITY.md"
NOT_COPIED = shutil.ignore_patterns(
    ".*", "*.egg-info", "__pycache__", "build", "figures", "results"
)
FULL = "a full run of every notebook on the embedded model, beside the results of another one in data/results"
PART = re.compile(r"\.part(\.|$)")
HEAD = """# Reliability

Written by `make stress`, row by row: each says on which day and at which commit it was tried. Every run is `make
reproduce PROFILE=quick` in a copy of the project, offline, and on the planted model with notebooks 00 and 01 where
nothing else is said. *Equal*: all results files but for their provenance. *Half-written*: a file that cannot be read,
or a temporary one left behind.

| what was done | what happened | as it should | tried |
| --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Outcome:
    """One scenario: what was done, what came of it, and whether that is right."""

    scenario: str
    seen: str
    right: bool | None
    """None: it could not be tried here."""

    def row(self, tried: str) -> str:
        """A row of the report; tried: day and commit."""
        verdict = {True: "yes", False: "**no**", None: "not tried"}[self.right]
        return f"| {self.scenario} | {' '.join(self.seen.split()).replace('|', '/')} | {verdict} | {tried} |"


class Copy:
    """A copy of the project in a temporary folder, with its own results, in which runs may be
    broken.
    """

    def __init__(
        self,
        root: Path,
        *,
        model: str = "planted",
        notebooks: str = "0[01]",
        source: Path | None = None,
    ) -> None:
        self.root, self.model = root, model
        shutil.copytree(source or PROJECT, root, ignore=None if source else NOT_COPIED)
        for path in (root / "notebooks").iterdir():
            if not re.match(notebooks, path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def start(
        self, *variables: str, before: tuple[str, ...] = (), **environment: str
    ) -> subprocess.Popen:
        """`make reproduce` in a process group of its own; before: words of a command that runs
        it.
        """
        command = [
            *before,
            "make",
            "-C",
            str(self.root),
            "reproduce",
            f"PY={sys.executable}",
            f"MODEL={self.model}",
        ]
        own = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CIRCUITS_", "MAKE"))
        }
        return subprocess.Popen(
            [*command, "PROFILE=quick", *variables],
            env=inherited | own | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *variables: str, **options) -> tuple[int, str]:
        """Exit status of a run and what it says on stderr."""
        run = self.start(*variables, **options)
        errors = run.communicate()[1]
        return run.returncode, told(errors, self.root)


def results(root: Path) -> dict[str, list]:
    """What was measured below a folder, file by file: all but the provenance."""
    paths = sorted((root / "data" / "results").glob("*/*.json"))
    return {
        f"{path.parent.name}/{path.name}": json.loads(path.read_text())["claims"] for path in paths
    }


def half_written(root: Path) -> list[str]:
    """Notebooks and results below a folder that cannot be read, and temporary files left behind."""
    found = [str(path.relative_to(root)) for path in root.rglob("*") if PART.search(path.name)]
    for path in [*root.glob("build/*/*.ipynb"), *root.glob("data/results/*/*.json")]:
        try:
            nbformat.read(path, as_version=4) if path.suffix == ".ipynb" else json.loads(
                path.read_text()
            )
        except (ValueError, OSError):
            found.append(str(path.relative_to(root)))
    return found


@contextlib.contextmanager
def copy(**options) -> Iterator[Copy]:
    """A fresh copy, removed afterwards."""
    with folder() as temporary:
        yield Copy(temporary / "project", **options)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory(prefix="circuits-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@functools.cache
def undisturbed(model: str = "planted") -> tuple[dict[str, list], float]:
    """Results and seconds of a run that nothing happens to; on the embedded model, of every
    notebook.
    """
    with copy(model=model, notebooks="0[01]" if model == "planted" else "0") as project:
        began = time.monotonic()
        status, said = project.run()
        if status:
            raise SystemExit(
                f"An undisturbed run fails, so nothing can be compared with it: {said}"
            )
        return results(project.root), time.monotonic() - began


def told(errors: str, root: Path) -> str:
    """What a run says on stderr, its progress bars and make's last word aside."""
    lines = re.split(r"[\r\n]+", re.sub(r"\[\d+/\d+\] [^\r\n]*?(cell/s|/cell)\]", "", errors))
    lines = [line for line in lines if line.strip() and not re.match(r"make(\[\d\])?: ", line)]
    return "\n".join(lines).replace(str(root), "<project>").replace(str(root.parent), "<folder>")


def sentence(status: int, said: str, expected: str) -> tuple[str, bool]:
    """An error as it should be: not status 0, one line, the expected words, no traceback."""
    return said, status != 0 and "\n" not in said and re.search(expected, said) is not None


# --- the same twice, killed, started twice
# ----------------------------------------------------------------------------


def full_run() -> Iterator[Outcome]:
    """The full run that `make bench` times, beside the committed results, which another run
    left.
    """
    command = [sys.executable, "-m", "benchmarks.path_patching", "--only-notebooks"]
    status = subprocess.run(command, cwd=PROJECT, check=False).returncode
    new, old = results(PROJECT / "build" / "bench"), results(PROJECT)
    equal = [name for name in new if new[name] == old.get(name)]
    seen = f"{len(equal)} of {len(new)} results files ({sum(map(len, new.values()))} rows) equal to the last digit"
    yield Outcome(FULL, seen, status == 0 and len(equal) == len(new) > 1)


def kills(times: int) -> Iterator[Outcome]:
    """Kill -9 at random moments, start again each time; as often as a run completes, compare and
    begin afresh.
    """
    expected, seconds = undisturbed("smollm2")
    rng, killed, runs, equal, left = random.Random(0), 0, 0, 0, 0
    while killed < times:
        with copy(model="smollm2", notebooks="0") as project:
            status = None
            while status in (None, -signal.SIGKILL):
                run = project.start()
                try:
                    run.communicate(
                        timeout=None if killed == times else rng.uniform(0, seconds / 3)
                    )
                except subprocess.TimeoutExpired:
                    os.killpg(run.pid, signal.SIGKILL)  # the kernel is left to itself
                    run.communicate()
                    killed += 1
                    print(f"killed {killed} of {times} times", file=sys.stderr, flush=True)
                    left += any(not PART.search(path) for path in half_written(project.root))
                status = run.returncode
            runs, equal = runs + 1, equal + (status == 0 and results(project.root) == expected)
            left += bool(half_written(project.root))
    seen = f"{runs} runs ended from what kills had left, {equal} of them equal to an undisturbed one; half-written: {left}"
    title = f"kill -9 at {times} random moments of every notebook on the embedded model, started again each time"
    yield Outcome(title, seen, equal == runs and not left)


def conversion(times: int = 5) -> Iterator[Outcome]:
    """The conversion of the embedded model killed, and its result altered."""
    load = [sys.executable, "-c", "from helpers.models import load_model; load_model('smollm2')"]
    published = known_models()["smollm2"]["converted_sha256"]
    with folder() as cache:
        options = {"cwd": PROJECT, "env": os.environ | {"CIRCUITS_CACHE": str(cache)}, "text": True}
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

        def mended() -> bool:
            done = subprocess.run(load, check=False, **options)
            files = {path.suffix for path in cache.iterdir()} - {".lock"}
            [weights] = cache.rglob("model.safetensors")
            return (
                done.returncode == 0
                and files == {""}
                and hashlib.sha256(weights.read_bytes()).hexdigest() == published
            )

        rng = random.Random(1)
        for _ in range(times):
            run = subprocess.Popen(load, start_new_session=True, **options)
            time.sleep(rng.uniform(5, 25))
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
        seen = (
            "the next load converts, sha256 as published, nothing left over"
            if (right := mended())
            else "not mended"
        )
        yield Outcome(
            f"kill -9 at {times} random moments of the embedded model's conversion", seen, right
        )
        [weights] = cache.rglob("model.safetensors")
        for title, content in {
            "cut short": weights.read_bytes()[:-1000],
            "replaced by others of the same shape": weights.read_bytes()[:-1000] + bytes(1000),
        }.items():
            weights.write_bytes(content)
            seen = "found by its sha256, converted again" if (right := mended()) else "not found"
            yield Outcome(f"weights in the cache {title}", seen, right)


def two_at_once() -> Iterator[Outcome]:
    """A second run of the same model."""
    expected, seconds = undisturbed()
    with copy() as project:
        first = project.start()
        time.sleep(seconds / 2)
        seen, right = sentence(*project.run(), "Another run is using")
        first.communicate()
        right &= first.returncode == 0 and results(project.root) == expected
    yield Outcome("a second run at the same time", f"{seen} The first one completes, equal.", right)


# --- damaged files --------------------------------------------------------------------------------
# --------------------

DAMAGES = {
    "source of a notebook": ("notebooks/01_*.ipynb", "damaged: restore it"),
    "ledger of claims": ("data/claims.yaml", "data/claims.yaml"),
    "list of models": ("data/models.yaml", "data/models.yaml"),
    "vocabulary": ("data/vocabulary.yaml", "vocabulary.yaml.*restore it"),
    "results file": ("data/results/planted/00.json", ""),
    "stamp of a run": ("build/planted/00_*.stamp.json", ""),
    "executed notebook": ("build/planted/01_*.ipynb", ""),
    "figure": ("figures/planted/01_circuit.png", ""),
}


def damaged_files() -> Iterator[Outcome]:
    """Files of a finished run cut to half of their length."""
    with copy() as finished:
        finished.run()
        for name, (pattern, expected) in DAMAGES.items():
            with folder() as temporary:
                project = Copy(temporary / "project", source=finished.root)
                [path] = project.root.glob(pattern)
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                status, said = project.run()
                right = status == 0 and results(project.root) == undisturbed()[0]
                seen = "made again, results equal" if right else said
                seen, right = sentence(status, said, expected) if expected else (seen, right)
                yield Outcome(f"{name} cut to half", seen, right)


def damaged_models() -> Iterator[Outcome]:
    """Models that are not what they should be, by the tests that try them."""
    cases = {
        "weights cut short, of another shape, not finite, with a layer missing, pickled, of an altered hub cache": (
            "truncated or only_pickled or weights_of_another or missing_layer or not_finite or checked_against"
        ),
        "a model folder with code and a pickle of its own": "code_never_runs",
    }
    for title, keyword in cases.items():
        command = [sys.executable, "-m", "pytest", "-q", "tests/test_models.py", "-k", keyword]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        seen = re.sub(r" in [\d.]+s.*", "", done.stdout.strip().splitlines()[-1])
        yield Outcome(
            title,
            f"refused with the remedy, no code run: {seen} (tests/test_models.py)",
            done.returncode == 0,
        )


def no_network() -> Iterator[Outcome]:
    """A model that would have to be downloaded."""
    hub = {
        "offline": {},
        "the hub unreachable": {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
    }
    for title, environment in hub.items():
        with folder() as empty, copy(model="gpt2-medium") as project:
            said = project.run(HF_HOME=str(empty), **environment)
        yield Outcome(
            f"MODEL=gpt2-medium, {title}", *sentence(*said, "make fetch MODEL=gpt2-medium")
        )


# --- places that cannot be written
# ------------------------------------------------------------------------------------


def mounted(script: str, *places: Path | str) -> tuple[str, ...]:
    """Words that run a command where `script` has mounted what it wants at these places ($1, $2
    ...), for it alone.
    """
    return (
        "unshare",
        "-rm",
        "sh",
        "-c",
        f'{script}; shift {len(places)}; "$@"',
        "sh",
        *map(str, places),
    )


def read_only() -> Iterator[Outcome]:
    """A checkout that can be read only, then the same with its outputs elsewhere."""
    if not shutil.which("unshare"):
        yield Outcome("a read-only checkout", "needs Linux's `unshare`", None)
        return
    with copy() as project, folder() as out:
        before = mounted('mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"', project.root)
        yield Outcome(
            "a read-only checkout",
            *sentence(*project.run(before=before), "Read-only.*CIRCUITS_OUT"),
        )
        status, said = project.run(before=before, CIRCUITS_OUT=str(out))
        right = status == 0 and results(out) == undisturbed()[0]
        yield Outcome(
            "the same with CIRCUITS_OUT set", "completes, equal" if right else said, right
        )


def disk_full() -> Iterator[Outcome]:
    """Outputs on a file system of their own that is too small; what it holds is seen before it
    goes.
    """
    if not shutil.which("unshare"):
        yield Outcome("a full disk", "needs Linux's `unshare`", None)
        return
    for size in ("64k", "300k", "700k"):
        with copy() as project, folder() as out:
            disk, seen = out / "disk", out / "seen"
            disk.mkdir(), seen.mkdir()
            script = f'mount -t tmpfs -o size="$1" tmpfs "$2"; trap "cp -a {disk}/. {seen}/" EXIT'
            status, said = project.run(before=mounted(script, size, disk), CIRCUITS_OUT=str(disk))
            text, right = sentence(
                status, said.replace(str(out), "<folder>"), "No space left on device"
            )
            broken = half_written(seen)
            status, _ = project.run(CIRCUITS_OUT=str(seen))
            right &= not broken and status == 0 and results(seen) == undisturbed()[0]
            again = (
                "The next run, with space, completes, equal."
                if right
                else f"Then: {status}, {broken}."
            )
            yield Outcome(f"a disk that is full after {size}iB", f"{text} {again}", right)


# --- bad values -----------------------------------------------------------------------------------
# --------------------


def bad_parameters(count: int = 200) -> Iterator[Outcome]:
    """Random values for every parameter and for names that do not exist, then senseless ones of the
    right type.
    """
    every = [run_notebooks.defaults(path) for path in notebooks_in(PROJECT / "notebooks")]
    names = st.sampled_from(
        sorted({*set().union(*every), "n_prompts", "N_PROMPT", "", "A=B", "SEED "})
    )
    values = st.one_of(
        st.text(max_size=12),
        st.floats().map(str),
        st.integers().map(str),
        st.lists(st.booleans()).map(str),
    )
    said, wrong = [], []

    @seed(0)
    @settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(names, values)
    def attempt(name: str, value: str) -> None:
        try:
            run_notebooks.plan(PROJECT, "planted", [f"{name}={value}"], "")
            said.append("")
        except (run_notebooks.RunError, ModelError, ClaimError) as error:
            said.append(str(error))
        except Exception as error:
            wrong.append(f"{name}={value}: {error!r}")

    attempt()
    refused = [line for line in said if line]
    right = not wrong and all("\n" not in line for line in refused)
    seen = f"{len(refused)} refused in one sentence before anything ran, {len(said) - len(refused)} of the right type"
    yield Outcome(
        f"{len(said) + len(wrong)} random parameters", "; ".join([seen, *wrong[:3]]), right
    )
    with copy(notebooks="01") as project:
        for value in ("N_PROMPTS=0", "N_PROMPTS=-3", "SEED=-1", "DEVICE=abacus"):
            seen, right = sentence(*project.run(value), "01_ioi_circuit .planted., cell|Error: ")
            yield Outcome(
                f"`make reproduce {value}`", seen, right and not half_written(project.root)
            )


SCENARIOS: dict[str, Callable[..., Iterator[Outcome]]] = {
    scenario.__name__: scenario
    for scenario in (
        kills, full_run, conversion, two_at_once, damaged_files, damaged_models, no_network, read_only, disk_full,
        bad_parameters,
    )
}  # fmt: skip


def rows(report: Path) -> dict[str, str]:
    """The rows of a report, by what was done."""
    text = report.read_text(encoding="utf-8") if report.is_file() else ""
    lines = text.partition("| --- | --- | --- | --- |\n")[2].splitlines()
    return {line.split(" | ")[0]: line for line in lines}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how often a run is killed")
    parser.add_argument(
        "--only", nargs="+", choices=SCENARIOS, metavar="SCENARIO", help=", ".join(SCENARIOS)
    )
    args = parser.parse_args(argv)
    wrong, tried = (
        False,
        f"{date.today()}, {git('describe', '--always', '--dirty') or 'no checkout'}",
    )
    table = {done: row for done, row in rows(REPORT).items() if args.only or FULL in row}
    chosen = [SCENARIOS[name] for name in args.only or SCENARIOS if args.only or name != "full_run"]
    for scenario in chosen:
        for outcome in scenario(args.kills) if scenario is kills else scenario():
            print(
                f"{'WRONG' if outcome.right is False else 'ok'}: {outcome.scenario}: {outcome.seen}",
                flush=True,
            )
            row = outcome.row(tried)
            table[row.split(" | ")[0]] = row
            wrong |= outcome.right is False
            write_text(REPORT, "\n".join([HEAD, *table.values()]) + "\n")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
