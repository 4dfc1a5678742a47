"""Reads the public test files of each format and compares with the format's reference reader.

``python -m benchmarks.data_formats FOLDER [--details]``

FOLDER holds checkouts of the projects that publish the files, cloned with git where missing
(JSONTestSuite, parquet-testing, warcio, chatnoir-resiliparse, python-mwxml, csv-spectrum), and
Unicode's NormalizationTest from Debian's unicode-data. Prints a Markdown table: files, records of
the reference reader, records read, how many texts are equal, and what was counted of the rest.
"""

import bz2
import csv
import importlib
import json
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from benchmarks.data_corpus import debian_package
from configs import command
from configs.load import UserError
from data_prep.readers import ReaderConfig
from data_prep.readers.document import BadRecords
from data_prep.readers.files import list_files
from data_prep.readers.html import text_of_html
from data_prep.text.normalise import normalise

_WHOLE_BYTES = 1 << 40
REPOSITORIES = {
    "JSONTestSuite": ("https://github.com/nst/JSONTestSuite", "test_parsing"),
    "parquet-testing": ("https://github.com/apache/parquet-testing", "data bad_data"),
    "warcio": ("https://github.com/webrecorder/warcio", "warcio test/data"),
    "chatnoir-resiliparse": ("https://github.com/chatnoir-eu/chatnoir-resiliparse", "tests/data"),
    "python-mwxml": ("https://github.com/mediawiki-utilities/python-mwxml", ""),
    "csv-spectrum": ("https://github.com/max-mapper/csv-spectrum", "csvs json"),
}


class Comparison(NamedTuple):
    """One file, read by the project and by the reference reader."""

    name: str
    expected: list[str]
    """Texts of the reference reader's records."""
    texts: list[str]
    """Texts that were read."""
    bad: BadRecords
    error: str = ""
    """Of the reference reader, or the refusal of the file."""

    @property
    def num_equal(self) -> int:
        """Texts that both have."""
        return (Counter(self.expected) & Counter(self.texts)).total()


def main() -> None:
    """Fetches the missing checkouts and prints the table."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the checkouts are")
    parser.add_argument("--details", action="store_true", help="a row for each file that differs")
    arguments = parser.parse_args()
    for name, (url, paths) in REPOSITORIES.items():
        clone(url, paths.split(), arguments.folder / name)
    print("| files | reference | files | its records | read | equal texts | counted of the rest |")
    print("|---|---|---|---|---|---|---|")
    for name, (reference, compare) in SUITES.items():
        found = list(compare(arguments.folder))
        print_row(name, reference, found)
        if arguments.details:
            for one in found:
                if one.error or one.num_equal < max(len(one.expected), len(one.texts)):
                    print_row(one.name, one.error, [one])


def clone(url: str, paths: list[str], folder: Path) -> None:
    """The newest commit of a repository; only `paths` of it, if any are named."""
    if folder.exists():
        return
    options = ["--depth=1", "--filter=blob:none", *(["--sparse"] if paths else [])]
    subprocess.run(["git", "clone", "--quiet", *options, url, str(folder)], check=True)
    if paths:
        subprocess.run(["git", "-C", str(folder), "sparse-checkout", "set", *paths], check=True)


def print_row(name: str, reference: str, found: list[Comparison]) -> None:
    """A row of the table: the sums over files."""
    counted: Counter[str] = Counter()
    for one in found:
        counted.update(one.bad.counts)
        counted.update({f"skipped: {kind}": n for kind, n in one.bad.skipped.items()})
    why = ", ".join(f"{reason} {number:,}" for reason, number in counted.most_common())
    expected, read = (
        sum(map(len, lists)) for lists in zip(*(one[1:3] for one in found), strict=True)
    )
    equal = sum(one.num_equal for one in found)
    print(f"| {name} | {reference} | {len(found)} | {expected:,} | {read:,} | {equal:,} | {why} |")


def compared(path: Path, expected: Iterable[str], error: str = "", **config: Any) -> Comparison:
    """Reads `path` with the reader that `config` describes."""
    bad = BadRecords("skip", max_document_bytes=1 << 25)
    reader_config: ReaderConfig = TypeAdapter(ReaderConfig).validate_python(
        {"files": [str(path)], **config}
    )
    texts = []
    try:
        reader = reader_config.build()
        for file in list_files(reader_config.files, "files"):
            for span in reader.spans(file, _WHOLE_BYTES):
                texts += [document.text for document in reader.read(span, bad)]
    except UserError as refusal:
        error = str(refusal)
    return Comparison(path.name, list(expected), texts, bad, error)


def json_values(folder: Path) -> Iterator[Comparison]:
    """Each test of JSONTestSuite as the value beside the text of one record. Reference: Python."""
    target = folder / "made"
    target.mkdir(exist_ok=True)
    for path in sorted((folder / "JSONTestSuite/test_parsing").glob("*.json")):
        made = target / f"{path.name}l"
        made.write_bytes(b'{"text": "the text", "value": ' + path.read_bytes() + b"}\n")
        try:
            record = json.loads(made.read_bytes())
            expected = [record["text"]] if record.keys() == {"text", "value"} else []
        except (ValueError, RecursionError):
            expected = []
        yield compared(made, expected, type="jsonl")


def parquet_columns(folder: Path) -> Iterator[Comparison]:
    """The first column of strings of each file. Reference: pyarrow."""
    for path in sorted((folder / "parquet-testing").glob("*data/**/*.parquet")):
        column, expected, error = None, [], ""
        try:
            with pq.ParquetFile(path) as file:
                names = [f.name for f in file.schema_arrow if is_text(f.type)]
                column = names[0] if names else None
                if column is not None:
                    values = file.read([column])[0].to_pylist()
                    expected = [as_text(value) for value in values if value is not None]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as refusal:
            error = type(refusal).__name__
        if column is not None or error:
            yield compared(path, expected, error, type="parquet", text_field=column or "text")


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings or bytes."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    return any(test(kind) for test in tests)


def as_text(value: str | bytes) -> str:
    """A value as text."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def archives(folder: Path) -> Iterator[Comparison]:
    """Pages with status 200, resources and conversions. Reference: warcio."""
    sys.path.insert(0, str(folder / "warcio"))
    reference = importlib.import_module("warcio.archiveiterator")  # that of the checkout
    paths = [
        *(folder / "warcio/test/data").glob("*"),
        *(folder / "chatnoir-resiliparse/tests/data").glob("*arc*"),
    ]
    for path in sorted(paths):
        expected: list[str] = []
        error = ""
        try:
            with open(path, "rb") as stream:
                for record in reference.ArchiveIterator(stream, arc2warc=True):
                    text = text_of_record(record)
                    expected += [] if text is None else [text]
        except Exception as refusal:  # warcio raises what it meets
            error = f"{type(refusal).__name__}: {refusal}".partition("\n")[0]
        yield compared(path, expected, error, type="warc")


