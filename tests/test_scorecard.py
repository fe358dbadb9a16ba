"""The scorecard on results files made by hand."""

import json

import pandas as pd
import pytest

from helpers import plots
from helpers.claims import ClaimError, load_claims
from helpers.scorecard import headlines, markdown, measurements, not_run, tally


def write(root, model: str, notebook: str, *rows: dict) -> None:
    base = {"low": None, "high": None, "n": 9, "seed": 0, "control": None, "note": ""}
    content = {"model": model, "notebook": notebook, "provenance": {"wall_time_s": 90.0}}
    folder = root / "data" / "results" / model
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{notebook}.json").write_text(json.dumps(content | {"claims": [base | row for row in rows]}))


@pytest.fixture
def root(tmp_path):
    """A6 on the paper's model and on another, B1 (a template of metrics) on another."""
    both = {"id": "A6", "metric": "both", "value": 0.9, "low": 0.85, "high": 0.94, "verdict": "qualitative"}
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
        both | {"verdict": "partly", "control": {"name": "random heads", "value": 0.3, "low": 0.2, "high": 0.4}},
    )
    write(tmp_path, "smollm2", "04", *ranks)
    return tmp_path


def test_rows_stand_in_the_order_of_the_ledger(root):
    frame = measurements(root)
    assert list(frame.metric) == ["both", "both", "baseline", "rank_L1H2_L3H0", "rank_L1H2_L3H1", "rank_L1H2_L3H2"]
    assert list(frame.own) == [True, False, True, False, False, False] and set(frame.minutes) == {1.5}
    assert list(frame.value[:3]) == ["90.0 %", "90.0 %", "50.0 %"] and frame.interval[0] == "[85.0 %, 94.0 %]"


def test_every_claim_has_one_headline(root):
    table = headlines(measurements(root)).set_index(headlines(measurements(root)).Claim.str[2:4])
    assert list(table.index) == list(load_claims()) and list(table.columns[1:4]) == [
        "Paper",
        "On the paper's model",
        "On smollm2",
    ]
    assert table.Paper["A6"] == "93.7 % (both)"
    assert table["On the paper's model"]["A6"] == (
        "`both` 90.0 % [85.0 %, 94.0 %] (n = 9): *qualitative*. All 2: 1 reproduced, 1 qualitative"
    )
    assert table["On smollm2"]["A6"] == (
        "`both` 90.0 % [85.0 %, 94.0 %] (n = 9; random heads: 30.0 % [20.0 %, 40.0 %]): *partly*"
    )
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
    assert plots.scorecard_figure(empty, title="Nothing yet").axes


def test_an_unknown_metric_is_refused(tmp_path):
    write(tmp_path, "smollm2", "01", {"id": "A1", "metric": "accurracy", "value": 1.0, "verdict": "partly"})
    with pytest.raises(ClaimError, match="accuracy"):
        measurements(tmp_path)


def test_the_figure_has_a_square_for_every_row(root):
    figure = plots.scorecard_figure(measurements(root), title="Two models")
    assert [ax.get_title("left") for ax in figure.axes] == ["the paper's model", "smollm2"]
    assert [len(ax.patches) for ax in figure.axes] == [2, 4]
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == ["not run"] * (len(load_claims()) - 1)


def test_markdown_by_hand():
    assert markdown(pd.DataFrame({"a": ["1"], "b": ["2"]})) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
