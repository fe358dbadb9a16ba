"""The house rules for notebooks, and the cleaning of executed ones.

python -m scripts.check_notebooks                                  check notebooks/ python -m
scripts.check_notebooks --executed build/smollm2         check what a run left, its metadata aside
python -m scripts.check_notebooks --clean build/smollm2 build/planted notebooks copy executed
notebooks, without run metadata
"""

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from suite.files import write_text
from suite.registry import PROJECT

MAX_LINES = 25
WIDGET = "application/vnd.jupyter.widget-view+json"
ACTIVE = re.compile(
    r"<\s*(script|iframe|object|embed)|\bon\w+\s*=\s*[\"']|javascript:", re.IGNORECASE
)
PAIR = r"\(\s*(?:layer\s*=\s*)?\d+\s*,\s*(?:head\s*=\s*)?\d+\s*,?\s*\)"  # (9, 6)
HEAD_LITERAL = re.compile(
    rf"\bL\d{{1,2}}H\d{{1,2}}\b|\bHead{PAIR}|[\[{{]\s*{PAIR}|{PAIR}\s*,\s*{PAIR}"
)


def notebooks_in(folder: Path) -> list[Path]:
    """The notebooks of a folder, in file order, which is reading order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def code_cells(nb: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Code cells with their place in the notebook, counted from 1."""
    return [
        (n, cell)
        for n, cell in enumerate(nb.cells, start=1)
        if cell.cell_type == "code" and cell.source.strip()
    ]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def is_literal_assignment(statement: ast.stmt) -> bool:
    """NAME = literal"""
    if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
        return False
    try:
        ast.literal_eval(statement.value)
    except ValueError:
        return False
    return True


def starts_with_title(nb: NotebookNode) -> list[str]:
    first = nb.cells[0] if nb.cells else None
    good = first is not None and first.cell_type == "markdown" and first.source.startswith("# ")
    return [] if good else ["cell 1: must be Markdown that begins with an H1"]


def one_parameters_cell(nb: NotebookNode) -> list[str]:
    found = [(n, cell) for n, cell in code_cells(nb) if "parameters" in tags(cell)]
    if len(found) != 1:
        return [f"{len(found)} cells are tagged 'parameters': tag exactly one"]
    [(n, cell)] = found
    computed = [s for s in ast.parse(cell.source).body if not is_literal_assignment(s)]
    return [f"cell {n}, line {s.lineno}: a parameter must be NAME = literal" for s in computed]


def executed_in_order(nb: NotebookNode) -> list[str]:
    counts = [cell.execution_count for _, cell in code_cells(nb)]
    good = counts == list(range(1, len(counts) + 1))
    return [] if good else [f"executed as {counts}: run it from top to bottom (make notebooks)"]


def no_errors(nb: NotebookNode) -> list[str]:
    return [
        f"cell {n}: shows an error"
        for n, c in code_cells(nb)
        if any(o.output_type == "error" for o in c.outputs)
    ]


def no_stderr(nb: NotebookNode) -> list[str]:
    return [
        f"cell {n}: shows stderr"
        for n, c in code_cells(nb)
        if any(o.get("name") == "stderr" for o in c.outputs)
    ]


def short_cells(nb: NotebookNode) -> list[str]:
    lengths = [
        (n, sum(bool(line.strip()) for line in cell.source.splitlines()))
        for n, cell in code_cells(nb)
    ]
    return [
        f"cell {n}: {length} lines of code, at most {MAX_LINES}"
        for n, length in lengths
        if length > MAX_LINES
    ]


def no_head_literals(nb: NotebookNode) -> list[str]:
    found = [(n, HEAD_LITERAL.search(cell.source)) for n, cell in code_cells(nb)]
    return [
        f"cell {n}: names a head ({match.group()}); heads are found, not typed"
        for n, match in found
        if match
    ]


