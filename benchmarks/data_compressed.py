"""CPU seconds of reading all spans of a compressed file of lines, from its parts or its start.

``python -m benchmarks.data_compressed TEXT FOLDER [--spans 8 32]``

TEXT is a file of lines, 200 to 300 MB; FOLDER receives it compressed by `zstd`, `gzip` and `xz`, in
parts of 4 MB of text, and as one part. Prints a Markdown table: CPU seconds of all spans together,
where their readers start at the parts, and where they start at that of the file; those of reading
the file as one span; and how often the content is decompressed by the former two.
"""

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from configs import command
from data_prep.readers import compression
from data_prep.readers.compressed_spans import compressed_spans
from data_prep.readers.content import kind_of
from data_prep.readers.decompressors import joined
from data_prep.readers.document import BadRecords
from data_prep.readers.files import Span, list_files
from data_prep.readers.text import TextReader, TextReaderConfig

_PART_BYTES = 1 << 22
_TOOLS = {"zst": ["zstd", "-q", "-3"], "gz": ["gzip", "-6"]}


def compress(text: Path, folder: Path) -> list[Path]:
    """The text as frames, members and blocks, and as one frame, unless they exist."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("parts.txt.zst", "parts.txt.gz", "parts.txt.xz")]
    whole = folder / "whole.txt.zst"
    for path in paths[:2]:
        if not path.exists():
            _write_parts(text, path, _TOOLS[path.suffix[1:]])
    if not paths[2].exists():
        command = ["xz", "-T2", "-2", f"--block-size={_PART_BYTES}", "--stdout", str(text)]
        paths[2].write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if not whole.exists():
        subprocess.run([*_TOOLS["zst"], str(text), "-o", str(whole)], check=True)
    return [*paths, whole]


def _write_parts(text: Path, path: Path, command: Sequence[str]) -> None:
    part = path.with_name("part")
    with open(text, "rb") as source, open(path, "wb") as target:
        while content := source.read(_PART_BYTES):
            part.write_bytes(content)  # zstd notes the size of a file, not of a stream
            run = subprocess.run([*command, "-c", str(part)], check=True, stdout=subprocess.PIPE)
            target.write(run.stdout)
    part.unlink()


class Read(NamedTuple):
    """What reading the spans of a file took."""

    cpu_s: float
    num_documents: int
    num_bytes: int
    """Bytes decompressed."""


def read(path: Path, spans: Sequence[Span]) -> Read:
    """Reads the spans, one after another."""
    num_bytes = 0

    def counted(pieces: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal num_bytes
        for content in joined(pieces):
            num_bytes += len(content)
            yield content

    reader = TextReader(TextReaderConfig(type="text", files=(str(path),), document="line"))
    with mock.patch.object(compression, "joined", counted):
        before = os.times()
        bad = BadRecords("stop")
        num_documents = sum(1 for span in spans for _ in reader.read(span, bad))
        after = os.times()
    cpu_s = after.user - before.user + after.system - before.system
    return Read(cpu_s, num_documents, num_bytes)


def main() -> None:
    """Prints the table."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("text", metavar="TEXT", type=Path, help="file of lines")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where it is kept compressed")
    parser.add_argument("--spans", type=int, nargs="+", default=[8, 32], help="numbers of spans")
    arguments = parser.parse_args()
    content_bytes = arguments.text.stat().st_size
    print("| file | spans | CPU s from parts | from the start | one span | decompressed | |")
    print("|---|---|---|---|---|---|---|")
    for path in compress(arguments.text, arguments.folder):
        (file,) = list_files([str(path)], "files")
        kind = kind_of(file).compression
        whole = read(path, [Span(file, 0, file.num_bytes)])
        for count in arguments.spans:
            spans = compressed_spans(file, kind, file.num_bytes // (4 * count))
            shared = read(path, spans)
            alone = read(path, [replace(span, sharing=None) for span in spans])
            assert shared.num_documents == alone.num_documents == whole.num_documents
            times = [read.num_bytes / content_bytes for read in (shared, alone)]
            print(
                f"| {path.name} | {len(spans)} | {shared.cpu_s:.2f} | {alone.cpu_s:.2f} "
                f"| {whole.cpu_s:.2f} | {times[0]:.2f} | {times[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    command.run(main)