def text_of_record(record: Any) -> str | None:
    """The text of a warcio record; None if it is no page."""
    kind, headers = record.rec_type, record.http_headers
    if kind not in ("response", "resource", "conversion"):
        return None
    if headers is not None and headers.get_statuscode() != "200":
        return None
    stated = headers.get_header("Content-Type", "") if headers else record.content_type or ""
    body = record.content_stream().read()
    if "html" in stated.lower():
        charset = stated.lower().partition("charset=")[2].strip() or None
        return text_of_html(body, charset)
    return body.decode("utf-8", "replace") if stated.lower().startswith("text/") else None


def dumps(folder: Path) -> Iterator[Comparison]:
    """The newest text of each page of namespace 0. Reference: Python's XML parser."""
    for path in sorted((folder / "python-mwxml").glob("*.xml")):
        root = ElementTree.fromstring(path.read_text().strip())
        expected = []
        for page in root.iterfind("{*}page"):
            if page.findtext("{*}ns") != "0":
                continue
            title = page.findtext("{*}title", "")
            texts = [text.text or "" for text in page.iterfind("{*}revision/{*}text")]
            expected.append(f"{title}\n\n{texts[-1]}")
        made = folder / "made" / path.name
        made.write_text(path.read_text().strip())
        yield compared(made, expected, type="mediawiki")


def tables(folder: Path) -> Iterator[Comparison]:
    """Each column of each table. Reference: the JSON beside it."""
    for path in sorted((folder / "csv-spectrum/csvs").glob("*.csv")):
        content = (folder / "csv-spectrum/json" / path.name).with_suffix(".json").read_bytes()
        rows = json.loads(content.decode("utf-8", "replace"))
        rows = [rows] if isinstance(rows, dict) else rows
        encoding = "utf-8"
        try:
            path.read_text(encoding)
        except UnicodeDecodeError:
            encoding = "latin-1"
            rows = list(csv.DictReader(path.read_text(encoding).splitlines()))
        for name in rows[0]:
            expected = [str(row[name]) for row in rows]
            yield compared(path, expected, type="csv", text_field=name, encoding=encoding)


def normal_forms(folder: Path) -> Iterator[Comparison]:
    """Columns 1 to 5 of NormalizationTest.txt in NFC. Reference: its columns 2 and 4."""
    debian = folder / "unicode-data"
    if not debian.exists():
        debian_package("unicode-data", folder)
    content = bz2.decompress(next(debian.rglob("NormalizationTest.txt.bz2")).read_bytes())
    given, expected = [], []
    for line in content.decode().splitlines():
        if line and line[0] not in "#@":
            columns = [
                "".join(chr(int(code, 16)) for code in column.split())
                for column in line.split(";")[:5]
            ]
            given += [f"|{column}|" for column in columns]
            expected += [f"|{columns[k]}|" for k in (1, 1, 1, 3, 3)]
    texts = [text.decode() for text in normalise(given)]
    bad = BadRecords("skip")
    for one, other in zip(texts, expected, strict=True):
        if one != other:
            is_new = any(unicodedata.category(character) == "Cn" for character in other)
            newer = f"newer than Python's Unicode {unicodedata.unidata_version}"
            bad.add("", 0, newer if is_new else "unusual space made a plain one")
    yield Comparison("NormalizationTest.txt", expected, texts, bad)


SUITES: dict[str, tuple[str, Callable[[Path], Iterator[Comparison]]]] = {
    "JSONTestSuite": ("Python's json", json_values),
    "parquet-testing": ("pyarrow", parquet_columns),
    "warcio, resiliparse": ("warcio", archives),
    "mwxml": ("Python's XML", dumps),
    "csv-spectrum": ("its JSON", tables),
    "NormalizationTest": ("its columns", normal_forms),
}

if __name__ == "__main__":
    command.run(main)
