"""The benchmark: its count of operations by hand, its comparison on a tiny model, its targets, and
what it recorded.
"""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import channel_grid, component_scores, scaling
from benchmarks.path_patching import TARGETS, compare, missed, needed_flops
from helpers.heads import Head
from helpers.path_patching import Receiver
from helpers.tasks import Prompts
from suite.errors import ModelError
from suite.registry import PROJECT
from tests.tiny import tiny_gpt2, tiny_llama

FIELDS = {
    "name",
    "ratio",
    "max_difference",
    "seconds",
    "baseline_seconds",
    "peak_memory_gib",
    "n",
    "target",
}
PATHS = [f"path_patching_{case}" for case in TARGETS]


def prompts(*tokens: tuple[int, ...], at: int) -> Prompts:
    partners = tuple((*prompt[:1], *(token + 40 for token in prompt[1:])) for prompt in tokens)
    n = len(tokens)
    positions = {"END": tuple(len(prompt) - 1 for prompt in tokens), "HERE": (at,) * n}
    return Prompts(("",) * n, ("",) * n, tokens, partners, (7,) * n, (9,) * n, positions)


# Operations. Three tokens, 2 heads of 2 dimensions, d_model 4, MLP of 8, 10 words. Per position:
# keys and values 64,
# q and output 64, MLP 128. Scores and z: 16 per pair, 6 pairs in a whole run. A layer: 3 x 256 + 96
# = 864.


def config(**changes) -> SimpleNamespace:
    base = {"n_layers": 3, "n_heads": 2, "d_head": 2, "d_model": 4, "d_mlp": 8, "d_vocab": 10}
    return SimpleNamespace(**base | {"gated_mlp": False, "n_key_value_heads": None} | changes)


RUNS = 2 * 3 * 864
SENT = 16 + 128 + 16  # L0H0 to L1H0: its output, the MLP of layer 0, the receiver's projection
ABOVE = (
    256 + 16 * 3
) + 64  # the last layer: END, which sees 3 positions, and another position's keys and values


@pytest.mark.parametrize(
    "receiver, senders, expected",
    [
        (Receiver("logits"), [Head(0, 0), Head(2, 1)], RUNS + (16 + 3 * 128) + (16 + 128)),
        # z of one query: scores and mix 2 x 12; its output 16; the MLP; the last layer at END
        (Receiver("q", (Head(1, 0),)), [Head(0, 0)], RUNS + SENT + (24 + 16 + 128) + 256 + 16 * 3),
        # two positions: z changes by 2 x 4, or scores by 8 and mixes of 2 + 3 positions by 20;
        # outputs 32; MLPs 256
        (Receiver("v", (Head(1, 0),), "HERE"), [Head(0, 0)], RUNS + SENT + (8 + 32 + 256) + ABOVE),
        (Receiver("k", (Head(1, 0),), "HERE"), [Head(0, 0)], RUNS + SENT + (28 + 32 + 256) + ABOVE),
        # a receiver in the last layer counts at END only; the sender of layer 1 does not reach L1H0
        (
            Receiver("v", (Head(1, 0), Head(2, 1)), "HERE"),
            [Head(1, 1)],
            RUNS + SENT + (8 + 16 + 128),
        ),
    ],
)
def test_needed_operations_by_hand(receiver, senders, expected):
    assert needed_flops(config(), prompts((1, 2, 3), at=1), receiver, senders) == expected
    assert (
        needed_flops(config(), prompts((1, 2, 3), (4, 5, 6), at=1), receiver, senders)
        == 2 * expected
    )


def test_gates_and_shared_keys_are_counted():
    few = needed_flops(config(), prompts((1, 2, 3), at=1), Receiver("logits"), [])
    assert (
        needed_flops(config(gated_mlp=True), prompts((1, 2, 3), at=1), Receiver("logits"), []) - few
        == 2 * 9 * 64
    )
    assert (
        few
        - needed_flops(
            config(n_key_value_heads=1), prompts((1, 2, 3), at=1), Receiver("logits"), []
        )
        == 18 * 32
    )