def needs_no_trust(nb: NotebookNode) -> list[str]:
    """Jupyter shows these outputs of anybody's notebook as they are, and runs nothing."""
    shown = [
        (n, "", cell.source)
        for n, cell in enumerate(nb.cells, start=1)
        if cell.cell_type == "markdown"
    ]
    outputs = [(n, output) for n, cell in code_cells(nb) for output in cell.outputs]
    shown += [
        (n, kind, text) for n, output in outputs for kind, text in output.get("data", {}).items()
    ]
    kinds = {"", "text/plain", "text/html", "text/markdown", "image/png"}
    active = [
        n
        for n, kind, text in shown
        if kind not in kinds or (kind != "text/plain" and ACTIVE.search(text))
    ]
    return [f"cell {n}: shows what runs code or needs trust" for n in active]


def no_run_metadata(nb: NotebookNode) -> list[str]:
    return [] if clean(nb) == nb else ["carries metadata of a run: copy it with make notebooks"]


RULES: list[Callable[[NotebookNode], list[str]]] = [
    starts_with_title,
    one_parameters_cell,
    executed_in_order,
    no_errors,
    no_stderr,
    short_cells,
    no_head_literals,
    needs_no_trust,
    no_run_metadata,
]


def functions_defined_twice(notebooks: dict[str, NotebookNode]) -> list[str]:
    """A function or class that two notebooks need belongs in helpers."""
    places = defaultdict(set)
    for name, nb in notebooks.items():
        for _, cell in code_cells(nb):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    places[node.name].add(name)
    shared = {name: sorted(found) for name, found in places.items() if len(found) > 1}
    return [
        f"{name} is defined in {' and '.join(found)}: move it to helpers"
        for name, found in sorted(shared.items())
    ]


def clean(nb: NotebookNode) -> NotebookNode:
    """A copy without papermill's and Jupyter's traces of a run: times, empty tags, widgets, which
    are dead on paper.
    """
    nb = nbformat.from_dict(nb)
    for key in ("papermill", "widgets"):
        nb.metadata.pop(key, None)
    for cell in nb.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not tags(cell):
            cell.metadata.pop("tags", None)
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs if WIDGET not in output.get("data", {})
            ]
    return nb


def copy_clean(*sources: Path, target: Path) -> None:
    """Replace target's notebooks by their executed twins in the first source; refuses a run with
    other parameters.
    """
    for notebook in notebooks_in(target):
        executed = next(
            (path for path in (source / notebook.name for source in sources) if path.exists()), None
        )
        if executed is None:
            sys.exit(f"{notebook.name} has not been run: run make reproduce first.")
        nb = clean(nbformat.read(executed, as_version=4))
        if any("injected-parameters" in tags(cell) for cell in nb.cells):
            sys.exit(f"{executed} was run with other parameters: run it with the defaults first.")
        write_text(notebook, nbformat.writes(nb) + "\n")


def check(folder: Path, *, executed: bool = False) -> list[str]:
    """Every broken rule of the notebooks in a folder; traces of the run are allowed in one just
    executed.
    """
    notebooks = {path.name: nbformat.read(path, as_version=4) for path in notebooks_in(folder)}
    if not notebooks:
        return [f"{folder} holds no notebook"]
    if executed:
        notebooks = {name: clean(nb) for name, nb in notebooks.items()}
    broken = [
        f"{name}: {problem}"
        for name, nb in notebooks.items()
        for rule in RULES
        for problem in rule(nb)
    ]
    return broken + functions_defined_twice(notebooks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--clean", nargs="+", type=Path, metavar="FOLDER", help="sources, then the target"
    )
    parser.add_argument(
        "--executed", nargs="+", type=Path, metavar="FOLDER", help="folders a run has filled"
    )
    args = parser.parse_args()
    if args.executed:
        sys.exit(
            "\n".join(
                problem for folder in args.executed for problem in check(folder, executed=True)
            )
            or None
        )
    if args.clean and len(args.clean) < 2:
        parser.error("--clean takes one or more sources, then the target")
    if args.clean:
        copy_clean(*args.clean[:-1], target=args.clean[-1])
    else:
        sys.exit("\n".join(check(PROJECT / "notebooks")) or None)


if __name__ == "__main__":
    main()
