"""A checkpoint's files: its config, its tensors, and the attention weights read from them.

`helpers.models` loads whole models. Here attention weights are read without the model, so a
checkpoint with nothing but attention tensors is enough.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from einops import EinopsError, rearrange
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from suite.errors import ModelError
from suite.registry import ModelSource, weight_files

# What is read is data: no network, no code that a model brings along.
LOCAL = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True)
class Layout:
    """Where a family keeps its attention: the names of its modules, and how the joint output of
    query, key and value is laid out.
    """

    block: str  # the prefix of a layer
    norm: str
    qkv: tuple[str, ...]  # one joint module, or three
    out: str
    joint: str  # einops axes of the joint output; `i` counts heads
    layer_norm: bool  # LayerNorm, which removes the mean and has a shift, rather than RMSNorm
    needs: Mapping[str, Any] = field(default_factory=dict)  # config.json must say this


# The supported families, by the `model_type` of config.json. A NEW ARCHITECTURE IS ONE LINE HERE,
# such as "mistral": LAYOUTS["llama"] for a family with Llama's tensor names.
LAYOUTS = {
    "gpt2": Layout(
        block="h.{}.",
        norm="ln_1",
        qkv=("attn.c_attn",),
        out="attn.c_proj",
        joint="(qkv i h)",
        layer_norm=True,
    ),
    "gpt_neox": Layout(
        block="layers.{}.",
        norm="input_layernorm",
        qkv=("attention.query_key_value",),
        out="attention.dense",
        joint="(i qkv h)",
        layer_norm=True,
        needs={"attention_bias": True},  # TransformerLens splits that bias
    ),
    "llama": Layout(
        block="layers.{}.",
        norm="input_layernorm",
        qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out="self_attn.o_proj",
        joint="(qkv i h)",
        layer_norm=False,
    ),
}

# What a config may say of attention: plain rotation, and scores divided by sqrt(d_head) alone.
USUAL = {
    "rope_type": "default",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}

PREFIXES = ("transformer.", "gpt_neox.", "model.")  # before tensor names, in some checkpoints


@dataclass(frozen=True, eq=False)
class AttentionWeights:
    """Attention weights processed as in the loaded model: norm folded, centered (LayerNorm); no
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


class LayerWeights(NamedTuple):
    """The attention matrices of one layer."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]


def read_config(source: ModelSource) -> PreTrainedConfig:
    """The config of a checkpoint. Raises ModelError where it is not readable or not supported."""
    try:
        config = AutoConfig.from_pretrained(source.folder, **LOCAL)
    except (OSError, ValueError) as error:
        raise source.error(f"{source.folder} has no readable config.json") from error
    if config.model_type not in LAYOUTS:
        families = ", ".join(LAYOUTS)
        raise ModelError(
            f"Models of type {config.model_type!r} are not supported: use one of {families}."
        )
    unusual = _unusual_settings(config)
    if unusual:
        raise ModelError(
            f"{source.folder} is not supported here (config.json: {unusual}): use another model."
        )
    return config


def _unusual_settings(config: PreTrainedConfig) -> str:
    """The settings of attention that these methods do not know, as text; empty where none is."""
    usual = {**USUAL, **LAYOUTS[config.model_type].needs}
    rotation = getattr(config, "rope_parameters", None) or {}
    settings = {**usual, **config.to_dict(), **rotation}
    unusual = [name for name, value in usual.items() if settings[name] != value]
    return ", ".join(f"{name} {settings[name]!r}" for name in unusual)


def tensor_files(source: ModelSource) -> dict[str, Path]:
    """The file of each tensor, from the headers only.

    Raises ModelError for files that are missing, cut short or pickled.
    """
    files = {}
    for path in weight_files(source):
        for name in _tensor_names(source, path):
            files[name] = path
    return files


def _tensor_names(source: ModelSource, path: Path) -> list[str]:
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except FileNotFoundError as error:
        raise source.error(
            f"{path} is missing (only safetensors are read, never pickles)"
        ) from error
    except SafetensorError as error:
        raise source.error(f"{path} is cut short or altered ({error})") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error}): allow reading it.") from error


def require_finite(source: ModelSource, name: str, tensor: Tensor) -> None:
    """Raises ModelError for a tensor with NaN or infinite values."""
    if not tensor.isfinite().all():
        raise source.error(f"Tensor {name} of {source.folder} holds NaN or infinite values")


class TensorReader:
    """Reads the tensors of a checkpoint, one at a time, as float32."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source
        self.stored_names = {}  # name without prefix -> name in the file
        self.files = tensor_files(source)
        for stored_name in self.files:
            self.stored_names[_without_prefix(stored_name)] = stored_name

    def __contains__(self, name: str) -> bool:
        return name in self.stored_names

    def __call__(self, name: str) -> Tensor:
        """One tensor. Raises ModelError where it is missing or not finite."""
        if name not in self:
            raise self.source.error(f"{self.source.folder} has no tensor {name}")
        stored_name = self.stored_names[name]
        with safe_open(self.files[stored_name], "pt") as file:
            tensor = file.get_tensor(stored_name).float()
        require_finite(self.source, stored_name, tensor)
        return tensor


