"""Finds the models that a command line and a config name, and checks what can be checked early."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from configs.load import UserError, fingerprint
from data_prep.dataset.tokenizer import text_tokenizer
from pipeline.checkpoint.choice import choose_checkpoint
from pipeline.checkpoint.manifest import MANIFEST_NAME
from pipeline.checkpoint.stored_model import stored_model
from pipeline.checkpoint.tokenizer import special_tokens_of, tokenizer_of
from pipeline.data.shard_cache import open_data_set
from pipeline.evaluation.as_trained import phase_of
from pipeline.evaluation.folders import model_of_folder
from pipeline.evaluation.models import FoundModel
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.run_config import load_result, stored_run
from pipeline.hugging_face.folder import CONFIG_NAME
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.run_folder import checkpoints_folder

MODEL_FORMS = (
    "give the folder or the config of a run (RUN, RUN@STEP, RUN@best), one of its checkpoints, or "
    "a Hugging Face folder"
)


def find_models(
    words: Sequence[str],
    names: Mapping[str, str],
    overrides: Sequence[str] = (),
    step: int | None = None,
    best: bool = False,
) -> list[FoundModel]:
    """The models of the command line (`words`) and of the config (`names`, by name).

    `overrides` belong to run configs; `step` and `best` to runs without a choice of their own.
    Raises UserError for what is no model, and for options that belong to none.
    """
    found: list[FoundModel] = []
    configs = runs = 0
    for name, word in [*(("", word) for word in words), *names.items()]:
        path, own_step, own_best = _choice_in(word)
        is_config = path.suffix in (".yaml", ".yml") and path.is_file()
        is_folder = (path / CONFIG_NAME).is_file()
        configs += is_config
        runs += not is_folder
        if is_folder:
            if own_step is not None or own_best:
                raise UserError(f"{word}: a Hugging Face folder has no steps: leave out '@...'")
            model = model_of_folder(path)
        else:
            if own_step is None and not own_best:
                own_step, own_best = step, best
            model = _of_run(path, overrides if is_config else (), own_step, own_best)
        found.append(replace(model, name=_free_name(name or model.name, found)))
    if overrides and not configs:
        raise UserError(
            f"{overrides[0]}: neither a key of an evaluation nor of a run's config, of which none "
            "is given"
        )
    if (step is not None or best) and not runs:
        raise UserError("--step and --best choose a checkpoint of a run, and none is given")
    return found


def _choice_in(word: str) -> tuple[Path, int | None, bool]:
    """(path, step, whether the best) of ``PATH``, ``PATH@STEP`` or ``PATH@best``."""
    path, at, choice = word.rpartition("@")
    if Path(word).exists() or not at:
        return Path(word), None, False
    if choice == "best":
        return Path(path), None, True
    if not choice.isdecimal():
        raise UserError(f"{word}: after '@' stands a step or 'best'; {MODEL_FORMS}")
    return Path(path), int(choice), False


def _of_run(path: Path, overrides: Sequence[str], step: int | None, best: bool) -> FoundModel:
    config: RunConfig | None = None
    if path.is_file():
        config = load_result(path, overrides)
        folder, run_folder = checkpoints_folder(config), config.output
    elif (path / MANIFEST_NAME).is_file() and path.parent.name == "checkpoints":
        folder, run_folder = path.parent, path.parent.parent
        step = int(path.name.rpartition("-")[2])
    else:
        folder, run_folder = path / "checkpoints", path
        if not folder.is_dir():
            what = "no model" if path.exists() else "no such file or folder"
            raise UserError(f"{path}: {what}; {MODEL_FORMS}")
    checkpoint = choose_checkpoint(folder, step, best)
    stored = config is None
    if config is None:
        config = stored_run(checkpoint, run_folder)
    tokenizer = tokenizer_of(checkpoint, lambda: _beside_rows(config))
    special = special_tokens_of(checkpoint, tokenizer)
    manifest = checkpoint.manifest
    no_masks = ""
    if isinstance(config, FinetuneConfig):
        no_masks = "fine-tuned: its masked-language-model head is not evaluated"
    elif isinstance(config, TrainConfig) and config.objective.type == "replaced_tokens":
        no_masks = "the discriminator of replaced_tokens has no masked-language-model head"
    elif isinstance(config, TrainConfig) and phase_of(config, checkpoint)[1].objective.IS_CAUSAL:
        no_masks = "trained to predict next tokens, not masked ones"
    return FoundModel(
        name=f"{run_folder.name or run_folder.resolve().name}@{manifest.step}",
        path=checkpoint.path,
        config=stored_model(checkpoint),
        vocab_size=manifest.vocab_size,
        tokenizer=text_tokenizer(tokenizer, special),
        special=special,
        no_masks=no_masks,
        origin={
            "kind": "fine-tuned run" if isinstance(config, FinetuneConfig) else "pretraining run",
            "path": str(checkpoint.path.resolve()),
            "run": config.name,
            "step": manifest.step,
            "rows": manifest.consumed_rows,
            "sha256": manifest.sha256 or fingerprint([f.sha256 for f in manifest.files]),
            "data_fingerprint": manifest.data_fingerprint,
            "tokenizer_sha256": manifest.tokenizer_sha256,
            "tracking_run_id": manifest.tracking_run_id,
        },
        run=config,
        is_stored_config=stored,
        checkpoint=checkpoint,
    )


def _beside_rows(config: RunConfig) -> Path:
    if not isinstance(config, TrainConfig):
        raise UserError(f"{config.output}: the checkpoint carries no tokenizer")
    return config.data.path / open_data_set(config.data).tokenizer.path


def _free_name(name: str, taken: Sequence[FoundModel]) -> str:
    names = {model.name for model in taken}
    number, free = 1, name
    while free in names:
        number += 1
        free = f"{name}-{number}"
    return free
