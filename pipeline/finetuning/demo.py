"""Makes two small tasks from packed rows: ``python -m pipeline.finetuning.demo ROWS FOLDER``.

``source`` (classification): the source that a passage is from. ``capitals`` (token classification):
which words of a lower-cased passage had a capital letter. Training examples are made from training
rows, dev examples from held-out rows.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from configs import command
from configs.load import UserError
from configs.writable import check_folder
from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.manifest import Manifest, Split, read_manifest
from data_prep.dataset.row_reader import RowReader
from data_prep.dataset.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

PASSAGE_WORDS = 16
PASSAGES_PER_SOURCE: dict[Split, int] = {"train": 1500, "heldout": 200}
FILE_NAMES: dict[Split, str] = {"train": "train", "heldout": "dev"}
IS_WORD = re.compile(r"[A-Za-z][a-z]*[.,;:!?]?")


def main() -> None:
    """Writes source-train.jsonl, source-dev.jsonl, capitals-train.jsonl and capitals-dev.jsonl."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("rows", metavar="ROWS", type=Path, help="folder of packed rows")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder for the files")
    arguments = parser.parse_args()
    check_folder(arguments.folder, "FOLDER")
    for path, number in write_tasks(arguments.rows, arguments.folder).items():
        logger.info("%s: %s lines", path, f"{number:,}")


def write_tasks(
    rows: Path, folder: Path, passages_per_source: Mapping[Split, int] = PASSAGES_PER_SOURCE
) -> dict[Path, int]:
    """Writes the files of both tasks and returns their numbers of lines.

    At most `passages_per_source` passages of each source are used. Raises UserError if a source has
    less than a twentieth of that many passages of plain words.
    """
    manifest = read_manifest(rows)
    written = {}
    for split, name in FILE_NAMES.items():
        source_lines, capital_lines = [], []
        for source in sorted(manifest.splits[split]):
            found = sorted(set(passages(rows, manifest, split, source)))
            if len(found) < passages_per_source[split] // 20:
                raise UserError(f"{rows}: too little plain text in the {split} rows of {source}")
            for words in found[:: -(-len(found) // passages_per_source[split])]:
                source_lines.append({"text": " ".join(words), "label": source})
                labels = ["capital" if word[0].isupper() else "small" for word in words]
                lower = [word.lower() for word in words]
                capital_lines.append({"words": lower, "labels": labels})
        for task, lines in (("source", source_lines), ("capitals", capital_lines)):
            path = folder / f"{task}-{name}.jsonl"
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))
            written[path] = len(lines)
    return written


def passages(
    rows: Path, manifest: Manifest, split: Split, source: str
) -> Iterator[tuple[str, ...]]:
    """Sequences of PASSAGE_WORDS plain words in the rows of a source: at most one per row."""
    tokenizer = load_tokenizer(rows / manifest.tokenizer.path)
    reader = RowReader(rows, manifest, split)
    count = manifest.splits[split][source].rows
    for start in range(0, count, 1024):
        block = reader.read(source, np.arange(start, min(start + 1024, count)))
        for text in tokenizer.decode_batch(block.astype(np.int64).tolist()):
            run: list[str] = []
            for word in text.split()[1:]:  # the first may be the end of a longer word
                run = [*run, word] if IS_WORD.fullmatch(word) else []
                if len(run) == PASSAGE_WORDS:
                    yield tuple(run)
                    break


if __name__ == "__main__":
    command.run(main)
