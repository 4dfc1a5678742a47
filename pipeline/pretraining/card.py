"""The model card of a pretrained model."""

from collections.abc import Mapping
from typing import Any

from model.hugging_face.electra import AUTO_CLASS
from pipeline.hugging_face.sentence_encoder import SentenceEncoder
from pipeline.model_cards.card import Card, model_card
from pipeline.model_cards.run_history import (
    describe_start,
    hub_name,
    languages_of_rows,
    read_history,
)
from pipeline.run.config import TrainConfig
from pipeline.run.trained_model import TrainedModel

_USAGE = """\
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForMaskedLM.from_pretrained("FOLDER")"""
_EMBED = """

from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("FOLDER").encode(["a text", "another one"])"""


def card_of(
    trained: TrainedModel[TrainConfig],
    settings: Mapping[str, Any],
    encoder: SentenceEncoder | None,
    differences: Mapping[str, float],
) -> str:
    """README.md of the export with config.json `settings`; `differences` are those of its parity
    check, by quantity."""
    config, manifest = trained.config, trained.checkpoint.manifest
    languages = {
        code: None for phase in config.phases for code in languages_of_rows(phase.data.path)
    }
    is_discriminator = config.objective.type == "replaced_tokens"
    masking = (
        "" if is_discriminator or config.objective.IS_CAUSAL else " (masked language modelling)"
    )
    summary = (
        f"An encoder of the architecture {settings['model_type']}, pretrained by "
        f"{config.objective.type}{masking} to step {manifest.step:,}."
    )
    usage = _USAGE.replace("AutoModelForMaskedLM", AUTO_CLASS) if is_discriminator else _USAGE
    if encoder is not None:
        summary += f" Vectors of texts are {encoder.summary}."
    card = Card(
        title=config.name,
        summary=summary,
        pipeline_tag="feature-extraction" if is_discriminator else "fill-mask",
        tags=(
            *(
                settings["model_type"],
                "discriminator" if is_discriminator else "masked-language-model",
                "encoder",
            ),
            *["sentence-transformers"] * (encoder is not None),
        ),
        usage=usage + _EMBED * (encoder is not None),
        architecture=settings,
        recipe={"phases": len(config.phases)},
        start=describe_start(trained.checkpoint),
        base_model=hub_name(trained.checkpoint),
        metrics="heldout_",
        languages=tuple(languages),
    )
    history = read_history(trained.checkpoint)
    return model_card(card, config, trained.checkpoint, history, differences)
