"""The stress report: what counts as a clear error and as half-written, and how the report is
kept.
"""

import json
import re
from datetime import date

import pytest

from scripts import stress
from scripts.stress import Copy, Outcome, half_written, results, rows, sentence, told
from suite.registry import PROJECT


@pytest.mark.parametrize(
    "status, said, right",
    [
        (2, "Error: the disk is full.", True),
        (0, "Error: the disk is full.", False),
        (2, "Error: something else.", False),
        (2, "Traceback\nError: the disk is full.", False),
        (2, "", False),
    ],
)
def test_an_error_is_one_sentence_about_its_cause(status, said, right):
    assert sentence(status, said, "disk is full") == (said, right)


def test_bars_makes_last_word_and_temporary_folders_are_left_out(tmp_path):
    root = tmp_path / "project"
    for speed in ("1.00cell/s", "1.34s/cell"):
        errors = f"[1/2] 00_a:  50%|# | 1/2 [00:01<00:01,  {speed}]Error: {root}/data: no.\n\nmake: *** Error 1\n"
        assert told(errors, root) == "Error: <project>/data: no."
    assert told(f"Error: {tmp_path}/cache: no.", root) == "Error: <folder>/cache: no."


def test_results_are_compared_without_their_provenance_and_half_written_files_are_found(tmp_path):
    path = tmp_path / "data" / "results" / "planted" / "00.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"claims": [{"id": "X1"}], "provenance": {"utc": "now"}}))
    assert results(tmp_path) == {"planted/00.json": [{"id": "X1"}]}
    assert half_written(tmp_path) == []
    path.with_name(".00.json.12.part").touch()
    path.with_name("01.json").write_text('{"claims": [')
    (tmp_path / "build" / "planted").mkdir(parents=True)
    (tmp_path / "build" / "planted" / "00_a.ipynb").write_text('{"cells": [')
    found = [
        "build/planted/00_a.ipynb",
        "data/results/planted/.00.json.12.part",
        "data/results/planted/01.json",
    ]
    assert sorted(half_written(tmp_path)) == found


def test_a_copy_has_what_a_checkout_has_but_no_results(tmp_path):
    project = Copy(tmp_path / "project")
    assert [path.name[:2] for path in sorted((project.root / "notebooks").iterdir())] == [
        "00",
        "01",
    ]
    assert all(
        (project.root / name).exists()
        for name in ("Makefile", "helpers/models.py", "data/claims.yaml")
    )
    assert not any(
        (project.root / name).exists()
        for name in (".git", ".venv", "build", "data/results", "figures")
    )


def test_the_report_keeps_rows_of_scenarios_that_were_not_asked_for(tmp_path, monkeypatch, capsys):
    def scenarios(seen: str, right: bool) -> dict:
        return {
            name: lambda name=name: iter([Outcome(name, seen, right)]) for name in ("one", "two")
        }

    monkeypatch.setattr(stress, "REPORT", tmp_path / "RELIABILITY.md")
    monkeypatch.setattr(stress, "SCENARIOS", scenarios("all | well", True))
    full = f"| {stress.FULL} | equal | yes | 2026-11-25, 40ab3b7 |"
    older = "| of an older suite | well | yes | 2026-11-25, 306d1c3 |"
    stress.REPORT.write_text(f"| --- | --- | --- | --- |\n{full}\n{older}\n")
    monkeypatch.setattr(stress, "git", lambda *words: "abcdef0")
    assert stress.main([]) == 0 and list(rows(stress.REPORT)) == [
        f"| {stress.FULL}",
        "| one",
        "| two",
    ]
    monkeypatch.setattr(stress, "SCENARIOS", scenarios("lost", False))
    monkeypatch.setattr(stress, "git", lambda *words: "1234567-dirty")
    assert stress.main(["--only", "two"]) == 1
    one = f"| one | all / well | yes | {date.today()}, abcdef0 |"
    assert list(rows(stress.REPORT).values()) == [
        full, one, f"| two | lost | **no** | {date.today()}, 1234567-dirty |",
    ]  # fmt: skip
    assert "WRONG: two: lost" in capsys.readouterr().out


def test_the_committed_report_is_whole_and_all_is_well():
    report = PROJECT / "benchmarks" / "RELIABILITY.md"
    found = rows(report)
    assert [
        row
        for row in found.values()
        if not re.search(r"\| yes \| \d{4}-\d\d-\d\d, [0-9a-f]{7,}(-dirty)? \|$", row)
    ] == []
    assert report.read_text().startswith(stress.HEAD)
    words = (
        "notebook on the embedded model, started",
        stress.FULL,
        "conversion",
        "second run at the same",
        "unreachable",
    )
    words += (
        "cut to half",
        "pickled",
        "with code",
        "read-only",
        "disk that is full",
        "random parameters",
        "SEED=-1",
    )
    assert [word for word in words if not any(word in row for row in found)] == []
