"""Spans of compressed files that are read from a restart: what the sequential reader gives."""

import gzip
import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.documents.ingest import IngestPart, IngestStage
from data_prep.documents.restarted import RECORD_KEY, corrected_spans, restarts_record
from data_prep.engine.stage import StageResult
from data_prep.readers import compressed_spans, compression
from data_prep.readers.decompressors import joined
from data_prep.readers.document import BadRecords, UnusedRecord
from data_prep.readers.files import Span, list_files
from data_prep.readers.jsonl import JsonLinesReader
from data_prep.readers.kinds import Compression
from data_prep.readers.lines import LineFiles
from data_prep.readers.reader import Reader
from data_prep.readers.restarts import Restart, Sharing
from data_prep.readers.text import TextReader, TextReaderConfig
from tests.data_prep.documents.ingesting import ingested
from tests.data_prep.readers.compressed_parts import OTHER_WRITERS, WRITERS

ALL_WRITERS = {**WRITERS, **OTHER_WRITERS}
NESTED = gzip.compress(b"a member\nin a member\n", mtime=0)


class Found(NamedTuple):
    """What was read of a file."""

    documents: list[tuple[str, str, int]]
    unused: list[UnusedRecord]
    not_read_bytes: Counter[str]
    cut_files: dict[str, str]


def reader_of(path: Path, chunk_bytes: int) -> Reader:
    """A reader of lines."""
    config = TextReaderConfig(type="text", files=(str(path),), document="line")
    return TextReader(config, LineFiles(chunk_bytes))


def found_in(reader: Reader, span: Span) -> tuple[Found, BadRecords]:
    """What a span gives."""
    unused: list[UnusedRecord] = []
    bad = BadRecords("skip", report=unused.append)
    documents = [(d.text, d.id, d.offset) for d in reader.read(span, bad)]
    return Found(documents, unused, bad.not_read_bytes, bad.cut_files), bad


def read_sequentially(path: Path, chunk_bytes: int) -> Found:
    """What the whole file gives, read from its start."""
    (file,) = list_files([str(path)], "files")
    return found_in(reader_of(path, chunk_bytes), Span(file, 0, file.num_bytes))[0]


def read_shared(path: Path, part_bytes: int, chunk_bytes: int) -> tuple[Found, int]:
    """(what the spans give together, number of those that were read once more)."""
    (file,) = list_files([str(path)], "files")
    reader = reader_of(path, chunk_bytes)
    spans = reader.spans(file, part_bytes)
    parts = {f"{number:06d}": [span] for number, span in enumerate(spans)}
    results: dict[str, Found] = {}
    records: dict[str, Any] = {}
    todo, num_repeated = parts, -len(parts)
    while todo:
        for name, (span,) in todo.items():
            results[name], bad = found_in(reader, span)
            records[name] = json.loads(json.dumps(restarts_record([span], bad)))
        num_repeated += len(todo)
        assert num_repeated <= 2 * len(parts)
        todo = corrected_spans(parts, records)
    together = Found([], [], Counter(), {})
    for name in sorted(results):
        together.documents.extend(results[name].documents)
        together.unused.extend(results[name].unused)
        together.not_read_bytes.update(results[name].not_read_bytes)
        together.cut_files.update(results[name].cut_files)
    return together, num_repeated


def write(folder: Path, kind: str, parts: Sequence[bytes]) -> Path:
    suffix, writer = ALL_WRITERS[kind]
    path = folder / f"a.txt.{suffix}"
    path.write_bytes(writer(parts))
    return path


contents = st.lists(
    st.lists(
        st.sampled_from(
            [b"one\n", b"two words\n", b"no end", b"\n", b"x y z " * 40, b"abc\n" * 90, NESTED]
        ),
        max_size=8,
    ).map(b"".join),
    min_size=1,
    max_size=30,
)
kinds = st.sampled_from(sorted(ALL_WRITERS))
sizes = st.integers(1, 60)


