"""Damaged tables: what is lost is near the damage, and no text is glued from several records."""

import csv
import io
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import UserError
from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from tests.data_prep.readers.reading import reader_config

WORDS = [
    "rain",
    "falls",
    "on",
    "the",
    "old",
    "roof",
    "while",
    "we",
    "sit",
    "and",
    "read",
    "about",
    "it",
    "until",
    "noon",
]
NEAR = 3
"""Records that one damage may cost."""


def read(path: Path, **config: Any) -> tuple[list[str], BadRecords]:
    """The texts of a table, and what was counted."""
    checked = reader_config({"files": [str(path)], "type": "csv", **config})
    (file,) = list_files(checked.files, "files")
    reader, bad = checked.build(), BadRecords("skip", 1 << 25)
    return [d.text for span in reader.spans(file, 1 << 30) for d in reader.read(span, bad)], bad


def sentence(generate: random.Random) -> str:
    """Words with commas, quotes and newlines among them."""
    marks = (" ", " ", " ", ", ", "\n", ' "', '" ', "\n\n", '",\n')
    words = generate.sample(WORDS, 9)
    return "".join(word + generate.choice(marks) for word in words)


def plain_sentence(generate: random.Random) -> str:
    """Words."""
    return " ".join(generate.sample(WORDS, 9))


def table_of(texts: list[str], **dialect: Any) -> list[bytes]:
    """The header and a record for each text, as a program writes them."""
    records = []
    rows: list[list[Any]] = [["id", "text", "n"]]
    rows += [[n, text, n % 7] for n, text in enumerate(texts)]
    for row in rows:
        record = io.StringIO()
        csv.writer(record, **dialect).writerow(row)
        records.append(record.getvalue().encode())
    return records


def test_a_quote_at_row_5000_costs_that_row(tmp_path: Path) -> None:
    generate = random.Random(0)
    texts = [f"{n} {plain_sentence(generate)}" for n in range(20_000)]
    records = table_of(texts)
    damaged = records[5001].replace(b",", b',"', 1)
    (tmp_path / "a.csv").write_bytes(b"".join([*records[:5001], damaged, *records[5002:]]))
    found, bad = read(tmp_path / "a.csv")
    assert found == texts[:5000] + texts[5001:]
    assert dict(bad.counts) == {"damaged quoting": 1}
    assert bad.num_bytes.total() == len(damaged)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("of_text", [sentence, plain_sentence])
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_one_damage_costs_the_records_near_it(
    tmp_path_factory: pytest.TempPathFactory, quoting: int, of_text: Any, seed: int
) -> None:
    generate = random.Random(seed)
    texts = [f"{n} {of_text(generate)}" for n in range(40)]
    records = table_of(texts, quoting=quoting)
    content = bytearray(b"".join(records))
    start = len(b"".join(records[:12]))
    at = generate.randrange(start, len(content) - 60)
    quotes = [n for n in range(start, len(content) - 60) if content[n] == ord('"')]
    if quotes and generate.random() < 0.5:
        at = generate.choice(quotes)
        del content[at]
    else:
        content[at:at] = b'"'
    hit = next(n for n in range(len(records)) if at < len(b"".join(records[: n + 1]))) - 1
    path = tmp_path_factory.mktemp("table") / "a.csv"
    path.write_bytes(content)
    found, bad = read(path)
    lost = [n for n, text in enumerate(texts) if text not in found]
    assert all(abs(n - hit) <= NEAR for n in lost), (hit, lost)
    assert len(lost) <= NEAR
    for text in set(found) - set(texts):  # what is not as written is of the damaged record itself
        assert text.replace('"', "") in records[hit + 1].decode().replace('"', "")
    assert not lost or bad.counts.total() + len(set(found) - set(texts)) > 0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text('ab ,"\n\r;é\t{}', max_size=9), min_size=1, max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from([",", ";", "\t"]),
    st.integers(1, 40),
)
def test_intact_tables_are_those_of_the_csv_module(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    end: str,
    quoting: int,
    delimiter: str,
    chunk: int,
) -> None:
    path = tmp_path_factory.mktemp("table") / "a.csv"
    if quoting == csv.QUOTE_MINIMAL:  # does not quote what another line end is made of
        texts = [text.replace("\r", "").replace("\n", end) for text in texts]
    path.write_bytes(
        b"".join(table_of(texts, lineterminator=end, quoting=quoting, delimiter=delimiter))
    )
    found, bad = read(path, delimiter=delimiter)
    with open(path, newline="") as file:
        assert found == [row["text"] for row in csv.DictReader(file, delimiter=delimiter)]
    assert found == texts
    assert not bad.counts


