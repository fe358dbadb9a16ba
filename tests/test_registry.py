"""Names find models without torch and without a network; each name that is none gets one sentence
with the remedy.
"""

import hashlib
import json
import os
import re
import shutil
import socket
from pathlib import Path

import huggingface_hub.constants
import pytest

from suite import registry
from suite.errors import ModelError
from suite.registry import known_models, read_data, resolve
from tests.tiny import tiny_folder

COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


@pytest.fixture
def no_network(monkeypatch):
    """Opening a socket fails the test."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("CIRCUITS_ASSETS", raising=False)
    return cache


def cached_snapshot(hub_cache: Path, repository: str) -> Path:
    """The folder of a repository's only snapshot, as the hub's client lays it out."""
    folder = hub_cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return snapshot


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


# Names


@pytest.mark.parametrize(
    "name, kind, slug",
    [
        ("smollm2", "embedded", "smollm2"),
        ("planted", "planted", "planted"),
        ("gpt2-medium", "hub", "gpt2-medium"),
        ("openai-community/gpt2-medium", "hub", "gpt2-medium"),
        ("org/name", "hub", "org--name"),
    ],
)
def test_every_kind_of_name_is_found_without_a_network(name, kind, slug, hub_cache, no_network):
    source = resolve(name)
    assert (source.kind, source.slug) == (kind, slug)
    assert (source.location is None) == (kind == "hub")  # nothing is downloaded


def test_a_folder_is_found_without_a_network(tmp_path, no_network):
    folder = model_folder(tmp_path / "my model")
    source = resolve(str(folder))
    digest = hashlib.sha256(str(folder).encode()).hexdigest()
    assert (source.kind, source.revision, source.location) == ("folder", None, folder)
    assert source.slug == f"local-my-model-{digest[:8]}"
    assert source.origin == "my model"  # nothing else of this machine


def test_folders_of_one_name_have_slugs_of_their_own(tmp_path, monkeypatch):
    first = model_folder(tmp_path / "run1" / "checkpoint-500")
    second = model_folder(tmp_path / "run2" / "checkpoint-500")
    slugs = {resolve(str(folder)).slug for folder in (first, second)}
    assert len(slugs) == 2
    assert all(slug.startswith("local-checkpoint-500-") for slug in slugs)
    monkeypatch.chdir(first.parent)
    assert resolve("checkpoint-500").slug == resolve(str(first)).slug  # however it is written
    monkeypatch.chdir(first)
    assert resolve(".").slug == resolve(str(first)).slug


@pytest.mark.parametrize(
    "name, reason",
    [
        ("", "MODEL is empty"),
        (" ", "MODEL is empty"),
        ("gpt3", None),
        ("planted ", "did you mean 'planted'"),
        (" planted", "did you mean 'planted'"),
        ("Planted", "did you mean 'planted'"),
        ("gpt-2", "did you mean 'gpt2'"),
        ("distilgpt2", None),
        ("https://host.example/openai-community/gpt2", "an address; .* its last two parts"),
        ("openai-community/gpt2@main", "a hub id names no revision"),
        ("./none", "no such folder"),
        ("~nobody-here/model", "no such folder"),
        ("/no/such/folder", "no such folder"),
        ("/etc/hostname", "a file that is no GGUF"),
        ("./none.gguf", "no such file"),
        ("models/none.GGUF", "no such file"),
        ("a/b/c", None),
        ("a/b/../c", None),
        ("x" * 300, None),
        (f"org/{'x' * 120}", "the hub allows no such id"),
        ("org/--name", "the hub allows no such id"),
        ("org/name.git", "the hub allows no such id"),
        ("new\nline", None),
        ("zero\0byte", None),
    ],
)
def test_odd_names_get_one_sentence_with_the_remedy(name, reason, no_network):
    because = rf" \({reason}\??\)" if reason else ""
    sentence = (
        rf"Unknown model .*{because}: use one of smollm2, .* or an existing folder or GGUF file\."
    )
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert re.fullmatch(sentence, str(caught.value))  # on one line
    assert len(str(caught.value)) < 330


@pytest.mark.parametrize("name", [".", "~"])
def test_a_folder_without_config_is_no_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelError, match="has no readable config.json: give the folder of a model"):
        resolve(name)


def test_slugs_are_places_and_never_resolved(tmp_path, monkeypatch, no_network):
    monkeypatch.setenv("CIRCUITS_OUT", str(tmp_path))
    assert registry.results_path("local-x-1", "01") == tmp_path / "local-x-1/results/01.json"
    assert registry.figures_dir("local-x-1") == tmp_path / "local-x-1/figures"
    assert registry.circuit_path("local-x-1") == tmp_path / "local-x-1/circuit.json"


# The hub cache


@pytest.mark.parametrize("cached_as", ["openai-community/gpt2", "gpt2"])
def test_a_model_in_the_hub_cache_is_found_there(cached_as, hub_cache, no_network):
    snapshot = cached_snapshot(hub_cache, cached_as)
    (snapshot / "model.safetensors").touch()
    source = resolve("gpt2")
    assert (source.kind, source.revision, source.slug) == ("hub", COMMIT, "gpt2")
    assert source.location == snapshot


def test_an_unfinished_download_is_no_model(hub_cache):
    snapshot = cached_snapshot(hub_cache, "org/name")
    assert resolve("org/name").location is None
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(shards))
    (snapshot / "model-1.safetensors").touch()
    assert resolve("org/name").location is None
    (snapshot / "model-2.safetensors").touch()
    assert resolve("org/name").location == snapshot


def test_the_whole_model_wins_over_its_attention_tensors(hub_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CIRCUITS_ASSETS", str(tmp_path / "assets"))
    part = tmp_path / "assets" / "models" / "gpt2-attention"
    part.mkdir(parents=True)
    assert resolve("gpt2").location is None
    (part / "model.safetensors").touch()
    assert resolve("gpt2").location == part
    assert resolve("gpt2").revision == known_models()["gpt2"]["attention_sha256"]
    snapshot = cached_snapshot(hub_cache, "openai-community/gpt2")
    assert resolve("gpt2").location == part  # nothing but its config so far
    (snapshot / "model.safetensors").touch()
    assert resolve("gpt2").location == snapshot


# Data


def test_every_known_model_says_whether_prompts_begin_with_the_bos_token():
    with_bos = {name for name, entry in known_models().items() if entry["bos"]}
    assert with_bos == {"gemma3-270m"}


@pytest.mark.parametrize("content", [None, "", "- a list", "cut: [", "\0"])
def test_a_damaged_data_file_is_named(content, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "DATA", tmp_path)
    if content is not None:
        (tmp_path / "words.yaml").write_text(content)
    with pytest.raises(ModelError, match="data/words.yaml is missing or damaged: restore it"):
        read_data("words.yaml")
    (tmp_path / "words.yaml").write_text("names: [Ann]")
    assert read_data("words.yaml") == {"names": ["Ann"]}


def test_new_code_or_words_make_a_new_folder_of_the_planted_model(monkeypatch, tmp_path):
    files = ["helpers/planted.py", "data/vocabulary.yaml"]
    for file in files:
        copy = tmp_path / file
        copy.parent.mkdir()
        shutil.copy(registry.PROJECT / file, copy)
    known_models()  # read from the project before DATA moves
    monkeypatch.setattr(registry, "PROJECT", tmp_path)
    monkeypatch.setattr(registry, "DATA", tmp_path / "data")
    locations = [resolve("planted").location]
    for file in files:
        (tmp_path / file).write_text("# changed")
        locations.append(resolve("planted").location)
    assert len(set(locations)) == 3


def test_an_unreadable_folder_is_a_sentence(tmp_path, monkeypatch):
    """Where nobody may look into a folder, its config.json is not readable either."""
    folder = tiny_folder("gpt2", tmp_path / "closed")
    monkeypatch.setattr(os.path, "isfile", lambda path: False)
    with pytest.raises(ModelError, match="no readable config.json"):
        resolve(str(folder))