@settings(max_examples=150, deadline=None)
@given(kinds, contents, sizes, sizes)
def test_spans_give_what_the_sequential_reader_does(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    parts: list[bytes],
    part_bytes: int,
    chunk_bytes: int,
) -> None:
    path = write(tmp_path_factory.mktemp("shared"), kind, parts)
    expected = read_sequentially(path, chunk_bytes)
    found, num_repeated = read_shared(path, part_bytes, chunk_bytes)
    assert found == expected
    if kind not in ("stored gzip members", "padded gzip members"):
        assert num_repeated == 0


@settings(max_examples=300, deadline=None)
@given(kinds, contents, sizes, sizes, st.lists(st.integers(0, 20_000), max_size=3), st.booleans())
def test_damage_gives_what_it_gives_the_sequential_reader(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    parts: list[bytes],
    part_bytes: int,
    chunk_bytes: int,
    places: list[int],
    truncate: bool,
) -> None:
    path = write(tmp_path_factory.mktemp("shared"), kind, parts)
    content = bytearray(path.read_bytes())
    for place in places:
        content[place % len(content)] ^= 0x55
    if truncate and places:
        del content[max(places[0] % len(content), 1) :]
    path.write_bytes(content)
    expected = read_sequentially(path, chunk_bytes)
    assert read_shared(path, part_bytes, chunk_bytes)[0] == expected


