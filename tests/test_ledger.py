"""The ledger, and the verdicts case by case."""

import re

import pytest

from suite import registry
from suite.errors import ClaimError
from suite.ledger import Control, Metric, get_claim, load_claims, verdict

GOOD = "unit: logits, direction: above"
CLAIM = "id: A1, paper: A, title: t, where: null, notebook: '01'"


def load(tmp_path, monkeypatch, *entries: str):
    """The claims of a ledger with these entries, in YAML."""
    monkeypatch.setattr(registry, "DATA", tmp_path)
    claims = "".join(f"\n- {entry}" for entry in entries)
    text = f"papers: {{A: {{model: gpt2-medium}}}}\nclaims:{claims or ' []'}\n"
    (tmp_path / "claims.yaml").write_text(text)
    return load_claims.__wrapped__()


# The ledger


@pytest.mark.parametrize(
    "entry, message",
    [
        ("A1", "claim number 1, entry: 'A1' is no mapping of fields to values."),
        ("{id: A1}", "claim A1, entry: the field 'paper' is missing, add it."),
        (
            f"{{{CLAIM}, metrics: {{}}, figur: x}}",
            "claim A1, entry: unknown field 'figur', use figure.",
        ),
        (
            f"{{{CLAIM}, metrics: [a]}}",
            "claim A1, entry: metrics is no mapping of names to fields.",
        ),
        (
            f"{{{CLAIM}, metrics: {{a: {{{GOOD}, tolerence: 1}}}}}}",  # codespell:ignore
            "claim A1, metric a: unknown field 'tolerence', use tolerance",
        ),
        (
            f"{{{CLAIM}, metrics: {{a: {{unit: logits}}}}}}",
            "claim A1, metric a: a number needs a direction, above or below or equal.",
        ),
        (
            f"{{{CLAIM}, metrics: {{a: {{direction: down}}}}}}",
            "claim A1, metric a: a number needs a direction, above or below or equal.",
        ),
        (
            f"{{{CLAIM}, metrics: {{a: {{kind: heads, direction: above}}}}}}",
            "claim A1, metric a: only a number has a direction, leave it out of a heads metric.",
        ),
        (
            f"{{{CLAIM}, metrics: {{a: {{kind: list, paper: [0.9, 0.5]}}}}}}",
            "claim A1, metric a: a list cannot be compared with a paper value, put it in words",
        ),
        (
            f"{{{CLAIM}, metrics: {{a: {{{GOOD}, paper: [1]}}}}}}",
            "claim A1, metric a: the paper value of a number is a number, not [1].",
        ),
        (
            f"{{{CLAIM}, metrics: {{a: {{kind: heads, paper: [9.6]}}}}}}",
            "claim A1, metric a: the paper value of heads is a list like [L9H6], not [9.6].",
        ),
        (
            f"{{{CLAIM}, metrics: {{a: {{kind: curve}}}}}}",
            "claim A1, metric a: kind 'curve' is unknown, use number or heads or list.",
        ),
        (
            f"{{{CLAIM.replace('paper: A', 'paper: C')}, metrics: {{}}}}",
            "claim A1, entry: paper 'C' has no model under papers.",
        ),
        (
            f"{{{CLAIM}, metrics: {{}}, rows_of: [A9]}}",
            "claim A1, entry: rows_of names A9, which is no earlier claim.",
        ),
    ],
)
def test_an_entry_that_cannot_be_judged_is_named_when_the_ledger_is_loaded(
    entry, message, tmp_path, monkeypatch, unchecked
):
    with pytest.raises(ClaimError, match=re.escape(f"data/claims.yaml, {message}")):
        load(tmp_path, monkeypatch, entry)


def test_two_claims_of_one_id_are_refused(tmp_path, monkeypatch):
    entry = f"{{{CLAIM}, metrics: {{}}}}"
    with pytest.raises(ClaimError, match="claim A1, entry: there are two of this id, rename one"):
        load(tmp_path, monkeypatch, entry, entry)


def test_a_claim_has_its_papers_model_unless_it_names_its_own(tmp_path, monkeypatch):
    """And rows of another claim are about its own model, of which the paper says nothing."""
    own = CLAIM.replace("A1", "A2") + ", model: gpt2, rows_of: [A1]"
    claims = load(
        tmp_path,
        monkeypatch,
        f"{{{CLAIM}, metrics: {{a: {{{GOOD}, paper: 0.5}}, b: {{{GOOD}, model: gpt2-xl}}}}}}",
        f"{{{own}, metrics: {{}}}}",
    )
    first, second = claims["A1"], claims["A2"]
    assert (first.model, first.alone) == ("gpt2-medium", False)
    assert (first.metric("a").model, first.metric("b").model) == ("gpt2-medium", "gpt2-xl")
    assert (second.model, second.alone) == ("gpt2", True)
    assert (second.metric("a").model, second.metric("a").paper) == ("gpt2", None)


def test_a_name_with_an_open_part_has_its_templates_metric(tmp_path, monkeypatch):
    metrics = f"{{attention_<from>_<to>: {{{GOOD}}}}}"
    claim = load(tmp_path, monkeypatch, f"{{{CLAIM}, metrics: {metrics}}}")["A1"]
    assert claim.template("attention_END_IO") == "attention_<from>_<to>"
    assert claim.metric("attention_END_IO").name == "attention_END_IO"
    with pytest.raises(ClaimError, match="Unknown metric of A1 'attention'"):
        claim.metric("attention")


@pytest.mark.parametrize(
    "claim_id, metric, message",
    [
        ("A1x", "accuracy", "Unknown claim (data/claims.yaml) 'A1x': use A1"),
        (
            "A1",
            "acuracy",  # codespell:ignore
            "Unknown metric of A1 'acuracy': use accuracy.",  # codespell:ignore
        ),
    ],
)
def test_unknown_names_are_answered_with_near_ones(claim_id, metric, message):
    with pytest.raises(ClaimError, match=re.escape(message)):
        get_claim(claim_id).metric(metric)


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
