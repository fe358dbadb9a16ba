"""Tiny random models of the three families, processed and ready: small, but far from trivial."""

import functools
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from helpers.models import load_model
from helpers.tasks import Prompts

Kind = Literal["gpt2", "llama", "neox"]
VOCAB = 100  # words "w0" .. "w99", separated by spaces; w0 is the end-of-text token
COMMON = {
    "vocab_size": VOCAB,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def _model(kind: Kind) -> PreTrainedModel:
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_layer=3, n_head=4, n_embd=32, n_positions=64, **COMMON))
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    if kind == "llama":
        return LlamaForCausalLM(
            LlamaConfig(intermediate_size=64, num_key_value_heads=2, **sizes, **COMMON)
        )
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(intermediate_size=64, rotary_pct=0.5, **sizes, **COMMON)
    )


def tiny_folder(kind: Kind, path: Path, seed: int = 0) -> Path:
    """Write a tiny random checkpoint with its tokenizer, in the hub's folder format, and return its
    folder.
    """
    torch.manual_seed(seed)
    model = _model(kind)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim == 1:  # norm gains (around one) and every bias (around zero)
                tensor.add_(0.3 * torch.randn_like(tensor))
    model.save_pretrained(path)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", bos_token="w0").save_pretrained(
        path
    )
    return Path(path)


@functools.cache
def _tiny(kind: Kind, seed: int) -> TransformerBridge:
    with tempfile.TemporaryDirectory() as folder:
        return load_model(str(tiny_folder(kind, Path(folder) / f"tiny-{kind}", seed)))


def tiny_gpt2(seed: int = 0) -> TransformerBridge:
    """GPT-2: 3 layers x 4 heads, d_model 32, LayerNorm, learned positions. One shared object per
    seed.
    """
    return _tiny("gpt2", seed)


def tiny_llama(seed: int = 0) -> TransformerBridge:
    """Llama: 3 layers x 4 heads over 2 key/value heads, RMSNorm, rotary, gated MLP. One shared
    object per seed.
    """
    return _tiny("llama", seed)


def tiny_neox(seed: int = 0) -> TransformerBridge:
    """GPT-NeoX: 3 layers x 4 heads, LayerNorm, half-rotary, parallel attention and MLP. One shared
    object per seed.
    """
    return _tiny("neox", seed)


def random_prompts(
    n: int = 6, *, lengths: tuple[int, ...] = (7, 9), differ: slice = slice(2, None)
) -> Prompts:
    """Random tokens of mixed lengths; partners differ at `differ`; MID is a position that varies
    between prompts.
    """
    rng = np.random.default_rng(n)

    def words(size: int) -> list[int]:
        return rng.integers(1, VOCAB, size).tolist()

    clean = [words(lengths[i % len(lengths)]) for i in range(n)]
    corrupted = [list(tokens) for tokens in clean]
    for tokens in corrupted:
        tokens[differ] = words(len(tokens[differ]))
    return Prompts(
        texts=("",) * n,
        corrupted_texts=("",) * n,
        tokens=tuple(map(tuple, clean)),
        corrupted=tuple(map(tuple, corrupted)),
        answers=tuple(words(n)),
        distractors=tuple(words(n)),
        positions={
            "END": tuple(len(tokens) - 1 for tokens in clean),
            "MID": tuple(2 + i // 2 % 2 for i in range(n)),
        },
    )
