"""What cannot be read is counted in bytes: too much stops the job, little is a warning."""

import bz2
import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from configs.load import UserError
from data_prep.documents.losses import SourceLosses, check_bad_share, losses_of
from tests.data_prep.corpora import random_texts
from tests.data_prep.documents.ingesting import ingested
from tests.data_prep.readers.test_archives import warc_record

TEXTS = random_texts(400)


def _jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def _parquet(texts: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts}), sink, row_group_size=20)
    return bytes(sink.getvalue().to_pybytes())


def _arrow(texts: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"text": texts})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=5)
    return bytes(sink.getvalue().to_pybytes())


def _csv(texts: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in ["text", *texts]).encode()


def _warc(texts: list[str]) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    return [
        warc_record("response", head + text.encode(), f"http://a/{number}")
        for number, text in enumerate(texts)
    ]


WRITERS: dict[str, tuple[str, Callable[[list[str]], bytes]]] = {
    ".jsonl": ("jsonl", _jsonl),
    ".jsonl.gz": ("jsonl", lambda texts: gzip.compress(_jsonl(texts))),
    ".jsonl.zst": ("jsonl", lambda texts: zstandard.compress(_jsonl(texts))),
    ".jsonl.bz2": ("jsonl", lambda texts: bz2.compress(_jsonl(texts))),
    ".jsonl.xz": ("jsonl", lambda texts: lzma.compress(_jsonl(texts))),
    ".csv.gz": ("csv", lambda texts: gzip.compress(_csv(texts))),
    ".arrow": ("hf_dataset", _arrow),
    ".parquet": ("parquet", _parquet),
    ".warc": ("warc", lambda texts: b"".join(_warc(texts))),
    ".warc.gz": ("warc", lambda texts: b"".join(map(gzip.compress, _warc(texts)))),
}


def write_files(folder: Path, suffix: str, num_files: int = 8) -> list[Path]:
    """Intact files of about the same size."""
    folder.mkdir()
    write = WRITERS[suffix][1]
    share = len(TEXTS) // num_files
    paths = [folder / f"{number}{suffix}" for number in range(num_files)]
    for number, path in enumerate(paths):
        path.write_bytes(write(TEXTS[number * share : (number + 1) * share]))
    return paths


@pytest.mark.parametrize("suffix", WRITERS)
def test_half_of_the_files_cut_short_stop_the_job(tmp_path: Path, suffix: str) -> None:
    paths = write_files(tmp_path / "raw", suffix)
    for path in paths[:4]:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 20])
    reader = {"type": WRITERS[suffix][0], "files": [f"{tmp_path}/raw/*"]}
    result = ingested(tmp_path / "work", {"forum": reader})
    losses = losses_of(result)["forum"]
    assert sorted(losses.cut_files) == [str(path) for path in paths[:4]]
    assert 0.4 < losses.lost_bytes / losses.total_bytes < 0.6
    # The records alone would not stop it.
    assert losses.num_bad <= 0.05 * losses.num_records or suffix in (".jsonl", ".warc", ".arrow")
    with pytest.raises(UserError, match=r"'forum'.*max_bad_share \(5.0%\)") as error:
        check_bad_share(result, 0.05)
    assert all(str(path) in str(error.value) for path in paths[:4])
    assert str(paths[4]) not in str(error.value)
    check_bad_share(result, 0.7)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_file_without_its_last_bytes_is_a_warning(
    tmp_path: Path, suffix: str, logged: list[str]
) -> None:
    paths = write_files(tmp_path / "raw", suffix)
    paths[2].write_bytes(paths[2].read_bytes()[:-5])
    if suffix == ".parquet":  # nothing of it can be read without the footer
        for path in paths[3:]:
            path.unlink()
        for number in range(30):
            (tmp_path / f"raw/more{number}.parquet").write_bytes(paths[0].read_bytes())
    reader = {"type": WRITERS[suffix][0], "files": [f"{tmp_path}/raw/*"]}
    result = ingested(tmp_path / "work", {"forum": reader})
    check_bad_share(result, 0.05)
    (warning,) = [message for message in logged if "bytes are lost" in message]
    assert str(paths[2]) in warning
    assert str(paths[1]) not in warning


def test_how_much_a_single_cut_file_lacks_is_not_known(tmp_path: Path, logged: list[str]) -> None:
    (path,) = write_files(tmp_path / "raw", ".jsonl.gz", num_files=1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = {"type": "jsonl", "files": [str(path)]}
    check_bad_share(ingested(tmp_path / "work", {"forum": reader}), 0.05)
    (warning,) = [message for message in logged if "bytes are lost" in message]
    assert "how much is missing in 1 cut file(s) is not known" in warning


def test_the_likely_encoding_is_named_once_for_the_source(tmp_path: Path) -> None:
    """Whatever encodings the records seem to be in, they are counted under one reason."""
    texts = ["Größe und Äpfel für Mädchen", "Übergröße hätte möglichst öfter", "Öl"]
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts * 2]
    path.write_bytes("".join(lines).encode("cp1252"))
    for reader in ({"type": "jsonl"}, {"type": "text", "document": "line"}):
        work = tmp_path / reader["type"]
        result = ingested(work, {"forum": {**reader, "files": [str(path)]}}, part_bytes=1 << 15)
        assert losses_of(result)["forum"].likely_encoding == "cp1252"
        assert [record["bad"] for record in result.records] == [{"not UTF-8": 6}]
        with pytest.raises(UserError, match="likely in cp1252: set `encoding`"):
            check_bad_share(result, 0.05)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_few_bad_records_of_many_bytes_stop_the_job(tmp_path: Path, suffix: str) -> None:
    """One of 201 records is a third of the bytes; it stops the job, a small one does not."""
    generate = random.Random(1)
    huge = bytes(generate.choices(b"abcdefghijklmnop ", k=600_000)).decode()
    for number, words in enumerate((huge, huge[:1000])):
        folder = tmp_path / str(number)
        folder.mkdir()
        texts = [" ".join(random_texts(1, words=800, seed=n)) for n in range(200)]
        path = folder / f"a{suffix}"
        path.write_bytes(WRITERS[suffix][1]([*texts[:100], words + "\0", *texts[100:]]))
        reader = {"type": WRITERS[suffix][0], "files": [str(path)]}
        result = ingested(folder / "work", {"forum": reader})
        losses = losses_of(result)["forum"]
        assert losses.num_bad == 1
        share = losses.lost_bytes / losses.total_bytes
        if number == 0:
            assert 0.2 < share < 0.6
            with pytest.raises(UserError, match="are in bad records"):
                check_bad_share(result, 0.05)
        else:
            assert share < 0.01
            check_bad_share(result, 0.05)


@pytest.mark.parametrize(
    ("intact", "cut", "missing"),
    [
        ([100] * 7, 99, 1),
        ([100] * 7, 5, 95),
        ([100] * 6 + [30], 60, 30),  # the last shard is smaller
        ([10, 35, 50, 60, 80, 95, 100], 30, None),  # a whole file may be as small
        ([10, 35, 50, 60, 80, 95, 100], 2, 59),
        ([], 50, None),
        ([0, 0], 50, None),
    ],
)
def test_what_a_cut_file_lacks_follows_from_the_other_sizes(
    intact: list[int], cut: int, missing: int | None
) -> None:
    sizes = {str(number): size for number, size in enumerate(intact)}
    losses = SourceLosses(file_bytes={**sizes, "cut": cut}, cut_files={"cut": "cut short"})
    assert losses.missing_bytes == {"cut": missing}
