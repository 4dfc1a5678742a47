"""Replaced-token detection: a generator fills masks, and the model finds what it changed."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from configs.load import Config
from model.objectives.corruption import Corruption
from model.objectives.head_names import KEPT_SHARE, MLM_HEAD, REPLACED_HEAD
from model.objectives.masking import MaskedRows, ObjectiveSettings, RowsToMask
from model.objectives.mlm import MaskedLanguageModelConfig
from model.objectives.union import MaskingObjective
from model.objectives.vocabulary import Vocabulary


class SharedGenerator(Config):
    """The encoder that is trained is its own generator, by its masked-language-model head."""

    type: Literal["shared"] = "shared"


class SmallGenerator(Config):
    """A generator of its own, smaller than the discriminator (ELECTRA: width 1/4 of it for small
    and large, 1/3 for base, Clark et al. 2020, table 6; DeBERTaV3: width 1, depth 1/2, embeddings
    disentangled, He et al. 2021, section 3)."""

    type: Literal["small"] = "small"
    width: float = Field(0.25, gt=0, le=1)
    """Its attention heads, hidden and inner width as shares of the model's; the size of a head is
    the same."""
    depth: float = Field(1.0, gt=0, le=1)
    """Its layers as a share of the model's."""
    embeddings: Literal["shared", "separate", "disentangled"] = "shared"
    """shared: one set of word, position and segment vectors, trained by both (ELECTRA); separate:
    each has its own; disentangled: the discriminator's word vectors are the generator's, which it
    does not train, plus a matrix of its own that starts at zero (He et al. 2021, DeBERTaV3)."""


Generator = Annotated[SharedGenerator | SmallGenerator, Field(discriminator="type")]


class ReplacedTokensConfig(ObjectiveSettings):
    """Replaced-token detection (Clark et al. 2020, ELECTRA): the generator is trained to predict
    masked tokens; tokens drawn from its predictions take their places; the model is trained to
    tell, for every token but padding, whether it was replaced."""

    type: Literal["replaced_tokens"] = "replaced_tokens"
    masking: MaskingObjective = MaskedLanguageModelConfig(
        corruption=Corruption(mask=1.0, random=0.0)
    )
    """What is masked for the generator (default: 15 % of the tokens, all by <mask>: Clark et al.
    2020, section 2; 25 % in their large model, and their code leaves 15 % of these as they are)."""
    generator: Generator = SmallGenerator()
    """What proposes the replacements."""
    weight: PositiveFloat = 50.0
    """Factor on the discriminator's mean loss; the generator's has 1 (50: Clark et al. 2020, table
    6, and ``disc_weight`` in github.com/google-research/electra, configure_pretraining.py)."""

    @model_validator(mode="after")
    def _special_tokens_stay(self) -> "ReplacedTokensConfig":
        if self.masking.type == "published" and self.masking.special_tokens:
            raise ValueError(
                "masking.special_tokens true does not go with replaced_tokens, whose generator "
                "draws ordinary tokens only: set it to false"
            )
        return self

    @property
    def reads_words(self) -> bool:
        return self.masking.reads_words

    @property
    def head_weights(self) -> Mapping[str, float]:
        return {MLM_HEAD: 1.0, REPLACED_HEAD: self.weight, KEPT_SHARE: 0.0}

    def num_slots(self, row_tokens: int) -> int:
        """K, the label slots of a row of `row_tokens` tokens: the generator's."""
        return self.masking.num_slots(row_tokens)

    def mask(self, batch: RowsToMask, vocabulary: Vocabulary) -> MaskedRows:
        masked = self.masking.mask(batch, vocabulary)
        seed = _sampling_seed(batch.seed)
        keys = replace(batch, seed=seed).words(1)[:, 0].view("int64")
        return replace(masked, sample_keys=keys)


def _sampling_seed(seed: int) -> int:
    """The seed of the words that the drawn tokens depend on: not those of the masks."""
    digest = hashlib.blake2b(f"sampling/{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
