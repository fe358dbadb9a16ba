"""The ledger, the verdicts case by case, the results file and the README table."""

import importlib.util
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers import models
from helpers.heads import Head
from helpers.stats import Interval
from suite.errors import ClaimError, NotApplicable
from suite.files import write_text
from suite.ledger import Control, Metric, get_claim, load_claims, verdict
from suite.registry import PROJECT
from suite.results import Results, found_heads, plain
from tests.tiny import tiny_folder

CASES = {
    "A1": "accuracy forced_choice_accuracy logit_difference",
    "A2": "movers negative_movers inhibition induction duplicate_token previous_token ablated_logit_difference",
    "A3": "accuracy forced_choice_accuracy logit_difference in_context_rate",
    "A4": "movers negative_movers inhibition induction duplicate_token previous_token content_gatherers",
    "A5": "overlap_1pct overlap_2pct overlap_5pct overlap_10pct overlap_greater_than overlap_world_capitals",
    "A6": "baseline inhibition negative_mover both both_forced_choice new_mistakes",
    "A7": "attention_wrong_change attention_right_change spearman",
    "A8": "blocked_accuracy",
    "B1": "rank_previous_token_to_induction",
    "B2": "top_component_L1H2",
    "B3": "score_drop_L1H2 pearson",
    "B4": "same_component_share",
    "B5": "logit_difference_edited perplexity_ratio",
    "B6": "coordinate_by_index index_correlation attended_index_by_step",
    "B7": "accuracy_by_n accuracy_by_index",
    "B8": "gain_points_3d gain_points gain_points_weights",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return str(tiny_folder("gpt2", tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture
def results(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CIRCUITS_OUT", str(tmp_path))
    return Results(model=folder, notebook="01", parameters={"SEED": 3, "DEVICE": "cpu"})


# The ledger


def paper_value(claim: str, metric: str):
    return get_claim(claim).metric(metric).paper


def test_ledger_holds_every_claim_and_metric():
    ids = [f"A{i}" for i in range(1, 10)] + [f"B{i}" for i in range(1, 10)] + ["X1", "X2", "X3"]
    assert [claim for claim in load_claims() if claim in ids] == ids  # and any that were added
    for claim_id, names in CASES.items():
        for name in names.split():
            assert get_claim(claim_id).metric(name).name == name


@pytest.mark.parametrize("entry", ["{id: A1}", "{id: A1, paper: A, title: t, surprise: 1}", "A1"])
def test_a_ledger_cut_inside_an_entry_is_named(entry, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "DATA", tmp_path)
    (tmp_path / "claims.yaml").write_text(f"papers: {{A: {{model: gpt2}}}}\nclaims: [{entry}]")
    with pytest.raises(ClaimError, match="claims.yaml has an entry that is not whole"):
        load_claims.__wrapped__()


def test_ledger_holds_the_papers_values():
    assert paper_value("A6", "both") == 0.937
    assert paper_value("A5", "overlap_2pct") == 25 / 32
    assert paper_value("A2", "inhibition") == ["L12H3", "L13H4", "L13H13"]
    assert paper_value("A2", "attention_END_IO") is None
    assert (get_claim("A1").model, get_claim("B1").model, get_claim("B9").model) == (
        "gpt2-medium",
        "gpt2",
        "pythia-160m",
    )
    assert get_claim("A9").metric("shared_top_10_xl").model == "gpt2-xl"


def test_every_metric_can_be_judged():
    for claim in load_claims().values():
        for metric in claim.metrics.values():
            assert (metric.kind == "number") == (metric.direction in ("above", "below", "equal")), (
                claim.id,
                metric.name,
            )
            assert metric.unit and metric.kind in ("number", "heads", "list")


@pytest.mark.parametrize(
    "claim_id, metric, message",
    [
        ("A1x", "accuracy", "Unknown claim (data/claims.yaml) 'A1x': use A1"),
        ("A1", "acuracy", "Unknown metric of A1 'acuracy': use accuracy."),
    ],
)
def test_unknown_names_are_answered_with_near_ones(claim_id, metric, message):
    with pytest.raises(ClaimError, match=re.escape(message)):
        paper_value(claim_id, metric)


# Verdicts

HALF = Metric("share", "paper-model", paper=0.5, direction="above", tolerance=0.02)
BELOW = Metric("share", "paper-model", direction="below", reference=1.0)
EQUAL = Metric("ratio", "paper-model", direction="equal", reference=1.0, tolerance=0.02)
RANDOM = Control("random heads", 0.2, 0.1, 0.3)
FOUR = Metric("movers", "paper-model", kind="heads", paper=["L1H1", "L2H2", "L3H3", "L4H4"])
NONE = Metric("previous_token", "paper-model", kind="heads")
CURVE = Metric("accuracy_by_n", "paper-model", kind="list")


@pytest.mark.parametrize(
    "metric, value, low, high, control, expected",
    [
        (HALF, 0.55, 0.49, 0.6, RANDOM, "reproduced"),  # paper's value in the interval
        (HALF, 0.519, 0.51, 0.53, RANDOM, "reproduced"),  # within the tolerance
        (HALF, 0.6, 0.55, 0.65, RANDOM, "qualitative"),  # clear of the control
        (HALF, 0.35, 0.29, 0.4, RANDOM, "differs"),  # overlaps the control
        (HALF, 0.05, 0.0, 0.09, RANDOM, "differs"),  # wrong side
        (HALF, 0.6, None, None, None, "qualitative"),  # no interval, no control: above zero
        (BELOW, 0.8, 0.7, 0.9, None, "qualitative"),  # no paper number
        (BELOW, 0.8, 0.7, 1.1, None, "differs"),
    ],
)
def test_number_on_the_papers_model(metric, value, low, high, control, expected):
    assert verdict(metric, value, same_model=True, low=low, high=high, control=control) == expected


@pytest.mark.parametrize(
    "metric, value, low, high, control, expected",
    [
        (
            HALF,
            0.5,
            0.45,
            0.55,
            RANDOM,
            "transfers",
        ),  # never "reproduced", though equal to the paper's number
        (HALF, 0.35, 0.29, 0.4, RANDOM, "partly"),
        (HALF, 0.25, 0.21, 0.29, Control("point", 0.2), "transfers"),
        (HALF, 0.15, 0.1, 0.25, RANDOM, "does not"),
        (BELOW, 1.2, 1.1, 1.3, None, "does not"),
        (
            BELOW,
            1.5,
            1.4,
            1.6,
            Control("random", 2.0),
            "does not",
        ),  # below the control, but not below chance
        (EQUAL, 1.0, 0.99, 1.01, None, "transfers"),
        (EQUAL, 1.0, 0.9, 1.1, None, "partly"),
        (EQUAL, 1.1, 1.09, 1.11, None, "does not"),
    ],
)
def test_number_on_another_model(metric, value, low, high, control, expected):
    assert verdict(metric, value, same_model=False, low=low, high=high, control=control) == expected


@pytest.mark.parametrize(
    "metric, value, same_model, supported, expected",
    [
        (FOUR, ["L4H4", "L3H3", "L2H2", "L1H1"], True, None, "reproduced"),  # order does not matter
        (FOUR, ["L1H1", "L2H2", "L9H9"], True, None, "qualitative"),  # half of four
        (FOUR, ["L1H1", "L9H9"], True, True, "differs"),
        (FOUR, [], True, None, "differs"),
        (NONE, ["L0H1"], True, True, "qualitative"),
        (NONE, ["L0H1"], True, False, "differs"),
        (FOUR, ["L1H1", "L2H2", "L3H3", "L4H4"], False, False, "partly"),
        (FOUR, ["L9H9"], False, True, "transfers"),
        (FOUR, [], False, True, "does not"),
        (CURVE, [0.9, 0.5], True, True, "qualitative"),
        (CURVE, [0.9, 0.5], False, True, "transfers"),
        (CURVE, [0.5, 0.9], False, False, "does not"),
    ],
)
def test_heads_and_lists(metric, value, same_model, supported, expected):
    assert verdict(metric, value, same_model=same_model, supported=supported) == expected


# Recording


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


def test_results_file_has_the_fields_of_the_contract(results, tmp_path):
    record_two(results)
    path = results.save()
    assert path == tmp_path / "data/results" / results.model / "01.json"
    content = json.loads(path.read_text())
    assert (
        set(content) == {"model", "notebook", "provenance", "claims"}
        and content["notebook"] == "01"
    )
    assert content["claims"][0] == {
        "id": "A1",
        "metric": "accuracy",
        "value": 0.666667,
        "low": 0.6,
        "high": 0.75,
        "n": 200,
        "seed": 3,
        "control": {"name": "swapped names", "value": 0.01, "low": 0.0, "high": 0.03},
        "verdict": "transfers",
        "note": "",
    }
    assert content["claims"][1]["value"] == ["L2H1", "L1H0"]
    assert (content["claims"][1]["seed"], content["claims"][1]["control"]) == (7, None)
    provenance = content["provenance"]
    assert re.fullmatch("[0-9a-f]{64}", provenance["weights_sha256"])
    assert re.fullmatch("[0-9a-f]{64}", provenance["data_sha256"]["claims.yaml"])
    assert provenance["parameters"] == {"SEED": 3, "DEVICE": "cpu"}
    assert 0.05 < provenance["peak_memory_gib"] < 64
    wanted = {
        "revision",
        "weight_processing",
        "packages",
        "seed",
        "dtype",
        "device",
        "threads",
        "wall_time_s",
        "utc",
    }
    assert wanted | {"git_commit", "git_dirty"} <= set(provenance)


def test_two_runs_differ_only_in_provenance(results, folder):
    texts = []
    for run in (results, Results(model=folder, notebook="01", parameters=results.parameters)):
        record_two(run)
        text = run.save().read_text()
        assert text.endswith("}\n")
        texts.append(re.sub(r'"(wall_time_s|peak_memory_gib|utc)": .*', "", text))
    assert texts[0] == texts[1]


def test_an_interval_is_recorded_with_its_ends(results):
    results.record(
        "A1",
        "accuracy",
        Interval(0.5, 0.4, 0.6),
        n=10,
        control=Control.of("none", Interval(0.1, 0.0, 0.2)),
    )
    line = results.table().iloc[0]
    assert (line["95 % interval"], line["control"]) == (
        "[40.0 %, 60.0 %]",
        "none: 10.0 % [0.0 %, 20.0 %]",
    )


def test_values_are_printed_as_a_reader_sees_them():
    rank, share = get_claim("B1").metric("rank_L1H2_L3H4"), get_claim("X1").metric("roles_found")
    assert [rank.text(value) for value in (7, 1466, 0.12345)] == ["7", "1466", "0.123"]
    assert [share.text(value) for value in (1, 0.5)] == ["100.0 %", "50.0 %"]
    assert (
        rank.control_text({"name": "ends at", "value": 95, "low": None, "high": None})
        == "ends at: 95"
    )


def test_plain_values_are_what_json_can_hold():
    value = {
        "head": Head(9, 6),
        "pair": (1.23456789, 2),
        "array": np.array([2 / 3]),
        "none": None,
        "yes": True,
    }
    expected = {
        "head": "L9H6",
        "pair": [1.23457, 2],
        "array": [0.666667],
        "none": None,
        "yes": True,
    }
    assert plain(value) == expected and plain(value, digits=2)["pair"] == [1.2, 2]
    assert json.loads(json.dumps(plain(np.float32(0.1)))) == 0.1


def test_recording_again_replaces(results):
    results.record("A1", "accuracy", 0.1, n=10)
    results.record("A1", "accuracy", torch.tensor(0.75), n=20)
    assert list(results.table()["n"]) == ["20"]


@pytest.mark.parametrize(
    "claim_id, metric, value, more, message",
    [
        ("A1", "accuracy", math.nan, {}, "A1 accuracy holds NaN or infinity"),
        (
            "A1",
            "logit_difference",
            1.0,
            {"low": 0.0, "high": math.inf},
            "A1 logit_difference holds NaN or infinity",
        ),
        ("A1", "accuracy", 0.5, {"low": 0.6, "high": 0.7}, "give low <= value <= high"),
        ("A1", "accuracy", 0.5, {"low": 0.4}, "give low <= value <= high"),
        (
            "A1",
            "accuracy",
            0.5,
            {"control": Control("swapped", math.nan)},
            "A1 accuracy, control swapped holds NaN",
        ),
        ("A1", "accuracy", 0.5, {"n": 0}, "A1 accuracy was measured on n = 0 examples"),
        ("A1", "accuracy", [0.5], {}, "A1 accuracy is of kind number"),
        ("A2", "movers", "L1H1", {}, "A2 movers is of kind heads"),
        ("A2", "movers", ["1.1"], {}, "'1.1' is not a head"),
        ("B7", "accuracy_by_n", [0.5, math.nan], {}, "B7 accuracy_by_n holds NaN"),
    ],
)
def test_bad_measurements_are_refused(results, claim_id, metric, value, more, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        results.record(claim_id, metric, value, **{"n": 10} | more)


def test_found_heads_are_those_of_an_earlier_notebook(results, folder):
    with pytest.raises(ClaimError, match=f"make reproduce MODEL={folder}"):
        found_heads(folder)
    results.record("A2", "movers", [Head(5, 1), Head(3, 2)], n=4, supported=True)
    results.record("A2", "inhibition", [], n=4, supported=False)
    results.record("A2", "attention_END_IO", 0.5, n=4)
    results.save()
    assert found_heads(folder) == {"movers": (Head(5, 1), Head(3, 2)), "inhibition": ()}
    with pytest.raises(NotApplicable, match="found no inhibition and no induction heads"):
        found_heads(folder, needed=["movers", "inhibition", "induction"])


def test_table_keeps_another_models_numbers_in_its_own_column(results):
    record_two(results)
    table = results.table()
    head = ["claim", "metric", "paper", "paper model"]
    assert list(table) == [*head, results.model, "95 % interval", "n", "control", "verdict"]
    first, second = table.to_dict("records")
    assert first[results.model] == "66.7 %" and first["95 % interval"] == "[60.0 %, 75.0 %]"
    assert first["control"] == "swapped names: 1.0 % [0.0 %, 3.0 %]"
    assert (second["paper"], second[results.model]) == (
        "L15H14 L16H15 L17H4 L18H5 L19H15",
        "L2H1 L1H0",
    )

    results.model = "gpt2-medium"  # what a run on the paper's own model is called
    results.record("A1", "logit_difference", np.float32(3.14159), n=5)
    assert list(results.table()["measured"])[-1] == "3.14"


def test_unwritable_output_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ClaimError, match="set CIRCUITS_OUT to a writable folder"):
        write_text(tmp_path / "file" / "01.json", "{}")


def test_git_state_is_optional(tmp_path):
    """In a copy without git the results say null rather than another repository's commit."""
    (tmp_path / "helpers").mkdir()
    for name in ("__init__.py", "models.py", "claims.py"):
        (tmp_path / "helpers" / name).write_text((PROJECT / "helpers" / name).read_text())
    code = "from helpers.claims import git_state; print(git_state())"
    got = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert got.stdout.strip() == "{'git_commit': None, 'git_dirty': None}"


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
        "`accuracy` 66.7 % [60.0 %, 75.0 %] (n = 200, seed 3; swapped names: 1.0 % [0.0 %, 3.0 %]): *transfers*"
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
