"""What was cut from the tasks' files, left out or is suspicious: at a run's start, at its end, and
in its record."""

import logging
import re
from collections.abc import Iterator, Mapping

from pipeline.finetuning.examples import ExampleFile

OVERLAP = "texts that are in train too"
"""The name of the count of dev records with a text, or a pair, that is trained on."""
Splits = Mapping[str, Mapping[str, ExampleFile]]
"""By split ("train", "dev") and task."""

logger = logging.getLogger(__name__)


def account(splits: Splits) -> dict[tuple[str, str], dict[str, int]]:
    """By task and split, the counts above 0 by their names."""
    found = {}
    for split, files in splits.items():
        for task, file in files.items():
            counts = dict(file.counts)
            if split != "train" and (overlap := num_shared(splits["train"][task], file)):
                counts[OVERLAP] = overlap
            if counts:
                found[task, split] = counts
    return found


def num_shared(train: ExampleFile, other: ExampleFile) -> int:
    """The records of `other` whose texts are exactly those of a record of `train`."""
    trained = {record.text_key for record in train.records}
    return sum(record.text_key in trained for record in other.records)


def account_lines(splits: Splits) -> list[str]:
    """A line for each task and split with something to account for."""
    return [
        f"{task}, {split}: {', '.join(f'{count:,} {name}' for name, count in counts.items())} "
        f"(of {splits[split][task].num_lines:,} records)"
        for (task, split), counts in account(splits).items()
    ]


def account_parameters(splits: Splits) -> dict[str, int]:
    """The counts under the names that they are recorded with: ``data.TASK.SPLIT.COUNT``."""
    return dict(_parameters(splits))


def log_account(splits: Splits) -> None:
    """Repeats the account at the end of a run, where it is seen."""
    for line in account_lines(splits):
        logger.info("of the files of %s", line)


def _parameters(splits: Splits) -> Iterator[tuple[str, int]]:
    for (task, split), counts in account(splits).items():
        for name, count in counts.items():
            slug = re.sub(r"[^a-z0-9]+", "_", name.lower())
            yield f"data.{task}.{split}.{slug}", count
