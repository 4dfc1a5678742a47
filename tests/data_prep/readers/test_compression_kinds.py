"""The kinds of compression: found by the first bytes, with all that their formats allow."""

import lzma
import random
from pathlib import Path

import pytest
import zstandard

from data_prep.readers.compression import CHUNK_BYTES
from data_prep.readers.content import open_content
from data_prep.readers.document import BadRecords
from data_prep.readers.files import Span, list_files
from data_prep.readers.lines import LineFiles
from data_prep.readers.text import TextReader, TextReaderConfig
from tests.data_prep.readers.test_compressed import DAMAGE, MEMBERS, read
from tests.data_prep.readers.warcs import read_warc, record


def skippable(num_bytes: int) -> bytes:
    return b"\x50\x2a\x4d\x18" + num_bytes.to_bytes(4, "little") + b"x" * num_bytes


@pytest.mark.parametrize("codec", ["zst", "lz4"])
def test_skippable_frames_are_skipped(tmp_path: Path, codec: str) -> None:
    frame = MEMBERS[codec]
    path = tmp_path / "a.txt"
    path.write_bytes(
        skippable(4) + frame([b"one\n"]) + skippable(0) + frame([b"two\n"]) + skippable(9_000)
    )
    for chunk_bytes in (1, 7, CHUNK_BYTES):
        documents, bad = read(path, "txt", range(0, 9_000, 40), chunk_bytes)
        assert documents == [("one\n", 0), ("two\n", 4)]
        assert not bad


@pytest.mark.parametrize("name", ["a.txt", "a.TXT.GZ", "a", "a.txt.bz2"])
def test_the_kind_of_a_file_is_found_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    lzma_alone = lzma.compress(b"one\ntwo\n", lzma.FORMAT_ALONE)
    for content in (
        *(member([b"one\ntwo\n"]) for member in MEMBERS.values()),
        lzma_alone,
        b"one\ntwo\n",
    ):
        path.write_bytes(content)
        assert read(path, "txt") == ([("one\n", 0), ("two\n", 4)], [])


@pytest.mark.parametrize("suffix", MEMBERS)
def test_a_damaged_start_is_damage_not_text(tmp_path: Path, suffix: str) -> None:
    member = MEMBERS[suffix]
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(b"\0\1" + member([b"one\n" * 99])[2:] + member([b"two\n"]))
    documents, bad = read(path, "txt")
    assert [text for text, _ in documents] == ["two\n"]
    assert [example["reason"] for example in bad] == [DAMAGE]


@pytest.mark.parametrize("codec", MEMBERS)
def test_reading_resumes_at_the_next_member_and_counts_the_bytes(
    tmp_path: Path, codec: str
) -> None:
    blocks = [random.Random(n).randbytes(30_000).hex() for n in range(3)]
    members = [MEMBERS[codec]([f"{block}\n".encode()]) for block in blocks]
    damaged = bytearray(b"".join(members))
    damaged[len(members[0]) + len(members[1]) // 2] ^= 0x55
    path = tmp_path / f"a.jsonl.{codec}"
    path.write_bytes(damaged)
    (file,) = list_files([str(path)], "files")
    bad = BadRecords("skip")
    with open_content(file) as content:
        span = Span(file, 0, file.num_bytes)
        lines = [line for _, line in LineFiles().lines_in(content, span, bad)]
    assert [line.decode().strip() for line in lines] == [blocks[0], blocks[2]]
    assert bad.counts == {DAMAGE: 1}
    assert 0 < bad.not_read_bytes[DAMAGE] <= len(members[1]) + CHUNK_BYTES
    path.write_bytes(damaged[: len(members[0]) - 100])
    with open_content(list_files([str(path)], "files")[0]) as content:
        assert list(LineFiles().lines_in(content, span, bad)) == []
    assert list(bad.cut_files) == [str(path)]


@pytest.mark.parametrize("window_log", [27, 28, 31])
def test_long_windows_of_zstandard_are_read(tmp_path: Path, window_log: int) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, enable_ldm=True)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "a.txt.zst"
    path.write_bytes(frame.compress(b"one\ntwo\n") + frame.flush())
    assert zstandard.get_frame_parameters(path.read_bytes()).window_size == 1 << window_log
    assert read(path, "txt") == ([("one\n", 0), ("two\n", 4)], [])


def test_frames_may_be_compressed_with_a_dictionary_in_the_first_frame(tmp_path: Path) -> None:
    texts = [f"line {n} of a text with words\n".encode() for n in range(2_000)]
    dictionary = zstandard.train_dictionary(2_000, [*texts])
    compress = zstandard.ZstdCompressor(dict_data=dictionary).compress
    head = b"\x5d\x2a\x4d\x18" + len(dictionary.as_bytes()).to_bytes(4, "little")
    path = tmp_path / "a.txt"
    path.write_bytes(head + dictionary.as_bytes() + compress(texts[0]) + compress(texts[1]))
    for chunk_bytes in (9, CHUNK_BYTES):
        documents, bad = read(path, "txt", (), chunk_bytes)
        assert [text for text, _ in documents] == [text.decode() for text in texts[:2]]
        assert not bad


@pytest.mark.parametrize("codec", MEMBERS)
@pytest.mark.parametrize("rest", [b"\n", b"\r\n", b"no", b"garbage" * 30])
def test_what_follows_the_last_member_is_damage_and_no_cut(
    tmp_path: Path, codec: str, rest: bytes
) -> None:
    """However little it is: a decompressor waits for the rest of a member."""
    member = MEMBERS[codec]([b"one\n"])
    path = tmp_path / "a.txt"
    path.write_bytes(member + rest)
    (file,) = list_files([str(path)], "files")
    dump = tmp_path / "a.warc"
    dump.write_bytes(MEMBERS[codec]([record("conversion", b"one", "http://a")]) + rest)
    for chunk_bytes in (1, CHUNK_BYTES):
        config = TextReaderConfig(type="text", files=(str(path),), document="line")
        bad = BadRecords("skip")
        reader = TextReader(config, LineFiles(chunk_bytes=chunk_bytes))
        documents = list(reader.read(Span(file, 0, file.num_bytes), bad))
        assert [document.text for document in documents] == ["one\n"]
        assert not bad.cut_files
        assert bad.not_read_bytes == {DAMAGE: len(rest)}
    pages, bad = read_warc(dump)
    assert [text for text, _ in pages] == ["one"]
    assert not bad.cut_files
    assert bad.not_read_bytes.total() == len(rest)
    path.write_bytes(member + member[:2])
    (file,) = list_files([str(path)], "files")
    bad = BadRecords("skip")
    assert len(list(reader.read(Span(file, 0, file.num_bytes), bad))) == 1
    assert list(bad.cut_files) == [str(path)]
