"""What a model answers: accuracy, logit differences, surprisal."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from helpers.tasks.prompts import Prompts
from suite.errors import TaskError


@dataclass(frozen=True)
class Behavior:
    """What a model answers at END, per prompt; leading axes are those of the logits, such as
    variants of a run.
    """

    logit_difference: Float[np.ndarray, "*variant batch"]
    """logit(answer) - logit(distractor)."""
    predicted: Int[np.ndarray, "*variant batch"]
    """The most likely token of the full vocabulary."""
    correct: Bool[np.ndarray, "*variant batch"]
    """The prediction is the answer (full-vocabulary accuracy)."""
    chosen: Bool[np.ndarray, "*variant batch"]
    """The answer beats every other choice, by default the distractor (forced choice)."""
    in_context: Bool[np.ndarray, "*variant batch"]
    """The prediction is one of the choices."""


def evaluate(
    model: TransformerBridge, prompts: Prompts, *, corrupted: bool = False, batch_size: int = 32
) -> Behavior:
    """Run the prompts, or their corrupted partners, and compare with the clean prompts' answers and
    choices.
    """
    result = empty_behavior(len(prompts))
    for index in prompts.groups(size=batch_size):
        batch = prompts.select(index)
        tokens = batch.tensors()[int(corrupted)].to(model.cfg.device)
        for name, values in vars(
            score_logits(batch, model(tokens, logits_to_keep=1)[:, -1])
        ).items():
            result[name][index] = values
    return Behavior(**result)


def score_logits(
    prompts: Prompts, logits: Float[torch.Tensor, "*variant batch d_vocab"]
) -> Behavior:
    """Logits at END compared with the prompts' answers and choices."""
    rows = torch.arange(len(prompts), device=logits.device)
    answers, distractors = (
        rows.new_tensor(tokens) for tokens in (prompts.answers, prompts.distractors)
    )
    offered = prompts.choices or list(zip(prompts.answers, prompts.distractors, strict=True))
    most = max(map(len, offered))  # shorter rows repeat their first choice
    choices = rows.new_tensor([row + row[:1] * (most - len(row)) for row in offered])
    right, predicted = logits[..., rows, answers], logits.argmax(-1)
    others = logits[..., rows[:, None], choices].masked_fill(
        choices == answers[:, None], -torch.inf
    )
    fields = {
        "logit_difference": right - logits[..., rows, distractors],
        "predicted": predicted,
        "correct": predicted == answers,
        "chosen": right > others.amax(-1),
        "in_context": (predicted[..., None] == choices).any(-1),
    }
    return Behavior(**{name: values.cpu().numpy() for name, values in fields.items()})


def empty_behavior(*shape: int) -> dict[str, np.ndarray]:
    """Room for a Behavior of this shape, by field, to be filled batch by batch."""
    kinds = {"logit_difference": float, "predicted": int}
    return {
        name: np.zeros(shape, dtype=kinds.get(name, bool)) for name in Behavior.__dataclass_fields__
    }


def surprisal(
    model: TransformerBridge, texts: Sequence[str]
) -> tuple[Float[np.ndarray, " text"], Int[np.ndarray, " text"]]:
    """Sum of -log p(next token) of each text, in nats, and how many tokens were predicted (all but
    the first).

    Perplexity = exp(sum of the one / sum of the other). Raises TaskError for a text of fewer than
    two tokens.
    """
    sums, counts = np.zeros(len(texts)), np.zeros(len(texts), dtype=int)
    for i, text in enumerate(texts):
        tokens = torch.tensor(
            [model.tokenizer(text, add_special_tokens=False)["input_ids"]], device=model.cfg.device
        )
        if tokens.shape[1] < 2:
            raise TaskError(f"Text {i} has {tokens.shape[1]} tokens; give texts of at least two.")
        sums[i] = torch.nn.functional.cross_entropy(
            model(tokens)[0, :-1], tokens[0, 1:], reduction="sum"
        ).item()
        counts[i] = tokens.shape[1] - 1
    return sums, counts


def logit_difference(
    model: TransformerBridge, resid: Float[Tensor, "... batch d_model"], prompts: Prompts
) -> Float[Tensor, "... batch"]:
    """logit(answer) - logit(distractor) read from the final residual at END, without the full
    unembedding.
    """
    bias = model.b_U[list(prompts.answers)] - model.b_U[list(prompts.distractors)]
    return (model.ln_final(resid) * answer_direction(model, prompts)).sum(-1) + bias


def answer_direction(model: TransformerBridge, prompts: Prompts) -> Float[Tensor, "batch d_model"]:
    """W_U[answer] - W_U[distractor]: what the normed final residual is read along for the logit
    difference.
    """
    return (model.W_U[:, list(prompts.answers)] - model.W_U[:, list(prompts.distractors)]).T
