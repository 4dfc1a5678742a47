"""Files -> examples of a task; every bad record is reported with its file and place, or counted."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from configs.load import UserError, fingerprint
from data_prep.dataset.manifest import file_sha256
from pipeline.finetuning.examples import Example, ExampleFile, Line, RowEncoder, SourceRecord
from pipeline.finetuning.inputs.fields import Fields
from pipeline.finetuning.inputs.formats import Reader
from pipeline.finetuning.inputs.record import BadRecord, Reason, Record

MAX_SHOWN_ERRORS = 10
MAX_SHOWN_LABELS = 20
SKIPPED = "skipped"
EMPTY_TEXTS = "empty texts"
DUPLICATE_IDS = "duplicate ids"

LineT = TypeVar("LineT", bound=Line)


@dataclass(frozen=True)
class Source(Generic[LineT]):
    """How the records of a task are read."""

    schema: type[LineT]
    label_fields: tuple[str, ...]
    """The fields that hold what is predicted."""
    needs_labels: bool
    """Whether a record without them is bad."""
    format: Reader
    fields: Fields
    skip: tuple[Reason, ...]
    """Bad records that are left out and counted; others are errors."""


def read_examples(
    files: Sequence[Path],
    source: Source[LineT],
    encoder: RowEncoder,
    examples_of: Callable[[LineT, int], list[Example]],
) -> ExampleFile:
    """The examples that `examples_of(line, number)` makes of every record of `files`.

    Raises UserError that names, for every file, the first few bad records and what is wrong.
    """
    before = Counter(encoder.counts)
    reading = _Reading(source, examples_of)
    for path in files:
        reading.read(path)
    reading.raise_errors()
    if not reading.examples:
        skipped = f", {sum(reading.skipped.values())} were skipped" if reading.skipped else ""
        names = ", ".join(str(path) for path in files[:3])
        raise UserError(f"{names}: holds no examples{skipped}")
    hashes = [file_sha256(path) for path in files]
    return ExampleFile(
        files=tuple(files),
        sha256=hashes[0] if len(hashes) == 1 else fingerprint(hashes),
        examples=tuple(reading.examples),
        records=tuple(reading.records),
        counts=reading.counts(encoder.counts - before),
    )


@dataclass
class _Reading(Generic[LineT]):
    """What has been read of a split so far."""

    source: Source[LineT]
    examples_of: Callable[[LineT, int], list[Example]]
    examples: list[Example] = field(default_factory=list)
    records: list[SourceRecord] = field(default_factory=list)
    skipped: Counter[Reason] = field(default_factory=Counter)
    errors: dict[Path, list[str]] = field(default_factory=dict)
    error_reasons: Counter[Reason] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    """Labels that the task does not have."""
    num_empty: int = 0

    def read(self, path: Path) -> None:
        """Adds the records of a file."""
        for record in self.source.format.records(path, self.source.fields):
            try:
                self._add(path, record)
            except BadRecord as error:
                self._bad(path, record.place, error)

    def _add(self, path: Path, record: Record) -> None:
        if record.error is not None:
            raise record.error
        line = self._validated(record)
        texts = [getattr(line, name) for name in self.text_fields]
        key = _encoded(texts)
        labels = _encoded([getattr(line, name) for name in self.source.label_fields])
        if key is None or labels is None:
            check_unicode(line.model_dump(exclude={"id"}))
        examples = self.examples_of(line, len(self.records) + 1)
        self.num_empty += any(_is_empty(text) for text in texts)
        digest = hashlib.blake2b(key or b"", digest_size=8).digest()
        own_id = None if line.id is None else str(line.id)
        self.records.append(SourceRecord(path, record.place, digest, own_id))
        self.examples += examples

    @cached_property
    def text_fields(self) -> tuple[str, ...]:
        """The fields that a prediction is made from."""
        others = ("id", *self.source.label_fields)
        return tuple(name for name in self.source.schema.model_fields if name not in others)

    def _validated(self, record: Record) -> LineT:
        labels = self.source.label_fields
        values = {
            name: value
            for name, value in record.values.items()
            if name not in labels or not (isinstance(value, str) and is_missing(value))
        }
        try:
            line = self.source.schema.model_validate(values)
        except ValidationError as error:
            messages = "; ".join(_describe(item) for item in error.errors())
            missing = all(item["type"] == "missing" for item in error.errors())
            raise BadRecord("missing" if missing else "value", messages) from None
        if self.source.needs_labels:
            for name in self.source.label_fields:
                if is_missing(getattr(line, name)):
                    raise BadRecord("missing", f"{name}: required, but missing")
        return line

    def _bad(self, path: Path, place: str, error: BadRecord) -> None:
        if error.reason in self.source.skip:
            self.skipped[error.reason] += 1
            return
        self.errors.setdefault(path, []).append(f"{place}: {error}")
        self.error_reasons[error.reason] += 1
        if error.value is not None:
            self.unknown[error.value] += 1

    def raise_errors(self) -> None:
        """Raises UserError if a record was bad."""
        if not self.errors:
            return
        blocks = []
        for path, lines in self.errors.items():
            shown = "".join(f"\n  {line}" for line in lines[:MAX_SHOWN_ERRORS])
            more = len(lines) - MAX_SHOWN_ERRORS
            rest = f"\n  and {more:,} more" if more > 0 else ""
            blocks.append(f"{path}: {len(lines):,} error(s){shown}{rest}")
        blocks += self._advice()
        raise UserError("\n".join(blocks))

    def _advice(self) -> Iterator[str]:
        if self.unknown:
            shown = [f"{label!r} {n:,}" for label, n in self.unknown.most_common(MAX_SHOWN_LABELS)]
            rest = len(self.unknown) - MAX_SHOWN_LABELS
            more = f" and {rest} more" if rest > 0 else ""
            yield f"unknown labels: {', '.join(shown)}{more}: name them in labels or label_names"
        reasons = [f"{reason} ({count:,})" for reason, count in self.error_reasons.most_common()]
        yield (
            f"by reason: {', '.join(reasons)}; to leave such records out and count them, list the "
            "reason in the task's `skip`"
        )

    def counts(self, cut: Counter[str]) -> dict[str, int]:
        """What the start and the end of a run say of this split; `cut` is what the encoder cut."""
        ids = [record.id for record in self.records if record.id is not None]
        found = {
            **cut,
            **{f"{SKIPPED}: {reason}": n for reason, n in sorted(self.skipped.items())},
            EMPTY_TEXTS: self.num_empty,
            DUPLICATE_IDS: len(ids) - len(set(ids)),
        }
        return {name: count for name, count in found.items() if count > 0}


def is_missing(value: Any) -> bool:
    """Whether a label is not given: nothing, an empty text, or NaN, as tables store nothing."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _encoded(values: list[Any]) -> bytes | None:
    """The values as bytes; None if a text of them is not Unicode."""
    try:
        return json.dumps(values, ensure_ascii=False, default=repr).encode()
    except UnicodeEncodeError:
        return None


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, list | tuple) and any(_is_empty(item) for item in value)


def check_unicode(value: Any, path: str = "") -> None:
    """Raises BadRecord for a text with half of a surrogate pair, which JSON can escape."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start].encode("ascii", "backslashreplace").decode()
            message = f"{path}: not Unicode: {half} is half of a surrogate pair"
            raise BadRecord("syntax", message) from None
        return
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    else:
        items = enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        check_unicode(item, f"{path}.{key}" if path else str(key))


def _describe(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    shown = repr(item["input"])
    if item["type"] == "missing":
        return f"{name}: required, but missing"
    return f"{name}: {item['msg']}, got {shown if len(shown) <= 60 else shown[:57] + '...'}"
