"""Evaluates models side by side: ``python -m pipeline.evaluate MODEL... [CONFIG]``.

MODEL is the folder or the config of a run (RUN, RUN@STEP, RUN@best), a checkpoint, or a Hugging
Face folder. CONFIG says which checks, on what; without one, everything that the models and the
run's own data allow. Overrides are keys of CONFIG or, where a model is given by its run's config,
keys of that: `data.path`, `evaluation.rows_per_source` and `tasks.NAME.dev` evaluate on other rows
and files.
"""

from collections.abc import Sequence
from pathlib import Path

from configs import command
from configs.credentials import credentials_in
from configs.load import UserError, read_tree, validate, with_overrides
from configs.terminal import visible
from pipeline.checkpoint.choice import add_choice
from pipeline.evaluation.checks import evaluate_models, fingerprint_of
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.finding import MODEL_FORMS, find_models
from pipeline.evaluation.inputs import read_inputs
from pipeline.evaluation.models import FoundModel
from pipeline.evaluation.record import record
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.terminal import table
from pipeline.evaluation.written import REPORT_NAME, check_folder, results_folder, write_results

RUN_KEYS = frozenset(("model", "tasks", "total_rows", "start", "objective", "batch"))
"""Keys by which the config of a run differs from a file of checks."""
EVALUATION_KEYS = frozenset(EvaluationConfig.model_fields)


def main() -> None:
    """Prints a table, and writes it as JSON and HTML, and to MLflow."""
    parser = command.CommandParser(
        "Evaluate models side by side: held-out text, probes, embeddings, speed.",
        takes_overrides=True,
    )
    parser.add_argument(
        "models",
        metavar="MODEL|CONFIG.yaml|key.sub=value",
        nargs="+",
        help=f"models: {MODEL_FORMS}; at most one file of checks; values, as YAML, that replace "
        "those of the file of checks or of a run's config",
    )
    add_choice(parser)
    arguments = parser.parse_args()
    words = [word for word in arguments.models if not command.is_override(word)]
    overrides = [word for word in arguments.models if command.is_override(word)]
    own = [text for text in overrides if text.split("=")[0].split(".")[0] in EVALUATION_KEYS]
    of_runs = [text for text in overrides if text not in own]
    config, words = read_config(words, own)
    models = find_models(words, config.models, of_runs, arguments.step, arguments.best)
    evaluate(config, models)


def read_config(
    words: Sequence[str], overrides: Sequence[str]
) -> tuple[EvaluationConfig, list[str]]:
    """(the config among `words` with `overrides`, the other words, which are models).

    A YAML file is a config of an evaluation unless it has a key of a run. Raises UserError for two
    of them, and where no model is left.
    """
    files = [word for word in words if Path(word).suffix in (".yaml", ".yml")]
    trees = {word: read_tree(word) for word in files}
    chosen = [word for word, tree in trees.items() if not RUN_KEYS & tree.keys()]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)}: at most one file of checks")
    origin = chosen[0] if chosen else "command line"
    tree = with_overrides(trees[origin] if chosen else {}, overrides)
    config = validate(tree, EvaluationConfig, origin, tuple(credentials_in(tree)))
    models = [word for word in words if word not in chosen]
    if not models and not config.models:
        raise UserError(f"{origin}: no model: {MODEL_FORMS}, or set models in the file of checks")
    return config, models


def evaluate(config: EvaluationConfig, models: Sequence[FoundModel]) -> Evaluation:
    """The results of `models`, which are written, recorded and printed.

    Raises UserError, before any model is computed, for probes and texts that cannot be read and
    for a folder that holds a different evaluation.
    """
    inputs = read_inputs(config, models)
    fingerprint = fingerprint_of(config, models, inputs)
    folder = results_folder(config, [model.name for model in models], fingerprint)
    check_folder(folder, fingerprint)
    evaluation = evaluate_models(config, models, inputs)
    write_results(evaluation, folder)
    print(visible(table(evaluation)))
    print(visible(f"{folder / REPORT_NAME}"))
    if config.mlflow.enabled:
        record(evaluation, models, config.mlflow, folder)
    return evaluation


if __name__ == "__main__":
    command.run(main)
