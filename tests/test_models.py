"""Models load as they are, attention weights equal the loaded model's, and every error names its
remedy.
"""

import hashlib
import json
import pickle
import runpy
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import COMMON, random_prompts, tiny_folder, tiny_gpt2
from transformers import (
    AutoModelForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from helpers import models
from helpers.heads import Head
from helpers.models import attention_weights, load_model, model_provenance
from helpers.path_patching import Receiver, path_patch
from helpers.published import path_patch_reference
from suite.errors import ModelError
from suite.fetch import fetch
from suite.registry import PROJECT, resolve

KINDS = ["gpt2", "llama", "neox"]
TENSORS = ["W_Q", "W_K", "W_V", "W_O"]
WORDS = " ".join(f"w{i}" for i in [3, 14, 15, 92, 65, 35, 89, 79, 3, 14, 15, 92])
SENTENCE = "Then, Mary and John went to the store. John gave a drink to"


@pytest.fixture(params=KINDS)
def folder(request, tmp_path) -> Path:
    return tiny_folder(request.param, tmp_path / request.param)


@pytest.fixture
def gpt2(tmp_path) -> Path:
    return tiny_folder("gpt2", tmp_path / "gpt2")


def edit_tensors(folder: Path, edit) -> None:
    """Rewrite the weights of a checkpoint; edit returns the tensors to keep."""
    path = folder / "model.safetensors"
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    save_file(edit(tensors), path, metadata={"format": "pt"})


def edit_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def attention_only(tensors: dict) -> dict:
    """What the partial GPT-2 checkpoint holds: attention and norms, names without prefix."""
    kept = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    return {key: value for key, value in kept.items() if ".attn." in key or ".ln_1." in key}


def max_log_prob_difference(model, folder: Path, text: str) -> float:
    """Largest difference of log-probabilities between the loaded model and the unprocessed Hugging
    Face one.
    """
    tokens = model.to_tokens(text)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return (
            (model(tokens).log_softmax(-1) - reference(tokens).logits.log_softmax(-1))
            .abs()
            .max()
            .item()
        )


def assert_same_attention(weights, model) -> None:
    for name in TENSORS:
        try:
            expected = getattr(model, name)
        except AttributeError:  # the bridge holds no bias: the model has none
            expected = torch.zeros(())
        torch.testing.assert_close(
            getattr(weights, name), expected.expand_as(getattr(weights, name)), atol=1e-5, rtol=0
        )


# What loads, loads right


def test_head_prints_and_parses():
    assert str(Head(9, 6)) == "L9H6"
    assert Head.parse("L10H0") == Head(layer=10, head=0)
    with pytest.raises(ValueError, match="L9H6"):
        Head.parse("9.6")


def test_log_probabilities_of_tiny_models(folder):
    model = load_model(str(folder))
    assert max_log_prob_difference(model, folder, WORDS) < 1e-3


def test_log_probabilities_of_embedded_model(smollm2):
    assert max_log_prob_difference(smollm2, resolve("smollm2").location, SENTENCE) < 1e-3


def test_loaded_model_is_ready(gpt2):
    model = load_model(str(gpt2))
    assert model.to_tokens("w3 w14").tolist() == [[3, 14]]  # no BOS
    assert model.to_tokens("w0 w3").tolist() == [
        [0, 3]
    ]  # a leading token that is the BOS token stays
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert torch.allclose(model.W_O.mean(-1), torch.zeros(()), atol=1e-6)  # centred
    assert torch.equal(model.blocks[0].ln1.weight, torch.ones(32))  # folded


def test_embedded_model_is_ready(smollm2):
    assert smollm2.to_tokens("Then, Mary").shape == (1, 3)  # "Then" "," " Mary"
    assert smollm2.cfg.rotary_base == 100_000
    assert smollm2.blocks[3].ln1.weight.unique().tolist() == [1.0]


def test_conversion_is_deterministic():
    assert (
        model_provenance("smollm2")["weights_sha256"]
        == models.known_models()["smollm2"]["converted_sha256"]
    )


def test_sharded_checkpoint(gpt2):
    whole = load_model(str(gpt2))
    AutoModelForCausalLM.from_pretrained(gpt2).save_pretrained(gpt2, max_shard_size="40KB")
    (gpt2 / "model.safetensors").unlink(missing_ok=True)
    assert len(list(gpt2.glob("*.safetensors"))) > 1
    assert_same_attention(attention_weights(str(gpt2)), whole)
    assert torch.equal(load_model(str(gpt2)).W_U, whole.W_U)


def test_buffers_of_old_hub_checkpoints_are_no_error(gpt2):
    edit_tensors(gpt2, lambda t: t | {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64)})
    assert_same_attention(attention_weights(str(gpt2)), load_model(str(gpt2)))


