"""A model of an evaluation: what is known of it without its weights, and loading them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from data_prep.dataset.files import read_json
from data_prep.dataset.manifest import SpecialTokens
from model.config import ModelConfig
from pipeline.checkpoint.manifest import Checkpoint
from pipeline.data.config import DataConfig
from pipeline.evaluation.as_trained import phase_of
from pipeline.hugging_face.folder import CONFIG_NAME
from pipeline.run.config import RunConfig, TrainConfig

if TYPE_CHECKING:
    from model.heads import MaskedLanguageModel
    from model.parallel.grid import Grid

TASK_HEADS = ("classifier", "qa_outputs", "score", "discriminator_predictions", "cls.seq_relation")
"""What the tensors of other heads than the masked-language-model's start with: not evaluated."""
TASK_LAYERS = ("head.",)
"""The same, where another head has layers of the names of the masked-language-model's."""


@dataclass(frozen=True)
class FoundModel:
    """A model of which everything but its weights is read."""

    name: str
    path: Path
    """The folder of the checkpoint, or the Hugging Face folder."""
    config: ModelConfig
    vocab_size: int
    tokenizer: Tokenizer
    """Never finds a special token in a text."""
    special: SpecialTokens
    no_masks: str
    """Why it cannot fill masks; empty if it can."""
    origin: Mapping[str, Any]
    """What it is, for the record."""
    run: RunConfig | None = None
    """The config of the run that it is of."""
    is_stored_config: bool = False
    """Whether `run` is what the checkpoint holds, not a config that the user gave."""
    checkpoint: Checkpoint | None = None

    @property
    def max_text_tokens(self) -> int:
        """Tokens of a text that fit into a row, between the begin and the end token."""
        return self.config.max_row_tokens - 2

    def row(self, ids: Sequence[int]) -> list[int]:
        """A row of the model: `ids` of a text between the begin and the end token."""
        return [self.special.bos, *ids, self.special.eos]

    @property
    def run_data(self) -> DataConfig | None:
        """The data set of the phase that its checkpoint is of; None where it is no pretraining."""
        if isinstance(self.run, TrainConfig) and self.checkpoint is not None:
            return phase_of(self.run, self.checkpoint)[1].data
        return None


def load_model(model: FoundModel, grid: "Grid") -> "MaskedLanguageModel":
    """The weights of `model`, in fp32 and without dropout.

    Without a vocabulary head where it cannot fill masks.
    """
    from model.heads import MaskedLanguageModel, build_masked_lm
    from model.parameters import parameter_specs
    from pipeline.checkpoint.reader import TensorReader, check_checkpoint, load_weights
    from pipeline.hugging_face.weights import build_from_hf, read_hf_folder

    if model.checkpoint is None:
        return build_from_hf(read_hf_folder(model.path, left_out(model.path)), grid).eval()
    module: MaskedLanguageModel = build_masked_lm(model.config, model.vocab_size, grid, seed=None)
    manifest = model.checkpoint.manifest
    if model.no_masks:
        del module.head
    else:
        check_checkpoint(manifest, parameter_specs(module), manifest.tokenizer_sha256)
    load_weights(module, TensorReader(model.checkpoint), grid)
    return module.eval()


def left_out(folder: Path) -> tuple[str, ...]:
    """What the names of tensors in a Hugging Face folder start with that are of neither the encoder
    nor the masked-language-model head."""
    try:
        classes = " ".join(map(str, read_json(folder / CONFIG_NAME).get("architectures") or ()))
    except (OSError, ValueError, AttributeError, TypeError):
        return TASK_HEADS  # the reader of the folder says what is wrong with it
    is_task = re.search(r"For(?!MaskedLM|PreTraining)\w+", classes) is not None
    return TASK_HEADS + TASK_LAYERS * is_task
