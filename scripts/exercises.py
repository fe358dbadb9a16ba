"""Student copies of the notebooks: no outputs, and a stub in place of every solution.

python -m scripts.exercises --out notebooks/exercises

An exercise is a code cell with a function whose body stands between `### BEGIN SOLUTION` and `###
END SOLUTION`, the marks of nbgrader, and the next code cell is its check: it raises unless the
function is right.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from suite.errors import ClaimError
from suite.files import sha256, write_text
from suite.registry import PROJECT, notebooks_in

SOLUTION = re.compile(
    r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION[^\n]*", re.DOTALL | re.MULTILINE
)
RECORD = ".written.json"  # in the folder of the copies: their sha256
STUB = r"\1raise NotImplementedError  # your code here"
FAILS = """try:
{check}
except Exception:
    pass
else:
    raise SystemError("the check of the exercise above passes on a stub")"""


class ExerciseError(ValueError):
    """A solution without an end, or without a check."""


def student(nb: NotebookNode) -> NotebookNode:
    """The notebook as students get it. Raises ExerciseError for marks that do not fit together."""
    solutions(nb)
    copy = without_outputs(nb)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.source = SOLUTION.sub(STUB, cell.source)
    return copy


def without_outputs(nb: NotebookNode) -> NotebookNode:
    """A copy as if it had never been run."""
    return ClearOutputPreprocessor().preprocess(nbformat.from_dict(nb), {})[0]


def proven(nb: NotebookNode) -> NotebookNode:
    """The notebook with each check repeated on the stub, where it must fail. Raises ExerciseError
    as `student` does.
    """
    copy = nbformat.from_dict(nb)
    copy.cells = []
    pairs = {id(check): cell for cell, check in solutions(nb)}
    for cell in nb.cells:
        copy.cells.append(cell)
        if id(cell) in pairs:
            check = "\n".join(f"    {line}".rstrip() for line in cell.source.splitlines())
            copy.cells += [
                new_code_cell(SOLUTION.sub(STUB, pairs[id(cell)].source)),
                new_code_cell(FAILS.format(check=check)),
                new_code_cell(pairs[id(cell)].source),
            ]
    return copy


def solutions(nb: NotebookNode) -> list[tuple[NotebookNode, NotebookNode]]:
    """Every cell with a solution, and its check. Raises ExerciseError for marks that do not fit
    together.
    """
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    found = []
    for cell, check in zip(cells, [*cells[1:], None], strict=True):
        begins, ends = (count_marks(cell, word) for word in ("BEGIN", "END"))
        if begins == ends == 0:
            continue
        first_line = cell.source.splitlines()[0]
        if (begins, ends) != (1, 1) or not SOLUTION.search(cell.source):
            raise ExerciseError(f"A solution needs one BEGIN and one END mark: {first_line}")
        if check is None or "SOLUTION" in check.source:
            raise ExerciseError(f"A solution needs a check in the next code cell: {first_line}")
        found.append((cell, check))
    return found


def count_marks(cell: NotebookNode, word: str) -> int:
    """How many lines of a cell begin a solution, or end one."""
    return len(re.findall(rf"^ *### {word} SOLUTION", cell.source, re.MULTILINE))


def leaks(master: NotebookNode, copy: NotebookNode) -> list[str]:
    """Lines of solutions that the student copy still shows, in code, text or outputs."""
    text = "\n".join(cell.source for cell in copy.cells)
    found = []
    for cell, _ in solutions(master):
        for line in SOLUTION.search(cell.source)[2].splitlines():
            line = line.strip()
            if len(line) > 12 and line in text:
                found.append(line)
    for cell in copy.cells:
        if cell.get("outputs"):
            found.append("an output")
    return found


# --- files ----------------------------------------------------------------------------------------


def copy_text(path: Path) -> str:
    """The student copy of a notebook as text. Raises ExerciseError if it shows a solution."""
    master = nbformat.read(path, as_version=4)
    copy = student(master)
    found = leaks(master, copy)
    if found:
        raise ExerciseError(f"{path.name} leaks a solution: {found[0]}")
    return nbformat.writes(copy) + "\n"


def recorded(out: Path) -> dict[str, str]:
    """The sha256 of each copy as it was last written to a folder; empty where nobody knows."""
    try:
        return dict(json.loads((out / RECORD).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return {}


def is_edited(path: Path, text: str, last_written: str | None) -> bool:
    """Whether a copy is neither as it was last written nor as it would be now."""
    if not path.exists() or path.read_text(encoding="utf-8") == text:
        return False
    return sha256(path) != last_written


def write_copies(out: Path, *, force: bool = False) -> list[str]:
    """Write every student copy that nobody has worked in, all with `force`; the names of the kept.

    Raises ExerciseError or ClaimError, before anything is written, for a notebook that has no copy.
    """
    texts = {path.name: copy_text(path) for path in notebooks_in(PROJECT / "notebooks")}
    record = recorded(out)
    kept = []
    for name, text in texts.items():
        path = out / name
        if is_edited(path, text, record.get(name)) and not force:
            kept.append(name)
            continue
        write_text(path, text)
        record[name] = sha256(path)
    write_text(out / RECORD, json.dumps(record, indent=1) + "\n")
    return kept


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=PROJECT / "notebooks" / "exercises", help="folder to write"
    )
    parser.add_argument("--force", action="store_true", help="overwrite copies that were edited")
    args = parser.parse_args(argv)
    try:
        kept = write_copies(args.out, force=args.force)
    except (ExerciseError, ClaimError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for path in notebooks_in(PROJECT / "notebooks"):
        exercises = solutions(nbformat.read(path, as_version=4))
        print(f"{path.stem}: {len(exercises)} exercises")
    for name in kept:
        print(f"{name} was edited and is kept: move it away, or overwrite it with --force.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
