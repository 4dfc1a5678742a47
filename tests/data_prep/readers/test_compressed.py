"""Compressed files of lines: the same documents and bad records wherever they are cut."""

import bz2
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import UserError
from data_prep.readers.compressed_spans import compressed_spans
from data_prep.readers.compression import CHUNK_BYTES
from data_prep.readers.document import BadRecords
from data_prep.readers.files import SourceFile, Span, list_files
from data_prep.readers.jsonl import JsonLinesReader, JsonLinesReaderConfig
from data_prep.readers.kinds import Compression
from data_prep.readers.lines import LineFiles
from data_prep.readers.reader import Reader
from data_prep.readers.table import TableReader, TableReaderConfig
from data_prep.readers.text import TextReader, TextReaderConfig
from tests.data_prep.readers.reading import read_documents, reader_config

DAMAGE = "damaged or truncated compression"


def jsonl_reader(path: Path, files: LineFiles) -> Reader:
    return JsonLinesReader(JsonLinesReaderConfig(type="jsonl", files=(str(path),)), files)


def text_reader(path: Path, files: LineFiles) -> Reader:
    config = TextReaderConfig(type="text", files=(str(path),), document="line")
    return TextReader(config, files)


def csv_reader(path: Path, files: LineFiles) -> Reader:
    config = TableReaderConfig(type="csv", files=(str(path),), quoted_newlines=False)
    return TableReader(config, files)


READERS: dict[str, Callable[[Path, LineFiles], Reader]] = {
    "jsonl": jsonl_reader,
    "txt": text_reader,
    "csv": csv_reader,
}
"""The readers that cut compressed files, by suffix."""


def gzip_member(blocks: Iterable[bytes]) -> bytes:
    member = zlib.compressobj(wbits=31)
    content = [member.compress(block) + member.flush(zlib.Z_SYNC_FLUSH) for block in blocks]
    return b"".join(content) + member.flush()


def zstd_frame(blocks: Iterable[bytes]) -> bytes:
    frame = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
    return b"".join(frame.compress(block) + frame.flush(flush) for block in blocks) + frame.flush()


def bzip2_stream(blocks: Iterable[bytes]) -> bytes:
    return bz2.compress(b"".join(blocks))


def xz_stream(blocks: Iterable[bytes]) -> bytes:
    return lzma.compress(b"".join(blocks))


def lz4_frame(blocks: Iterable[bytes]) -> bytes:
    with lz4.frame.LZ4FrameCompressor(content_checksum=True, auto_flush=True) as frame:
        content = [frame.begin(), *map(frame.compress, blocks), frame.flush()]
        return b"".join(content)


MEMBERS: dict[str, Callable[[Iterable[bytes]], bytes]] = {
    "gz": gzip_member,
    "zst": zstd_frame,
    "bz2": bzip2_stream,
    "xz": xz_stream,
    "lz4": lz4_frame,
}


def pieces(content: bytes, places: Iterable[int]) -> list[bytes]:
    """`content` cut at `places`."""
    cuts = sorted({place % (len(content) + 1) for place in places} | {0, len(content)})
    return [content[a:b] for a, b in pairwise(cuts)] or [b""]


def content_of(kind: str, texts: Sequence[str]) -> bytes:
    """The content of a file of the texts."""
    if kind == "jsonl":
        return "".join(f"{json.dumps({'text': text})}\n" for text in texts).encode()
    if kind == "csv":
        return "\n".join(["n,text", *(f'{n},"{text}"' for n, text in enumerate(texts))]).encode()
    return "\r\n".join(texts).encode()


def read(
    path: Path, kind: str, cuts: Iterable[int] = (), chunk_bytes: int = CHUNK_BYTES
) -> tuple[list[tuple[str, int]], list[dict[str, Any]]]:
    """([(text, offset)], bad records) of a file cut at `cuts`; JSON that does not have its records
    on lines, as after damage at its start, is never cut."""
    (file,) = list_files([str(path)], "files")
    if kind == "jsonl" and len(READERS[kind](path, LineFiles(1)).spans(file, 1)) == 1:
        cuts = ()
    edges = sorted({cut % max(file.num_bytes, 1) for cut in cuts} | {0, file.num_bytes})
    spans = [Span(file, a, b) for a, b in pairwise(edges)] or [Span(file, 0, 0)]
    bad = BadRecords("skip")
    reader = READERS[kind](path, LineFiles(chunk_bytes))
    try:
        documents = [document for span in spans for document in reader.read(span, bad)]
    except UserError as error:  # a header that is damaged
        return [], [{"reason": str(error)}]
    assert all(d.id == f"{file.name}:{d.offset}" for d in documents)
    return [(d.text, d.offset) for d in documents], bad.examples


Corpus = tuple[str, str, list[str], list[int]]
"""Suffix of the format and of the compression, texts, and where the content is cut into members."""
texts = st.lists(
    st.sampled_from(["", "a", "two words", "é", "x y z " * 40, "abc" * 300]), max_size=25
)
places = st.lists(st.integers(0, 20_000), max_size=5)
corpora = st.tuples(st.sampled_from(list(READERS)), st.sampled_from(list(MEMBERS)), texts, places)


