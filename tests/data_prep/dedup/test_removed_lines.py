"""Texts without some of their lines."""

import numpy as np
import pytest

from data_prep.dedup.lines import lines_of
from data_prep.dedup.removed_lines import without_lines
from data_prep.filters.lines import marked_line_shares
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import NormaliseConfig, normalise

KEEP = NormaliseConfig(whitespace="keep")
NOTICE = "subscribe to our letter"
TEXTS = [
    f"def f():\n    a  = 1\n    {NOTICE}\n\n\n\treturn a",
    f"{NOTICE}\n\n    verse\n  more",
    f"x\n\n  {NOTICE}",
    "nothing  here\n\n\n\tis removed",
    NOTICE,
]


@pytest.mark.parametrize("unit", ["line", "paragraph"])
def test_what_is_left_keeps_its_white_space(unit: str) -> None:
    batch = TextBatch(normalise(TEXTS, KEEP))
    hashes, starts, ends, _ = lines_of(batch, unit, 1)
    notice = TextBatch([NOTICE.encode()]).unit_hashes(np.array([1]))[0]
    chosen = np.flatnonzero(hashes == notice)
    found = without_lines(batch, starts[chosen], ends[chosen], keeps_whitespace=True)
    expected = {
        "line": [
            "def f():\n    a  = 1\n\n\n\treturn a",
            "    verse\n  more",
            "x",
            TEXTS[3],
            "",
        ],
        "paragraph": [TEXTS[0], "    verse\n  more", "x", TEXTS[3], ""],
    }
    assert [text.decode() for text in found] == expected[unit]


def test_indented_bullets_are_bullets() -> None:
    texts = ["* one\n  - two\n\t• three\nfour", "  *a\nb", "a b"]
    assert marked_line_shares(TextBatch(normalise(texts, KEEP)))[0].tolist() == [0.75, 0.5, 0]
    assert marked_line_shares(TextBatch(normalise(texts)))[0].tolist() == [0.75, 0.5, 0]
