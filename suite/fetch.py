"""Models on disk: download, verify by sha256, convert.

python -m suite.fetch gpt2-medium
"""

import argparse
import errno
import functools
import importlib.util
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from helpers import planted
from suite.errors import ModelError
from suite.files import sha256
from suite.registry import (
    TOKENIZER_FILES,
    ModelSource,
    cache_dir,
    known_models,
    resolve,
    weight_files,
)

HUB_FILES = [
    "config.json",
    "model*.safetensors",
    "*.index.json",
    "tokenizer_config.json",
    *TOKENIZER_FILES,
]

# How the errors of a full disk or a full quota read, whatever their class.
NO_SPACE = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def fetch(name: str) -> ModelSource:
    """Get a model ready for offline use: download what is missing or damaged, convert or build what
    is not there yet.

    Raises ModelError, with the remedy, where that is not possible.
    """
    source = resolve(name)
    if source.kind == "hub":
        _download(source)
        if _altered_files(resolve(name)):
            _download(source, force=True)
    return ready(name)


def ready(name: str) -> ModelSource:
    """Resolve a model, and make sure that its folder is there, with the weights that were written
    or published.

    Raises ModelError, with the remedy, where that is not possible.
    """
    source = resolve(name)
    if source.kind == "embedded":
        convert = functools.partial(_write_converted, _gguf(source))
        _write_once(source, "converting its weights (once, under a minute)", convert)
    elif source.kind == "planted":
        _write_once(source, "writing its weights (once)", _write_planted)
    elif source.kind == "hub":
        if source.location is None:
            _download(source)
            source = resolve(name)
        _require_published(source)
    return source


# Downloads


def _download(source: ModelSource, *, force: bool = False) -> None:
    try:
        snapshot_download(source.origin, allow_patterns=HUB_FILES, force_download=force)
    except Exception as error:  # offline, no network, unknown, gated: each has its own class
        raise _download_error(source.name, error) from error


