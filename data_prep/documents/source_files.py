"""The files of all sources."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from configs.load import UserError
from data_prep.documents.config import SourceConfig
from data_prep.readers.files import SourceFile, identity, list_files
from data_prep.readers.local_files import RealPaths

logger = logging.getLogger(__name__)


def source_files(sources: Mapping[str, SourceConfig]) -> dict[str, list[SourceFile]]:
    """The files of every source; one UserError that names all sources without files."""
    found: dict[str, list[SourceFile]] = {}
    problems = []
    for name, source in sources.items():
        try:
            found[name] = list_files(source.reader.files, f"sources.{name}.reader.files")
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    _warn_of_shared_files(found)
    return found


def _warn_of_shared_files(files_of: Mapping[str, Sequence[SourceFile]]) -> None:
    """A file that two sources have is read twice; its documents are duplicates."""
    sources: dict[str, str] = {}
    shared: Counter[tuple[str, str]] = Counter()
    real_paths = RealPaths()
    for source, files in files_of.items():
        for file in files:
            first = sources.setdefault(identity(file, real_paths), source)
            if first != source:
                shared[first, source] += 1
    for (first, source), count in shared.items():
        logger.warning(
            "%d files of source %r are also files of source %r: check the patterns of both",
            *(count, source, first),
        )
