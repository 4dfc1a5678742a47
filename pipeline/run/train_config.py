"""Loads the config of a pretraining run; where it has a `start`, the model comes from there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from configs.credentials import credentials_in
from configs.load import UserError, merged, read_tree, validate
from configs.paths import ConfigPath
from data_prep.dataset.files import read_json
from model.config import ModelConfig
from pipeline.checkpoint.stored_model import stored_model
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import RUN_NAME
from pipeline.start.architecture import check_architecture
from pipeline.start.config import PretrainingStart, Scratch
from pipeline.start.pretrained import model_of_start
from pipeline.start.record import own_checkpoint

_START: TypeAdapter[PretrainingStart] = TypeAdapter(PretrainingStart)
_PATH: TypeAdapter[Path] = TypeAdapter(ConfigPath)
_ANY_MODEL = {"num_layers": 1, "hidden_size": 1, "num_attention_heads": 1}


def load_train(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config in `path`, its model section completed.

    Raises ConfigError as `configs.load.load` does, and UserError for a start that is not there.
    """
    tree = read_tree(path, overrides)
    return complete_config(tree, str(path), tuple(credentials_in(tree)))


def complete_config(
    tree: Mapping[str, Any], origin: str, errors: Sequence[str] = ()
) -> TrainConfig:
    """The config of a file's `tree`; `origin` and `errors` are those of `configs.load.validate`.

    With a `start`, the model is that of the start, or of the run itself where that has been started
    before; a model section gives training choices, or repeats the rest. Raises ConfigError that
    names every key in which it disagrees.
    """
    start = _start_of(tree)
    if start is None:
        # Reported without the keys of a model that is not known.
        validate({**tree, "model": _ANY_MODEL}, TrainConfig, origin, errors)
        raise AssertionError(f"{origin}: a start that only the whole config accepts")
    if isinstance(start, Scratch):
        return validate(tree, TrainConfig, origin, errors)
    model, given = _model_of_run(tree), tree.get("model")
    of_start = None if model is not None else model_of_start(start)
    base = model or of_start
    assert base is not None
    if given is None or isinstance(given, dict):
        given = merged(base.model_dump(mode="json"), given or {})
    config = validate({**tree, "model": given}, TrainConfig, origin, errors)
    if of_start is not None:  # what changed since a run was started, its folder says
        free = () if start.new_tokens is None else ("pad_token_id", "positions.offset")
        check_architecture(of_start, config.model, start.grow, str(start.path), free)
    return config


def _start_of(tree: Mapping[str, Any]) -> PretrainingStart | None:
    """The start that a config names; None for one with errors."""
    given = tree.get("start", {})
    if isinstance(given, dict):
        given = {"type": Scratch().type, **given}
    try:
        return _START.validate_python(given)
    except ValidationError:
        return None


def _model_of_run(tree: Mapping[str, Any]) -> ModelConfig | None:
    """The model of the run in the output folder of a config, which may have lost its start since;
    None where there is no run."""
    try:
        output = _PATH.validate_python(tree.get("output"))
    except ValidationError:
        return None
    try:
        return ModelConfig.from_stored(read_json(output / RUN_NAME)["config"]["model"])
    except (OSError, UserError, KeyError, TypeError, ValueError):
        # No run there, or a damaged record of one, which its next start reports.
        checkpoint = own_checkpoint(output)
        return None if checkpoint is None else stored_model(checkpoint)