@pytest.mark.parametrize("tiny", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("kind", ["logits", "q", "k", "v"])
def test_comparison_on_a_tiny_model(tiny, kind):
    receiver = (
        Receiver("logits") if kind == "logits" else Receiver(kind, (Head(1, 1), Head(2, 0)), "HERE")
    )
    batch = prompts((1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1), at=3 if kind in "kv" else 5)
    found = compare(tiny(), batch, receiver, sample=3, repeats=2)
    assert found["max_difference"] < 1e-5
    assert (
        1 <= found["flop_ratio"] < 1.5
    )  # no fewer than needed: the count of the needed ones is not too high
    assert (found["n"], found["tokens"], found["senders"], found["senders_timed"]) == (2, 6, 12, 3)
    assert found["senders_with_path"] == (12 if kind == "logits" else 8)
    assert (
        found["ratio"] == found["baseline_seconds"] / found["seconds"]
        and len(found["repeats"]) == 2
    )


@pytest.mark.parametrize("tiny", [tiny_gpt2, tiny_llama])
def test_the_grid_of_a_channel_on_a_tiny_model(tiny):
    model, head = tiny(), Head(1, 1)
    directions = {head: torch.linalg.svd(model.blocks[1].attn.W_O[1], full_matrices=False).Vh[:2].T}
    batch = prompts((1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1), at=5)
    found = channel_grid.compare(model, batch, directions, side=3, sample=2, repeats=2)
    assert found["max_difference"] < 1e-4
    assert (found["n"], found["tokens"], found["points"], found["points_timed"]) == (2, 6, 9, 2)
    assert (
        found["ratio"] == found["baseline_seconds"] / found["seconds"]
        and len(found["repeats"]) == 2
    )


# Targets and the record


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, None),
        ({"ratio": 79.9}, "79.9 times the baseline's speed, the target is 80"),
        ({"max_difference": 2e-5}, "max_difference is 2e-05, the limit 1e-05"),
        ({"flop_ratio": 1.6}, "flop_ratio is 1.6, the limit 1.5"),
        ({"peak_memory_gib": 4.1}, "peak_memory_gib is 4.1, the limit 4"),
        ({"r_squared": 0.98}, "not linear in prompts, r^2 = 0.980"),
        ({"name": "notebook_01", "seconds": 361}, "361 s, the limit is 360 s"),
        ({"name": "reproduce", "seconds": 1501}, "1501 s, the limit is 1500 s"),
    ],
)
def test_a_missed_target_is_told(change, words):
    entry = {
        "name": "x",
        "ratio": 81,
        "target": 80,
        "max_difference": 1e-6,
        "seconds": 300,
        "peak_memory_gib": 2,
    }
    faults = missed(entry | change)
    assert len(faults) == bool(words) and all(words in fault for fault in faults)


@pytest.fixture(scope="module")
def recorded():
    path = PROJECT / "benchmarks" / "results.json"
    assert path.exists(), "benchmarks/results.json is missing: run `make bench`."
    return {entry["name"]: entry for entry in json.loads(path.read_text())}


def test_every_benchmark_is_recorded_with_every_field(recorded):
    assert {*PATHS, "path_patching_linear", "notebook_01", "reproduce"} <= set(recorded)
    for entry in recorded.values():
        assert set(entry) >= FIELDS | {"machine", "versions"}
        assert entry["seconds"] > 0 and entry["n"] > 0
        assert {"cpu", "cores", "memory_gib"} <= set(entry["machine"])
        assert set(entry["versions"]) == {"python", "torch", "transformer_lens", "transformers"}
    for name in PATHS:
        entry = recorded[name]
        assert entry["n"] == 16 and entry["tokens"] == (62 if name.endswith("62") else 15)
        assert entry["senders_timed"] >= 10 and "scaled to all" in entry["note"]
    assert (PROJECT / "benchmarks" / "path_patching.png").exists()


def test_every_target_is_met(recorded):
    assert [fault for entry in recorded.values() for fault in missed(entry)] == []


