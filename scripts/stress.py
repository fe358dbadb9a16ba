"""What machines and people do to a run, done on purpose; writes benchmarks/RELIABILITY.md.

python -m scripts.stress [--kills 20]      exit status 1 if a scenario did not end as it should
"""

import argparse
import contextlib
import functools
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
from pathlib import Path

import nbformat
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from helpers.claims import write_text
from helpers.models import PROJECT

REPORT = PROJECT / "benchmarks" / "RELIABILITY.md"
NOTEBOOKS = ("00", "01")  # of the copies that runs are broken in
INPUTS = ("notebooks", "helpers", "data", "requirements.txt", "requirements.lock", "pyproject.toml")
NOBODY = 65534  # the user that a read-only checkout is tried as where we are root
HEAD = """# Reliability

Written by `make stress`. Runs use PROFILE=quick, notebooks 00 and 01, and the planted model where no other is named.

| what was done | what happened | as it should |
| --- | --- | --- |"""


@dataclass(frozen=True)
class Outcome:
    """One scenario: what was done, what came of it, and whether that is right."""

    scenario: str
    seen: str
    right: bool


class Copy:
    """A copy of the project in a temporary folder, with its own results, in which runs may be broken."""

    def __init__(self, folder: Path, *, notebooks: tuple[str, ...] = NOTEBOOKS, model: str = "planted") -> None:
        self.root, self.model = folder / "project", model
        self.root.mkdir(parents=True)
        for name in INPUTS:
            source = PROJECT / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, self.root / name)
        for path in (self.root / "notebooks").iterdir():
            if not path.name.startswith(notebooks):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.root / "data" / "results", ignore_errors=True)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """A run in a process group of its own."""
        command = [sys.executable, "-m", "scripts.run_notebooks", "--root", str(self.root)]
        command += ["--model", self.model, "--profile", "quick", *arguments]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "CIRCUITS_OUT": str(self.root)} | environment
        return subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit status and what a run says on stderr, its progress bars aside."""
        run = self.start(*arguments, **environment)
        _, errors = run.communicate()
        return run.returncode, told(errors)

    def results(self) -> dict[str, list]:
        """What was measured, file by file: all but the provenance."""
        paths = sorted((self.root / "data" / "results").glob("*/*.json"))
        return {f"{path.parent.name}/{path.name}": json.loads(path.read_text())["claims"] for path in paths}

    def half_written(self) -> list[str]:
        """Notebooks and results that cannot be read, and temporary files left behind."""
        found = [
            str(p.relative_to(self.root)) for p in self.root.rglob("*") if re.search(r"\.part(\.|$)|\.tmp$", p.name)
        ]
        for path in [*self.root.glob("build/*/*.ipynb"), *self.root.glob("data/results/*/*.json")]:
            try:
                nbformat.read(path, as_version=4) if path.suffix == ".ipynb" else json.loads(path.read_text())
            except (ValueError, OSError):
                found.append(str(path.relative_to(self.root)))
        return found


@contextlib.contextmanager
def copy(**options) -> Iterator[Copy]:
    """A fresh copy, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="circuits-") as folder:
        os.chmod(folder, 0o755)
        yield Copy(Path(folder), **options)


@functools.cache
def undisturbed(model: str = "planted") -> tuple[dict[str, list], float]:
    """Results and seconds of a run that nothing happens to."""
    with copy(model=model) as project:
        began = time.monotonic()
        status, said = project.run()
        assert status == 0, said
        return project.results(), time.monotonic() - began


def told(errors: str) -> str:
    """What a run says on stderr, its progress bars aside."""
    return "\n".join(line for line in re.split(r"[\r\n]+", errors) if line and not re.match(r"\[\d+/\d+\]", line))


def sentence(status: int, said: str, expected: str) -> tuple[str, bool]:
    """An error as it should be: status 1, one line, the expected words, no traceback."""
    line = said.strip()
    return f"status {status}: {line}", status == 1 and "\n" not in line and re.search(expected, line) is not None


def repeated() -> Outcome:
    first, _ = undisturbed("smollm2")
    with copy(model="smollm2") as project:
        project.run()
        again = project.results()
    rows = sum(map(len, first.values()))
    return Outcome(
        "two runs, embedded model",
        f"{rows} rows of results, {'equal' if again == first else 'not equal'}",
        again == first,
    )


def killed(times: int) -> Outcome:
    expected, seconds = undisturbed()
    rng, equal, left = random.Random(0), 0, 0
    for _ in range(times):
        with copy() as project:
            run = project.start()
            time.sleep(rng.uniform(0, seconds))
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
            broken = [path for path in project.half_written() if not re.search(r"\.part(\.|$)|\.tmp$", path)]
            status, _ = project.run()
            equal += status == 0 and project.results() == expected
            left += bool(broken or project.half_written())
    seen = f"{equal} of {times} reruns complete and equal to an undisturbed run; half-written files in {left}"
    return Outcome(f"kill -9 at {times} random moments, then run again", seen, equal == times and not left)


def two_at_once() -> Outcome:
    expected, seconds = undisturbed()
    with copy() as project:
        first = project.start()
        time.sleep(min(5.0, seconds / 2))
        seen, right = sentence(*project.run(), "Another run is using")
        first.communicate()
        right &= first.returncode == 0 and project.results() == expected
    return Outcome("a second run at the same time", f"{seen} The first completes.", right)


