"""The scorecard on results files made by hand."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from suite import scorecard
from suite.errors import ClaimError
from suite.ledger import Metric, load_claims, verdict
from suite.registry import PROJECT
from suite.scorecard import (
    ON_ITS_OWN,
    costs,
    gaps,
    headlines,
    markdown,
    measurements,
    not_run,
    results_files,
    tally,
)
from suite.scorecard_figure import VERDICT_COLORS, scorecard_figure


def write(root, model: str, notebook: str, *rows: dict, run: bool = False) -> Path:
    """A results file as it is committed, or as a run leaves it."""
    base = {"low": None, "high": None, "n": 9, "seed": 0, "control": None, "note": ""}
    content = {
        "model": model,
        "notebook": notebook,
        "provenance": {"wall_time_s": 90.0},
        "claims": [base | row for row in rows],
    }
    folder = root / model / "results" if run else root / "data" / "results" / model
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{notebook}.json"
    path.write_text(json.dumps(content))
    return path


ACCURACY = {"id": "A1", "metric": "accuracy", "value": 0.5, "verdict": "transfers"}


@pytest.fixture
def root(tmp_path):
    """A6 on the paper's model and on another, B1 (a template of metrics) on another."""
    both = {
        "id": "A6",
        "metric": "both",
        "value": 0.9,
        "low": 0.85,
        "high": 0.94,
        "verdict": "qualitative",
    }
    base = {"id": "A6", "metric": "baseline", "value": 0.5, "verdict": "reproduced"}
    ranks = [
        {"id": "B1", "metric": f"rank_L1H2_L3H{i}", "value": i + 1, "verdict": verdict}
        for i, verdict in enumerate(["does not", "transfers", "transfers"])
    ]
    write(tmp_path, "gpt2-medium", "03", base, both)
    write(
        tmp_path,
        "smollm2",
        "03",
        both
        | {
            "verdict": "partly",
            "control": {"name": "random heads", "value": 0.3, "low": 0.2, "high": 0.4},
        },
    )
    write(tmp_path, "smollm2", "04", *ranks)
    return tmp_path


def test_rows_stand_in_the_order_of_the_ledger(root):
    frame = measurements(root)
    assert list(frame.metric) == [
        "both",
        "both",
        "baseline",
        "rank_L1H2_L3H0",
        "rank_L1H2_L3H1",
        "rank_L1H2_L3H2",
    ]
    assert list(frame.own) == [True, False, True, False, False, False] and set(frame.minutes) == {
        1.5
    }
    assert (
        list(frame.value[:3]) == ["90.0 %", "90.0 %", "50.0 %"]
        and frame.interval[0] == "[85.0 %, 94.0 %]"
    )


def test_every_claim_has_one_headline(root):
    table = headlines(measurements(root))
    table.index = table.Claim.str.extract(r"^\*\*(\w+)\*\* ", expand=False)
    assert list(table.index) == list(load_claims()) and list(table.columns[1:4]) == [
        "Paper",
        "On the paper's model",
        "On smollm2",
    ]
    assert table.Paper["A6"] == "93.7 % (both)"
    both = "`both` 90.0 % [85.0 %, 94.0 %] (n = 9, seed 0"
    all_rows = "All 2: 1 reproduced, 1 qualitative"
    assert table["On the paper's model"]["A6"] == f"{both}): *qualitative*. {all_rows}"
    control = "random heads: 30.0 % [20.0 %, 40.0 %]"
    assert table["On smollm2"]["A6"] == f"{both}; {control}): *partly*"
    assert table["On smollm2"]["B1"].endswith("*does not*. All 3: 2 transfers, 1 does not")
    assert (
        table["On the paper's model"]["A1"]
        == not_run(load_claims()["A1"])
        == "not run: `make reproduce MODEL=gpt2-medium`"
    )
    assert "(notebooks/03_" in table.See["A6"]


def test_nothing_measured_is_a_scorecard_too(tmp_path):
    empty = measurements(tmp_path)
    assert empty.empty and len(headlines(empty)) == len(load_claims()) and tally(empty) == ""
    assert scorecard_figure(empty, title="Nothing yet").axes


def test_only_results_in_their_place_count(tmp_path):
    """Copies of a folder or a file, notes and rows of an unfinished notebook are no results."""
    path = write(tmp_path, "planted", "01", ACCURACY)
    results = path.parents[1]
    shutil.copytree(path.parent, results / "planted-old")
    shutil.copy(path, path.with_name("01-before.json"))
    shutil.copy(path, path.with_name("02.json"))
    shutil.copy(path, path.with_name("01.partial.json"))
    path.with_name("notes.json").write_text('{"note": 1}')
    path.with_name("03.json").write_text('["note"]')
    assert results_files(tmp_path) == [path]
    assert list(measurements(tmp_path).model) == ["planted"]


