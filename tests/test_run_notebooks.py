"""The runner, on tiny notebooks in a tiny project with a tiny model."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from scripts import run_notebooks
from suite.registry import PROJECT, ModelSource
from tests.tiny import tiny_folder

PARAMETERS = 'MODEL = "smollm2"\nN_PROMPTS = 3  # prompts; quick: 2\nRATE = 0.5\nFLAG = True'
BODY = [
    'assert N_PROMPTS > 0, "N_PROMPTS must be 1 or more."',
    "import os, pathlib, sys\nprint(sys.executable, pathlib.Path.cwd().name)",
    "pathlib.Path(os.environ['CIRCUITS_OUT'], 'started').touch()",
    "import time\ntime.sleep(float(os.environ.get('NAP', 0)))",
]


def write_notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    nbformat.write(
        new_notebook(
            metadata=kernel, cells=[new_markdown_cell("# T"), first, *map(new_code_cell, sources)]
        ),
        path,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_folder("gpt2", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def project(tmp_path, model, monkeypatch) -> Path:
    """A project of one notebook, whose results go to the project itself."""
    for folder in ("notebooks", "helpers", "data/results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "helpers" / "code.py").write_text("x = 1\n")
    (tmp_path / "requirements.txt").write_text("pytest==1.0  # the installed version counts\n")
    write_notebook(tmp_path / "notebooks" / "01_tiny.ipynb", *BODY)
    monkeypatch.setenv("CIRCUITS_OUT", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(project, model, capfd):
    """Run the runner in this process; returns (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = run_notebooks.main(["--root", str(project), "--model", str(model), *arguments])
        return status, *capfd.readouterr()

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def build(project: Path) -> Path:
    return project / "build" / "local-tiny"


def executed(project: Path) -> nbformat.NotebookNode:
    return nbformat.read(build(project) / "01_tiny.ipynb", as_version=4)


def stdout(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        o.text
        for cell in notebook.cells
        for o in cell.get("outputs", [])
        if o.get("name") == "stdout"
    )


def test_runs_once_and_again_for_each_change(run, project):
    status, out, err = run()
    assert status == 0 and "running (not run yet)" in out
    assert "100%" in err and "WARNING" not in err  # the bar, and nothing else
    assert stdout(executed(project)) == f"{sys.executable} notebooks\n"
    assert sorted(path.name for path in build(project).iterdir()) == [
        ".lock",
        "01_tiny.ipynb",
        "01_tiny.stamp.json",
    ]
    assert run()[1].split()[-3:] == ["up", "to", "date"]

    [figures, results] = [project / "figures/local-tiny", project / "data/results/local-tiny"]
    for folder in (figures, results):
        folder.mkdir(parents=True)
    changes = {
        "helpers": lambda: (project / "helpers" / "code.py").write_text("x = 2\n"),
        "data": lambda: (project / "data" / "words.yaml").write_text("[a]\n"),
        "notebook": lambda: write_notebook(project / "notebooks" / "01_tiny.ipynb", *BODY, "1 + 1"),
        "versions": lambda: (project / "requirements.txt").write_text("nbval==1.0\n"),
        "outputs": lambda: (figures / "01_figure.png").write_bytes(b"redrawn"),
    }
    for part, change in changes.items():
        change()
        assert f"running ({part} changed)" in run()[1]
    (results / "00.json").write_text('{"claims": [1], "provenance": 1}')
    assert "running (earlier results changed)" in run()[1]
    (results / "00.json").write_text('{"claims": [1], "provenance": 2}')
    (results / "02.json").write_text("a later notebook's")
    assert "up to date" in run()[1]
    (figures / "01_figure.png").unlink()
    assert "running (outputs changed)" in run()[1]


def test_the_quick_profile_takes_the_values_of_the_comments(run, project):
    assert run("--profile", "quick")[0] == 0
    assert (
        "N_PROMPTS = 2\n"
        in [c for c in executed(project).cells if "injected-parameters" in c.metadata.tags][
            0
        ].source
    )
    assert "parameters changed" in run()[1]
    assert run("--profile", "quick", "--set", "N_PROMPTS=4")[0] == 0
    assert (
        "N_PROMPTS = 4\n"
        in [c for c in executed(project).cells if "injected-parameters" in c.metadata.tags][
            0
        ].source
    )


def test_a_run_that_proves_exercises_is_another_run(run, project):
    """Its notebook has cells that are not the reader's."""
    solved = (
        "def one():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION",
        "assert one() == 1",
    )
    write_notebook(project / "notebooks" / "01_tiny.ipynb", *solved)
    assert run("--prove")[0] == 0 and "NotImplementedError" in str(executed(project).cells)
    assert "running (proof of exercises changed)" in run()[1] and "up to date" in run()[1]
    assert "NotImplementedError" not in str(executed(project).cells)


def test_only_parameters_that_differ_are_injected(run, project, model):
    def injected() -> list[str]:
        return [
            c.source
            for c in executed(project).cells
            if "injected-parameters" in c.metadata.get("tags", [])
        ]

    assert run("--set", "N_PROMPTS=5", "--set", "RATE=1", "--set", "FLAG=True")[0] == 0
    assert injected() == [f'# Parameters\nMODEL = "{model}"\nN_PROMPTS = 5\nRATE = 1.0\n']
    write_notebook(
        project / "notebooks" / "01_tiny.ipynb",
        *BODY,
        parameters=f'MODEL = "{model}"\nN_PROMPTS = 3',
    )
    assert run("--set", "N_PROMPTS=3")[0] == 0
    assert injected() == []


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--set", "N_PROMTS=3"], "No notebook has a parameter N_PROMTS: use N_PROMPTS."),
        (["--set", "n_prompts=3"], "No notebook has a parameter n_prompts: use N_PROMPTS."),
        (
            ["--set", "MODEL=gpt2"],
            "No notebook has a parameter MODEL: use FLAG or N_PROMPTS or RATE.",
        ),
        (["--set", "N_PROMPTS"], "--set takes KEY=VALUE, such as N_PROMPTS=64, not 'N_PROMPTS'."),
        (
            ["--set", "N_PROMPTS=many"],
            "N_PROMPTS takes a value of type int, such as 3, not 'many'.",
        ),
        (["--set", "N_PROMPTS=1.5"], "N_PROMPTS takes a value of type int, such as 3, not '1.5'."),
        (["--set", "N_PROMPTS=-3"], "N_PROMPTS takes a number of 0 or more, such as 3, not '-3'."),
        (["--set", "RATE=1e999"], "RATE takes a number of 0 or more, such as 0.5, not '1e999'."),
        (["--set", "FLAG=1"], "FLAG takes a value of type bool, such as True, not '1'."),
        (["--only", "07"], "No notebook begins with '07': "),
        (["--model", "nonsense"], "Unknown model 'nonsense'"),
    ],
)
def test_bad_arguments_end_in_one_sentence_before_anything_runs(run, project, arguments, sentence):
    status, _, err = run(*arguments)
    assert status == 1
    assert err.startswith(f"Error: {sentence}") and err.count("\n") == 1
    assert not (project / "build").exists()