# Attention weights without the model


def test_attention_weights_equal_loaded_model(folder):
    assert_same_attention(attention_weights(str(folder)), load_model(str(folder)))


def test_attention_weights_of_embedded_model(smollm2):
    weights = attention_weights("smollm2")
    assert_same_attention(weights, smollm2)
    assert (weights.n_heads, weights.n_kv_heads, weights.rotary_base, weights.rotary_dim) == (
        9,
        3,
        100_000,
        64,
    )


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_a_new_architecture_is_one_line_of_layouts(family, tmp_path, monkeypatch):
    """As the README says: here of models named as Llama's tensors are, Qwen's with biases that
    Llama has not.
    """
    classes = {
        "mistral": (MistralConfig, MistralForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    config, of = classes[family]
    torch.manual_seed(0)
    of(
        config(intermediate_size=64, num_key_value_heads=2, **sizes, **COMMON | {"vocab_size": 104})
    ).save_pretrained(tmp_path / "new")
    edit_tensors(
        tmp_path / "new",
        lambda t: {key: value + 0.1 * torch.randn_like(value) for key, value in t.items()},
    )
    for path in tiny_folder("llama", tmp_path / "llama").glob("tokenizer*"):
        path.rename(tmp_path / "new" / path.name)
    with pytest.raises(ModelError, match=f"type '{family}' are not supported"):
        load_model(str(tmp_path / "new"))
    monkeypatch.setitem(models.LAYOUTS, family, models.LAYOUTS["llama"])
    model = load_model(str(tmp_path / "new"))
    assert_same_attention(attention_weights(str(tmp_path / "new")), model)
    assert (model.blocks[0].attn.b_Q is not None) == (family == "qwen2")
    prompts, receiver = random_prompts(), Receiver("k", (Head(2, 1),), "END")
    fast, slow = (
        patch(model, prompts, receiver).patched for patch in (path_patch, path_patch_reference)
    )
    assert np.allclose(fast, slow, atol=1e-4, equal_nan=True) and np.ptp(fast[0]) > 1e-3


def test_attention_facts(tmp_path):
    facts = {kind: attention_weights(str(tiny_folder(kind, tmp_path / kind))) for kind in KINDS}
    assert [facts[kind].positional for kind in KINDS] == ["absolute", "rotary", "rotary"]
    assert [facts[kind].rotary_dim for kind in KINDS] == [None, 8, 4]
    assert [facts[kind].n_kv_heads for kind in KINDS] == [4, 2, 4]


def test_attention_weights_of_partial_checkpoint(gpt2):
    model = load_model(str(gpt2))
    edit_tensors(gpt2, attention_only)
    assert_same_attention(attention_weights(str(gpt2)), model)


def test_real_gpt2_attention(assets):
    folder = assets / "models" / "gpt2-attention"
    weights = attention_weights(str(folder))
    assert weights.W_Q.shape == (12, 12, 768, 64) and weights.n_heads == 12
    with safe_open(folder / "model.safetensors", "pt") as file:
        raw, gain = file.get_tensor("h.0.attn.c_attn.weight"), file.get_tensor("h.0.ln_1.weight")
    assert raw[0, :3].tolist() == pytest.approx([-0.4738, -0.2614, -0.0978], abs=1e-4)
    column = (
        raw[:, 64 * 3 + 5] * gain
    )  # query of head 3, dimension 5: the fourth block of 64 columns
    torch.testing.assert_close(weights.W_Q[0, 3, :, 5], column - column.mean(), atol=1e-5, rtol=0)


# Sources


def test_resolve_names(gpt2):
    embedded, local = resolve("smollm2"), resolve(str(gpt2))
    assert (embedded.kind, embedded.slug) == ("embedded", "smollm2")
    assert (local.kind, local.slug, local.revision) == ("folder", "local-gpt2", None)


@pytest.mark.parametrize("cached_as", ["openai-community--gpt2", "gpt2"])
def test_hub_cache(cached_as, gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / f"models--{cached_as}"
    commit = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
    shutil.copytree(gpt2, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    source = resolve("gpt2")
    assert (source.kind, source.revision, source.slug) == ("hub", commit, "gpt2")
    assert model_provenance("openai-community/gpt2")["revision"] == commit
    assert load_model("gpt2").cfg.model_name == "gpt2"


def test_hub_weights_are_checked_against_the_name_of_their_blob(gpt2, tmp_path, monkeypatch):
    """The hub cache links each file of weights to a blob that is named by its published sha256."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    weights, blobs = (
        gpt2 / "model.safetensors",
        tmp_path / "models--openai-community--gpt2" / "blobs",
    )
    blobs.mkdir(parents=True)
    blob, good = blobs / hashlib.sha256(weights.read_bytes()).hexdigest(), weights.read_bytes()
    weights.rename(blob)
    weights.symlink_to(blob)
    shutil.copytree(gpt2, blobs.parent / "snapshots" / "commit", symlinks=True)
    (blobs.parent / "refs").mkdir()
    (blobs.parent / "refs" / "main").write_text("commit")
    before = attention_weights("gpt2").W_Q
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    for get in (load_model, attention_weights, model_provenance):
        with pytest.raises(
            ModelError, match="its sha256 is not the published one.*make fetch MODEL=gpt2"
        ):
            get("gpt2")

    def download(name: str, hub_id: str, *, force_download: bool = False) -> None:
        if force_download:
            blob.write_bytes(good)

    monkeypatch.setattr(models, "_download", download)
    fetch("gpt2")
    assert torch.equal(attention_weights("gpt2").W_Q, before)


def test_attention_tensors_stand_in_for_gpt2_if_they_are_its_own(assets, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    models._attention_only.cache_clear()
    assert resolve("gpt2").slug == "gpt2" and attention_weights("gpt2").W_Q.shape == (
        12,
        12,
        768,
        64,
    )
    record, digest = model_provenance("gpt2"), models.known_models()["gpt2"]["attention_sha256"]
    assert (
        record["tokenizer_sha256"] is None
        and record["revision"] == record["weights_sha256"] == digest
    )
    altered = tmp_path / "models" / "gpt2-attention"
    altered.mkdir(parents=True)
    save_file({"h.0.ln_1.weight": torch.ones(768)}, altered / "model.safetensors")
    monkeypatch.setenv("CIRCUITS_ASSETS", str(tmp_path))
    models._attention_only.cache_clear()
    with pytest.raises(ModelError, match="does not hold the attention tensors of gpt2"):
        resolve("gpt2")
    models._attention_only.cache_clear()


def test_provenance(gpt2):
    record = model_provenance(str(gpt2))
    assert json.loads(json.dumps(record)) == record
    assert str(gpt2.parent) not in json.dumps(record)  # nothing of this machine
    assert record["weight_processing"]["center_writing_weights"]
    before = record["weights_sha256"]
    edit_tensors(gpt2, lambda t: t | {"transformer.wte.weight": t["transformer.wte.weight"] + 1})
    assert model_provenance(str(gpt2))["weights_sha256"] != before


# Errors, each with its remedy


@pytest.mark.parametrize("name", ["gpt3", "/no/such/folder", "a/b/c"])
def test_unknown_model(name):
    with pytest.raises(ModelError, match="smollm2, gpt2, .* or an existing folder"):
        load_model(name)


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for get in (load_model, attention_weights, fetch):
        with pytest.raises(ModelError, match="make fetch MODEL=gpt2-medium"):
            get("gpt2-medium")


def test_device(gpt2):
    with pytest.raises(ModelError, match="DEVICE=cpu"):
        load_model(str(gpt2), device="warp")


def test_partial_checkpoint_asked_to_run(gpt2):
    edit_tensors(gpt2, attention_only)
    with pytest.raises(ModelError, match=r"partial checkpoint .* attention_weights\("):
        load_model(str(gpt2))


def test_real_partial_checkpoint_asked_to_run(assets):
    with pytest.raises(ModelError, match=r"partial checkpoint .* attention_weights\("):
        load_model(str(assets / "models" / "gpt2-attention"))


@pytest.mark.parametrize("get", [load_model, attention_weights, model_provenance])
def test_truncated_weights(get, gpt2):
    cut(gpt2 / "model.safetensors")
    with pytest.raises(ModelError, match="cut short or altered .* copy the folder again"):
        get(str(gpt2))


@pytest.mark.parametrize("content", ['{"weight_map": {"h.0', "{}", "[]", '{"weight_map": 1}'])
@pytest.mark.parametrize("get", [load_model, attention_weights, model_provenance])
def test_damaged_index(get, content, gpt2):
    (gpt2 / "model.safetensors.index.json").write_text(content)
    with pytest.raises(
        ModelError, match="index.json is cut short or altered: copy the folder again"
    ):
        get(str(gpt2))


def test_damaged_tokenizer(gpt2):
    cut(gpt2 / "tokenizer.json")
    with pytest.raises(
        ModelError, match=r"\(tokenizer.json\) is cut short or altered: copy the folder again"
    ):
        load_model(str(gpt2))


LINEAR = {"rope_theta": 10000.0, "factor": 2.0}


@pytest.mark.parametrize(
    "family, values, words",
    [
        ("llama", {"rope_parameters": LINEAR | {"rope_type": "linear"}}, "rope_type 'linear'"),
        (
            "llama",
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_type 'linear'",
        ),
        ("neox", {"rope_parameters": LINEAR | {"rope_type": "linear"}}, "rope_type 'linear'"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights False"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
    ],
)
def test_attention_that_is_not_known(family, values, words, tmp_path):
    folder = tiny_folder(family, tmp_path / family)
    edit_config(folder, **values)
    for get in (load_model, attention_weights):
        with pytest.raises(
            ModelError, match=f"not supported here .config.json: {words}.: use another model"
        ):
            get(str(folder))


def test_only_pickled_weights(gpt2):
    (gpt2 / "model.safetensors").rename(gpt2 / "pytorch_model.bin")
    with pytest.raises(ModelError, match="never pickles"):
        load_model(str(gpt2))


@pytest.mark.parametrize("model_type", ["gpt2", "own"])
def test_a_models_code_never_runs(model_type, gpt2, monkeypatch):
    """Neither the classes that a config names nor a pickle beside the weights; and nobody is asked
    whether to.
    """
    monkeypatch.setattr(
        "builtins.input", lambda *_: pytest.fail("asked whether to run the model's code")
    )
    code = f"from pathlib import Path\nPath({str(gpt2 / 'ran')!r}).touch()\nclass Own: pass\n"
    (gpt2 / "own.py").write_text(code)
    classes = {name: "own.Own" for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")}
    edit_config(gpt2, model_type=model_type, auto_map=classes)
    tokenizer = json.loads((gpt2 / "tokenizer_config.json").read_text())
    classes["AutoTokenizer"] = ["own.Own", None]
    (gpt2 / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"auto_map": classes}))
    (gpt2 / "pytorch_model.bin").write_bytes(pickle.dumps(Touches(gpt2 / "ran")))
    if model_type == "gpt2":
        load_model(str(gpt2))
    else:
        with pytest.raises(ModelError, match="no readable config.json"):
            load_model(str(gpt2))
    assert not (gpt2 / "ran").exists()
    pickle.loads((gpt2 / "pytorch_model.bin").read_bytes())
    assert (gpt2 / "ran").exists()  # it would have shown


class Touches:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("get", [load_model, attention_weights])
@pytest.mark.parametrize(
    "values", [{"n_embd": 64}, {"n_layer": 2}, {"n_embd": 20}, {"n_embd": 28}], ids=str
)
def test_weights_of_another_model(get, values, gpt2):
    edit_config(gpt2, **values)
    with pytest.raises(ModelError, match="not those of its config.json"):
        get(str(gpt2))


@pytest.mark.parametrize("get", [load_model, attention_weights])
def test_missing_layer(get, gpt2):
    edit_config(gpt2, n_layer=4)
    with pytest.raises(ModelError, match="h.3."):
        get(str(gpt2))


@pytest.mark.parametrize("get", [load_model, attention_weights])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(get, value, gpt2):
    def edit(tensors):
        tensors["transformer.h.1.attn.c_proj.weight"][0, 0] = value
        return tensors

    edit_tensors(gpt2, edit)
    with pytest.raises(ModelError, match="h.1.attn.c_proj.weight"):
        get(str(gpt2))


def test_tokenizer_missing(gpt2):
    (gpt2 / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load_model(str(gpt2))


def test_tokenizer_of_another_model(gpt2):
    edit_tensors(
        gpt2, lambda t: t | {"transformer.wte.weight": t["transformer.wte.weight"][:50].clone()}
    )
    edit_config(gpt2, vocab_size=50)
    with pytest.raises(ModelError, match="100 tokens .* only 50"):
        load_model(str(gpt2))


def test_config_missing_or_of_another_family(gpt2):
    edit_config(gpt2, model_type="bert")
    with pytest.raises(ModelError, match="'bert' are not supported"):
        load_model(str(gpt2))
    (gpt2 / "config.json").unlink()
    with pytest.raises(ModelError, match="no readable config.json"):
        attention_weights(str(gpt2))


# The embedded model's conversion, with a small stand-in for the 25 seconds of work


@pytest.fixture
def stand_in(gpt2, tmp_path, monkeypatch):
    """A cache of its own, where converting copies a tiny checkpoint; yields the number of
    conversions so far.
    """
    conversions = []

    def copy(gguf, folder):
        time.sleep(0.05)
        conversions.append(gguf)
        shutil.copytree(gpt2, folder)

    monkeypatch.setenv("CIRCUITS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "_write_converted", copy)
    return conversions


def test_converted_once(stand_in, capsys):
    for _ in range(2):
        fetch("smollm2")
    assert len(stand_in) == 1
    assert capsys.readouterr().out.count("converting") == 1


def test_two_processes_convert_once(stand_in):
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(fetch, ["smollm2"] * 4))) == 1
    assert len(stand_in) == 1


@pytest.mark.parametrize(
    "damage", [cut, Path.unlink, lambda path: path.write_bytes(b"x" * path.stat().st_size)]
)
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "sha256.json"])
def test_altered_cache_is_rebuilt(damage, file, stand_in, capsys):
    location = fetch("smollm2").location
    good = (location / "model.safetensors").read_bytes()
    damage(location / file)
    fetch("smollm2")
    assert len(stand_in) == 2 and "altered" in capsys.readouterr().out
    assert (location / "model.safetensors").read_bytes() == good
    assert sorted(path.name for path in location.parent.iterdir()) == [
        location.name,
        f"{location.name}.lock",
    ]


def test_interrupted_conversion_leaves_nothing(stand_in, monkeypatch):
    def interrupt(gguf, folder):
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(models, "_write_converted", interrupt)
        fetch("smollm2")
    assert [path.suffix for path in models.cache_dir().iterdir()] == [".lock"]
    killed = models.resolve("smollm2").location.with_suffix(".part")  # kill -9 leaves what it wrote
    killed.mkdir()
    fetch("smollm2")
    assert len(stand_in) == 1 and not killed.exists()


def test_no_write_permission(gpt2, monkeypatch):
    monkeypatch.setenv(
        "CIRCUITS_CACHE", str(gpt2 / "config.json" / "cache")
    )  # below a file: not even root can
    with pytest.raises(ModelError, match="CIRCUITS_CACHE"):
        load_model("smollm2")


def test_gguf_cut_in_the_middle(tmp_path, monkeypatch):
    gguf = models._gguf(resolve("smollm2"))
    package = tmp_path / gguf.parent.name
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('never imported')")
    with gguf.open("rb") as file:
        (package / gguf.name).write_bytes(file.read(1_000_000))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"cut short or altered .*pip install --force-reinstall"):
        load_model("smollm2")
    (package / gguf.name).unlink()
    with pytest.raises(ModelError, match="not installed"):
        load_model("smollm2")


# Data


@pytest.mark.parametrize("content", [None, "", "- a list", "cut: [", "\0"])
def test_a_damaged_data_file_is_named(content, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "DATA", tmp_path)
    if content is not None:
        (tmp_path / "words.yaml").write_text(content)
    with pytest.raises(ModelError, match="data/words.yaml is missing or damaged: restore it"):
        models.read_data("words.yaml")
    (tmp_path / "words.yaml").write_text("names: [Ann]")
    assert models.read_data("words.yaml") == {"names": ["Ann"]}


# Command lines


def test_fetch_command(gpt2):
    command = [sys.executable, "-m", "helpers.models", "fetch", str(gpt2)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and str(gpt2) in done.stdout and done.stderr == ""


def test_fetch_command_says_what_is_wrong(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["models", "fetch", "gpt3"])
    with pytest.raises(SystemExit, match="Unknown model 'gpt3': use one of smollm2"):
        models.main()


def test_random_checkpoint_has_the_real_shape(assets, tmp_path):
    script = runpy.run_path(str(PROJECT / "scripts" / "random_checkpoints.py"))
    script["write"]("gpt2", tmp_path / "gpt2", assets / "models" / "gpt2-tokenizer", seed=0)
    model = load_model(str(tmp_path / "gpt2"))
    shutil.rmtree(tmp_path / "gpt2")  # pytest would keep its 0.5 GB
    assert model.W_Q.shape == (12, 12, 768, 64) and model.cfg.d_vocab == 50257
    assert model.to_str_tokens(SENTENCE)[:3] == ["Then", ",", " Mary"]
    with torch.no_grad():
        _, cache = model.run_with_cache(SENTENCE)
    assert (
        cache["blocks.5.attn.hook_pattern"][0, :, -1].max() > 3 / 15
    )  # far from uniform over 15 tokens


def test_tiny_models_are_far_from_trivial():
    model = tiny_gpt2()
    logits, cache = model.run_with_cache(WORDS)
    assert logits.std() > 1
    assert cache["blocks.1.attn.hook_pattern"][0, :, -1].max(-1).values.min() > 2 / 12
