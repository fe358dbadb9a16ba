"""Student copies: stubs for solutions, and proof that a check tells one from the other."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from scripts.exercises import ExerciseError, leaks, main, proven, solutions, student
from suite.registry import PROJECT

SOLVED = '''def double(x: int) -> int:
    """Twice x."""
    ### BEGIN SOLUTION
    twice_as_much = x + x
    return twice_as_much
    ### END SOLUTION'''
STUB = '''def double(x: int) -> int:
    """Twice x."""
    raise NotImplementedError  # your code here'''
CHECK = "assert double(3) == 6\nassert double(0) == 0"


def notebook(*sources: str) -> nbformat.NotebookNode:
    cells = [
        new_code_cell(source, outputs=[new_output("stream", text="6\n")], execution_count=1)
        for source in sources
    ]
    return new_notebook(cells=[new_markdown_cell("# Doubling"), *cells])


def run(nb: nbformat.NotebookNode) -> None:
    names: dict = {}
    for cell in nb.cells:
        if cell.cell_type == "code":
            exec(cell.source, names)


def test_a_student_gets_a_stub_and_no_output():
    master = notebook("y = 2", SOLVED, CHECK)
    copy = student(master)
    assert [cell.source for cell in copy.cells] == ["# Doubling", "y = 2", STUB, CHECK]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in copy.cells)
    assert leaks(master, copy) == [] and master.cells[2].source == SOLVED
    with pytest.raises(NotImplementedError):
        run(copy)


def test_a_leak_is_found():
    master = notebook(SOLVED, CHECK)
    copy = student(master)
    copy.cells.append(new_markdown_cell("Hint: `return twice_as_much`"))
    assert leaks(master, copy) == ["return twice_as_much"]
    assert leaks(master, master) == [
        "twice_as_much = x + x",
        "return twice_as_much",
        "an output",
        "an output",
    ]


def test_the_proof_passes_with_a_check_that_sees_the_stub_and_fails_with_one_that_does_not():
    run(
        proven(notebook(SOLVED, CHECK, "assert double(1) == 2"))
    )  # the solution is back behind the proof
    with pytest.raises(SystemError, match="passes on a stub"):
        run(proven(notebook(SOLVED, "assert double")))
    with pytest.raises(AssertionError):
        run(proven(notebook(SOLVED.replace("x + x", "x"), CHECK)))


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ([SOLVED], "needs a check"),
        ([SOLVED, SOLVED, CHECK], "needs a check"),
        ([SOLVED.replace("### END", "### end"), CHECK], "one BEGIN and one END"),
        ([SOLVED + SOLVED, CHECK], "one BEGIN and one END"),
    ],
)
def test_marks_that_do_not_fit_are_refused(sources, sentence):
    with pytest.raises(ExerciseError, match=f"{sentence}.*def double"):
        student(notebook(*sources))


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda path: path.stem
)
def test_every_exercise_has_its_card_and_a_folded_hint(path):
    """As TEACHING.md says of all of them."""
    text = "\n".join(
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    )
    exercises = re.split(
        r"^### Exercise ", text.partition("## What to read next")[0], flags=re.MULTILINE
    )[1:]
    assert exercises
    for card in exercises:
        assert re.search(
            r"^Difficulty \d of 5 · importance \d of 5 · \d+ minutes", card, re.MULTILINE
        ), card
        assert "*Why it matters.*" in card and "<details><summary>Hint" in card, card


def test_the_notebooks_student_copies(tmp_path):
    """Generated whole, without a leak; the checks are proven where the notebooks run (make
    test).
    """
    assert main(["--out", str(tmp_path)]) == 0
    for path in sorted((PROJECT / "notebooks").glob("[0-9]*.ipynb")):
        master, copy = (nbformat.read(p, as_version=4) for p in (path, tmp_path / path.name))
        assert leaks(master, copy) == [] and len(copy.cells) == len(master.cells)
        assert "SOLUTION" not in "".join(cell.source for cell in copy.cells)
        assert len(solutions(master)) == sum(
            "raise NotImplementedError" in cell.source for cell in copy.cells
        )