def test_a_run_comes_before_what_is_committed(tmp_path, monkeypatch):
    checkout, output = tmp_path / "checkout", tmp_path / "build"
    monkeypatch.setattr(scorecard, "PROJECT", checkout)
    monkeypatch.setenv("CIRCUITS_OUT", str(output))
    committed = write(checkout, "smollm2", "01", ACCURACY)
    write(checkout, "smollm2", "02", ACCURACY)
    fresh = write(output, "smollm2", "02", ACCURACY | {"value": 0.75}, run=True)
    other = write(output, "planted", "01", ACCURACY, run=True)
    assert results_files() == [other, committed, fresh]
    assert list(measurements().raw) == [0.5, 0.5, 0.75]
    assert results_files(output) == [other, fresh]
    assert len(results_files(checkout)) == 2


def test_a_damaged_file_of_results_is_named(tmp_path):
    write(tmp_path, "smollm2", "01", ACCURACY).write_text('{"model": ')
    with pytest.raises(ClaimError, match="smollm2/01.json is damaged .*restore it"):
        measurements(tmp_path)


def test_an_unknown_metric_is_refused(tmp_path):
    write(
        tmp_path,
        "smollm2",
        "01",
        {
            "id": "A1",
            "metric": "accurracy",  # codespell:ignore
            "value": 1.0,
            "verdict": "partly",
        },
    )
    with pytest.raises(ClaimError, match="accuracy"):
        measurements(tmp_path)


def test_the_figure_has_a_square_for_every_row(root):
    figure = scorecard_figure(measurements(root), title="Two models")
    papers = {claim.id: claim for claim in load_claims().values() if claim.paper}
    ours = {claim.id: claim for claim in load_claims().values() if not claim.paper}
    title, *others = (ax.get_title("left") for ax in figure.axes)
    assert title == "the paper's model" and others[0] == "smollm2"
    assert others[1] == "ours: " + ", ".join(
        f"{name} on {claim.model}" for name, claim in ours.items()
    )
    assert others[1].startswith("ours: X1 on planted, X2 on smollm2, X3 on smollm2")
    assert [len(ax.patches) for ax in figure.axes] == [2, 4, 0]
    own, other, below = ([text.get_text() for text in ax.texts] for ax in figure.axes)
    assert own == ["not run"] * (len(papers) - 1) and below == ["not run"] * len(ours)  # all but A6
    assert other == [
        "-" if papers[name].alone else "not run" for name in papers if name not in ("A6", "B1")
    ]
    assert other.count("-") >= 2 and papers["A9"].alone and papers["B9"].alone


def test_the_headline_is_the_first_square_and_the_only_framed_one(root):
    ranks = scorecard_figure(measurements(root), title="Two models").axes[1].patches[1:]
    assert [to_hex(square.get_facecolor()) for square in ranks] == [
        VERDICT_COLORS[verdict] for verdict in ("does not", "transfers", "transfers")
    ]
    assert [square.get_linewidth() > 0 for square in ranks] == [True, False, False]


def test_a_claim_of_very_many_metrics_has_narrower_squares(tmp_path):
    """44 squares share the width of 22: half a square each, the number behind them."""
    ranks = []
    for head in range(44):
        name = f"rank_L1H{head}_L3H4"
        ranks.append({"id": "B1", "metric": name, "value": 7, "verdict": "does not"})
    write(tmp_path, "smollm2", "04", *ranks)
    panel = scorecard_figure(measurements(tmp_path), title="Many").axes[1]
    assert panel.get_xlim() == (0, 24)
    assert [square.get_width() for square in panel.patches] == pytest.approx([0.4] * 44)
    assert panel.patches[-1].get_x() == pytest.approx(43.1 / 2)
    assert "44" in [text.get_text() for text in panel.texts]