def test_quotes_of_a_file_without_quoting(tmp_path: Path) -> None:
    generate = random.Random(1)
    texts = [plain_sentence(generate) for _ in range(200)]
    for n in (10, 40, 90, 150):
        texts[n] = f'"{texts[n]}'
    for n in range(5, 200, 7):
        texts[n] = f'say "{texts[n]}" now'
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"{n}\t{t}\n" for n, t in [("id", "text"), *enumerate(texts)]))
    found, bad = read(path, type="tsv", quoting="none")
    assert (found, dict(bad.counts)) == (texts, {})
    found, bad = read(path, type="tsv")
    assert found == [text for text in texts if not text.startswith('"')]
    lost = [f"{n}\t{text}\n" for n, text in enumerate(texts) if text.startswith('"')]
    assert bad.num_bytes.total() == sum(map(len, lost))


def test_records_in_a_field_are_damage(tmp_path: Path) -> None:
    """One quote too many at the start of a text, and one at the end of a later one."""
    generate = random.Random(2)
    texts = [f"{n} {plain_sentence(generate)}" for n in range(400)]
    records = [f"{n},{text}\n" for n, text in [("id", "text"), *enumerate(texts)]]
    records[101] = records[101].replace(",", ',"')
    records[301] = records[301].replace("\n", '"\n')
    (tmp_path / "a.csv").write_text("".join(records))
    found, bad = read(tmp_path / "a.csv")
    assert found == [*texts[:100], *texts[101:300], f'{texts[300]}"', *texts[301:]]
    assert bad.num_bytes.total() == len(records[101])


def test_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,"text\n1,a\n')
    with pytest.raises(UserError, match="first record is damaged"):
        read(tmp_path / "a.csv")


def test_a_quote_that_ends_in_another_record_is_found(tmp_path: Path) -> None:
    """Line 7's quote ends at that of line 12, whose text starts with a newline."""
    texts = [f'text {n}, "quoted"\nof two lines' for n in range(6)]
    texts += [f"text {n}" for n in range(6, 10)]
    texts += ["\nafter a newline", *(f'text {n}, "quoted"\nof two lines' for n in range(9))]
    records = table_of(texts)
    records[7] = records[7].replace(b",", b',"', 1)
    (tmp_path / "a.csv").write_bytes(b"".join(records))
    found, bad = read(tmp_path / "a.csv")
    assert found == texts[:6] + texts[7:]
    assert bad.num_bytes.total() == len(records[7])


@pytest.mark.parametrize("tail", [b'1000,"cut inside', b"1000,cut"])
def test_a_table_that_ends_inside_a_record_is_cut(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"".join(table_of(["one", "two"])) + tail)
    for config in ({}, {"quoted_newlines": False}):
        found, bad = read(path, **config)
        assert found == ["one", "two"]
        assert bad.cut_files == {str(path): "the file ends inside a record"}
        assert bad.not_read_bytes.total() == len(tail)


def test_records_of_the_wrong_length_are_counted_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,text\n1,a\n2\n3,b,c\n4,d\n")
    found, bad = read(tmp_path / "a.csv")
    assert found == ["a", "d"]
    assert dict(bad.counts) == {"not 2 fields": 2}
    assert bad.num_bytes.total() == len("2\n3,b,c\n")