@pytest.mark.parametrize("kind", ["xz blocks", "xz streams of blocks"])
def test_damage_of_any_byte_of_blocks_within_streams(tmp_path: Path, kind: str) -> None:
    """Their decoder does not say where a block starts."""
    texts = [b"one\n", b"x y z " * 40, b"two\n" * 30, b"no end", b"three\n" + bytes(range(14, 99))]
    path = write(tmp_path, kind, [b"".join(texts[n % 5 :][: n % 4 + 1]) for n in range(12)])
    content = path.read_bytes()
    for place in range(12, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        for part_bytes, chunk_bytes in ((20, 29), (35, 94)):
            expected = read_sequentially(path, chunk_bytes)
            assert read_shared(path, part_bytes, chunk_bytes)[0] == expected


def test_what_an_attempt_noted_is_forgotten_when_it_fails(tmp_path: Path) -> None:
    """A restart within a member, by chance, that holds two members."""
    first, second = (gzip.compress(letter * 40, mtime=0) for letter in (b"a", b"b"))
    for padding in range(8):
        parts = [b"one\n" * 9 + b" " * padding + first + second + b"\ntwo\n" * 9]
        path = write(tmp_path, "stored gzip members", parts)
        content = path.read_bytes()
        if content.index(second) % 8 == 0:
            break
    (file,) = list_files([str(path)], "files")
    within, after = (Restart(content.index(member), 0) for member in (first, second))
    sharing = Sharing(Compression.GZIP, (within,), (after,))
    span = Span(file, after.raw_at, file.num_bytes, sharing=sharing)
    found, bad = found_in(reader_of(path, 8), span)
    assert found == found_in(reader_of(path, 8), replace(span, sharing=None))[0]
    assert not bad.used_restarts
    assert not bad.passed_restarts


DIGESTS = [sha256(bytes([number % 256, number // 256])).hexdigest() for number in range(2000)]
LINES = [" ".join(wrap(digest, 4)).encode() + b"\n" for digest in DIGESTS]


@pytest.fixture
def num_decompressed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Receives the sizes of the pieces of content that are decompressed."""
    sizes: list[int] = []

    def counted(pieces: Iterable[bytes]) -> Iterator[bytes]:
        for content in joined(pieces):
            sizes.append(len(content))
            yield content

    monkeypatch.setattr(compression, "joined", counted)
    return sizes


@pytest.mark.parametrize("kind", WRITERS)
def test_many_spans_decompress_a_file_of_many_parts_about_once(
    tmp_path: Path, num_decompressed: list[int], kind: str
) -> None:
    """By a counter: what lies between a restart and its span, a part or two, is read twice."""
    parts = [b"".join(LINES[at : at + 8]) for at in range(0, len(LINES), 8)]
    path = write(tmp_path, kind, parts)
    part_bytes = path.stat().st_size // 100
    (file,) = list_files([str(path)], "files")
    num_spans = len(reader_of(path, 64).spans(file, part_bytes))
    assert num_spans >= 20
    num_decompressed.clear()
    found, num_repeated = read_shared(path, part_bytes, 64)
    assert [text for text, _, _ in found.documents] == [line.decode() for line in LINES]
    assert num_repeated == 0
    content_bytes = sum(map(len, LINES))
    assert content_bytes <= sum(num_decompressed) < 1.2 * content_bytes


@pytest.mark.parametrize("kind", ["xz blocks", "xz streams of blocks"])
def test_spans_after_damage_are_read_from_the_last_restart_before_it(
    tmp_path: Path, num_decompressed: list[int], kind: str
) -> None:
    """The rest of the stream is lost: nobody passes the restarts in it."""
    path = write(tmp_path, kind, [b"".join(LINES[at : at + 8]) for at in range(0, 2000, 8)])
    content = bytearray(path.read_bytes())
    content[len(content) // 20] ^= 0x55
    path.write_bytes(content)
    expected = read_sequentially(path, 64)
    num_decompressed.clear()
    found, num_repeated = read_shared(path, len(content) // 200, 64)
    assert found == expected
    assert num_repeated > 10
    assert sum(num_decompressed) < 2.5 * sum(map(len, LINES))


@pytest.mark.parametrize("kind", sorted(ALL_WRITERS.keys() - {"bgzf", "xz streams of blocks"}))
def test_one_part_is_cut_into_few_spans_or_none(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, [b"".join(LINES)])
    (file,) = list_files([str(path)], "files")
    spans = reader_of(path, 64).spans(file, 1)
    assert len(spans) == 1 if path.suffix == ".xz" else 4 < len(spans) <= 8
    assert not any(span.sharing and span.sharing.restarts for span in spans)


def test_lost_content_in_many_places_costs_one_repetition(tmp_path: Path) -> None:
    """The offsets of all later parts follow from the notes of the first reading."""
    parts = [b"".join(LINES[at : at + 40]) for at in range(0, len(LINES), 40)]
    frames = [WRITERS["zstandard frames"][1]([part]) for part in parts]
    for number in range(5, 50, 15):
        damaged = bytearray(frames[number])
        damaged[len(damaged) // 2] ^= 0x55
        frames[number] = bytes(damaged)
    path = tmp_path / "a.txt.zst"
    path.write_bytes(b"".join(frames))
    found, num_repeated = read_shared(path, path.stat().st_size // 100, 64)
    assert found == read_sequentially(path, 64)
    (file,) = list_files([str(path)], "files")
    num_spans = len(reader_of(path, 64).spans(file, path.stat().st_size // 100))
    assert len(found.unused) == 3
    assert num_spans // 2 < num_repeated < num_spans


def test_a_file_in_utf_16_or_with_a_dictionary_is_read_from_its_start(tmp_path: Path) -> None:
    utf_16 = ["one\ntwo\n".encode("utf-16"), *(["three\n".encode("utf-16-le")] * 50)]
    dictionary = struct.pack("<II", 0x184D2A5D, 4) + b"abcd"
    for first, parts in ((b"", utf_16), (dictionary, [b"one\ntwo\n"] * 50)):
        path = write(tmp_path, "zstandard frames", parts)
        path.write_bytes(first + path.read_bytes())
        (file,) = list_files([str(path)], "files")
        spans = reader_of(path, 16).spans(file, 16)
        assert 4 < len(spans) <= 8
        assert not any(span.sharing and span.sharing.restarts for span in spans)
        assert read_shared(path, 16, 16)[0] == read_sequentially(path, 16)


def corpus(folder: Path, damaged: Sequence[int] = ()) -> Path:
    """JSON lines in frames, of which some are damaged."""
    lines = [json.dumps({"text": line.decode()}) + "\n" for line in LINES]
    parts = ["".join(lines[at : at + 40]).encode() for at in range(0, len(lines), 40)]
    frames = [bytearray(WRITERS["zstandard frames"][1]([part])) for part in parts]
    for number in damaged:
        frames[number][len(frames[number]) // 2] ^= 0x55
    path = folder / "a.jsonl.zst"
    path.write_bytes(b"".join(frames))
    return path


def ids_in(result: StageResult[IngestPart]) -> list[str]:
    """The ids of all documents, in their order."""
    names = [f"{piece['name']}.parquet" for r in result.records for piece in r["pieces"]]
    return [i for name in names for i in pq.read_table(result.folder / name)["id"].to_pylist()]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are cut at every 64 bytes, not 32 KB."""
    monkeypatch.setattr(JsonLinesReader.__init__, "__defaults__", (LineFiles(64),))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("damaged", [(), (0, 30, 31)])
def test_the_first_stage_gives_the_same_for_any_parts(
    tmp_path: Path, damaged: tuple[int, ...]
) -> None:
    path = corpus(tmp_path, damaged)
    reader = {"type": "jsonl", "files": [str(path)]}
    expected = ingested(tmp_path / "whole", {"a": reader, "b": reader})
    part_bytes = path.stat().st_size // 100
    found = ingested(tmp_path / "cut", {"a": reader, "b": reader}, part_bytes=part_bytes)
    assert len(found.parts) > 20
    assert ids_in(found) == ids_in(expected)
    assert found.content_fingerprint == expected.content_fingerprint
    for key in ("documents", "bytes"):
        assert sum(r[key] for r in found.records) == sum(r[key] for r in expected.records)
    for key in ("bad", "not_read_bytes"):
        counts: Counter[str] = Counter()
        for record in found.records:
            counts.update(record[key])
        assert counts == sum((Counter(r[key]) for r in expected.records), Counter())
    records = [record.get(RECORD_KEY) for record in found.records]
    assert any(started for notes in filter(None, records) for _, started, _ in notes)


def damaged_corpus(folder: Path) -> tuple[dict[str, Any], int, list[str]]:
    """(readers of a corpus with damage, size of its parts, ids that are read without parts)."""
    path = corpus(folder, (3,))
    readers = {"a": {"type": "jsonl", "files": [str(path)]}}
    expected = ids_in(ingested(folder / "whole", readers))
    return readers, path.stat().st_size // 100, expected


@pytest.mark.usefixtures("small_chunks")
def test_a_run_that_was_killed_before_parts_were_repeated_repeats_them(tmp_path: Path) -> None:
    readers, part_bytes, expected = damaged_corpus(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IngestStage, "parts_to_repeat", lambda self, records: ())
        first = ingested(tmp_path / "work", readers, part_bytes=part_bytes)
    assert ids_in(first) != expected
    (tmp_path / "work/ingest/done.json").unlink()
    assert ids_in(ingested(tmp_path / "work", readers, part_bytes=part_bytes)) == expected


@pytest.mark.usefixtures("small_chunks")
def test_parts_that_did_not_note_what_they_passed_are_not_trusted(tmp_path: Path) -> None:
    """Their records are of a version that read every span from the start of the file."""
    readers, part_bytes, expected = damaged_corpus(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IngestStage, "parts_to_repeat", lambda self, records: ())
        patch.setattr(compressed_spans, "restarts_between", lambda *places: ())
        patch.setattr(compressed_spans, "MAX_SPANS_OF_PART", 8)
        ingested(tmp_path / "work", readers, part_bytes=part_bytes)
    for record in sorted((tmp_path / "work/ingest").glob("*.record.json"))[5:]:
        record.unlink()
    (tmp_path / "work/ingest/done.json").unlink()
    assert ids_in(ingested(tmp_path / "work", readers, part_bytes=part_bytes)) == expected


def test_the_plan_of_a_file_of_at_most_eight_spans_is_that_of_one_without_parts(
    tmp_path: Path,
) -> None:
    path = corpus(tmp_path)
    (file,) = list_files([str(path)], "files")
    part_bytes = file.num_bytes // 20
    spans = compressed_spans.compressed_spans(file, Compression.ZSTANDARD, part_bytes, 64)
    whole = compressed_spans.compressed_spans(
        file, Compression.ZSTANDARD, part_bytes, 64, is_shared=False
    )
    assert 5 <= len(spans) <= 8
    assert spans == whole
    assert all(span.sharing and span.sharing.restarts for span in spans[1:])
    part = IngestPart(name="s-000000", source="s", spans=spans, piece_bytes=9)
    assert part.plan() == replace(part, spans=whole).plan()
