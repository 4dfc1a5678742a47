"""What a checkpoint says about the model that it holds, which a config may only repeat.

Export, replay and registration take the architecture, the objective, the tasks with their labels
and the tokenizer from here. Imports no torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from configs.differences import Difference, differences
from configs.load import UserError
from configs.redact import redact
from data_prep.dataset.manifest import SpecialTokens
from model.config import ModelConfig
from model.hugging_face.families import family_of_model
from model.hugging_face.family import Family
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.checkpoint.stored_model import stored_model
from pipeline.checkpoint.tokenizer import special_tokens_of, tokenizer_of
from pipeline.run.changes import changed_later
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.steps import RunSteps

ConfigT = TypeVar("ConfigT", bound=RunConfig)

OF_THE_START = ("start",)
"""Parts of a run's identity that decide its first weights: a checkpoint holds what became of them,
and the folder that they came from may have been moved since."""


@dataclass(frozen=True)
class TrainedModel(Generic[ConfigT]):
    """The model in a checkpoint."""

    checkpoint: Checkpoint
    config: ConfigT
    """The config that it was trained with."""
    model: ModelConfig
    """The architecture, for weights that are loaded."""
    vocab_size: int
    """Vocabulary without padding."""
    tokenizer: Path
    """File of the tokenizer; its hash is checked."""
    special: SpecialTokens
    """Ids of its special tokens."""

    @property
    def family(self) -> Family:
        """The Hugging Face family that it is exported as: that of the folder that its training
        started from, if it still computes the model.

        Raises ConfigError that names, for the nearest families, every setting to change.
        """
        start = self.checkpoint.manifest.start
        started = [record.model_type for record in start.ancestors()] if start else []
        return family_of_model(self.model, preferred=next(filter(None, started), None))


def read_trained(
    config: ConfigT, checkpoint: Checkpoint, tokenizer_elsewhere: Callable[[], Path]
) -> TrainedModel[ConfigT]:
    """The model in `checkpoint`, which was trained by the run of `config`.

    `tokenizer_elsewhere` finds the tokenizer of a checkpoint that carries none. Raises UserError
    that names every key in which `config` disagrees with the checkpoint.
    """
    stored = check_config(config, checkpoint)
    manifest = checkpoint.manifest
    model = stored_model(checkpoint)
    tokenizer = tokenizer_of(checkpoint, tokenizer_elsewhere)
    special = special_tokens_of(checkpoint, tokenizer)
    return TrainedModel(checkpoint, stored, model, manifest.vocab_size, tokenizer, special)


def check_config(config: ConfigT, checkpoint: Checkpoint) -> ConfigT:
    """The config that `checkpoint` was trained with.

    Raises UserError that names every key in which `config` disagrees with it: those of the identity
    of a run, which training does not let change either.
    """
    # Fine-tuned checkpoints of older versions keep the whole model's config under "network".
    tree = {key: part for key, part in checkpoint.manifest.config.items() if key != "network"}
    if ("tasks" in tree) != ("tasks" in type(config).model_fields):
        kind = "a fine-tuning run" if "tasks" in tree else "a pretraining run"
        raise UserError(f"{checkpoint.path}: the checkpoint of {kind}, which the config is not")
    stored = type(config).from_stored(redact(tree, {}), origin=str(checkpoint.path))
    given = type(config).from_stored(redact(config.model_dump(mode="json"), {}), "this config")
    before, now = (
        {key: part for key, part in run.identity().items() if key not in OF_THE_START}
        for run in (stored, given)
    )
    found = [*differences(before, now), *_of_later_phases(stored, given, checkpoint)]
    lines = [
        f"  {one.path}: {one.before!r} in the checkpoint, {one.now!r} in the config"
        for one in found
    ]
    if lines:
        raise UserError(
            f"the config is not that of {checkpoint.path}; it differs in\n"
            + "\n".join(lines)
            + "\ngive the config and the overrides that the run was trained with"
        )
    return stored


def _of_later_phases(
    stored: RunConfig, given: RunConfig, checkpoint: Checkpoint
) -> Iterator[Difference]:
    """What differs in model and objective of the later phases that the checkpoint has reached."""
    if isinstance(stored, TrainConfig) and isinstance(given, TrainConfig):
        steps = RunSteps(tuple(phase.steps for phase in stored.phases))
        last = steps.phase_of_last_row(checkpoint.manifest.consumed_rows)
        for phase, found in changed_later(stored, given, ["model", "objective"]):
            if phase <= last:
                yield found