def corrupted() -> Iterator[Outcome]:
    damages = {
        "a truncated notebook": ("notebooks/01_*.ipynb", "damaged: restore it"),
        "a truncated results file": ("data/results/*/00.json", ""),
        "a truncated stamp": ("build/*/00_*.stamp.json", ""),
        "a truncated executed notebook": ("build/*/00_*.ipynb", ""),
        "a truncated ledger of claims": ("data/claims.yaml", "claims.yaml"),
    }
    for name, (pattern, expected) in damages.items():
        with copy() as project:
            project.run()
            [path] = project.root.glob(pattern)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            status, said = project.run()
            if expected:
                yield Outcome(name, *sentence(status, said, expected))
            else:
                right = status == 0 and project.results() == undisturbed()[0]
                yield Outcome(name, "made again, results equal" if right else f"status {status}: {said}", right)


def damaged_weights() -> Outcome:
    from tests.tiny import tiny_folder

    with tempfile.TemporaryDirectory() as folder:
        model = tiny_folder("gpt2", Path(folder) / "tiny")
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        with copy(model=str(model)) as project:
            return Outcome("truncated weights", *sentence(*project.run("--only", "01"), "safetensors|weights"))


def damaged_cache() -> Outcome:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-c", "from helpers.models import load_model; load_model('smollm2')"]
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        [weights] = Path(cache).rglob("model.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1000])
        again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        whole = weights.stat().st_size
    said = again.stderr.strip().splitlines()[-1] if again.returncode else f"converted again, {whole / 1e6:.0f} MB"
    return Outcome("truncated weights in the cache", said, again.returncode == 0)


def no_network() -> Outcome:
    with tempfile.TemporaryDirectory() as empty, copy(model="gpt2-medium") as project:
        said = project.run("--only", "01", HF_HOME=empty)
    return Outcome("gpt2-medium without a network", *sentence(*said, "make fetch MODEL=gpt2-medium"))


def unwritable() -> Outcome:
    with copy() as project:
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        for path in [project.root, *project.root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        command = [
            sys.executable,
            "-m",
            "scripts.run_notebooks",
            "--root",
            str(project.root),
            "--model",
            "planted",
        ]
        environment = os.environ | {"CIRCUITS_OUT": str(project.root), "XDG_CACHE_HOME": tempfile.gettempdir()}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **user)
        for path in [project.root, *project.root.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    return Outcome("a read-only checkout", *sentence(run.returncode, run.stderr, "writable"))


def disk_full() -> Outcome:
    """The kernel's own limit on the size of a file stands for a full disk: writes end half-way with an error."""
    with copy() as project:
        command = ["bash", "-c", 'ulimit -f 64; trap "" XFSZ; exec "$@"', "run", sys.executable]
        command += ["-m", "scripts.run_notebooks", "--root", str(project.root), "--model", "planted"]
        environment = os.environ | {"CIRCUITS_OUT": str(project.root)}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        said = told(run.stderr)
        broken, (status, _) = project.half_written(), project.run()
        seen, right = sentence(run.returncode, said, "File too large|cannot be written|writable")
        right &= not broken and status == 0 and project.results() == undisturbed()[0]
    return Outcome(
        "a disk that is full (no file may pass 64 KiB)",
        f"{seen} Half-written: {len(broken)}; the next run completes.",
        right,
    )


def bad_parameters(count: int) -> Outcome:
    """Values of the wrong kind for every parameter, names that do not exist, pairs that are none."""
    from scripts import run_notebooks

    values = st.one_of(st.text(max_size=12), st.floats(allow_nan=True).map(str), st.lists(st.integers()).map(str))
    said, wrong = [], []
    names = st.sampled_from(["N_PROMPTS", "SEED", "N_PATCH", "MEMORY_GIB", "N_PROMPT", "model", "", "A=B"])

    @seed(0)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(names, values)
    def attempt(name: str, value: str) -> None:
        try:
            run_notebooks.plan(PROJECT, "planted", [f"{name}={value}"], "01")
        except run_notebooks.RunError as error:
            said.append(str(error))
        except Exception as error:
            wrong.append(f"{name}={value}: {error!r}")

    attempt()
    valid = count - len(said) - len(wrong)
    seen = f"{len(said)} refused in one sentence before anything ran, {valid} valid, {len(wrong)} end otherwise"
    return Outcome(f"{count} random parameters", "; ".join([seen, *wrong[:3]]), not wrong)


def scenarios(kills: int) -> Iterator[Outcome]:
    """All of them, one after another."""
    once: list[Callable[[], Outcome]] = [repeated, functools.partial(killed, kills), two_at_once]
    once += [damaged_weights, damaged_cache, no_network, unwritable, disk_full, functools.partial(bad_parameters, 200)]
    for scenario in once:
        yield scenario()
    yield from corrupted()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how often a run is killed")
    outcomes = []
    for outcome in scenarios(parser.parse_args(argv).kills):
        print(f"{'ok' if outcome.right else 'WRONG'}: {outcome.scenario}: {outcome.seen}", flush=True)
        outcomes.append(outcome)
    rows = [f"| {o.scenario} | {o.seen.replace('|', '/')} | {'yes' if o.right else '**no**'} |" for o in outcomes]
    write_text(REPORT, "\n".join([HEAD, *rows]) + "\n")
    return int(not all(outcome.right for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
