"""Plain text: a record a line."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from configs.load import Config, ConfigError
from pipeline.finetuning.inputs.content import not_utf8, text_of
from pipeline.finetuning.inputs.fields import Fields
from pipeline.finetuning.inputs.record import BadRecord, Record

logger = logging.getLogger(__name__)

_ID = "id"
"""What lines of plain text never have, wherever the config says that it stands."""


class PlainLines(Config):
    """Plain text without labels, one text a line, for predictions; an empty line is an empty
    text."""

    type: Literal["lines"] = "lines"

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The lines of a file; ConfigError for tasks whose records hold more than one text."""
        needed = [name for name in fields.names if fields.is_needed(name) and name != _ID]
        if len(needed) != 1:
            raise ConfigError(
                f"{path}: a line of plain text is one text, but a record of this task has "
                f"{' and '.join(needed)}: give JSON lines or a table with these fields, or the "
                "task's format: {type: ...} if this is no plain text"
            )
        optional = [name for name in fields.optional if name != _ID]
        lacking = f", without {' and '.join(optional)}" if optional else ""
        logger.info("%s: plain text: a line is %s%s", path, needed[0], lacking)
        with text_of(path) as stream:
            for number, line in enumerate(stream, start=1):
                place = f"line {number}"
                if problem := not_utf8(line):
                    yield Record(place, error=BadRecord("syntax", problem))
                else:
                    yield Record(place, {needed[0]: line.rstrip("\r\n")})
