"""Writes minimal pairs in BLiMP's form: ``python -m pipeline.evaluation.make_pairs FOLDER``.

English agreement from templates, and with texts of any language word order: sentences in which two
neighbouring words are swapped.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from configs import command
from configs.load import UserError
from configs.writable import check_folder
from data_prep.dataset.atomic import write_atomic
from pipeline.evaluation.config import FileTexts, RowsTexts
from pipeline.evaluation.made_pairs import agreement_pairs, word_order_pairs
from pipeline.evaluation.minimal_pairs import MinimalPair
from pipeline.evaluation.texts import read_texts

MAX_TEXT_BYTES = 50_000_000

logger = logging.getLogger(__name__)


def main() -> None:
    """Writes a file for each phenomenon."""
    parser = command.plain_parser("Write minimal pairs of agreement (English) and word order.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to write the files")
    parser.add_argument("--count", type=int, default=500, help="pairs of each phenomenon, at most")
    parser.add_argument("--no-agreement", action="store_true", help="no English templates")
    parser.add_argument(
        "--rows", metavar="FOLDER", type=Path, help="word order from held-out rows of a data set"
    )
    parser.add_argument(
        "--texts", metavar="FILE", help="word order from a text file or JSON lines (or a glob)"
    )
    parser.add_argument("--field", default="text", help="key of the text in JSON lines")
    arguments = parser.parse_args()
    if arguments.count < 1:
        raise UserError(f"--count {arguments.count}: give a number above 0")
    check_folder(arguments.folder, "FOLDER")
    made: dict[str, Sequence[MinimalPair]] = {}
    if not arguments.no_agreement:
        made |= agreement_pairs(arguments.count)
    for config in (
        RowsTexts(path=arguments.rows) if arguments.rows else None,
        FileTexts(files=(arguments.texts,), field=arguments.field) if arguments.texts else None,
    ):
        if config is None:
            continue
        texts = read_texts(config, None, MAX_TEXT_BYTES, "refuse", lambda text: True)
        assert texts is not None
        for source, of_source in texts.sources.items():
            swapped = word_order_pairs(of_source, arguments.count)
            if not swapped:
                logger.warning("%s: no whole sentence with two words to swap", source)
                continue
            made[f"word_order_{source.replace('/', '_')}"] = swapped
    if not made:
        raise UserError("nothing to write: give --rows or --texts, or leave out --no-agreement")
    for name, pairs in made.items():
        path = arguments.folder / f"{name}.jsonl"
        if path.exists():
            raise UserError(f"{path}: exists already; choose a new folder")
        write_atomic(path, "".join(map(_line, pairs)))
        logger.info("%s: %d pairs", path, len(pairs))


def _line(pair: MinimalPair) -> str:
    tree = {
        "sentence_good": pair.good,
        "sentence_bad": pair.bad,
        "linguistics_term": pair.phenomenon,
    }
    return json.dumps(tree, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    command.run(main)
