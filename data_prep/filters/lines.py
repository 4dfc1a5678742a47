"""What the filters measure of a text's lines (Gopher's rules, Rae et al. 2021, section A.1.1).

Legend: D documents, L lines of a batch that are not empty.
"""

import numpy as np
import numpy.typing as npt

from data_prep.text.batch import I64, TextBatch

F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_BULLETS = ("•", "‣", "▪", "◦", "●", "·", "–")
"""Besides * and -."""
_SPACE, _TAB = ord(" "), ord("\t")


def bullet_line_share(batch: TextBatch) -> F64:
    """The share of each text's lines that start with a bullet: [D]."""
    starts, _ = batch.line_bounds
    return _share_of_lines(batch, _starts_with_bullet(batch, starts))


def ellipsis_line_share(batch: TextBatch) -> F64:
    """The share of each text's lines that end with an ellipsis: [D]."""
    _, ends = batch.line_bounds
    after = batch.ellipses + 3  # three dots and the character for an ellipsis both take three bytes
    line = np.searchsorted(ends, after)
    chosen = np.zeros(len(ends), dtype=bool)
    within = line < len(ends)
    chosen[line[within]] = ends[line[within]] == after[within]
    return _share_of_lines(batch, chosen)


def _share_of_lines(batch: TextBatch, chosen: Flags) -> F64:
    """The share of each text's lines that are `chosen`, [L]: [D]."""
    starts, _ = batch.line_bounds
    text = batch.text_of(starts)
    num_texts = len(batch.texts)
    lines = np.maximum(np.bincount(text, minlength=num_texts), 1)
    return np.bincount(text[chosen], minlength=num_texts) / lines


def _starts_with_bullet(batch: TextBatch, starts: I64) -> Flags:
    """Whether a bullet is at each of the byte positions `starts`: [L]."""
    first = batch.data[starts]
    if (first == _SPACE).any() or (first == _TAB).any():  # of texts that keep their white space
        visible = np.flatnonzero((batch.data != _SPACE) & (batch.data != _TAB))
        starts = visible[np.searchsorted(visible, starts)]
        first = batch.data[starts]
    result: Flags = (first == ord("*")) | (first == ord("-"))
    lead = np.flatnonzero(first >= 0xC2)
    for bullet in _BULLETS:
        same = np.ones(len(lead), dtype=bool)
        for offset, byte in enumerate(bullet.encode()):
            same &= batch.data[starts[lead] + offset] == byte
        result[lead[same]] = True
    return result
