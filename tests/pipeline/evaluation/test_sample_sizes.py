"""What figures rest on is counted, and too little of it is a warning with what to do."""

from pathlib import Path

import pytest

from configs.load import UserError
from pipeline.evaluation.config import FileTexts
from pipeline.evaluation.results import Measure, size_of
from pipeline.evaluation.sample_sizes import MAX_NAMES, Sample, few_documents, few_items
from pipeline.evaluation.texts import read_texts


@pytest.mark.parametrize(
    ("available", "share", "documents"),
    [(100, 0.25, 25), (2, 0.4, 1), (2, 1.0, 2), (0, 1.0, 0), (3, 0.5, 2)],
)
def test_documents_are_a_share_of_those_available(
    available: int, share: float, documents: int
) -> None:
    assert Sample.of_share(available, share) == Sample(documents, available)


def test_few_documents_are_named_with_what_gives_more() -> None:
    samples = {"many": Sample(30, 90), "unread": Sample(29, 30), "few": Sample(2, 3)}
    (warning,) = few_documents("texts", samples, "more bytes", "a larger share")
    assert warning.startswith("texts: fewer than 30 documents of unread (about 29), few (about 2):")
    assert warning.endswith("more bytes reads more of unread, a larger share gives more of few")
    assert few_documents("texts", {"many": Sample(30, 30)}, "bytes", "share") == []
    rare = {f"s{number}": Sample(1, 1) for number in range(MAX_NAMES + 2)}
    (warning,) = few_documents("texts", rare, "more bytes", "a larger share")
    assert "s4 (about 1) and 2 more: " in warning
    assert "more bytes" not in warning


def test_few_items_are_named() -> None:
    (warning,) = few_items("fill-mask", "gaps", {"a": 30, "b": 3})
    assert warning.startswith("fill-mask: fewer than 30 gaps of b (3): ")
    assert few_items("fill-mask", "gaps", {"a": 30}) == []


def test_the_texts_of_files_are_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"a paragraph of words, {n:02}" for n in range(40)))
    config = FileTexts(files=(str(tmp_path / "a.txt"),))
    # A text is of 24 bytes, or of two parts of 11 and 12.
    for limit, longest, documents, left_out in (
        *((500, 99, 20, 20), (480, 99, 20, 20), (5000, 99, 40, 0), (10, 99, 1, 40)),
        *((500, 20, 22, 19), (484, 20, 21, 19)),
    ):

        def fits(text: str, longest: int = longest) -> bool:
            return len(text) <= longest

        texts = read_texts(config, None, limit, "refuse", fits)
        assert texts is not None
        assert texts.samples == {"a": Sample(documents, 40)}, (limit, longest)
        found = texts.left_out.get("beyond heldout.max_bytes_per_source", 0)
        assert found == left_out, (limit, longest)
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(UserError, match="no text of"):
        read_texts(config, None, 100, "refuse", lambda text: True)


def test_a_row_says_what_it_is_over() -> None:
    one = Measure("bits_per_byte", 1.0, count=1200, documents=3)
    other = Measure("bits_per_byte", 1.0, count=1190, documents=3)
    assert size_of([one]) == ("1,200 words", "~3")
    assert size_of([one, None, other]) == ("1,190 to 1,200 words", "~3")
    assert size_of([Measure("peak_memory_mb", 1.0)]) == ("", "")
    assert size_of([Measure("dev_accuracy", 1.0, "task", count=8)]) == ("8 examples", "")