def write(folder: Path, corpus: Corpus, block_places: list[int]) -> tuple[Path, bytes, list[int]]:
    """The path of a compressed file, its content, and where its members end."""
    kind, codec, texts, member_places = corpus
    content = content_of(kind, texts)
    members = [
        MEMBERS[codec](pieces(member, block_places)) for member in pieces(content, member_places)
    ]
    path = folder / f"a.{kind}.{codec}"
    path.write_bytes(b"".join(members))
    return path, content, [sum(map(len, members[:n])) for n in range(len(members) + 1)]


@settings(max_examples=200)
@given(corpora, places, places, st.integers(1, 200))
def test_a_compressed_file_gives_what_the_plain_one_does(
    tmp_path_factory: pytest.TempPathFactory,
    corpus: Corpus,
    blocks: list[int],
    cuts: list[int],
    chunk_bytes: int,
) -> None:
    folder = tmp_path_factory.mktemp("compressed")
    path, content, _ = write(folder, corpus, blocks)
    plain = folder / f"a.{corpus[0]}"
    plain.write_bytes(content)
    expected = read(plain, corpus[0])
    assert not expected[1]
    assert read(path, corpus[0]) == expected
    assert read(path, corpus[0], cuts, chunk_bytes) == expected


@settings(max_examples=300)
@given(corpora, places, places, st.integers(1, 200), st.integers(0, 20_000), st.booleans())
def test_damage_is_counted_once_and_costs_the_same_wherever_a_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    corpus: Corpus,
    blocks: list[int],
    cuts: list[int],
    chunk_bytes: int,
    place: int,
    truncate: bool,
) -> None:
    kind = corpus[0]
    path, _, ends = write(tmp_path_factory.mktemp("compressed"), corpus, blocks)
    whole, _ = read(path, kind)
    content = bytearray(path.read_bytes())
    place %= len(content)
    if truncate:
        del content[place:]
    else:
        content[place] ^= 0x55
    path.write_bytes(content)
    documents, bad = read(path, kind, (), chunk_bytes)
    assert read(path, kind, cuts, chunk_bytes) == (documents, bad)
    num_damaged = sum(example["reason"] == DAMAGE for example in bad)
    if truncate and place not in ends:
        assert num_damaged == 1
        assert documents == whole[: len(documents)]
    else:
        assert num_damaged <= 1
        assert bad or truncate or documents == whole


@pytest.mark.parametrize("codec", MEMBERS)
def test_what_is_between_members_is_damage_unless_it_is_padding(tmp_path: Path, codec: str) -> None:
    path = tmp_path / f"a.txt.{codec}"
    member = MEMBERS[codec]([b"one\ntwo\nthr"])
    for rest, is_damage in ((bytes(50), codec not in ("gz", "xz")), (b"\1" * 50, True)):
        path.write_bytes(member + rest + member)
        documents, bad = read(path, "txt", range(0, 200, 20), 20)
        joined = [("one\n", 0), ("two\n", 4), ("throne\n", 8), ("two\n", 15), ("thr", 19)]
        resumed = [("one\n", 0), ("two\n", 4), ("one\n", 11), ("two\n", 15), ("thr", 19)]
        assert documents == (resumed if is_damage else joined)
        assert [example["reason"] for example in bad] == [DAMAGE] * is_damage


@given(st.integers(0, 10**12), st.integers(1, 10**9))
def test_spans_of_a_compressed_file_are_few_and_made_of_chunks(
    num_bytes: int, part_bytes: int
) -> None:
    spans = compressed_spans(
        SourceFile("a.bin", "a.bin", num_bytes, ""), Compression.LZ4, part_bytes, is_shared=False
    )
    assert len(spans) <= 8
    assert [spans[0].start, spans[-1].end] == [0, num_bytes]
    assert all(a.end == b.start and b.start % CHUNK_BYTES == 0 for a, b in pairwise(spans))
    assert all(span.end - span.start >= 4 * part_bytes for span in spans[:-1])


def test_compressed_lines_are_cut_and_other_compressed_documents_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip_member([b"text\n" * 50] * 40))
    (file,) = list_files([str(path)], "files")
    for make_reader in READERS.values():
        assert len(make_reader(path, LineFiles(chunk_bytes=16)).spans(file, 1)) > 4
    paragraphs = {"type": "text", "document": "paragraph"}
    quoted = {"type": "csv", "quoted_newlines": True}
    for config in (paragraphs, quoted):
        reader = reader_config({"files": [str(path)], **config}).build()
        assert len(reader.spans(file, 1)) == 1


def test_a_paragraph_after_many_blank_lines_of_a_compressed_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip_member([b"\n" * 5000 + b"one\n"]))
    documents = read_documents(path, type="text", document="paragraph")
    assert documents == ([("one\n", "a.txt.gz:5000")], {})
