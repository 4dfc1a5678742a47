"""Fine-tuning of an encoder-decoder on pairs of texts: a plain loop on one device.

B pairs, S tokens of a source, T tokens of a target.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.load import UserError

UNUSED = -100
"""The label of padding, which transformers leaves out of the loss."""
LOG_EVERY_STEPS = 50

logger = logging.getLogger(__name__)

Pair = tuple[str, str]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained."""

    steps: int
    batch_pairs: int = 16
    learning_rate: float = 5e-4
    warmup: float = 0.1
    """Share of the steps."""
    max_tokens: int = 128
    """Longer sources and targets are truncated."""
    seed: int = 0


def read_pairs(path: Path) -> list[Pair]:
    """The pairs in a file of JSON lines with "source" and "target"; UserError names bad lines."""
    pairs, errors = [], []
    try:
        # Not splitlines, which cuts inside of texts at U+2028 and others.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            tree = json.loads(line)
            source, target = tree["source"], tree["target"]
        except (ValueError, KeyError, TypeError):
            source = target = None
        if isinstance(source, str) and isinstance(target, str) and source and target:
            pairs.append((source, target))
        else:
            errors.append(f"  line {number}: an object with texts source and target is expected")
    if errors or not pairs:
        shown = "\n".join(errors[:10]) or "  no pairs"
        raise UserError(f"{path}: {len(errors)} error(s)\n{shown}")
    return pairs


def train(tokenizer: Any, model: Any, pairs: Sequence[Pair], recipe: Recipe) -> list[float]:
    """Trains `model` on `pairs` and returns the loss of every step."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    warmup = max(1, round(recipe.warmup * recipe.steps))
    model.train()
    losses = []
    for step, batch in enumerate(_batches(pairs, recipe), start=1):
        rate = min(step / warmup, (recipe.steps - step + 1) / max(1, recipe.steps - warmup + 1))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        inputs = _encoded(tokenizer, batch, recipe.max_tokens)
        loss = model(**{name: value.to(device) for name, value in inputs.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if step % LOG_EVERY_STEPS == 0 or step == recipe.steps:
            recent = losses[-LOG_EVERY_STEPS:]
            logger.info("step %d/%d  loss %.3f", step, recipe.steps, sum(recent) / len(recent))
    model.eval()
    return losses


def evaluate(
    tokenizer: Any, model: Any, pairs: Sequence[Pair], recipe: Recipe
) -> tuple[dict[str, float], list[str]]:
    """(loss per token and share of targets that are generated exactly, the generated texts).

    Texts are generated greedily.
    """
    device = next(model.parameters()).device
    texts: list[str] = []
    loss = tokens = 0.0
    for first in range(0, len(pairs), recipe.batch_pairs):
        batch = pairs[first : first + recipe.batch_pairs]
        encoded = _encoded(tokenizer, batch, recipe.max_tokens)
        inputs = {name: value.to(device) for name, value in encoded.items()}
        with torch.inference_mode():
            count = int((inputs["labels"] != UNUSED).sum())
            loss += float(model(**inputs).loss) * count
            tokens += count
            del inputs["labels"]
            found = model.generate(**inputs, max_new_tokens=recipe.max_tokens - 1, num_beams=1)
        texts += tokenizer.batch_decode(found, skip_special_tokens=True)
    exact = [one.strip() == target.strip() for one, (_, target) in zip(texts, pairs, strict=True)]
    return {"loss": loss / tokens, "exact": sum(exact) / len(exact)}, texts


def _batches(pairs: Sequence[Pair], recipe: Recipe) -> Iterator[list[Pair]]:
    """A batch for each step; every epoch has an order of its own."""
    order: list[int] = []
    epoch = 0
    for _ in range(recipe.steps):
        while len(order) < recipe.batch_pairs:
            generator = np.random.default_rng([recipe.seed, epoch])
            order += generator.permutation(len(pairs)).tolist()
            epoch += 1
        chosen, order = order[: recipe.batch_pairs], order[recipe.batch_pairs :]
        yield [pairs[number] for number in chosen]


def _encoded(tokenizer: Any, pairs: Sequence[Pair], max_tokens: int) -> dict[str, Tensor]:
    """input_ids and attention_mask [B, S], labels [B, T]: the target and its end, without the
    first token, which the decoder starts from."""
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    options = {"truncation": True, "padding": True, "return_tensors": "pt"}
    inputs = tokenizer(sources, max_length=max_tokens, **options)
    wanted = tokenizer(targets, max_length=max_tokens, **options)
    labels = wanted["input_ids"].masked_fill(wanted["attention_mask"] == 0, UNUSED)[:, 1:]
    mask = inputs["attention_mask"]
    return {"input_ids": inputs["input_ids"], "attention_mask": mask, "labels": labels.contiguous()}
