"""Files of every format with random damage: counted, or a clear message, never a traceback."""

import gzip
import json
import lzma
import random
from typing import Any

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import UserError
from data_prep.dedup.minhash import signatures
from data_prep.dedup.signatures import word_sequence_hashes
from data_prep.filters.quality import FiltersConfig, drop_reasons
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise
from tests.data_prep.readers.formats import FORMATS
from tests.data_prep.readers.reading import read_documents
from tests.data_prep.readers.test_archives import dump_of, in_streams, records_of, warc_record
from tests.data_prep.readers.test_members import jsonl, tar_of, zip_of

HTML = b"<html><body><ul><li>a</ul><p>Caf\xe9 <b>opens</b></p><table><tr><td>x</table></html>"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes]]:
    """File name to the type of its reader and the bytes of an intact file."""
    folder = tmp_path_factory.mktemp("intact")
    files: dict[str, tuple[str, bytes]] = {}
    for name, (kind, write) in FORMATS.items():
        write(folder / name)
        files[name] = kind, (folder / name).read_bytes()
    dump = dump_of([60] * 12)
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=latin-1\r\n\r\n" + HTML
    records = [*records_of(0, 8), warc_record("response", page, "http://page")] * 2
    files |= {
        "a.txt": ("text", b"one line\nand another\n\nparagraph\n" * 30),
        "a.xml": ("mediawiki", dump),
        "a.xml.bz2": ("mediawiki", in_streams(dump, [500, 900])),
        "a.warc": ("warc", b"".join(records)),
        "a.warc.gz": ("warc", b"".join(map(gzip.compress, records))),
        **packed_files(),
    }
    return files


def packed_files() -> dict[str, tuple[str, bytes]]:
    """Archives, other compressions, and JSON that is not lines."""
    members = {"a.jsonl": jsonl(0, 30), "b.jsonl.gz": gzip.compress(jsonl(30, 60))}
    pretty = json.dumps([{"text": f"text {n}"} for n in range(60)], indent=1).encode()
    return {
        "a.zip": ("jsonl", zip_of(members)),
        "a.tar": ("jsonl", tar_of(members)),
        "a.tar.gz": ("jsonl", gzip.compress(tar_of(members))),
        "a.jsonl.xz": ("jsonl", lzma.compress(jsonl(0, 60))),
        "a.jsonl.lz4": ("jsonl", lz4.frame.compress(jsonl(0, 60))),
        "a.json": ("jsonl", pretty),
    }


NAMES = [*FORMATS, "a.txt", "a.xml", "a.xml.bz2", "a.warc", "a.warc.gz", *packed_files()]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 30), num_damages=st.integers(1, 20), cut=st.integers(30, 2000))
def test_damage_never_ends_in_a_traceback(
    intact: dict[str, tuple[str, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    seed: int,
    num_damages: int,
    cut: int,
) -> None:
    kind, content = intact[name]
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(damaged(content, random.Random(seed), num_damages))
    choices: dict[str, dict[str, Any]] = {
        "text": {"document": ("file", "section", "paragraph", "line")[seed % 4]},
        "csv": {"quoted_newlines": seed % 2 == 0},
    }
    try:
        documents, _ = read_documents(path, cut, type=kind, **choices.get(kind, {}))
    except UserError:  # such as a column that is missing now
        return
    batch = TextBatch(normalise([text for text, _ in documents]) or [b""])
    drop_reasons(batch, FiltersConfig(min_words=1))
    signed = signatures(batch, 5, word_sequence_hashes(batch)[0])
    assert signed.shape == (max(len(documents), 1), 14)


def damaged(content: bytes, generate: random.Random, times: int) -> bytes:
    """`content` with bytes changed, deleted, inserted and copied."""
    result = bytearray(content)
    for _ in range(times):
        at = generate.randrange(len(result) + 1)
        length = generate.randrange(1, 40)
        match generate.randrange(4):
            case 0:
                result[at : at + 1] = generate.randbytes(1)
            case 1:
                del result[at : at + length]
            case 2:
                result[at:at] = generate.randbytes(length)
            case 3:
                source = generate.randrange(len(result) + 1)
                result[at:at] = result[source : source + 5 * length]
    return bytes(result)
