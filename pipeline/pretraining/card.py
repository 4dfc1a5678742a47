"""The model card of a pretrained model."""

from collections.abc import Mapping
from itertools import groupby
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
from pipeline.run.steps import RunSteps
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
    summary = (
        f"An encoder of the architecture {settings['model_type']}, pretrained by "
        f"{objectives_so_far(config, manifest.consumed_rows)} to step {manifest.step:,}."
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


def objectives_so_far(config: TrainConfig, consumed_rows: int) -> str:
    """The objectives of the phases up to a row, in their order; neighbours of one kind once."""
    steps = RunSteps(tuple(phase.steps for phase in config.phases))
    reached = config.phases[: steps.phase_of_last_row(consumed_rows) + 1]
    kinds = [kind for kind, _ in groupby(phase.objective.type for phase in reached)]
    masking: dict[str, str] = {
        phase.objective.type: " (masked language modelling)"
        for phase in reached
        if phase.objective.type != "replaced_tokens" and not phase.objective.IS_CAUSAL
    }
    return ", then ".join(kind + masking.get(kind, "") for kind in kinds)
