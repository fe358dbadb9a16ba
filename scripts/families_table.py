"""Write the table of supported families, docs/families.md, from the tiny models of the tests.

python -m scripts.families_table
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from helpers.heads import Head
from helpers.models import load_model
from helpers.path_patching import Receiver, path_patch
from helpers.published_loop import path_patch_reference
from suite.files import write_text
from suite.registry import PROJECT
from tests.tiny import KINDS, random_prompts, tiny_folder

TABLE = PROJECT / "docs" / "families.md"
INTRODUCTION = """# Supported families of models

Written by `.venv/bin/python -m scripts.families_table`, from the tiny random models on which the
tests try every method (`KINDS` in `tests/tiny.py`). *Log-probabilities*: the largest difference
between the processed model and transformers' own. *Path patching*: the largest difference between
the fast version and the published loop, over receivers of every sort, in percent of the mean gap
between clean and corrupted prompts.

| family | `model_type` | what is tried | log-probabilities | path patching |
|---|---|---|---|---|
"""
RECEIVERS = (
    Receiver("logits"),
    Receiver("q", (Head(2, 1),)),
    Receiver("k", (Head(2, 1),), "MID"),
    Receiver("v", (Head(1, 2), Head(2, 1)), "MID"),
)
TOKENS = torch.arange(1, 25)[None]


def row(kind: str, folder: Path) -> str:
    """One line of the table: a family, and how far off each method is."""
    model_type, settings = KINDS[kind]
    own = [f"`{name}`" for name in settings if name not in COMMON_SETTINGS]
    log_probs, patching = f"{log_probability_error(folder):.0e}", f"{patching_error(folder):.0e} %"
    return f"| {kind} | `{model_type}` | {', '.join(own)} | {log_probs} | {patching} |"


COMMON_SETTINGS = {
    *("n_layer", "n_head", "n_embd", "n_positions", "hidden_size", "intermediate_size"),
    *("num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
}
"""Settings that are about size alone."""


@torch.no_grad()
def log_probability_error(folder: Path) -> float:
    """The largest difference, in nats."""
    processed = load_model(str(folder))(TOKENS).log_softmax(-1)
    original = AutoModelForCausalLM.from_pretrained(folder).eval()
    return (processed - original(TOKENS).logits.log_softmax(-1)).abs().max().item()


def patching_error(folder: Path) -> float:
    """The largest difference, in percent of the gap."""
    model, prompts = load_model(str(folder)), random_prompts()
    errors = []
    for receiver in RECEIVERS:
        fast = path_patch(model, prompts, receiver)
        slow = path_patch_reference(model, prompts, receiver)
        error = np.nanmax(np.abs(fast.change - slow.change))
        errors.append(100 * error / np.abs(slow.gap).mean())
    return max(errors)


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            rows.append(row(kind, tiny_folder(kind, Path(folder) / kind)))
    TABLE.parent.mkdir(exist_ok=True)
    write_text(TABLE, INTRODUCTION + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
