"""Figures of a circuit given by hand: what is drawn, and that saving is whole and repeatable."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers import plots
from helpers.circuits import COLORED_OBJECTS, IOI, Circuit, Evidence, Overlap, Rule
from helpers.heads import Head
from helpers.path_patching import PathEffects
from helpers.stats import Interval

MOVERS, NEGATIVE, INHIBITION = (Head(3, 0), Head(3, 1)), (Head(3, 2),), (Head(2, 0),)
NOBODY: dict[str, tuple[Head, ...]] = {role.name: () for role in IOI.roles}
FOUND = NOBODY | {"movers": MOVERS, "negative_movers": NEGATIVE, "inhibition": INHIBITION}
WORDS = ["Ann", "Bob", "and", "Bob", "gave"]
WHERE = {"END": 4, "S2": 3, "S1+1": 2}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def circuit(roles: dict[str, tuple[Head, ...]]) -> Circuit:
    """4 layers of 4 heads on 3 prompts: 40 % (L3H0), 20 % (L3H1), -30 % (L3H2) to the logits, 50 %
    (L2H0) to q.
    """
    gap, effects = np.full(3, -2.0), {"logits": {Head(3, 0): 40, Head(3, 1): 20, Head(3, 2): -30}}
    effects["movers.q"] = {Head(2, 0): 50}
    stages = {}
    for stage, heads in effects.items():
        change = np.zeros((4, 4, 3))
        for head, percent in heads.items():
            change[head] = -2 * percent / 100
        if stage == "movers.q":
            change[3] = np.nan
        stages[stage] = PathEffects(np.full(3, 3.0), 3 + gap, 3 + change)
    attention = {
        ("END", key): np.full((4, 4, 3), value)
        for key, value in (("IO", 0.7), ("S1", 0.1), ("S2", 0.2))
    }
    attention |= {("S2", "S1"): np.full((4, 4, 3), 0.9)}
    return Circuit(roles, Evidence(attention, np.zeros((4, 4, 3)), stages), Rule())


def stage_figure(stage: str, roles: dict[str, tuple[Head, ...]] = FOUND) -> Figure:
    example = {
        head: np.eye(5) for heads in roles.values() for head in heads
    }  # each token attends to itself
    return plots.stage_figure(
        circuit(roles), stage, title="A stage", tokens=WORDS, positions=WHERE, example=example
    )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def attention_axes(figure: Figure) -> list[Axes]:
    """The two panels beside the heat map: one prompt, and the average."""
    return [ax for ax in figure.axes if "prompt" in ax.get_title(loc="left")]


def framed(figure: Figure) -> dict[tuple[float, float], str]:
    """(layer, head) -> colour of the frames on the heat map."""
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return {(f.get_x() + 0.5, f.get_y() + 0.5): to_hex(f.get_edgecolor()) for f in frames}


def test_stage_figure_frames_and_names_the_heads_found():
    figure = stage_figure("logits")
    green, red = plots.COLORS["movers"], plots.COLORS["negative_movers"]
    assert framed(figure) == {(3, 0): green, (3, 1): green, (3, 2): red}
    assert {"L3H0 +40", "L3H1 +20", "L3H2 -30"} < set(texts(figure))
    image = figure.axes[0].images[0]
    assert image.get_clim() == pytest.approx((-40, 40))  # symmetric around zero
    assert image.get_array()[2, 3] == pytest.approx(-30)  # [head layer]
    one, average = attention_axes(figure)
    rows = ["movers L3H0", "movers L3H1", "negative movers L3H2"]
    assert (
        [t.get_text() for t in one.get_yticklabels()]
        == [t.get_text() for t in average.get_yticklabels()]
        == rows
    )
    assert [t.get_text() for t in one.get_xticklabels()] == WORDS
    np.testing.assert_array_equal(one.images[0].get_array(), [[0, 0, 0, 0, 1]] * 3)  # from END
    assert [t.get_text() for t in average.get_xticklabels()] == ["END→IO", "END→S1", "END→S2"]
    np.testing.assert_allclose(average.images[0].get_array(), [[0.7, 0.1, 0.2]] * 3)


def test_the_name_of_a_framed_head_stands_where_no_other_does():
    near, far = (Head(0, 1), Head(3, 1)), Head(3, 2)
    figure, ax = plt.subplots()
    plots.head_map(
        ax, np.arange(16.0).reshape(4, 4), {"movers": near, "inhibition": (far,)}, title="T"
    )
    sides = {text.get_text().split()[0]: text.get_ha() for text in ax.texts}
    assert sides == {"L0H1": "right", "L3H1": "left", "L3H2": "right"}


def test_stage_figure_shows_at_most_three_heads_of_a_role():
    many = tuple(Head(3 - i, i) for i in range(4))
    figure = stage_figure("logits", FOUND | {"movers": many})
    assert len(framed(figure)) == 5  # the map frames all
    shown = [[t.get_text() for t in ax.get_yticklabels()] for ax in attention_axes(figure)]
    assert shown == [["movers L3H0", "movers L2H1", "movers L1H2", "negative movers L3H2"]] * 2
    assert "first 3 heads of a role" in attention_axes(figure)[0].get_title(loc="left")
    assert "first" not in attention_axes(stage_figure("logits"))[0].get_title(loc="left")


def test_stage_figure_greys_heads_without_a_path():
    figure = stage_figure("movers.q")
    assert framed(figure) == {(2, 0): plots.COLORS["inhibition"]}
    assert np.ma.getmaskarray(figure.axes[0].images[0].get_array())[:, 3].all()


def test_stage_figure_without_heads_or_without_a_stage():
    empty = stage_figure("logits", NOBODY)
    assert framed(empty) == {} and texts(empty) == ["no head fills this role"]
    assert "not run" in stage_figure("induction.k").axes[0].get_title(loc="left")


def test_circuit_graph_has_a_node_per_head_and_an_arrow_per_path():
    figure = plots.circuit_graph(circuit(FOUND), title="A circuit")
    heads = [text for text in texts(figure) if text.startswith("L")]
    assert sorted(heads) == ["L2H0", "L3H0", "L3H1", "L3H2"]
    assert {"movers", "negative movers", "inhibition", "+50 %", "-30 %", "logits\nat END"} < set(
        texts(figure)
    )
    assert "induction" not in texts(figure)
    arrows = [
        text.arrow_patch for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)
    ]
    widths = [
        2.6,
        1.6,
        2.1,
        3.1,
        3.1,
    ]  # 0.6 + 5 x share: three heads to the logits, one to two movers
    assert [arrow.get_linewidth() for arrow in arrows] == pytest.approx(widths)


def test_circuit_graph_without_a_circuit():
    assert texts(plots.circuit_graph(circuit(NOBODY), title="None")) == ["logits\nat END"]


def test_circuit_graph_of_another_task():
    """The gatherer feeds both movers; the induction head's stage has receivers, so its arrow ends
    there.
    """
    made, gatherer, induction = circuit(NOBODY), Head(2, 0), Head(1, 0)
    stages = made.evidence.stages | {"content_gatherers.v": made.evidence.stages["logits"]}
    roles = {role.name: () for role in COLORED_OBJECTS.roles}
    roles |= {"movers": MOVERS, "content_gatherers": (gatherer,), "induction": (induction,)}
    made = Circuit(
        roles,
        Evidence(made.evidence.attention, made.evidence.copying, stages, COLORED_OBJECTS),
        Rule(),
    )
    figure = plots.circuit_graph(made, title="Colored Objects")
    assert {"movers", "content gatherers", "induction", "L1H0", "L2H0", "L3H0", "L3H1"} < set(
        texts(figure)
    )
    assert (
        len([text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)])
        == 2 + 2 + 1
    )


def test_overlay():
    """L3H0 and L2H0 are in both circuits, L3H1 and L1H1 in one; the movers of both are L3H0, of the
    first L3H1 too.
    """
    chosen = (((Head(3, 0), Head(3, 1)), (Head(3, 0),)), ((Head(2, 0),), (Head(2, 0), Head(1, 1))))
    both = (circuit(FOUND), circuit(FOUND | {"movers": (Head(3, 0),)}))
    stages = (("logits", "logits"), ("movers.q", "content_gatherers.v"))
    both[1].roles["content_gatherers"] = (Head(3, 0),)
    found = Overlap(Interval(0.5, 0.5, 0.5), Interval(0.1, 0.0, 0.2), chosen)
    figure = plots.overlay(found, both, stages, tasks=("IOI", "CO"), title="T")
    (ax,) = figure.axes
    color = {text.get_text(): to_hex(text.get_bbox_patch().get_facecolor()) for text in ax.texts}
    legend = {text.get_text(): to_hex(patch.get_facecolor()) for text, patch in zip(
        ax.get_legend().get_texts(), ax.get_legend().get_patches(), strict=True)}  # fmt: skip
    assert list(legend) == ["IOI only", "CO only", "shared"]
    shared = legend["shared"]
    assert color == {"L3H0": shared, "L3H1": legend["IOI only"], "L2H0": shared, "L1H1": legend["CO only"],
                     "logits\nat END": to_hex("0.92")}  # fmt: skip
    lines = sorted(to_hex(line.get_color()) for line in ax.lines)
    # L3H0 and L2H0 -> L3H0 in both, L3H1 and L2H0 -> L3H1 in the first, L1H1 -> L3H0 in the second
    assert lines == sorted([shared] * 2 + [legend["IOI only"]] * 2 + [legend["CO only"]])
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        "to movers.q\nto content gatherers.v",
        "to logits",
    ]
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "1",
        "2",
        "3",
    ]  # only layers that have a head


def test_bars_with_intervals():
    groups = {
        "clean": [Interval(0.9, 0.8, 0.95), Interval(3.0, 2.0, 4.0)],
        "swapped": [Interval(-0.5, -0.7, -0.1)] * 2,
    }
    figure = plots.bars_with_intervals(groups, ["accuracy", "difference"], ylabel="y", title="T")
    (ax,) = figure.axes
    assert [bar.get_height() for bar in ax.patches] == [0.9, 3, -0.5, -0.5]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["clean", "swapped"]
    bars = [bar.errorbar[2][0].get_segments() for bar in ax.containers if hasattr(bar, "errorbar")]
    ends = [segment[:, 1].tolist() for group in bars for segment in group]
    assert ends == [
        pytest.approx(pair) for pair in ([0.8, 0.95], [2, 4], [-0.7, -0.1], [-0.7, -0.1])
    ]


def test_knock_out_figure():
    measured = {
        "whole model": Interval(3.0, 2.5, 3.5),
        "circuit knocked out": Interval(0.5, 0.2, 0.9),
    }
    figure = plots.knock_out_figure(
        measured, np.array([2.8, 2.9, 3.1]), control="random heads", title="T"
    )
    (ax,) = figure.axes
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels == ["random heads, 3 draws", "circuit knocked out", "whole model"]
    height = {labels.index(name): interval.value for name, interval in measured.items()}
    dots, _, (whiskers,) = ax.containers[0].lines
    assert dict(zip(dots.get_ydata(), dots.get_xdata(), strict=True)) == height
    assert sorted(ends[:, 0].tolist() for ends in whiskers.get_segments()) == [
        [0.2, 0.9],
        [2.5, 3.5],
    ]
    assert any(list(line.get_xdata()) == [2.8, 2.9, 3.1] for line in ax.lines)
    assert ax.get_xlabel() == "logit(IO) - logit(S) at END"
    named = plots.knock_out_figure(
        measured, np.ones(2), control="random heads", title="T", xlabel="logits"
    )
    assert named.axes[0].get_xlabel() == "logits"


def test_stability_figure():
    jaccards = {"movers": np.array([1.0, 1.0, 0.5, 0.5]), "inhibition": np.ones(4)}
    (ax,) = plots.stability_figure(jaccards, title="T").axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["inhibition", "movers"]
    upper, lower = ax.collections[1], ax.collections[0]
    assert upper.get_offsets().tolist() == [[0.5, 1], [1, 1]] and lower.get_offsets().tolist() == [
        [1, 0]
    ]
    assert (
        upper.get_sizes()[0] == upper.get_sizes()[1] == lower.get_sizes()[0] / 2
    )  # area = share of resamples
    assert [line.get_xdata()[0] for line in ax.lines] == [1, 0.75]  # means


def test_roles_table():
    table = plots.roles_table(
        circuit(FOUND), {"movers": ["L9H6", "L10H0"]}, layers=4, paper_model="big", paper_layers=20
    )
    assert table.loc["movers"].tolist() == ["L9H6 L10H0", "0.50", "L3H0 L3H1", "1.00"]
    assert table.loc["previous token"].tolist() == ["not given", "-", "none", "-"]


def test_save_writes_both_files_whole_and_the_same_each_time(tmp_path, monkeypatch):
    written = []
    for attempt in ("first", "second"):
        monkeypatch.setenv("CIRCUITS_OUT", str(tmp_path / attempt))
        plots.save(stage_figure("logits"), "smollm2", "01_stage")
        folder = tmp_path / attempt / "figures" / "smollm2"
        assert sorted(path.name for path in folder.iterdir()) == ["01_stage.png", "01_stage.svg"]
        written.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert written[0] == written[1]
    assert written[0][0].startswith(b"\x89PNG") and b"<svg" in written[0][1]


def test_save_leaves_the_old_file_where_drawing_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("CIRCUITS_OUT", str(tmp_path))
    plots.save(stage_figure("logits"), "smollm2", "01_stage")
    files = sorted((tmp_path / "figures" / "smollm2").iterdir())
    before = [path.read_bytes() for path in files]
    figure, ax = plt.subplots()
    ax.set_title(r"$\nothing$")  # mathtext that cannot be drawn
    with pytest.raises(ValueError, match="nothing"):
        plots.save(figure, "smollm2", "01_stage")
    assert [path.read_bytes() for path in files] == before