def _download_error(name: str, error: Exception) -> ModelError:
    """What went wrong with a download, and the remedy."""
    causes = list(_causes(error))
    cache = constants.HF_HUB_CACHE
    if any(reason in str(cause) for cause in causes for reason in NO_SPACE):
        size = known_models().get(name, {}).get("size", "its size is on its page")
        return ModelError(
            f"No space is left in {cache} for model {name!r} ({size}): free some, or set HF_HOME "
            "to a folder on another disk."
        )
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return ModelError(
            f"Model {name!r} is gated: accept its terms on its page, log in with `hf auth login`, "
            f"then run `make fetch MODEL={name}`."
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return ModelError(
            f"The hub has no model {name!r}, or it is private: check its name, or log in with "
            "`hf auth login`."
        )
    if any(_is_not_writable(cause) for cause in causes):
        return ModelError(
            f"Cannot write model {name!r} to {cache} ({error}): set HF_HOME to a writable folder."
        )
    if any(isinstance(cause, HfHubHTTPError) for cause in causes):
        return ModelError(
            f"The hub refuses model {name!r} ({type(error).__name__}): try again later, or give a "
            "folder."
        )
    return ModelError(
        f"Model {name!r} is not in the hub cache, and there is no network "
        f"({type(error).__name__}): run `make fetch MODEL={name}` where there is one, or give a "
        "folder."
    )


def _is_not_writable(error: BaseException) -> bool:
    """Whether a file cannot be written; the errors of a network name no file."""
    return isinstance(error, OSError) and bool(error.filename) and error.errno in NOT_WRITABLE


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


# Verification


def _require_published(source: ModelSource) -> None:
    """Raises ModelError for weights of a hub model that are missing or altered."""
    if source.location is None:
        raise ModelError(
            f"The hub's {source.origin} has no complete weights in safetensors (pickles are never "
            "read): use another model, or convert it and give its folder."
        )
    altered = _altered_files(source)
    if not altered:
        return
    if _is_attention_only(source):
        raise ModelError(
            f"{altered[0]} does not hold the attention tensors of {source.name}: "
            "copy it again from where it came."
        )
    raise source.error(f"{altered[0]} is altered (its sha256 is not the published one)")


def _is_attention_only(source: ModelSource) -> bool:
    return source.folder.name.endswith("-attention")


def _altered_files(source: ModelSource) -> list[Path]:
    """The files of weights whose sha256 is not the published one."""
    if source.location is None:
        return []
    return [path for path in weight_files(source) if _is_altered(source, path)]


def _is_altered(source: ModelSource, path: Path) -> bool:
    """The hub cache names a file of weights by its sha256; data/models.yaml has that of attention
    tensors.
    """
    if _is_attention_only(source):
        return sha256(path) != source.revision
    published = path.resolve().name
    if not re.fullmatch("[0-9a-f]{64}", published):
        return False
    return sha256(path) != published


def _gguf(source: ModelSource) -> Path:
    """The GGUF inside the installed wheel (which is never imported), its sha256 verified."""
    entry = known_models()[source.slug]
    spec = importlib.util.find_spec(entry["package"].replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / entry["file"] if folders else None
    if path is None or not path.is_file():
        raise ModelError(
            f"The package {entry['package']} with the bundled model is not installed: "
            "run `make setup` again."
        )
    if sha256(path) != entry["sha256"]:
        raise ModelError(
            f"{path} is cut short or altered (its sha256 is not the published one): "
            "delete .venv and run `make setup` again."
        )
    return path


# Models that are written here


def _is_intact(folder: Path) -> bool:
    """Whether a written folder still has the sha256 of every file that was recorded beside it."""
    with suppress(OSError, ValueError):
        recorded = json.loads((folder / "sha256.json").read_text(encoding="utf-8"))
        return all(sha256(folder / file) == digest for file, digest in recorded.items())
    return False


def _write_once(source: ModelSource, work: str, write: Callable[[Path], None]) -> None:
    """Have `write` fill the model's folder in the cache, whole or not at all, unless it is there
    and intact.
    """
    if _is_intact(source.folder):
        return
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        # A second process waits here, then finds the work done.
        with FileLock(f"{source.folder}.lock"):
            if not _is_intact(source.folder):
                _write_folder(source, work, write)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"Cannot write {source.folder} ({error}): set CIRCUITS_CACHE to a folder with 1.2 GB "
            "free."
        ) from error


def _write_folder(source: ModelSource, work: str, write: Callable[[Path], None]) -> None:
    altered = "found altered or incomplete in the cache, " if source.folder.exists() else ""
    print(f"Model {source.name}: {altered}{work} ...", flush=True)
    part = Path(f"{source.folder}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
        write(part)
        hashes = {file.name: sha256(file) for file in sorted(part.iterdir())}
        (part / "sha256.json").write_text(json.dumps(hashes, indent=1), encoding="utf-8")
        shutil.rmtree(source.folder, ignore_errors=True)
        part.replace(source.folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_planted(folder: Path) -> None:
    planted.save(planted.build(), folder)


def _write_converted(gguf: Path, folder: Path) -> None:
    model, tokenizer = _read_gguf(gguf)
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    settings["architectures"] = [type(model).__name__]
    type(model.config)(**settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file(dict(model.named_parameters()), weights, metadata={"format": "pt"})
    weights.chmod(0o644)


def _read_gguf(gguf: Path) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer of a GGUF. Raises ModelError where it cannot be read."""
    options = {"gguf_file": gguf.name}
    try:
        with redirect_stderr(io.StringIO()):  # progress bars
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=torch.float32, **options
            )
        return model, AutoTokenizer.from_pretrained(gguf.parent, **options)
    except OSError as error:
        raise ModelError(f"{gguf} cannot be read ({error}): run `make setup` again.") from error


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m suite.fetch", description="Get a model ready for offline use."
    )
    parser.add_argument("name", help=f"{', '.join(known_models())}, a hub id or a folder")
    try:
        source = fetch(parser.parse_args().name)
    except ModelError as error:
        sys.exit(str(error))
    print(f"{source.name}: {source.origin} is in {source.location}")


if __name__ == "__main__":
    main()
