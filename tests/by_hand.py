"""GPT-2s wired by hand, so that every activation can be worked out with pen and paper. MLPs write
nothing.

A *feature* is a pair of coordinates that hold +f and -f (so residuals have mean zero), read as half
their difference. The first pair is a carrier of +C and -C at every position, so large that the
LayerNorm's standard deviation is C * sqrt(2 / d_model) whatever the features are; its gain is that
number, hence it hands on features as they are. Heads are linear maps between features; a head
without `match` attends evenly to all positions up to its own.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from helpers.heads import Head
from helpers.models import load_model
from helpers.tasks import Prompts

CARRIER = 1024.0  # sums with small features stay exact in float32

Features = Mapping[str, float]
"""Feature -> value."""


@dataclass(frozen=True)
class Wires:
    """One head: (feature read, feature written) -> gain; (query's feature, key's feature) -> gain
    of the score.

    The query's feature "1" is constantly one.
    """

    move: Mapping[tuple[str, str], float]
    match: Mapping[tuple[str, str], float] = field(default_factory=dict)


def hand_model(
    features: Sequence[str],
    heads: Mapping[Head, Wires],
    *,
    tokens: Mapping[str, Features],
    unembed: Mapping[str, Features],
    places: Sequence[Features] = (),
    n_layers: int = 2,
) -> TransformerBridge:
    """A model of two heads per layer; tokens and unembed: word -> features embedded, and their
    weight in its logit.
    """
    tokens = {"<end>": {}} | dict(
        tokens
    )  # tokenizers look for their end-of-text token inside words
    d_model = 2 * (1 + len(features))
    d_head = d_model // 2

    def write(values: Features) -> torch.Tensor:
        row = torch.zeros(d_model)
        for name, value in values.items():
            at = 2 * (1 + features.index(name))
            row[at : at + 2] = torch.tensor([value, -value])
        return row

    def read(values: Features) -> torch.Tensor:
        return write(values) / 2

    size = {
        "n_layer": n_layers,
        "n_head": 2,
        "n_embd": d_model,
        "n_positions": 16,
        "vocab_size": len(tokens),
    }
    model = GPT2LMHeadModel(
        GPT2Config(**size, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(
                CARRIER * (2 / d_model) ** 0.5 if "ln_" in name and name.endswith("weight") else 0
            )
        for i, (word, values) in enumerate(tokens.items()):
            model.transformer.wte.weight[i] = write(values)
            model.transformer.wte.weight[i, :2] = torch.tensor([CARRIER, -CARRIER])
            model.lm_head.weight[i] = read(unembed.get(word, {}))
        for i, values in enumerate(places):
            model.transformer.wpe.weight[i] = write(values)
        for (layer, head), wires in heads.items():
            attention = model.transformer.h[layer].attn
            start = d_head * head
            for j, ((source, target), gain) in enumerate(wires.move.items(), start):
                attention.c_attn.weight[:, 2 * d_model + j] = read({source: gain})
                attention.c_proj.weight[j] = write({target: 1})
            for j, ((query, key), gain) in enumerate(wires.match.items(), start):
                gain *= d_head**0.5
                if query == "1":
                    attention.c_attn.bias[j] = gain
                else:
                    attention.c_attn.weight[:, j] = read({query: gain})
                attention.c_attn.weight[:, d_model + j] = read({key: 1})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "by-hand"
        model.save_pretrained(path)
        words = Tokenizer(
            models.WordLevel({word: i for i, word in enumerate(tokens)}, unk_token="<end>")
        )
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(path)
        return load_model(str(path))


def hand_prompts(
    model: TransformerBridge,
    rows: Sequence[tuple[str, str, str, str]],
    positions: Mapping[str, int],
) -> Prompts:
    """Prompts of one length from rows of (clean text, corrupted text, answer, distractor)."""
    clean, corrupted, answers, distractors = zip(*rows, strict=True)

    def ids(texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(model.tokenizer(text)["input_ids"]) for text in texts)

    return Prompts(
        texts=clean,
        corrupted_texts=corrupted,
        tokens=ids(clean),
        corrupted=ids(corrupted),
        answers=tuple(row[0] for row in ids(answers)),
        distractors=tuple(row[0] for row in ids(distractors)),
        positions={name: (at,) * len(rows) for name, at in positions.items()},
    )
