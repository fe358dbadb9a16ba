"""Run the notebooks in file order into build/<model>/, skipping what is up to date.

python -m scripts.run_notebooks --model smollm2 --set N_PROMPTS=64 --only 01
"""

import argparse
import ast
import contextlib
import difflib
import fcntl
import functools
import hashlib
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from helpers.models import model_provenance
from scripts import exercises
from scripts.check_notebooks import notebooks_in
from suite.errors import ClaimError, ModelError, NotApplicable, VocabularyError
from suite.files import write_text
from suite.ledger import get_claim, load_claims
from suite.provenance import package_versions
from suite.registry import (
    PROJECT,
    ModelSource,
    figures_dir,
    output_root,
    resolve,
    results_path,
    run_dir,
)

# Kernels inherit these: nothing but results in a notebook, and the environment's own "python3"
# kernel.
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")),
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
CELL_TIMEOUT = 3600  # seconds


class RunError(Exception):
    """One sentence for the user: what is wrong and what to do."""


@dataclass(frozen=True)
class Job:
    """One notebook on one model, with the parameters that differ from the notebook's defaults."""

    root: Path
    notebook: Path
    model: ModelSource
    parameters: dict
    prove: bool = False

    @property
    def folder(self) -> Path:
        return build_dir(self.model)

    @property
    def output(self) -> Path:
        return self.folder / self.notebook.name

    @property
    def stamp(self) -> Path:
        return self.folder / f"{self.notebook.stem}.stamp.json"

    @property
    def label(self) -> str:
        return f"{self.notebook.stem} ({self.model.name})"


def build_dir(model: ModelSource) -> Path:
    """The folder of one model's executed notebooks."""
    return run_dir(model.slug)


def stored(path: Path, key: str, remedy: str) -> list:
    """What a JSON file, such as a notebook, holds under a key. Raises RunError, with what to do, if
    it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{os.path.relpath(path)} is damaged: {remedy}.") from None


# --- what to run ----------------------------------------------------------------------------------
# --------------------


def defaults(notebook: Path) -> dict:
    """The notebook's parameters with their default values."""
    return {
        name: ast.literal_eval(p["default"])
        for name, p in papermill.inspect_notebook(str(notebook)).items()
    }


def quick(notebook: Path) -> dict:
    """The parameters whose comment ends in `quick: VALUE`, with that value."""
    comments = {
        name: p["help"].partition("quick: ")
        for name, p in papermill.inspect_notebook(str(notebook)).items()
    }
    return {name: ast.literal_eval(value) for name, (_, found, value) in comments.items() if found}


def parse(name: str, text: str, default: object) -> object:
    """The value written on the command line, in the type of the notebook's default."""
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, TypeError, ValueError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        kind = type(default).__name__
        raise RunError(f"{name} takes a value of type {kind}, such as {default!r}, not {text!r}.")
    if type(value) in (int, float) and not 0 <= value < math.inf:
        raise RunError(f"{name} takes a number of 0 or more, such as {default!r}, not {text!r}.")
    return value


