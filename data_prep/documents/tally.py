"""Counts of one part of the first stage: documents and bytes read, kept, dropped and not usable."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep.engine.stage import Record
from data_prep.filters.verdicts import Verdicts
from data_prep.readers.content import kind_of
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import Span
from data_prep.readers.kinds import Archive

_EXAMPLES_PER_REASON = 3
_EXAMPLE_BYTES = 400
_LEAST_RATIO = 3
"""By which text is compressed, at least."""


class Tally:
    """Counts of one part."""

    def __init__(self, bad: BadRecords) -> None:
        """`bad` counts the records of the same part that give no document."""
        self._bad = bad
        self._read = self._read_bytes = 0
        self._dropped: Counter[str] = Counter()
        self._dropped_bytes: Counter[str] = Counter()
        self._characters = 0
        self._spans_with_bad: list[_SpanContent] = []
        self.examples: list[dict[str, Any]] = []

    def add(self, batch: Sequence[Document], texts: Sequence[bytes], verdicts: Verdicts) -> None:
        """Counts a batch of documents, on which the filters have decided."""
        sizes = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        self._read += len(batch)
        self._read_bytes += int(sizes.sum())
        examples: list[int] = []
        for code, reason in enumerate(verdicts.names[1:], start=1):
            dropped = np.flatnonzero(verdicts.codes == code)
            if len(dropped):
                missing = max(_EXAMPLES_PER_REASON - self._dropped[reason], 0)
                examples += dropped[:missing].tolist()
                self._dropped[reason] += len(dropped)
                self._dropped_bytes[reason] += int(sizes[dropped].sum())
        for k in sorted(examples):
            text = texts[k][:_EXAMPLE_BYTES].decode("utf-8", "ignore")
            reason = verdicts.names[verdicts.codes[k]]
            self.examples.append({"reason": reason, "id": batch[k].id, "text": text})

    def in_span(self, span: Span, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents of a span that is being read; counts what else it holds."""
        bad_before = self._bad.num_bytes.total()
        characters = last = 0
        first: int | None = None
        try:
            for document in documents:
                text, _, last, _ = document
                first = last if first is None else first
                characters += len(text)
                yield document
        finally:  # not all of a span may be wanted
            self._characters += characters
            bad_bytes = self._bad.num_bytes.total() - bad_before
            if bad_bytes:
                content = _SpanContent(span, bad_bytes, characters, last - (first or 0))
                self._spans_with_bad.append(content)

    def record(self) -> Record:
        """The counts for the record of the part."""
        bad = self._bad
        return {
            "documents_read": self._read,
            "bytes_read": self._read_bytes,
            "documents": self._read - self._dropped.total(),
            "bytes": self._read_bytes - self._dropped_bytes.total(),
            "dropped": dict(sorted(self._dropped.items())),
            "dropped_bytes": dict(sorted(self._dropped_bytes.items())),
            "bad": dict(sorted(bad.counts.items())),
            "bad_bytes": dict(sorted(bad.num_bytes.items())),
            "bad_file_bytes": self._bad_file_bytes(),
            "bad_examples": bad.examples,
            "likely_encodings": bad.guessed_encodings(),
            "not_read_bytes": dict(sorted(bad.not_read_bytes.items())),
            "cut_files": dict(sorted(bad.cut_files.items())),
            "skipped": dict(sorted(bad.skipped.items())),
            "skipped_bytes": dict(sorted(bad.skipped_bytes.items())),
        }

    def _bad_file_bytes(self) -> int:
        """About how many bytes of the files are in bad records."""
        per_character = self._read_bytes / max(self._characters, 1)
        shares = ((c.span.num_bytes, c.bad_share(per_character)) for c in self._spans_with_bad)
        return round(sum(num_bytes * share for num_bytes, share in shares))


class _SpanContent(NamedTuple):
    """A span with bad records."""

    span: Span
    bad_bytes: int
    characters: int
    """Of its documents."""
    distance: int
    """Between the first and the last document."""

    def bad_share(self, bytes_per_character: float) -> float:
        """The share of its content that is in bad records: in a compressed file, their bytes do not
        compare with those of the file."""
        seen = self.bad_bytes + self.characters * bytes_per_character
        if self.span.group_bytes is not None:  # columns: only the texts compare with a text
            content = seen
        elif self.span.archive != Archive.ZIP and kind_of(self.span.file).compression is None:
            content = self.span.num_bytes
        else:
            content = max(seen, self.distance, _LEAST_RATIO * self.span.num_bytes)
        return min(self.bad_bytes / max(content, 1), 1)
