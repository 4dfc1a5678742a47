"""The texts that models are compared on: of files, or of the held-out rows of a data set.

Every text is cut so that all models take it whole: they then predict the same words from the same
context.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from configs.load import UserError, fingerprint
from data_prep.dataset.manifest import Manifest, file_sha256
from data_prep.dataset.tokenizer import load_tokenizer
from pipeline.data.config import DataConfig
from pipeline.data.shard_cache import open_data_set, row_reader
from pipeline.evaluation.config import FileTexts, RowsTexts, TextsConfig
from pipeline.evaluation.json_lines import (
    find_files,
    names_of,
    read_records,
    text_field,
)
from pipeline.evaluation.sample_sizes import Sample
from pipeline.finetuning.inputs.content import not_utf8, plain_name, text_of

MIN_CHARACTERS = 20
"""Shorter pieces of rows are left out: there is hardly a word to predict in them."""
ROWS_AT_ONCE = 256
REPLACEMENT = "\ufffd"
"""What half of a character at the end of a row is decoded to."""

BadRecords = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Texts:
    """Texts by source."""

    sources: Mapping[str, tuple[str, ...]]
    origin: Mapping[str, object]
    """Where they are from, with hashes or counts."""
    left_out: Mapping[str, int]
    """Texts that were not taken, by reason."""
    samples: Mapping[str, Sample]
    """The documents that the texts of each source are of."""

    @property
    def fingerprint(self) -> str:
        """Hash of the texts."""
        return fingerprint({name: list(texts) for name, texts in self.sources.items()})

    def all_texts(self) -> list[str]:
        """The texts of all sources, one of each source in turn."""
        longest = max(map(len, self.sources.values()), default=0)
        return [
            texts[number]
            for number in range(longest)
            for texts in self.sources.values()
            if number < len(texts)
        ]


def read_texts(
    config: TextsConfig,
    run_data: DataConfig | None,
    max_bytes_per_source: int,
    bad_records: BadRecords,
    fits: Callable[[str], bool],
) -> Texts | None:
    """The texts that `config` names; None for those of a run where no model is a run.

    `run_data` is the data set of the first model that is a run, `fits` says whether all models take
    a text whole. Raises UserError where files or rows cannot be read or hold no text.
    """
    num_documents: dict[str, int] = {}
    """Where texts are parts of documents."""
    if isinstance(config, FileTexts):
        sources, origin, bad = texts_of_files(config, bad_records)
    else:
        data = DataConfig(path=config.path) if isinstance(config, RowsTexts) else run_data
        if data is None:
            return None
        manifest = open_data_set(data)
        short: Counter[str] = Counter()
        heldout = {n: size for n, size in sorted(manifest.splits["heldout"].items()) if size.rows}
        sources = {name: _of_rows(data, manifest, name, short) for name in heldout}
        num_documents = {name: size.documents for name, size in heldout.items()}
        if not sources:
            raise UserError(f"{data.path}: the data set has no held-out rows")
        origin = {"rows": str(data.path), "data_fingerprint": manifest.fingerprint}
        bad = short
    chosen: dict[str, tuple[str, ...]] = {}
    samples: dict[str, Sample] = {}
    for name, texts in sources.items():
        found = _chosen(texts, max_bytes_per_source, fits)
        if rest := found.num_cut + found.num_unread:
            bad["beyond heldout.max_bytes_per_source"] += rest
        if found.texts:
            whole = found.num_read + found.num_unread
            documents = num_documents.get(name, whole)
            chosen[name] = found.texts
            samples[name] = Sample.of_share(documents, found.num_read / whole)
    if not chosen:
        raise UserError(f"{next(iter(origin.values()))}: no text of {MIN_CHARACTERS} characters")
    return Texts(chosen, origin, dict(bad), samples)


def halves(text: str) -> tuple[str, str]:
    """`text` cut at the white space nearest to its middle; where there is none, in its middle."""
    middle = len(text) // 2
    spaces = [n for n in range(1, len(text) - 1) if text[n].isspace()]
    place = min(spaces, key=lambda n: abs(n - middle)) if spaces else middle
    return text[:place].strip(), text[place:].strip()


class _Chosen(NamedTuple):
    """What was taken of the texts of a source."""

    texts: tuple[str, ...]
    """Whole ones and parts."""
    num_read: int
    """Texts that they are of."""
    num_cut: int
    """Texts of which the end was left out."""
    num_unread: int
    """Texts that were left out."""


def _chosen(texts: Iterator[str], max_bytes: int, fits: Callable[[str], bool]) -> _Chosen:
    """The first of `texts` of at most `max_bytes` together, cut until each fits."""
    chosen: list[str] = []
    used = num_read = num_cut = num_unread = 0
    for text in texts:
        if used >= max_bytes:
            num_unread += 1
            continue
        num_before = len(chosen)
        is_cut = len(text) > max_bytes
        for part in _parts(text[:max_bytes], fits):  # of a whole book, the first pages are needed
            size = len(part.encode())
            if used and used + size > max_bytes:
                used, is_cut = max_bytes, True
                break
            chosen.append(part)
            used += size
        is_read = len(chosen) > num_before
        num_read += is_read
        num_cut += is_cut and is_read
        num_unread += is_cut and not is_read
    return _Chosen(tuple(chosen), num_read, num_cut, num_unread)


def _parts(text: str, fits: Callable[[str], bool]) -> Iterator[str]:
    text = text.strip()
    if not text:
        return
    if len(text) < 2 or fits(text):
        yield text
        return
    for half in halves(text):
        yield from _parts(half, fits)


def texts_of_files(
    config: FileTexts, bad_records: BadRecords
) -> tuple[dict[str, Iterator[str]], dict[str, object], Counter[str]]:
    """(texts by file, what is recorded of the files, bad lines by reason)."""
    paths = find_files(config.files, "texts.files")
    bad: Counter[str] = Counter()
    sources: dict[str, Iterator[str]] = {}
    for path, name in zip(paths, names_of(paths), strict=True):
        if plain_name(path).endswith(".jsonl"):
            (found,) = read_records(
                [path], lambda record: text_field(record, config.field), bad_records
            )
            bad += found.bad
            sources[name] = iter(found.records)
        else:
            sources[name] = iter(_paragraphs(path))
    return sources, {"files": {str(path): file_sha256(path) for path in paths}}, bad


def _paragraphs(path: Path) -> list[str]:
    with text_of(path) as stream:
        content = stream.read()
    if problem := not_utf8(content):
        raise UserError(f"{path}: {problem}")
    paragraphs: list[list[str]] = [[]]
    for line in content.splitlines():
        if line.strip():
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return ["\n".join(lines) for lines in paragraphs if lines]


def _of_rows(
    data: DataConfig, manifest: Manifest, source: str, short: Counter[str]
) -> Iterator[str]:
    """The texts of the held-out rows of `source`, one for each document or part of one in a row."""
    tokenizer = load_tokenizer(data.path / manifest.tokenizer.path)
    special = manifest.special_tokens
    outer = {special.bos, special.eos, special.pad}
    reader = row_reader(data, manifest, "heldout")
    num_rows = manifest.splits["heldout"][source].rows
    for first in range(0, num_rows, ROWS_AT_ONCE):
        numbers = np.arange(first, min(first + ROWS_AT_ONCE, num_rows))
        for row in reader.read(source, numbers).tolist():
            for piece in _pieces(row, outer):
                text = tokenizer.decode(piece, skip_special_tokens=True).strip(REPLACEMENT).strip()
                if len(text) < MIN_CHARACTERS:
                    short[f"pieces of rows of less than {MIN_CHARACTERS} characters"] += 1
                else:
                    yield text


def _pieces(row: Sequence[int], outer: set[int]) -> Iterator[list[int]]:
    piece: list[int] = []
    for token in row:
        if token in outer:
            if piece:
                yield piece
            piece = []
        else:
            piece.append(token)
    if piece:
        yield piece