def assignments(pairs: Iterable[str], known: set[str]) -> dict[str, str]:
    """KEY=VALUE pairs as a dict; a key that no notebook knows is refused."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise RunError(f"--set takes KEY=VALUE, such as N_PROMPTS=64, not {pair!r}.")
        if key not in known:
            near = difflib.get_close_matches(key.upper(), known, n=1) or sorted(known) or ["none"]
            raise RunError(f"No notebook has a parameter {key}: use {' or '.join(near)}.")
        settings[key] = value
    return settings


def own_model(number: str, *, of_a_paper: bool = False) -> str | None:
    """The model of a notebook's first claim, or of its first that is a paper's; None for a notebook
    without one.
    """
    claims = [
        claim
        for claim in load_claims().values()
        if claim.notebook == number and (claim.paper or not of_a_paper)
    ]
    return next((claim.model for claim in claims if claim.model), None)


def models(path: Path, model: str, known: dict[Path, dict]) -> list[str]:
    """The models to run a notebook on: the one asked for, or its own if that is "paper" or it is
    about one model.

    Notebook 01 finds the heads from which later notebooks start, so with "paper" it runs on their
    papers' models, too.
    """
    if model != "paper" and "MODEL" in known[path]:
        return [model]
    later = [other for other in known if path.name[:2] == "01" and "MODEL" in known[other]]
    names = [
        own_model(path.name[:2]),
        *(own_model(other.name[:2], of_a_paper=True) for other in later),
    ]
    if names[0] is None:
        print(f"{path.stem}: skipped, it has no paper's model (run it with another MODEL)")
    return [name for name in dict.fromkeys(names) if name]


def plan(
    root: Path,
    model: str,
    pairs: Iterable[str],
    only: str,
    *,
    profile: str = "full",
    prove: bool = False,
) -> list[Job]:
    """The jobs, in file order."""
    every = notebooks_in(root / "notebooks")
    chosen = [path for path in every if path.name.startswith(only)]
    if not chosen:
        names = ", ".join(path.stem for path in every) or "no notebook"
        raise RunError(f"No notebook begins with {only!r}: {root / 'notebooks'} holds {names}.")
    for path in chosen:
        stored(path, "cells", "restore it from version control")
    known = {path: defaults(path) for path in chosen}
    settings = assignments(pairs, set().union(*known.values()) - {"MODEL"})
    jobs = []
    for path in chosen:
        for name in models(path, model, known):
            source = resolve(name)
            wanted = {"MODEL": str(source.location) if source.kind == "folder" else name}
            wanted |= quick(path) if profile == "quick" else {}
            wanted |= {
                key: parse(key, text, known[path][key])
                for key, text in settings.items()
                if key in known[path]
            }
            changed = {k: v for k, v in wanted.items() if k in known[path] and v != known[path][k]}
            jobs.append(Job(root, path, source, changed, prove))
    return jobs


# --- what is up to date
# -----------------------------------------------------------------------------------------------


def sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def tree(folder: Path, pattern: str) -> str:
    """Hash of the files below a folder, names included; measured results are no input."""
    paths = [
        p
        for p in sorted(folder.rglob(pattern))
        if p.is_file() and folder / "results" not in p.parents
    ]
    return sha256(
        part for p in paths for part in (p.relative_to(folder).as_posix().encode(), p.read_bytes())
    )


def outputs(job: Job) -> list[Path]:
    """The executed notebook, and the results and figures that carry its number, where they
    exist.
    """
    number = job.notebook.name[:2]
    paths = [job.output, results_path(job.model.slug, number)]
    return [
        path
        for path in paths + sorted(figures_dir(job.model.slug).glob(f"{number}_*"))
        if path.exists()
    ]


def earlier(job: Job) -> str:
    """Hash of what earlier notebooks measured on the model, for the scorecard on any model: a run
    starts from it.
    """
    number = job.notebook.name[:2]
    folder = results_path(job.model.slug, number).parent
    paths = sorted(
        folder.parent.glob("*/*.json")
        if number == get_claim("X3").notebook
        else folder.glob("*.json")
    )
    remedy = "run its notebook again with --force, or restore it from version control"
    return sha256(
        json.dumps(stored(p, "claims", remedy)).encode() for p in paths if p.stem < number
    )


@functools.cache
def identity(name: str) -> dict:
    return model_provenance(name)


def fingerprint(job: Job) -> dict:
    """Everything on which a run depends, and what it left."""
    cells = nbformat.read(job.notebook, as_version=4).cells
    return {
        "notebook": sha256(f"{c.cell_type}\n{c.source}".encode() for c in cells),
        "helpers": tree(job.root / "helpers", "*.py"),
        "suite": tree(job.root / "suite", "*.py"),
        "data": tree(job.root / "data", "*"),
        "earlier results": earlier(job),
        "parameters": job.parameters,
        "proof of exercises": job.prove,
        "versions": package_versions(job.root),
        "model": identity(job.model.name),
        "outputs": {path.name: sha256([path.read_bytes()]) for path in outputs(job)},
    }


def reasons(job: Job) -> str:
    """Why the job must run; empty when it is up to date."""
    if not job.stamp.exists():
        return "not run yet"
    try:
        old = dict(json.loads(job.stamp.read_text(encoding="utf-8")))
    except (TypeError, ValueError):
        return "its stamp is damaged"
    new = fingerprint(job)
    return ", ".join(
        f"{key} changed" for key in new if old.get(key) != json.loads(json.dumps(new[key]))
    )


def write_stamp(job: Job) -> None:
    """Remember on what the run depended, and what it left."""
    write_text(job.stamp, json.dumps(fingerprint(job), indent=1))


# --- running --------------------------------------------------------------------------------------
# --------------------


@contextlib.contextmanager
def locked(model: ModelSource) -> Iterator[None]:
    """Hold a model's build folder; what a killed run left half-written there, or of its results, is
    removed.
    """
    folder = build_dir(model)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"Another run is using {folder}: wait until it ends, then run this again."
            ) from None
        for written in (folder, results_path(model.slug, "00").parent, figures_dir(model.slug)):
            for leftover in written.glob(".*.part*"):
                leftover.unlink(missing_ok=True)
        yield


def sizes(job: Job) -> str:
    """The parameters of a notebook on which its memory and time depend."""
    known = defaults(job.notebook)
    return " or ".join(name for name in ("N_PATCH", "N_PROMPTS", "MEMORY_GIB") if name in known)


def skip(job: Job) -> None:
    """Remove what an earlier run left of a notebook that does not apply now, and remember that it
    does not.
    """
    job.stamp.unlink(missing_ok=True)
    for path in outputs(job):
        path.unlink()
    write_stamp(job)


def failure(job: Job, part: Path, message: str) -> RunError:
    """Keep the partial notebook beside the good one, and say where the error is."""
    kept = job.folder / f"{job.notebook.stem}.failed.ipynb"
    started = [
        cell
        for cell in nbformat.read(part, as_version=4).cells
        if cell.metadata.get("papermill", {}).get("start_time")
    ]
    os.replace(part, kept)
    last_line = message.strip().splitlines()[-1]
    return RunError(
        f"{job.label}, cell {len(started)}: {last_line} (the notebook up to there: {os.path.relpath(kept)})"
    )


def execute(job: Job, place: str) -> float:
    """Run one notebook; its output and stamp appear whole or not at all. Seconds taken."""
    part = job.folder / f".{job.notebook.stem}.part.ipynb"  # while it runs
    bar = {
        "disable": False,
        "desc": f"{place} {job.notebook.stem}",
        "mininterval": 0.5 if sys.stderr.isatty() else 30,
    }
    began = time.monotonic()
    try:
        nb = nbformat.read(job.notebook, as_version=4)
        papermill.execute_notebook(
            exercises.proven(nb) if job.prove else nb,
            str(part),
            job.parameters,
            kernel_name="python3",
            cwd=str(job.notebook.parent),
            progress_bar=bar,
            execution_timeout=CELL_TIMEOUT,
            extra_arguments=["--log-level=CRITICAL"],
        )
        job.stamp.unlink(missing_ok=True)
        os.replace(part, job.output)
        write_stamp(job)
    except PapermillExecutionError as error:
        if error.ename in (NotApplicable.__name__, VocabularyError.__name__):
            raise NotApplicable(error.evalue) from None
        raise failure(job, part, f"{error.ename}: {error.evalue}") from None
    except DeadKernelError:
        raise failure(
            job, part, f"the kernel died, often for lack of memory: lower {sizes(job)}"
        ) from None
    except CellTimeoutError:
        raise failure(job, part, f"it took over {CELL_TIMEOUT} s: lower {sizes(job)}") from None
    finally:
        part.unlink(missing_ok=True)
    return time.monotonic() - began


def run(jobs: list[Job], force: bool) -> None:
    """Run what is not up to date, and print a table of seconds."""
    table = []
    with contextlib.ExitStack() as stack:
        for _, model in sorted({job.model.slug: job.model for job in jobs}.items()):
            stack.enter_context(locked(model))
        try:
            for index, job in enumerate(jobs, start=1):
                why = "forced" if force else reasons(job)
                if not why:
                    table.append((job.label, "up to date"))
                    continue
                print(f"{job.label}: running ({why})", flush=True)
                try:
                    table.append((job.label, f"{execute(job, f'[{index}/{len(jobs)}]'):.1f} s"))
                except NotApplicable as error:
                    skip(job)
                    print(f"{job.label}: skipped, {error}")
                    table.append((job.label, "skipped"))
        finally:
            for label, seconds in table:
                print(f"{label:<50} {seconds:>10}")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        default="smollm2",
        help="short name, hub id, folder, or 'paper': each notebook on its paper's",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a notebook parameter (repeatable)",
    )
    parser.add_argument(
        "--only", default="", metavar="01", help="only the notebooks whose name begins so"
    )
    parser.add_argument(
        "--profile",
        choices=("full", "quick"),
        default="full",
        help="quick: the same claims on fewer prompts",
    )
    parser.add_argument(
        "--prove",
        action="store_true",
        help="repeat the check of every exercise on its stub: it must fail",
    )
    parser.add_argument("--force", action="store_true", help="run what is up to date, too")
    parser.add_argument("--root", type=Path, default=PROJECT, help="project folder")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # errors are told in one sentence
    root = args.root.resolve()
    os.environ.update(QUIET, CIRCUITS_OUT=str(output_root().resolve()))
    try:
        jobs = plan(root, args.model, args.set, args.only, profile=args.profile, prove=args.prove)
        if all(job.model.kind != "hub" for job in jobs):
            os.environ["HF_HUB_OFFLINE"] = "1"
        run(jobs, args.force)
    except (RunError, ModelError, ClaimError, exercises.ExerciseError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = error.filename or output_root()
        print(
            f"\nError: {where}: {error.strerror}: free space, make it writable, or set CIRCUITS_OUT.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(
            "\nInterrupted: run the same command again to go on from the last finished notebook.",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