def test_failing_cell_is_named_and_the_good_output_stays(run, project):
    run()
    before = (build(project) / "01_tiny.ipynb").read_bytes()
    status, _, err = run("--set", "N_PROMPTS=0")
    assert status == 1
    assert (
        "01_tiny" in err
        and "cell 4: AssertionError: N_PROMPTS must be 1 or more." in err
        and "Traceback" not in err
    )
    assert (build(project) / "01_tiny.ipynb").read_bytes() == before
    assert (build(project) / "01_tiny.failed.ipynb").exists() and not list(
        build(project).glob(".*.part.ipynb")
    )
    assert "up to date" in run()[1]

    write_notebook(project / "notebooks" / "01_tiny.ipynb", "import os\nos._exit(1)")
    status, _, err = run()
    assert status == 1 and "cell 4: the kernel died" in err and "Traceback" not in err


def test_a_notebook_with_nothing_to_measure_is_skipped_by_name(run, project):
    raises = (
        "from helpers.claims import NotApplicable",
        "raise NotApplicable('No such heads here.')",
    )
    write_notebook(project / "notebooks" / "00_none.ipynb", *raises)
    status, out, err = run()
    assert status == 0 and "Error" not in err
    assert "00_none (" in out and "skipped, No such heads here." in out
    assert (build(project) / "01_tiny.ipynb").exists() and not (
        build(project) / "00_none.ipynb"
    ).exists()
    raises = (
        "from helpers.tasks import VocabularyError",
        "raise VocabularyError('Its vocabulary splits digits.')",
    )
    write_notebook(project / "notebooks" / "00_none.ipynb", *raises)
    status, out, _ = run()
    assert status == 0 and "skipped, Its vocabulary splits digits." in out
    assert (
        "00_none" in (again := run()[1])
        and "skipped" not in again
        and again.count("up to date") == 2
    )


