"""Which verbatim evaluation texts decontamination finds, in many languages.

``python -m benchmarks.data_decontamination [FOLDER] [--languages zh-cn ja ...]``

The documents are LibreOffice's help pages in the languages of Debian (see
`benchmarks.data_languages`). Lines of half of the pages are the evaluation texts, short ones (8 to
12 words) and long ones, and each is put into a page of the other half. Prints a Markdown table: the
planted texts that are found, the other pages that are found because they have such a line by
chance, and MB of documents per CPU second, without and with short texts.
"""

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.data_languages import pages_of, text_of
from configs import command
from data_prep.dedup.config import DecontaminateConfig
from data_prep.dedup.evaluation import HeldoutPart, excluded_of
from data_prep.dedup.exclusion import exclusion_files, exclusion_stage
from data_prep.dedup.exclusion_table import ExclusionTable
from data_prep.dedup.limits import DedupLimits
from data_prep.engine.stage import StageResult
from data_prep.text.batch import TextBatch
from data_prep.text.normalise import normalise

LANGUAGES = "en-us de fr ru el hi ko zh-cn ja km"
RULES = DecontaminateConfig()
_PAGES, _TEXTS, _BATCH = 1200, 150, 50


def main() -> None:
    """Fetches the missing packages and prints the table."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("folder", nargs="?", type=Path, help="where the packages are kept")
    parser.add_argument("--languages", default=LANGUAGES, help="codes of Debian's packages")
    arguments = parser.parse_args()
    print("| language | short found | long found | other pages found | MB/s | with short texts |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for code in arguments.languages.split():
            print_row(code, arguments.folder or Path(temporary), Path(temporary))


def print_row(code: str, packages: Path, folder: Path) -> None:
    """A row of the table."""
    generate = random.Random(0)
    pages = sorted(pages_of(packages, code).items())
    texts = normalise([text_of(path) for _, path in pages[:: max(len(pages) // _PAGES, 1)]])
    generate.shuffle(texts)
    documents, unseen = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    known = {line for text in documents for line in text.split(b"\n")}
    lines = sorted({line for text in unseen for line in text.split(b"\n")} - known)
    words = TextBatch(lines).word_counts
    of_length = [
        np.flatnonzero((words >= RULES.min_text_words) & (words < RULES.ngram_words)),
        np.flatnonzero(words > RULES.ngram_words),
    ]
    chosen = [generate.sample(numbers.tolist(), _TEXTS) for numbers in of_length]
    short, long = ([lines[number] for number in numbers] for numbers in chosen)
    for number, line in enumerate(short + long):
        documents[number] = b"%s\n%s\n%s" % (documents[number], line, documents[-1 - number])
    both, _ = found_in(documents, short + long, folder)
    _, seconds = found_in(documents, long, folder)
    _, seconds_with_short = found_in(documents, short + long, folder)
    size = sum(map(len, documents)) / 1e6
    print(
        f"| {code} | {both[:_TEXTS].sum()} of {_TEXTS} | "
        f"{both[_TEXTS : 2 * _TEXTS].sum()} of {_TEXTS} | "
        f"{both[2 * _TEXTS :].sum()} of {len(both) - 2 * _TEXTS} | {size / seconds:.0f} | "
        f"{size / seconds_with_short:.0f} |",
        flush=True,
    )


def found_in(
    documents: Sequence[bytes], evaluation: Sequence[bytes], folder: Path
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], float]:
    """Whether each document has one of the evaluation texts, and the CPU seconds of the search."""
    excluded = excluded_of([evaluation], RULES)
    excluded.write(folder, "quiz")
    part = HeldoutPart(name="quiz", set_name="quiz", files=[])
    of_part = StageResult(
        folder=folder, parts=[part], records=[excluded.counts], content_fingerprint=""
    )
    stage = exclusion_stage(["quiz"], of_part, DedupLimits())
    records = [stage.run_part(folder, ranges).counts for ranges in stage.parts]
    made = StageResult(folder=folder, parts=stage.parts, records=records, content_fingerprint="")
    table = ExclusionTable(exclusion_files(made), RULES.ngram_words, RULES.min_text_words)
    started_at = time.process_time()
    found = [
        table.matches(TextBatch(documents[at : at + _BATCH])).counts() > 0
        for at in range(0, len(documents), _BATCH)
    ]
    return np.concatenate(found), time.process_time() - started_at


if __name__ == "__main__":
    command.run(main)
