"""Rows of examples as the tensors of a micro-batch: all as wide as the longest.

B rows, S tokens in a row.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.finetuning.examples import Example, Ids

WIDTH_MULTIPLE = 8
"""Rows are padded to a multiple of this: faster on accelerators, needed by sequence parallelism."""


def padded_width(examples: Sequence[Example], max_row_tokens: int) -> int:
    """The width of a micro-batch of `examples` in a model of `max_row_tokens`."""
    longest = max(len(row) for example in examples for row in example.rows)
    return width_of(longest, max_row_tokens)


def width_of(longest: int, max_row_tokens: int) -> int:
    """The width of a micro-batch whose longest row has so many tokens."""
    width = -(-longest // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    return max(longest, min(width, max_row_tokens))


def padded(rows: Sequence[Ids], width: int, value: int) -> Tensor:
    """[B, S] `rows` of at most `width` tokens with `value` after them."""
    result = np.full((len(rows), width), value, dtype=np.int64)
    for number, row in enumerate(rows):
        result[number, : len(row)] = row
    return torch.from_numpy(result)


def segments_of(examples: Sequence[Example], width: int, num_segments: int) -> Tensor | None:
    """[B, S] the segment ids of the rows; None where all are 0 or the model has no others."""
    rows = [row for example in examples for row in example.segments]
    if num_segments < 2 or not any(row.any() for row in rows):
        return None
    return padded(rows, width, 0)
