"""Student copies of the notebooks: no outputs, and a stub in place of every solution.

python -m scripts.exercises --out notebooks/exercises

An exercise is a code cell with a function whose body stands between `### BEGIN SOLUTION` and `###
END SOLUTION`, the marks of nbgrader, and the next code cell is its check: it raises unless the
function is right.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from scripts.check_notebooks import notebooks_in
from suite.errors import ClaimError
from suite.files import write_text
from suite.registry import PROJECT

SOLUTION = re.compile(
    r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION[^\n]*", re.DOTALL | re.MULTILINE
)
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
        marks = [
            len(re.findall(rf"^ *### {word} SOLUTION", cell.source, re.MULTILINE))
            for word in ("BEGIN", "END")
        ]
        if marks == [0, 0]:
            continue
        if marks != [1, 1] or not SOLUTION.search(cell.source):
            raise ExerciseError(
                f"A solution needs one BEGIN and one END mark: {cell.source.splitlines()[0]}"
            )
        if check is None or "SOLUTION" in check.source:
            raise ExerciseError(
                f"A solution needs a check in the next code cell: {cell.source.splitlines()[0]}"
            )
        found.append((cell, check))
    return found


def leaks(master: NotebookNode, copy: NotebookNode) -> list[str]:
    """Lines of solutions that the student copy still shows, in code, text or outputs."""
    text = "\n".join(cell.source for cell in copy.cells)
    hidden = [
        line.strip()
        for cell, _ in solutions(master)
        for line in SOLUTION.search(cell.source)[2].splitlines()
    ]
    shown = [line for line in hidden if len(line) > 12 and line in text]
    return shown + ["an output" for cell in copy.cells if cell.get("outputs")]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=PROJECT / "notebooks" / "exercises", help="folder to write"
    )
    out = parser.parse_args(argv).out
    try:
        for path in notebooks_in(PROJECT / "notebooks"):
            master = nbformat.read(path, as_version=4)
            copy = student(master)
            if found := leaks(master, copy):
                raise ExerciseError(f"{path.name} leaks a solution: {found[0]}")
            write_text(out / path.name, nbformat.writes(copy) + "\n")
            print(f"{path.stem}: {len(solutions(master))} exercises")
    except (ExerciseError, ClaimError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
