"""The scorecard on results files made by hand."""

import json

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from helpers import plots
from helpers.claims import ClaimError, Metric, load_claims, verdict
from helpers.scorecard import ON_ITS_OWN, headlines, markdown, measurements, not_run, tally


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
    ours = "ours: X1 on planted, X2 on smollm2, X3 on smollm2"
    assert [ax.get_title("left") for ax in figure.axes] == ["the paper's model", "smollm2", ours]
    assert [len(ax.patches) for ax in figure.axes] == [2, 4, 0]
    own, other, below = ([text.get_text() for text in ax.texts] for ax in figure.axes)
    assert own == ["not run"] * 17 and below == ["not run"] * 3
    assert other == ["not run" if claim not in ("A9", "B9") else "-" for claim in load_claims() if claim[0] in "AB"
                     and claim not in ("A6", "B1")]  # fmt: skip


def test_the_headline_is_the_first_square_and_the_only_framed_one(root):
    ranks = plots.scorecard_figure(measurements(root), title="Two models").axes[1].patches[1:]
    assert [to_hex(square.get_facecolor()) for square in ranks] == [
        plots.VERDICT_COLORS[verdict] for verdict in ("does not", "transfers", "transfers")
    ]
    assert [square.get_linewidth() > 0 for square in ranks] == [True, False, False]


def test_a_second_model_familys_rows_are_those_of_the_channel_measured_on_it(tmp_path):
    """B9 has no rows of its own: those of B2, B3 and B4 on pythia-160m, judged as on the paper's model."""
    value = {"value": 0.3, "low": 0.2, "high": 0.4}
    notebook_04 = [
        {"id": "B1", "metric": "rank_L1H2_L3H4", "value": 7, "verdict": "does not"},
        {"id": "B2", "metric": "top_component_L3H4", "verdict": "transfers"} | value,
        {"id": "B4", "metric": "same_component_share", "verdict": "partly"} | value,
    ]
    write(tmp_path, "pythia-160m", "04", *notebook_04)
    write(tmp_path, "smollm2", "04", *notebook_04)
    b3 = {"metric": "score_drop_L3H4", "verdict": "transfers"} | value
    write(tmp_path, "pythia-160m", "05", b3 | {"id": "B3"}, b3 | {"id": "B5", "metric": "perplexity_ratio"})
    frame = measurements(tmp_path)
    rows = frame[frame.claim == "B9"]
    assert list(zip(rows.metric, rows.verdict, strict=True)) == [
        ("top_component_L3H4", "qualitative"),
        ("score_drop_L3H4", "qualitative"),
        ("same_component_share", "differs"),
    ]
    assert set(rows.model) == {"pythia-160m"} and rows.own.all()
    assert list(frame[frame.claim == "B2"].verdict) == ["transfers", "transfers"] and not frame[~frame.own].empty
    cell = headlines(frame)["On the paper's model"].iloc[list(load_claims()).index("B9")]
    assert cell == "`top_component_L3H4` 0.3 [0.2, 0.4] (n = 9): *qualitative*. All 3: 2 qualitative, 1 differs"


def test_a_verdict_said_of_another_model_is_translated_as_it_is_judged():
    metric = Metric("score", "paper-model", direction="above", reference=0)
    for value, low, high in ((0.3, 0.2, 0.4), (0.3, -0.1, 0.4), (-0.3, -0.4, -0.2)):
        other, own = (verdict(metric, value, low=low, high=high, same_model=same) for same in (False, True))
        assert ON_ITS_OWN[other] == own


def test_a_claim_about_the_papers_models_has_no_rows_of_others(tmp_path):
    row = {"id": "A9", "value": 9, "verdict": "differs"}
    write(tmp_path, "smollm2", "02", row | {"metric": "shared_top_10_large"})
    frame, place = measurements(tmp_path), list(load_claims()).index("A9")
    assert frame.empty
    assert headlines(frame)["On the paper's model"].iloc[place] == "not run: `make reproduce MODEL=gpt2-large`"
    write(tmp_path, "gpt2-large", "02", row | {"metric": "shared_top_10_large"})
    write(tmp_path, "gpt2-xl", "02", row | {"metric": "shared_top_10_xl", "value": 0})
    assert list(measurements(tmp_path).model) == ["gpt2-large", "gpt2-xl"]


def test_markdown_by_hand():
    assert markdown(pd.DataFrame({"a": ["1"], "b": ["2"]})) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
