"""What the filters measure of a text's lines (Gopher's rules, Rae et al. 2021, section A.1.1).

Legend: D documents of a batch.
"""

import numpy as np
import numpy.typing as npt

from data_prep.kernels.lines import marked_lines
from data_prep.text.batch import TextBatch

F64 = npt.NDArray[np.float64]


def marked_line_shares(batch: TextBatch) -> tuple[F64, F64]:
    """The share of each text's lines that start with a bullet, and that end with an ellipsis: [D],
    [D]."""
    lines = batch.layout.lines
    bullets, ellipses = marked_lines(batch.data, batch.eight, *lines)
    num_lines = np.maximum(np.diff(lines.first), 1)
    return bullets / num_lines, ellipses / num_lines