def readme_table():
    spec = importlib.util.spec_from_file_location(
        "readme_table", PROJECT / "scripts" / "readme_table.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_readme_shows_the_benchmarks():
    machine = {"cpu": "Some CPU", "cores": 2, "memory_gib": 23.5}
    fast = {
        "name": "fast",
        "ratio": 123.456,
        "max_difference": 1.234e-6,
        "seconds": 2.5,
        "baseline_seconds": 1234.5,
    }
    rest = {
        "flop_ratio": 1.0123,
        "target": 80,
        "ratio_with_path": 99.9,
        "peak_memory_gib": 2.56,
        "machine": machine,
    }
    slow = {
        "name": "slow",
        "ratio": None,
        "seconds": 200.0,
        "peak_memory_gib": 3.0,
        "machine": machine,
    }
    lines = readme_table().benchmark_table([fast | rest, slow]).splitlines()
    assert lines[2] == "| `fast` | 2.5 | 1234 | 123 | 99.9 | 80 | 1.23e-06 | 1.01 | 2.56 |"
    assert lines[3] == "| `slow` | 200 |  |  |  |  |  |  | 3 |"
    assert lines[-1].endswith("Measured on Some CPU, 2 cores, 24 GiB.")


def test_without_the_embedded_model_no_target_is_met(monkeypatch, tmp_path, capsys):
    def missing(name: str) -> None:
        raise ModelError(f"{name} is not there")

    monkeypatch.setattr(component_scores, "attention_weights", missing)
    with pytest.raises(SystemExit, match="Error: smollm2 is not there"):
        component_scores.main(["--out", str(tmp_path)])
    assert "Every target is met" not in capsys.readouterr().out


# How cost grows


def test_the_cost_model_finds_a_known_law():
    law = (0.004, 5e-12)  # 4 ms a layer, 200 billion operations a second
    rows = [
        {"layers": layers, "operations": count}
        for layers, count in ((2, 1e9), (8, 1e9), (8, 1e11), (24, 3e11))
    ]
    rows = [row | {"seconds": scaling.predicted(law, row)} for row in rows]
    assert rows[0]["seconds"] == pytest.approx(0.013) and rows[2]["seconds"] == pytest.approx(0.532)
    assert scaling.fit(rows) == pytest.approx(law)
    no_overhead = [
        row | {"seconds": row["operations"] / 2e11 - 1e-6 * row["layers"]} for row in rows
    ]
    assert scaling.fit(no_overhead)[0] == 0, "a cost is never negative"


def test_slopes_by_hand():
    assert scaling.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert scaling.slope([10, 100], [5, 5]) == pytest.approx(0)


def test_operations_grow_as_the_method_says(monkeypatch):
    monkeypatch.setattr(scaling, "D_HEAD", 4)
    one = scaling.Shape(layers=4, heads=4, prompts=1, tokens=6)
    # Two runs of 6 tokens: keys, values, q and output 4 x 2 x 16 x 16, MLP 16 x 16 x 16, 21 pairs
    # seen of 4 x 16 each;
    # a sender in layer l: its output 2 x 4 x 16, then the MLPs of layers l to 3: 16 senders, 40
    # MLPs.
    assert scaling.operations(one, "logits") == 2 * 4 * (6 * 6144 + 21 * 64) + 16 * 128 + 40 * 4096
    assert scaling.operations(one._replace(prompts=3), "k") == 3 * scaling.operations(one, "k")
    assert scaling.operations(one, "k") > scaling.operations(one, "v"), (
        "it runs again from an earlier position"
    )


@pytest.mark.parametrize("costs", [(1e-3, 1e-11), (1e-3, 0.0)])
def test_scaling_on_tiny_models(monkeypatch, costs):
    monkeypatch.setattr(scaling, "fit", lambda rows: costs)  # times of tiny models are noise
    base = scaling.Shape(layers=4, heads=4, prompts=2, tokens=8)
    monkeypatch.setattr(scaling, "D_HEAD", 8)
    monkeypatch.setattr(scaling, "BASE", base)
    monkeypatch.setattr(
        scaling, "FACTORS", {"layers": (4, 5), "heads": (4, 5), "prompts": (2, 3), "tokens": (8, 9)}
    )
    monkeypatch.setattr(scaling, "NAMES", ("tiny", "larger"))
    shapes = {
        "tiny": base._replace(heads=6, prompts=4),
        "larger": base._replace(heads=7, prompts=4),
    }
    monkeypatch.setattr(scaling, "shape_of", shapes.get)
    monkeypatch.setattr(scaling, "HELD_OUT", (shapes["tiny"], shapes["larger"]._replace(prompts=1)))
    found, figure = scaling.scaling_entry(1)
    assert [
        (row["layers"], row["heads"], row["prompts"], row["tokens"]) for row in found["points"]
    ] == [
        shape
        for shape in sorted(
            [base, *(base._replace(**{f: s[1]}) for f, s in scaling.FACTORS.items())]
        )
        for _ in "lq"
    ]
    assert [(row["heads"], row["prompts"], row["kind"]) for row in found["held_out"]] == [
        (heads, prompts, kind)
        for heads, prompts in ((6, 4), (7, 1))
        for kind in ("logits", "q", "v", "k")
    ]
    tiny, larger = found["models"]
    assert tiny["measured"] == pytest.approx(
        sum(row["seconds"] for row in found["held_out"][:4]), rel=1e-3
    )
    assert larger["measured"] is None and larger["operations"] > tiny["operations"]
    assert found["gflop_per_second"] == (pytest.approx(100) if costs[1] else None)
    assert 0 < found["working_gib"] < 0.01 and len(figure.axes) == 4 and FIELDS <= set(found)


def test_readme_shows_how_cost_grows():
    model = {
        "name": "small",
        "layers": 12,
        "heads": 10,
        "prompts": 48,
        "operations": 5.44e12,
        "predicted": 30.26,
    }
    small = model | {"measured": 33.04, "weights_gib": 0.46}
    large = model | {"name": "large", "measured": None, "predicted": 4567.8, "weights_gib": 5.8}
    machine = {"cpu": "Some CPU", "cores": 2, "memory_gib": 23.5}
    entry = {
        "models": [small, large],
        "slopes": {"layers": [1.8, 1.9, 1.0]},
        "working_bound_gib": 2.0,
    }
    entry |= {
        "seconds_per_layer": 0.0042,
        "gflop_per_second": 160.4,
        "held_out_error": 0.123,
        "machine": machine,
    }
    lines = readme_table().scaling_table(entry).splitlines()
    assert (
        lines[2]
        == "| small | 12 x 10 | 5.4e+12 | 33 measured (model: 30.3) | 0.5 weights + at most 2 |"
    )
    assert lines[3] == "| large | 12 x 10 | 5.4e+12 | 4568 extrapolated | 5.8 weights + at most 2 |"
    assert (
        "4.2 ms a layer" in lines[-1]
        and "at most 12 % off" in lines[-1]
        and "layers^1.80" in lines[-1]
    )
