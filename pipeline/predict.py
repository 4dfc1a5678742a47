"""Predicts with a fine-tuned model: ``python -m pipeline.predict FOLDER INPUT --output FILE``.

FOLDER is an exported task (``RUN/hf/TASK``), a fine-tuned run, or a folder of transformers with a
head for a task. INPUT is a file as in training, with or without labels, or plain text (.txt), a
text a line; keys of the task (of its input format, for example) may be given as ``key=value``. The
output has one line for each line of INPUT, in its order. Where there are labels, the metrics are
printed.
"""

import argparse
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from configs import command
from configs.load import UserError, tree_of
from configs.terminal import visible
from configs.writable import check_file
from pipeline.checkpoint.choice import add_choice, choose_checkpoint
from pipeline.hugging_face.folder import CONFIG_NAME
from pipeline.prediction.written import check_suffix, write_predictions

if TYPE_CHECKING:
    from pipeline.prediction.predict import Predicted
    from pipeline.prediction.task_model import TaskModel

BATCH_TOKENS = 8192
DEFAULT_FOLDER = Path("predictions")
"""In the current folder."""
CHECKPOINTS = "checkpoints"

logger = logging.getLogger(__name__)


def main() -> None:
    """Writes the predictions for a file."""
    parser = command.CommandParser(
        "Predict with a fine-tuned model, for the texts of a file.", takes_overrides=True
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="an exported task (RUN/hf/TASK), or a run"
    )
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="files as in training, a path or glob; labels may be missing; .txt: a text a line",
    )
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="optional: keys of the task, such as those of its input format, and max_row_tokens",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"a file .jsonl, .csv or .tsv (default: {DEFAULT_FOLDER}/INPUT.TASK.jsonl)",
    )
    parser.add_argument("--task", metavar="NAME", help="the task, of a run with several")
    add_choice(parser)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of the weights and products"
    )
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=BATCH_TOKENS,
        metavar="N",
        help=f"tokens of one forward pass, padding included (default: {BATCH_TOKENS:,})",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a CPU")
    arguments = parser.parse_args()
    for name in ("batch_tokens", "threads"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if arguments.output is not None:
        check_suffix(arguments.output)
        check_file(arguments.output, "--output")
    if arguments.threads is not None:
        import torch  # late: the errors above need none

        torch.set_num_threads(arguments.threads)
    with _open_model(arguments) as model:
        output = arguments.output or _default_output(arguments.input, model.name)
        check_file(output, "--output")
        predicted = _predict(model, arguments, output)
    _report(model, predicted, output)


@contextmanager
def _open_model(arguments: argparse.Namespace) -> "Iterator[TaskModel]":
    """The model that the command names."""
    folder: Path = arguments.folder
    is_exported = (folder / CONFIG_NAME).is_file()
    if not is_exported and not (folder / CHECKPOINTS).is_dir():
        raise UserError(_advice(folder))
    changes = tree_of(arguments.overrides)
    from pipeline.prediction.task_model import open_checkpoint, open_exported

    if is_exported:
        if arguments.task or arguments.best or arguments.step is not None:
            raise UserError("--task, --step and --best are for the folder of a run")
        opened = open_exported(folder, arguments.input, changes, arguments.precision)
    else:
        checkpoint = choose_checkpoint(folder / CHECKPOINTS, arguments.step, arguments.best)
        logger.info("%s: step %s", folder, f"{checkpoint.manifest.step:,}")
        opened = open_checkpoint(
            checkpoint, arguments.task, arguments.input, changes, arguments.precision
        )
    with opened as model:
        yield model


def _default_output(input_files: str, task: str) -> Path:
    """The file for the predictions of a task for a path or glob, which may name no file itself.

    In a folder of its own: a glob such as ``data/*.jsonl`` must not find it the next time.
    """
    return DEFAULT_FOLDER / re.sub(r"[*?\[\]/]", "_", f"{Path(input_files).name}.{task}.jsonl")


def _advice(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder"
    tasks = sorted(path.parent for path in folder.glob(f"*/{CONFIG_NAME}"))
    if tasks:
        return f"{folder}: holds several exports; give one of {', '.join(map(str, tasks))}"
    return (
        f"{folder}: neither an exported task (no {CONFIG_NAME}) nor a run (no {CHECKPOINTS}); "
        "export a fine-tuned run: python -m pipeline.export CONFIG.yaml"
    )


def _predict(model: "TaskModel", arguments: argparse.Namespace, output: Path) -> "Predicted":
    from pipeline.prediction.predict import predict, read_input

    file = read_input(model)
    predicted, parts = predict(model, file, output, arguments.batch_tokens, arguments.precision)
    write_predictions(output, predicted.predictions)
    parts.remove()
    return predicted


def _report(model: "TaskModel", predicted: "Predicted", output: Path) -> None:
    """What was written, what was cut, and the metrics."""
    num_lines = len(predicted.predictions)
    print(visible(f"{model.name} predicted for {num_lines:,} lines, in {output.absolute()}"))
    for what, count in predicted.file.counts.items():
        print(visible(f"  {count:,} {what}"))
    if predicted.metrics:
        print(f"  metrics of {predicted.num_labelled:,} lines with labels:")
    for name, value in predicted.metrics.items():
        print(f"    {name} {value:.6g}")


if __name__ == "__main__":
    command.run(main)
