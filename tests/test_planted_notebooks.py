"""The notebooks on the planted model return the planted numbers, worked out by hand as in
tests/test_planted.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import papermill
import pytest

from helpers.planted import build
from suite.registry import PROJECT

SMALL = {"N_PROMPTS": 32, "N_PATCH": 16, "N_LISTS": 12, "N_TEXTS": 2}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="module")
def measured(out):
    """Notebook -> metric -> row, of the notebooks that later tests look at, run on the planted
    model.
    """
    rows = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIRCUITS_OUT", str(out))
        patch.setenv("JUPYTER_PATH", str(Path(sys.prefix, "share", "jupyter")))
        for number in ("01", "05"):
            [path] = (PROJECT / "notebooks").glob(f"{number}_*.ipynb")
            known = papermill.inspect_notebook(str(path))
            parameters = {"MODEL": "planted"} | {
                key: value for key, value in SMALL.items() if key in known
            }
            kind = {"kernel_name": "python3", "progress_bar": False, "cwd": str(out)}
            papermill.execute_notebook(str(path), str(out / path.name), parameters, **kind)
            claims = json.loads((out / f"data/results/planted/{number}.json").read_text())["claims"]
            rows[number] = {row["metric"]: row for row in claims}
    return rows


def test_the_circuit_of_notebook_01_is_the_plan(measured):
    for role, heads in build().roles.items():
        assert set(measured["01"][role]["value"]) == {str(head) for head in heads}


def test_removing_a_component_costs_what_the_algebra_says(measured):
    """A mover's attention to IO minus S1 is tanh(delta / 2), delta = 4; component 0 carries 1 /
    1.729 of it at rank 2, and a head of share s loses that share of it."""
    for head, share in zip(build().roles["inhibition"], (0.6, 0.4), strict=True):
        expected = np.tanh(2) - np.tanh(2 * (1 - share / 1.729))
        assert measured["05"][f"score_drop_{head}"]["value"] == pytest.approx(expected, abs=0.005)


def test_the_edited_weights_give_the_logit_difference_worked_out_by_hand(measured):
    """Without component 0 of both heads delta is 4 * 0.729 / 1.729; other words know nothing of
    it.
    """
    expected = 20 * (np.tanh(2 * 0.729 / 1.729) + 0.3)
    assert measured["05"]["logit_difference_edited"]["value"] == pytest.approx(expected, abs=0.3)
    assert measured["05"]["perplexity_ratio"]["value"] == pytest.approx(1, abs=1e-3)


def test_the_coordinate_follows_the_planted_clock(measured):
    """Names at 2, 4, 6, ... : cos of period 4 an eighth of a turn behind, with the share 0.6 of the
    leading head; the duplicate-token and induction heads match names among the first eight
    positions only."""
    lead, *_ = build().roles["inhibition"]
    coordinates = np.array(measured["05"]["coordinate_by_index"]["value"])
    clock = np.cos(np.pi / 2 * np.array([2, 4, 6]) - np.pi / 4)
    size = np.abs(coordinates[:3])
    np.testing.assert_allclose(
        coordinates[:3] / size, np.sign(coordinates[0]) * clock / np.abs(clock) * np.sign(clock[0])
    )
    assert np.abs(coordinates[3:]).max() < 0.01 * size.min()


@pytest.mark.parametrize(
    "number, said",
    [
        ("02", "skipped, No head moves colors to the logits"),
        ("03", "skipped, The question changes nothing"),
        ("04", " s"),
        ("06", "skipped, This model answers every list rightly, or none"),
    ],
)
def test_the_other_notebooks_run_or_say_why_they_do_not(number, said, measured, out):
    command = [
        sys.executable,
        "-m",
        "scripts.run_notebooks",
        "--model",
        "planted",
        "--profile",
        "quick",
    ]
    environment = os.environ | {"CIRCUITS_OUT": str(out)}
    kind = {"cwd": PROJECT, "env": environment, "capture_output": True, "text": True}
    ended = subprocess.run([*command, "--only", number], **kind)
    assert ended.returncode == 0 and said in ended.stdout, ended.stderr
