"""Copies for Google Colab: a badge, one cell that installs, and a list of packages from
requirements.txt.
"""

import ast
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.utils import canonicalize_name

from scripts import colab_install
from scripts.check_notebooks import MAX_LINES, check
from scripts.colab import ColabError, colab, main, repository
from suite.registry import PROJECT

BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/some-owner/suite/blob/main/notebooks/colab/01_a.ipynb)"
)


@pytest.fixture
def copy() -> nbformat.NotebookNode:
    output = new_output("stream", text="2\n")
    parameters = new_code_cell("N = 2", metadata={"tags": ["parameters"]}, execution_count=1)
    cells = [
        new_markdown_cell("# Title\n\n> Claim."),
        parameters,
        new_code_cell("print(N)", outputs=[output]),
    ]
    return colab(new_notebook(cells=cells), "some-owner/suite", "01_a.ipynb")


def test_a_badge_below_the_title_one_cell_before_the_parameters_and_no_output(copy):
    title, install, parameters, body = copy.cells
    assert title.source == f"# Title\n\n{BADGE}\n\n> Claim."
    assert (
        '"https://github.com/some-owner/suite"' in install.source
        and '"/content/suite"' in install.source
    )
    assert (parameters.source, body.source) == ("N = 2", "print(N)")
    assert not any(cell.outputs or cell.execution_count for cell in copy.cells[1:])


def test_elsewhere_the_cell_says_one_sentence_and_does_nothing(copy, capsys, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "google.colab", None
    )  # its import fails, whatever is installed
    before = list(sys.path)
    exec(copy.cells[1].source, {})
    [sentence] = capsys.readouterr().out.splitlines()
    assert sentence.startswith("This is not Google Colab") and sys.path == before


def test_the_notebooks_copies_keep_the_rules(tmp_path):
    assert main(["--repository", "some-owner/suite", "--out", str(tmp_path)]) == 0
    names = sorted(path.name for path in (PROJECT / "notebooks").glob("[0-9]*.ipynb"))
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [
        problem for problem in check(tmp_path) if "executed as [None, None" not in problem
    ] == []
    for name in names:
        sources = [cell.source for cell in nbformat.read(tmp_path / name, as_version=4).cells]
        assert len(sources[1].splitlines()) <= MAX_LINES and "colab_install.py" in sources[1]
        assert [f"/notebooks/colab/{name})" in source for source in sources] == [True] + [False] * (
            len(sources) - 1
        )


@pytest.mark.parametrize("end", ["", ".git", "/"])
def test_the_address_is_given_or_stands_in_the_citation(tmp_path, end):
    citation = tmp_path / "CITATION.cff"
    citation.write_text(
        f"title: Suite\nrepository-code: https://github.com/some-owner/a.suite{end}\n"
    )
    assert repository("", citation) == "some-owner/a.suite"
    assert repository("Other/suite", citation) == "Other/suite"


@pytest.mark.parametrize(
    "given", ["suite", "a/b/c", "an owner/suite", "https://gitlab.com/owner/suite", "owner/"]
)
def test_a_malformed_address_ends_in_one_sentence(given, tmp_path, capsys):
    assert main(["--repository", given, "--out", str(tmp_path)]) == 1
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence == f"Error: {given!r} is no repository on GitHub: write it as owner/name."
    assert list(tmp_path.iterdir()) == []


def test_without_an_address_it_says_what_to_give(tmp_path):
    (tmp_path / "CITATION.cff").write_text("title: Suite\n")
    with pytest.raises(
        ColabError, match="^Give REPOSITORY=owner/name, or a line repository-code in CITATION.cff.$"
    ):
        repository("", tmp_path / "CITATION.cff")


def test_torch_and_what_colab_has_of_arrays_and_tables_stay(monkeypatch, tmp_path):
    there = {"torch": "2.8.0+cu126", "numpy": "2.0.2", "tokenizers": "0.22.0"}

    def version(name: str) -> str:
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(colab_install, "version", version)
    monkeypatch.setattr(colab_install, "ROOT", tmp_path)
    (tmp_path / "requirements.txt").write_text(
        "# Head\n\n# Models and tensors\ntorch==2.13.0  # tensors\ntokenizers==0.23.3  # words\n\n"
        "# Analysis and figures\nnumpy==2.4.6  # arrays\nscipy==1.17.1  # tests\n\n# Files\nPyYAML==6.0.3  # data\n\n"
        "# Tests and packaging\npytest==9.2.0  # tests\n"
    )
    kept, missing = colab_install.plan()
    assert kept == ["torch==2.8.0+cu126", "numpy==2.0.2"]
    assert missing == ["tokenizers==0.23.3", "scipy==1.17.1", "PyYAML==6.0.3"]


def test_every_package_that_helpers_and_notebooks_import_is_installed():
    sources = [path.read_text(encoding="utf-8") for path in (PROJECT / "helpers").glob("*.py")]
    for path in (PROJECT / "notebooks").glob("[0-9]*.ipynb"):
        sources += [
            c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"
        ]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    modules = {
        alias.name.split(".")[0]
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    modules |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    modules -= {*sys.stdlib_module_names, "helpers", "IPython"}  # IPython is the kernel's
    imported = {canonicalize_name(packages_distributions()[module][0]) for module in modules}
    assert "transformer-lens" in imported
    listed = {
        canonicalize_name(name)
        for name in colab_install.pins(colab_install.PINNED + colab_install.KEPT)
    }
    assert imported <= listed and "torch" not in [
        line.split("==")[0] for line in colab_install.plan()[1]
    ]
