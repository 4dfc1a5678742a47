"""The config of an evaluation: which checks, on what. Imports no torch.

No key is one of a training run's config, so that an override on the command line belongs to one of
the two.
"""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from configs.load import Config
from configs.paths import ConfigPath, ConfigPathText

ModelName = Annotated[str, StringConstraints(pattern=r"^[\w.@+-]{1,60}\z")]
Pooling = Literal["mean", "first"]
"""Of one vector for a text: the mean over its tokens, or the first token's."""
CheckName = Literal["as_trained", "heldout", "minimal_pairs", "fill_mask", "embeddings", "speed"]
CHECKS: tuple[CheckName, ...] = get_args(CheckName)
WordScore = Literal["word_l2r", "original"]
"""How the pseudo-log-likelihood masks; see `pipeline.evaluation.minimal_pairs`."""


class RowsTexts(Config):
    """Held-out rows of a data set, decoded by its tokenizer."""

    type: Literal["rows"] = "rows"
    path: ConfigPath
    """The folder that data preparation wrote."""


class FileTexts(Config):
    """Texts in files; each file is a source of its name."""

    type: Literal["files"] = "files"
    files: tuple[ConfigPathText, ...]
    """Files or globs. `.jsonl`: an object a line. Any other: plain text, blank lines between
    texts."""
    field: str = "text"
    """The key of the text in JSON lines."""


class RunTexts(Config):
    """The held-out rows of the first model that is a run, of the phase of its checkpoint."""

    type: Literal["run"] = "run"


TextsConfig = Annotated[RowsTexts | FileTexts | RunTexts, Field(discriminator="type")]


class HeldoutConfig(Config):
    """Bits per byte and accuracy on masked words of the same texts, for any tokenizer."""

    max_bytes_per_source: PositiveInt = 20_000
    """UTF-8 bytes of text of every source; what is left out is reported."""
    mask_rate: float = Field(0.15, gt=0, le=0.5)
    """Share of the words of a text that are masked."""
    max_word_tokens: PositiveInt = 16
    """Words of more tokens, by any of the tokenizers, are not masked (addresses, for example)."""


class MinimalPairsConfig(Config):
    """Which of two sentences has the higher pseudo-log-likelihood."""

    files: tuple[ConfigPathText, ...] = ()
    """Files or globs of JSON lines with `sentence_good` and `sentence_bad`, as BLiMP's."""
    from_texts: int = Field(100, ge=0)
    """Sentences of the texts of which two neighbouring words are swapped; 0: none."""
    method: WordScore = "word_l2r"
    """word_l2r: a token is masked with those after it in its word (Kauf & Ivanova 2023); original:
    alone (Salazar et al. 2020)."""
    max_pairs_per_file: PositiveInt | None = None
    """The first pairs of every file (default: all)."""


class FillMaskConfig(Config):
    """What a model fills into a mask."""

    files: tuple[ConfigPathText, ...] = ()
    """Files or globs of JSON lines with `text`, which holds one `<mask>` or `[MASK]`, and
    `answers` (a text or a list)."""


class EmbeddingsConfig(Config):
    """Whether vectors of paraphrases are closer than others, and how vectors are spread."""

    files: tuple[ConfigPathText, ...] = ()
    """Files or globs of JSON lines with `text_a`, `text_b` and perhaps `label` (1 or true:
    paraphrases)."""
    from_texts: int = Field(200, ge=0)
    """Texts whose two halves are a pair; 0: none."""
    pooling: tuple[Pooling, ...] = Field(("mean", "first"), min_length=1)
    """How a text becomes a vector; each is a result of its own."""


class SpeedConfig(Config):
    """Time and memory of inference on this machine."""

    row_tokens: tuple[PositiveInt, ...] = Field((128, 512), min_length=1)
    """Lengths of rows; those that a model does not take are left out."""
    batch_rows: PositiveInt = 8
    """Rows computed at once."""
    repeats: PositiveInt = 5
    """Timed batches after one that is not; the median counts."""


class TrackingChoice(Config):
    """Where the evaluation is recorded besides its folder."""

    enabled: bool = True
    """False: nowhere."""
    uri: str | None = None
    """MLflow tracking URI (default: that of the first model that is a run; else the SQLite file
    mlflow.db beside the results)."""
    experiment: str | None = None
    """MLflow experiment (default: that of the first model that is a run, else `evaluation`)."""


class EvaluationConfig(Config):
    """One evaluation: models, texts and checks."""

    models: dict[ModelName, str] = Field(default_factory=dict)
    """By the name to show: a run's folder or config (with @STEP or @best), or a Hugging Face
    folder; those of the command line come before."""
    results: ConfigPath | None = None
    """The folder to write (default: evaluations/NAMES-HASH)."""
    texts: TextsConfig = RunTexts()
    """What the held-out check reads, and what pairs are made from."""
    checks: tuple[CheckName, ...] = Field(CHECKS, min_length=1)
    """Which checks; those that there is nothing to do for are left out in any case. as_trained: of
    runs, the held-out loss or the dev metrics as training computes them."""
    heldout: HeldoutConfig = HeldoutConfig()
    """Bits per byte."""
    minimal_pairs: MinimalPairsConfig = MinimalPairsConfig()
    """Pseudo-log-likelihoods."""
    fill_mask: FillMaskConfig = FillMaskConfig()
    """Answers in masks."""
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    """Vectors of texts."""
    speed: SpeedConfig = SpeedConfig()
    """Tokens a second and memory."""
    inference_precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of weights and activations; bf16 is fast on GPUs and CPUs that know it."""
    batch_tokens: PositiveInt = 8192
    """Tokens computed at once, padding included, except for speed."""
    bad_records: Literal["refuse", "skip"] = "refuse"
    """Of probe files: refuse names the lines before anything is computed; skip counts them."""
    mlflow: TrackingChoice = TrackingChoice()
    """The record in MLflow."""

    @model_validator(mode="before")
    @classmethod
    def _texts_by_their_key(cls, tree: Any) -> Any:
        """`texts.files=...` or `texts.path=...` alone says which type is meant."""
        texts = tree.get("texts") if isinstance(tree, dict) else None
        if not isinstance(texts, dict) or "type" in texts:
            return tree
        kinds = [kind for key, kind in (("files", "files"), ("path", "rows")) if key in texts]
        return {**tree, "texts": {"type": kinds[0], **texts}} if len(kinds) == 1 else tree

    @model_validator(mode="after")
    def _files_are_for_a_check(self) -> Self:
        unused = [
            f"{name}.files is given, but checks does not name {name}"
            for name in ("minimal_pairs", "fill_mask", "embeddings")
            if getattr(self, name).files and name not in self.checks
        ]
        if unused:
            raise ValueError("; ".join(unused))
        return self
