"""Models ready to study: loaded and processed, or their attention weights alone."""

import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from einops import EinopsError, rearrange
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from suite.errors import ModelError
from suite.fetch import LOCAL, TOKENIZER_FILES, ready, tensor_files
from suite.files import sha256
from suite.registry import ModelSource


class Layout(NamedTuple):
    """Where a family keeps its attention: names of its modules, and how the joint output of q, k, v
    is laid out.
    """

    block: str
    norm: str
    qkv: list[str]  # one joint module, or three
    out: str
    joint: str
    layer_norm: bool  # LayerNorm, which removes the mean and has a shift, rather than RMSNorm


NEOX_QKV, LLAMA_QKV = (
    ["attention.query_key_value"],
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
)


LAYOUTS = {
    "gpt2": Layout("h.{}.", "ln_1", ["attn.c_attn"], "attn.c_proj", "(qkv i h)", True),
    "gpt_neox": Layout(
        "layers.{}.", "input_layernorm", NEOX_QKV, "attention.dense", "(i qkv h)", True
    ),
    "llama": Layout(
        "layers.{}.", "input_layernorm", LLAMA_QKV, "self_attn.o_proj", "(qkv i h)", False
    ),
}


# What a config may say of attention: plain rotation, and scores divided by sqrt(d_head) alone.
USUAL = {
    "rope_type": "default",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}


def _config(source: ModelSource) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(source.location, **LOCAL)
    except (OSError, ValueError) as error:
        raise source.error(f"{source.location} has no readable config.json") from error
    if config.model_type not in LAYOUTS:
        raise ModelError(
            f"Models of type {config.model_type!r} are not supported: use one of {', '.join(LAYOUTS)}."
        )
    says = USUAL | config.to_dict() | (getattr(config, "rope_parameters", None) or {})
    unusual = ", ".join(
        f"{key} {says[key]!r}" for key, usual in USUAL.items() if says[key] != usual
    )
    if unusual:
        raise ModelError(
            f"{source.location} is not supported here (config.json: {unusual}): use another model."
        )
    return config


def _require_finite(source: ModelSource, name: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise source.error(f"Tensor {name} of {source.location} holds NaN or infinite values")


def _load_hf(source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
    """The unprocessed Hugging Face model, every tensor of which came from the checkpoint."""
    _config(source), tensor_files(source)
    options = {
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
        **LOCAL,
    }
    with redirect_stderr(io.StringIO()):  # progress bars
        model, info = AutoModelForCausalLM.from_pretrained(source.location, dtype=dtype, **options)
    if wrong := sorted(str(key[0]) for key in info["mismatched_keys"]) + sorted(
        info["unexpected_keys"]
    ):
        raise source.error(
            f"The weights in {source.location} are not those of its config.json (first {wrong[0]})"
        )
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
        raise source.error(
            f"The tokenizer in {source.location} ({', '.join(have)}) is cut short or altered"
        ) from error
    if (size := len(tokenizer)) > vocab_size:
        raise source.error(
            f"The tokenizer in {source.location} has {size} tokens but the model only {vocab_size}"
        )
    return tokenizer


def _weight_processing(config: PreTrainedConfig) -> dict[str, bool]:
    """How weights are processed; writing weights are centred only where the norm removes the mean
    (LayerNorm).
    """
    layer_norm = LAYOUTS[config.model_type].layer_norm
    return {
        "fold_ln": True,
        "center_writing_weights": layer_norm,
        "center_unembed": True,
        "fold_value_biases": True,
    }


def load_model(
    name: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> TransformerBridge:
    """Load a model with folded norms and centred weights, in evaluation mode, without gradients or
    added BOS tokens.

    name is a short name of data/models.yaml, a hub id or a folder. Raises ModelError, with the
    remedy, for a model that is unknown, unreachable, partial, damaged, or not what its config says,
    and for a device that is not there.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"Device {device!r} is not available here: use DEVICE=cpu.") from error
    source = ready(name)
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
        model.cfg.rotary_base = int(
            rope["rope_theta"]
        )  # the bridge records its default; its forward pass is right
    return model.eval().requires_grad_(False)


def model_provenance(name: str) -> dict[str, Any]:
    """What a result says about its model: source, revision, sha256 of weights and tokenizer, weight
    processing.
    """
    source = ready(name)
    tokenizer = [path for file in TOKENIZER_FILES if (path := source.location / file).is_file()]
    return {
        "model": source.slug,
        "source": f"{source.kind}: {source.origin}",
        "revision": source.revision,
        "weights_sha256": sha256(*sorted(set(tensor_files(source).values()))),
        "tokenizer_sha256": sha256(*tokenizer) if tokenizer else None,
        "weight_processing": _weight_processing(_config(source)),
    }


@dataclass(frozen=True, eq=False)
class AttentionWeights:
    """Attention weights processed as in the loaded model: norm folded, centred (LayerNorm); no
    biases.
    """

    W_Q: Float[Tensor, "layer head d_model d_head"]
    W_K: Float[Tensor, "layer kv_head d_model d_head"]
    W_V: Float[Tensor, "layer kv_head d_model d_head"]
    W_O: Float[Tensor, "layer head d_head d_model"]
    n_heads: int
    n_kv_heads: int
    positional: Literal["absolute", "rotary"]
    rotary_base: float | None  # None, as rotary_dim, for absolute positions
    rotary_dim: int | None  # dimensions of each head that rotate


def _read_layer(
    get: Callable[[str], Tensor], layer: int, config: PreTrainedConfig
) -> tuple[Tensor, ...]:
    """W_Q, W_K, W_V and W_O of one layer, with the norm's gain folded, centred where the norm
    removes the mean.
    """
    layout = LAYOUTS[config.model_type]
    norm, out, *qkv = (
        layout.block.format(layer) + name for name in (layout.norm, layout.out, *layout.qkv)
    )
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", n_heads)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads

    def linear(name: str) -> Float[Tensor, "d_in d_out"]:
        return (
            get(f"{name}.weight")
            if config.model_type == "gpt2"
            else get(f"{name}.weight").T.contiguous()
        )

    joint = torch.cat([linear(name) for name in qkv], dim=1) * get(f"{norm}.weight")[:, None]
    joint = rearrange(joint, f"m {layout.joint} -> (qkv i) m h", qkv=3 // len(qkv), h=d_head)
    W_O = rearrange(linear(out), "(i h) m -> i h m", h=d_head)
    if layout.layer_norm:
        joint, W_O = joint - joint.mean(-2, keepdim=True), W_O - W_O.mean(-1, keepdim=True)
    return *joint.split([n_heads, n_kv_heads, n_kv_heads]), W_O


def attention_weights(name: str) -> AttentionWeights:
    """Read a model's attention weights (float32) without building it; works on checkpoints that
    hold nothing else.

    Raises ModelError for what is missing, damaged, not finite or not of the shape the config says.
    """
    source = ready(name)
    config = _config(source)
    prefix = r"^(transformer|gpt_neox|model)\."
    tensors = {re.sub(prefix, "", key): (key, path) for key, path in tensor_files(source).items()}

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
