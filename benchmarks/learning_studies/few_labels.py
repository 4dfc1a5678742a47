"""Study 5: the comparison of study 1 with a few hundred labelled examples of each task.

The encoder, the random weights, the test splits and everything else are those of study 1, which
has to be run before; the dev splits too, since they only choose between settings.
"""

from pathlib import Path

from benchmarks.learning_studies import pretraining
from benchmarks.learning_studies.labelled import read_examples, write_examples
from benchmarks.learning_studies.results import Results
from benchmarks.learning_studies.tasks import TASKS, task_file
from configs.load import UserError

STUDY = "few-labels"
EXAMPLES = 200
"""Labelled examples of a task."""
MORE_EPOCHS = 4
"""Times those of study 1."""


def run(folder: Path, scale: float) -> None:
    """All of the study; `scale` times the epochs."""
    before = Results(folder, pretraining.STUDY)
    starts = pretraining.starts_of(before)
    if missing := sorted({str(path) for path in starts.values() if not path.exists()}):
        raise UserError(f"{missing[0]}: no such run: run the study {pretraining.STUDY} first")
    tasks = folder / "tasks-few"
    for name in TASKS:
        write_few(folder / "tasks", tasks, name)
    pretraining.score_tasks(Results(folder, STUDY), starts, tasks, scale * MORE_EPOCHS)


def write_few(source: Path, target: Path, name: str) -> None:
    """The files of a task with the first examples of its training split, whose order is random.

    Examples with a label that is not among them are left out of the other splits.
    """
    is_tagging = TASKS[name].is_tagging
    chosen = list(read_examples(task_file(source, name, "train")))[:EXAMPLES]
    known = {label for example in chosen for label in example.labels}
    target.mkdir(exist_ok=True)
    write_examples(task_file(target, name, "train"), chosen, is_tagging)
    for split in ("dev", "test"):
        examples = read_examples(task_file(source, name, split))
        kept = [example for example in examples if known.issuperset(example.labels)]
        write_examples(task_file(target, name, split), kept, is_tagging)
