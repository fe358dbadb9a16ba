"""Names and places: which models there are, where their files and results are.

Imports no torch and never touches the network.
"""

import functools
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs
import yaml
from huggingface_hub import try_to_load_from_cache

from suite.errors import ModelError
from suite.files import sha256

PROJECT = Path(__file__).resolve().parents[1]
DATA = PROJECT / "data"


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: `location` is the folder with config, safetensors and tokenizer."""

    name: str  # as asked for
    kind: Literal["embedded", "planted", "hub", "folder"]
    location: Path | None  # None: a hub model that is not in the cache
    origin: str  # for the record: hub id, package and file, or the folder's own name
    revision: str | None
    """Hub commit, or sha256 of the embedded file, attention file or planted code; None for folders."""
    slug: str  # names the folders of results and figures

    def error(self, what: str) -> ModelError:
        """What is wrong with the model's files, with the remedy."""
        again = "copy the folder again from where it came, or give another MODEL"
        remedy = again if self.kind == "folder" else f"run `make fetch MODEL={self.name}`"
        return ModelError(f"{what}: {remedy}.")


def read_data(name: str) -> dict[str, Any]:
    """A YAML file of data/. Raises ModelError where it is missing or damaged."""
    with suppress(OSError, ValueError, yaml.YAMLError):
        content = yaml.safe_load((DATA / name).read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    raise ModelError(f"data/{name} is missing or damaged: restore it from version control.")


def cache_dir() -> Path:
    """Folder of converted weights: $CIRCUITS_CACHE, or the user's cache folder."""
    return Path(os.environ.get("CIRCUITS_CACHE") or platformdirs.user_cache_path("circuits"))


@functools.cache
def known_models() -> dict[str, dict[str, Any]]:
    """The entries of data/models.yaml by short name."""
    return read_data("models.yaml")


def resolve(name: str) -> ModelSource:
    """Find a model by short name (data/models.yaml), local folder or hub id, without a network.

    Raises ModelError for a name that is none of these.
    """
    by_hub_id = {
        entry["hub"]: short for short, entry in known_models().items() if entry["source"] == "hub"
    }
    short = by_hub_id.get(name, name)
    entry = known_models().get(short)
    if entry and entry["source"] == "embedded":
        origin = f"{entry['package']}=={entry['version']} {entry['file']} ({entry['hub']})"
        folder = cache_dir() / f"{short}-{entry['sha256'][:12]}"
        return ModelSource(name, "embedded", folder, origin, entry["sha256"], short)
    if entry and entry["source"] == "planted":
        code = sha256(PROJECT / "helpers" / "planted.py", DATA / "vocabulary.yaml")
        folder = cache_dir() / f"{short}-{code[:12]}"
        return ModelSource(name, "planted", folder, "helpers/planted.py", code, short)
    if entry is None and (folder := Path(name).expanduser().resolve()).is_dir():
        return ModelSource(name, "folder", folder, folder.name, None, f"local-{folder.name}")
    if entry is None and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        known = ", ".join(known_models())
        raise ModelError(
            f"Unknown model {name!r}: use one of {known} (data/models.yaml), a hub id (org/name) "
            "or an existing folder."
        )
    hub_id = entry["hub"] if entry else name
    slug = short.replace("/", "--")
    if snapshot := hub_snapshot(hub_id):
        return ModelSource(name, "hub", snapshot, hub_id, snapshot.name, slug)
    if part := attention_only_folder(short):
        return ModelSource(name, "hub", part, hub_id, entry["attention_sha256"], slug)
    return ModelSource(name, "hub", None, hub_id, None, slug)


def hub_snapshot(hub_id: str) -> Path | None:
    """Folder of a model in the hub cache, also under GPT-2's old one-word ids."""
    for cached in (hub_id, hub_id.removeprefix("openai-community/")):
        config = try_to_load_from_cache(cached, "config.json")
        if isinstance(config, str):
            return Path(config).parent
    return None


def attention_only_folder(short: str) -> Path | None:
    """Folder of a model's attention tensors alone below $CIRCUITS_ASSETS, if it is there."""
    assets = os.environ.get("CIRCUITS_ASSETS")
    if not assets or "attention_sha256" not in known_models().get(short, {}):
        return None
    folder = Path(assets, "models", f"{short}-attention")
    return folder if (folder / "model.safetensors").is_file() else None


def output_root() -> Path:
    """Where runs go, a folder for each model: $CIRCUITS_OUT if set, else build/."""
    return Path(os.environ.get("CIRCUITS_OUT") or PROJECT / "build")


def run_dir(slug: str) -> Path:
    """The folder of one model's run: executed notebooks, results/, figures/, circuit.json."""
    return output_root() / slug


def results_path(slug: str, notebook: str) -> Path:
    """The results file of one notebook on one model."""
    return run_dir(slug) / "results" / f"{notebook}.json"


def figures_dir(slug: str) -> Path:
    """The folder of one model's figures."""
    return run_dir(slug) / "figures"


def circuit_path(slug: str) -> Path:
    """The circuit that notebook 01 found in a model."""
    return run_dir(slug) / "circuit.json"
