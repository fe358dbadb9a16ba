"""The README table."""

import importlib.util
import re
import subprocess

import pytest

from helpers.heads import Head
from suite.ledger import Control
from suite.registry import PROJECT
from suite.results import Results
from tests.tiny import tiny_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return str(tiny_folder("gpt2", tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture
def results(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CIRCUITS_OUT", str(tmp_path))
    return Results(model=folder, notebook="01", parameters={"SEED": 3, "DEVICE": "cpu"})


def record_two(results):
    results.record(
        "A1",
        "accuracy",
        2 / 3,
        low=0.6,
        high=0.75,
        n=200,
        control=Control("swapped names", 0.01, 0.0, 0.03),
    )
    results.record(
        "A2", "movers", [Head(2, 1), "L1H0"], n=50, seed=7, supported=True, note="by effect"
    )


# The README table


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "readme_table", PROJECT / "scripts" / "readme_table.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_table_is_written_and_checked(script, results, tmp_path, capsys):
    record_two(results)
    results.save()
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n\n<!-- results:start -->\nold\n<!-- results:end -->\n\nAfter.\n")
    teaching = tmp_path / "TEACHING.md"
    teaching.write_text("<!-- minutes:start -->\n<!-- minutes:end -->\n")
    options = ["--pages", str(readme), str(teaching), "--root", str(tmp_path)]

    assert script.main([*options, "--check"]) == 1
    assert (
        "README.md is stale: run `.venv/bin/python -m scripts.readme_table`"
        in capsys.readouterr().err
    )
    assert script.main(options) == 0
    assert script.main([*options, "--check"]) == 0

    text = readme.read_text()
    assert text.startswith("# Title\n\n") and text.endswith("\n\nAfter.\n") and "old" not in text
    lines = {
        line.split(" | ")[0] + line.split(" | ")[1]: line.split(" | ")
        for line in text.splitlines()
        if "|" in line
    }
    accuracy = next(cells for key, cells in lines.items() if key.startswith("| **A1**"))
    assert accuracy[1] == "no value given (accuracy)" and accuracy[2].startswith("not run: ")
    assert accuracy[3].startswith(
        "`accuracy` 66.7 % [60.0 %, 75.0 %] "
        "(n = 200, seed 3; swapped names: 1.0 % [0.0 %, 3.0 %]): *transfers*"
    )
    unmeasured = next(cells for key, cells in lines.items() if key.startswith("| **A6**"))
    assert unmeasured[1] == "93.7 % (both)" and unmeasured[2].startswith("not run: ")
    teaching.write_text(teaching.read_text().replace("0.1 on", "9.9 on"))
    assert script.main([*options, "--check"]) == 1
    assert "TEACHING.md is stale" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["nothing here\n", "<!-- results:end -->\n<!-- results:start -->\n"]
)
def test_a_page_without_a_place_for_its_table(text, script, tmp_path, capsys):
    (tmp_path / "README.md").write_text(text)
    assert script.main(["--pages", str(tmp_path / "README.md")]) == 1
    assert (
        "README.md has no place for the table: add the lines <!-- results:start -->"
        in capsys.readouterr().err
    )


def test_the_pages_are_current(script):
    changed = subprocess.run(
        ["git", "status", "--porcelain", "data/results"], cwd=PROJECT, capture_output=True
    )
    if changed.stdout:
        pytest.skip(
            "data/results hold a run that is not committed; README.md shows the committed ones"
        )
    assert script.main(["--check"]) == 0, (
        "A table is stale: run `.venv/bin/python -m scripts.readme_table`."
    )
    text = {name: (PROJECT / name).read_text() for name in ("README.md", "TEACHING.md")}
    found = {name: re.findall(r"<!-- (\w+):start -->", page) for name, page in text.items()}
    assert found == {
        "README.md": ["results", "costs", "benchmarks", "scaling"],
        "TEACHING.md": ["minutes"],
    }