def _without_prefix(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def read_attention_weights(source: ModelSource) -> AttentionWeights:
    """Read the attention weights of a checkpoint (float32) without building its model.

    Raises ModelError for what is missing, damaged, not finite or not of the shape the config says.
    """
    config = read_config(source)
    read = TensorReader(source)
    mismatch = source.error(f"The weights in {source.folder} are not those of its config.json")
    layout = LAYOUTS[config.model_type]
    layer_too_many = layout.block.format(config.num_hidden_layers)
    if f"{layer_too_many}{layout.norm}.weight" in read:
        raise mismatch
    try:
        layers = list(_read_layers(read, config))
        W_Q, W_K, W_V, W_O = (torch.stack(matrices) for matrices in zip(*layers, strict=True))
    except (EinopsError, RuntimeError) as error:  # sizes that do not divide, split or multiply
        raise mismatch from error
    return AttentionWeights(
        W_Q,
        W_K,
        W_V,
        W_O,
        n_heads=W_Q.shape[1],
        n_kv_heads=W_K.shape[1],
        **positional_facts(config, d_head=W_Q.shape[-1]),
    )


def positional_facts(config: PreTrainedConfig, *, d_head: int) -> dict[str, Any]:
    """How a model tells positions apart: the last three fields of `AttentionWeights`."""
    rotation = getattr(config, "rope_parameters", None)
    if not rotation:
        return {"positional": "absolute", "rotary_base": None, "rotary_dim": None}
    rotating_share = rotation.get("partial_rotary_factor", 1.0)
    return {
        "positional": "rotary",
        "rotary_base": float(rotation["rope_theta"]),
        "rotary_dim": int(d_head * rotating_share),
    }


def _read_layers(read: TensorReader, config: PreTrainedConfig) -> Iterator[LayerWeights]:
    for layer in range(config.num_hidden_layers):
        yield _read_layer(read, layer, config)


def _read_layer(read: TensorReader, layer: int, config: PreTrainedConfig) -> LayerWeights:
    """One layer's matrices, with the norm's gain folded, centered where the norm removes the
    mean.
    """
    layout = LAYOUTS[config.model_type]
    block = layout.block.format(layer)
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", n_heads)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads

    gain = read(f"{block}{layout.norm}.weight")
    modules = [_read_linear(read, f"{block}{name}", config) for name in layout.qkv]
    joint = torch.cat(modules, dim=1) * gain[:, None]
    parts_per_module = 3 // len(layout.qkv)
    pattern = f"d_model {layout.joint} -> (qkv i) d_model h"
    joint = rearrange(joint, pattern, qkv=parts_per_module, h=d_head)
    W_O = rearrange(
        _read_linear(read, f"{block}{layout.out}", config), "(i h) d_model -> i h d_model", h=d_head
    )
    if layout.layer_norm:
        joint = joint - joint.mean(-2, keepdim=True)
        W_O = W_O - W_O.mean(-1, keepdim=True)
    W_Q, W_K, W_V = joint.split([n_heads, n_kv_heads, n_kv_heads])
    return LayerWeights(W_Q, W_K, W_V, W_O)


def _read_linear(
    read: TensorReader, name: str, config: PreTrainedConfig
) -> Float[Tensor, "d_in d_out"]:
    """The matrix of one module; GPT-2 alone stores it input first."""
    weight = read(f"{name}.weight")
    if config.model_type == "gpt2":
        return weight
    return weight.T.contiguous()
