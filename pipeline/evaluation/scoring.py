"""Log-probabilities of masked tokens, for any number of rows of any length.

B rows, S tokens in a row, N queried tokens, H hidden, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.compute import SLOTS_AT_ONCE
from model.heads import MaskedLanguageModel


@dataclass(frozen=True)
class Query:
    """A row with masks, and the tokens that are asked for."""

    ids: Sequence[int]
    """With special tokens around it and masks in it."""
    positions: Sequence[int]
    """Where in the row."""
    targets: Sequence[int]
    """The right tokens there."""


@dataclass(frozen=True)
class Answer:
    """What a model says to a query."""

    log_probabilities: NDArray[np.float64]
    """Natural logarithm of the probability of each target."""
    ranks: NDArray[np.int64]
    """How many tokens are more probable than each target."""


def answers(
    model: MaskedLanguageModel, queries: Sequence[Query], batch_tokens: int
) -> list[Answer]:
    """The answer to each of `queries`, computed in batches of rows of about equal length."""
    found: dict[int, Answer] = {}
    device = next(model.parameters()).device
    with torch.no_grad():
        for numbers in batches([len(query.ids) for query in queries], batch_tokens):
            chosen = [queries[number] for number in numbers]
            tokens = padded([query.ids for query in chosen], model.config.pad_token_id)
            hidden = model.encoder(tokens.to(device))  # [T, H]
            width = tokens.shape[1]
            places = [n * width + p for n, query in enumerate(chosen) for p in query.positions]
            targets = [token for query in chosen for token in query.targets]
            values, ranks = _at(
                model,
                hidden[torch.tensor(places, device=device)],  # [N, H]
                torch.tensor(targets, device=device),
            )
            ends = np.cumsum([len(query.positions) for query in chosen])[:-1]
            parts = zip(numbers, np.split(values, ends), np.split(ranks, ends), strict=True)
            found |= {number: Answer(value, rank) for number, value, rank in parts}
    return [found[number] for number in range(len(queries))]


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """The numbers of rows, sorted by length, in batches of at most `batch_tokens` with padding."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: (lengths[n], n)):
        if batch and lengths[number] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]], pad_token_id: int) -> Tensor:
    """[B, S] int64."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad_token_id] * (width - len(row))] for row in rows])


def _at(
    model: MaskedLanguageModel, hidden: Tensor, targets: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Log-probabilities [N] and ranks [N] of `targets` [N] at the hidden states [N, H]."""
    values, ranks = [], []
    for first in range(0, len(targets), SLOTS_AT_ONCE):
        some, right = (each[first : first + SLOTS_AT_ONCE] for each in (hidden, targets))
        logits = model.head(some, model.encoder.embeddings.word)[:, : model.vocab_size].float()
        of_right = logits.gather(1, right[:, None])  # [N, 1]
        values.append((of_right[:, 0] - logits.logsumexp(dim=1)).double().cpu().numpy())
        ranks.append((logits > of_right).sum(dim=1).cpu().numpy())
    return np.concatenate(values), np.concatenate(ranks)