def test_what_another_run_left_of_a_skipped_notebook_is_removed(run, project):
    raises = "from helpers.claims import NotApplicable\nif N_PROMPTS < 2: raise NotApplicable('Too few.')"
    write_notebook(project / "notebooks" / "01_tiny.ipynb", raises)
    results = project / "data/results/local-tiny"
    results.mkdir(parents=True)
    assert run()[0] == 0
    for name in ("00.json", "01.json"):
        (results / name).write_text('{"claims": []}')
    assert "skipped, Too few." in run("--set", "N_PROMPTS=1")[1]
    assert [path.name for path in results.iterdir()] == ["00.json"]
    assert not (build(project) / "01_tiny.ipynb").exists() and run()[0] == 0 and executed(project)


def test_damaged_files_are_named_or_made_again(run, project):
    assert run()[0] == 0
    for damaged in (b'{"notebook": ', b"[1]", b"\xff\xfe"):
        (build(project) / "01_tiny.stamp.json").write_bytes(damaged)
        assert "running (its stamp is damaged)" in run()[1] and run()[1].split()[-1] == "date"
    results = project / "data/results/local-tiny"
    results.mkdir(parents=True)
    (results / "00.json").write_text("{")
    status, _, err = run()
    assert (
        status == 1
        and err.startswith("Error: ")
        and "00.json is damaged: run its notebook again" in err
    )
    (results / "00.json").unlink()
    for damaged in ('{"cells": [', "{}", "[]"):
        (project / "notebooks" / "01_tiny.ipynb").write_text(damaged)
        status, _, err = run()
        assert (status, err.count("\n")) == (1, 1) and "01_tiny.ipynb is damaged: restore it" in err


def test_a_second_run_of_the_same_model_is_refused(run, project):
    left = [
        build(project) / ".01_tiny.part.ipynb",
        project / "data/results/local-tiny/.01.json.123.part",
    ]
    left.append(project / "figures/local-tiny/.01_map.png.123.part")
    for path in left:
        path.parent.mkdir(parents=True)
        path.write_text("left by a killed run")
    with open(build(project) / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, _, err = run()
        assert status == 1 and "Another run is using" in err
        assert all(path.exists() for path in left)
    assert run()[0] == 0  # a lock file whose owner is gone holds nothing back
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_nothing_half_written(run, project, model, tmp_path, number):
    foreign = (
        tmp_path / "jupyter" / "kernels" / "python3"
    )  # another "python3" kernel must not be taken
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "x", "language": "python"})
    )
    environment = os.environ | {
        "NAP": "60",
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "PYTHONPATH": str(PROJECT),
    }
    command = [
        sys.executable,
        "-m",
        "scripts.run_notebooks",
        "--root",
        str(project),
        "--model",
        str(model),
    ]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while (
            not (project / "started").exists()
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted: run the same command again" in err and "Traceback" not in err
    assert [path.name for path in build(project).iterdir()] == [".lock"]
    assert run()[0] == 0
    assert (build(project) / "01_tiny.stamp.json").exists()


def test_a_notebook_has_the_model_of_its_first_claim():
    assert run_notebooks.own_model("01") == "gpt2-medium"
    assert run_notebooks.own_model("05") == "gpt2"
    assert run_notebooks.own_model("99") is None
    assert (
        run_notebooks.own_model("07") == "smollm2"
        and run_notebooks.own_model("07", of_a_paper=True) is None
    )


def test_a_notebook_about_one_model_runs_on_that(project):
    """Notebook 00 has no parameter MODEL: whatever model is asked for, it is about the planted
    one.
    """
    write_notebook(project / "notebooks" / "00_own.ipynb", parameters="SEED = 0")
    for model in ("smollm2", "paper"):
        [job] = run_notebooks.plan(project, model, [], "00")
        assert (job.model.slug, job.parameters) == ("planted", {})


def test_paper_means_each_notebooks_own_model_and_notebook_01_on_all_of_the_papers(
    project, monkeypatch
):
    """Notebook 05 is about gpt2 and starts from the heads that 01 finds there, though 01 is about
    gpt2-medium; 07, the scorecard, is ours and starts from no heads."""
    monkeypatch.setattr(
        run_notebooks, "resolve", lambda name: ModelSource(name, "hub", project, name, None, name)
    )
    for name in ("05_later", "07_scorecard"):
        write_notebook(project / "notebooks" / f"{name}.ipynb")
    jobs = run_notebooks.plan(project, "paper", [], "")
    assert [(job.notebook.name[:2], job.model.slug) for job in jobs] == [
        ("01", "gpt2-medium"),
        ("01", "gpt2"),
        ("05", "gpt2"),
        ("07", "smollm2"),
    ]
    assert [job.parameters for job in jobs] == [
        {"MODEL": "gpt2-medium"},
        {"MODEL": "gpt2"},
        {"MODEL": "gpt2"},
        {},
    ]