def test_a_second_model_familys_rows_are_those_of_the_channel_measured_on_it(tmp_path):
    """B9 has no rows of its own: those of B2, B3 and B4 on pythia-160m, judged as on the paper's
    model.
    """
    value = {"value": 0.3, "low": 0.2, "high": 0.4}
    notebook_04 = [
        {"id": "B1", "metric": "rank_L1H2_L3H4", "value": 7, "verdict": "does not"},
        {"id": "B2", "metric": "top_component_L3H4", "verdict": "transfers"} | value,
        {"id": "B4", "metric": "same_component_share", "verdict": "partly"} | value,
    ]
    write(tmp_path, "pythia-160m", "04", *notebook_04)
    write(tmp_path, "smollm2", "04", *notebook_04)
    b3 = {"metric": "score_drop_L3H4", "verdict": "transfers"} | value
    write(
        tmp_path,
        "pythia-160m",
        "05",
        b3 | {"id": "B3"},
        b3 | {"id": "B5", "metric": "perplexity_ratio"},
    )
    frame = measurements(tmp_path)
    rows = frame[frame.claim == "B9"]
    assert list(zip(rows.metric, rows.verdict, strict=True)) == [
        ("top_component_L3H4", "qualitative"),
        ("score_drop_L3H4", "qualitative"),
        ("same_component_share", "differs"),
    ]
    assert set(rows.model) == {"pythia-160m"} and rows.own.all()
    assert (
        list(frame[frame.claim == "B2"].verdict) == ["transfers", "transfers"]
        and not frame[~frame.own].empty
    )
    cell = headlines(frame)["On the paper's model"].iloc[list(load_claims()).index("B9")]
    headline = "`top_component_L3H4` 0.3 [0.2, 0.4] (n = 9, seed 0): *qualitative*"
    assert cell == f"{headline}. All 3: 2 qualitative, 1 differs"


def test_a_verdict_said_of_another_model_is_translated_as_it_is_judged():
    metric = Metric("score", "paper-model", direction="above", reference=0)
    for value, low, high in ((0.3, 0.2, 0.4), (0.3, -0.1, 0.4), (-0.3, -0.4, -0.2)):
        other, own = (
            verdict(metric, value, low=low, high=high, same_model=same) for same in (False, True)
        )
        assert ON_ITS_OWN[other] == own


def test_a_claim_that_compares_models_is_shown_from_all_of_them_or_not_at_all(tmp_path):
    """Reuse that fades with scale (A9) cannot be seen in GPT-2 Large alone, whatever it shares."""
    row, place = {"id": "A9", "value": 5, "verdict": "reproduced"}, list(load_claims()).index("A9")
    for model in ("smollm2", "gpt2-large"):
        write(tmp_path, model, "02", row | {"metric": "shared_top_10_large"})
        assert measurements(tmp_path).empty
    command = headlines(measurements(tmp_path))["On the paper's model"].iloc[place]
    assert command == "not run: `make reproduce MODEL=gpt2-large`, `make reproduce MODEL=gpt2-xl`"
    write(tmp_path, "gpt2-xl", "02", row | {"metric": "shared_top_10_xl", "value": 0})
    assert list(measurements(tmp_path).model) == ["gpt2-large", "gpt2-xl"]


def test_a_metric_that_lacks_is_said_to_be_not_run(root):
    """A6 has two of its metrics on the paper's model and one on another; those of B1 are a
    template; A1 is not run.
    """
    frame, metrics = gaps(measurements(root)), list(load_claims()["A6"].metrics)
    assert set(frame.claim) == {"A6"} and set(frame.verdict) == {"not run"}
    lacking = {model: list(rows.metric) for model, rows in frame.groupby("model")}
    assert lacking == {
        "gpt2-medium": [m for m in metrics if m not in ("both", "baseline")],
        "smollm2": metrics[1:],
    }
    assert frame.set_index("metric").paper["inhibition"].tolist() == ["81.5 %"] * 2


def test_models_that_a_claim_compares_lack_nothing_of_each_other(tmp_path):
    row = {"id": "A9", "value": 5, "verdict": "reproduced"}
    write(tmp_path, "gpt2-large", "02", row | {"metric": "shared_top_10_large"})
    write(tmp_path, "gpt2-xl", "02", row | {"metric": "shared_top_10_xl"})
    assert gaps(measurements(tmp_path)).empty


def test_every_notebook_has_its_claims_minutes_and_command(root):
    frame = costs(measurements(root)).set_index("Command")
    assert len(frame) == len(list((PROJECT / "notebooks").glob("[0-9]*.ipynb")))
    line = frame.loc["`make reproduce ONLY=03`"]
    assert line.Notebook == "[03_colored_objects_repair](notebooks/03_colored_objects_repair.ipynb)"
    assert (
        line.Claims.split()[:2] == ["A6", "A7"]
        and line.Minutes == "1.5 on gpt2-medium, 1.5 on smollm2"
    )
    assert frame.loc["`make reproduce ONLY=01`"].Minutes == "not run"
    named = " ".join(frame.Claims).split()
    assert sorted(named) == sorted(claim.id for claim in load_claims().values() if claim.notebook)


def test_a_row_without_seed_shows_none(tmp_path):
    write(
        tmp_path,
        "smollm2",
        "01",
        {"id": "A1", "metric": "accuracy", "value": 1.0, "verdict": "partly", "seed": None},
    )
    assert (
        headlines(measurements(tmp_path))["On smollm2"][0] == "`accuracy` 100.0 % (n = 9): *partly*"
    )


def test_markdown_by_hand():
    assert markdown(pd.DataFrame({"a": ["1"], "b": ["2"]})) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
