"""Lines, paragraphs and marks of texts, against a plain definition."""

import re

import pytest

from data_prep.filters.lines import marked_line_shares
from data_prep.text.batch import TextBatch
from tests.data_prep.kernels.plain import random_texts


@pytest.mark.parametrize("seed", range(20))
def test_layout_of_mixed_scripts(seed: int) -> None:
    texts = [text.replace("\r", "") for text in random_texts(seed, num_texts=8, num_pieces=60)]
    batch = TextBatch([text.encode() for text in texts])
    bullets, ellipses = marked_line_shares(batch)
    for number, text in enumerate(texts):
        lines = [line for line in text.split("\n") if line]
        assert units(batch, number, "lines") == lines
        # A paragraph ends at the second of two newlines; the first one belongs to it.
        paragraphs = [unit for unit in re.split(r"(?<=\n)\n", text) if unit]
        assert units(batch, number, "paragraphs") == paragraphs
        assert batch.layout.hash_signs[number] == text.count("#")
        assert batch.layout.ellipses[number] == len(re.findall(r"\.{3,}|…", text))
        marked = [re.match(r"[ \t]*[*\-•‣▪◦●·–]", line) for line in lines]
        assert bullets[number] == pytest.approx(sum(map(bool, marked)) / max(len(lines), 1))
        cut = [line.endswith(("...", "…")) for line in lines]
        assert ellipses[number] == pytest.approx(sum(cut) / max(len(lines), 1))


def units(batch: TextBatch, text: int, kind: str) -> list[str]:
    """The lines or paragraphs of a text."""
    starts, ends, first = getattr(batch.layout, kind)
    chosen = range(first[text], first[text + 1])
    return [batch.data[starts[k] : ends[k]].tobytes().decode() for k in chosen]


def test_empty_texts_have_no_lines() -> None:
    layout = TextBatch([b"", b"\n", b"a", b""]).layout
    assert layout.lines.first.tolist() == [0, 0, 0, 1, 1]
    assert layout.paragraphs.first.tolist() == [0, 0, 1, 2, 2]
    assert TextBatch([]).layout.lines.first.tolist() == [0]
