"""The model cards of a fine-tuned run: one for each task, one for the encoder with its pooler."""

from collections.abc import Mapping
from typing import Any

from model.hugging_face.family import auto_class
from pipeline.finetuning.config import FinetuneConfig
from pipeline.hugging_face.sentence_encoder import SentenceEncoder
from pipeline.model_cards.card import PIPELINE_TAGS, Card, model_card
from pipeline.model_cards.run_history import describe_start, hub_name, read_history
from pipeline.run.trained_model import TrainedModel

_USAGE = """\
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = {auto}.from_pretrained("FOLDER")"""
_EMBED = """\
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("FOLDER").encode(["a text", "another one"])"""


def task_card(
    trained: TrainedModel[FinetuneConfig],
    settings: Mapping[str, Any],
    name: str,
    differences: Mapping[str, float],
) -> str:
    """README.md of the export of a task; `settings` are its config.json."""
    task = trained.config.tasks[name]
    head = task.head().type
    task_name = task.type.replace("_", " ")
    together = [other for other in trained.config.tasks if other != name]
    summary = f"{name}: {task_name}, fine-tuned to step {trained.checkpoint.manifest.step:,}"
    summary += f" together with {', '.join(together)}." if together else "."
    labels = getattr(task, "labels", ())
    card = Card(
        title=f"{trained.config.name}: {name}",
        summary=summary,
        pipeline_tag=PIPELINE_TAGS[head],
        tags=(settings["model_type"], task.type.replace("_", "-")),
        usage=_USAGE.format(auto=auto_class(head)),
        architecture=settings,
        recipe={
            "task": task_name,
            "labels": ", ".join(labels),
            "examples per step": task.examples_per_step,
            "weight in the loss": task.weight,
        },
        start=describe_start(trained.checkpoint),
        base_model=hub_name(trained.checkpoint),
        metrics="dev_",
        metrics_suffix=f"/{name}",
    )
    return _card(card, trained, differences)


def encoder_card(
    trained: TrainedModel[FinetuneConfig],
    settings: Mapping[str, Any],
    encoder: SentenceEncoder,
    differences: Mapping[str, float],
) -> str:
    """README.md of the export of the encoder with its pooler."""
    tasks = ", ".join(trained.config.tasks)
    card = Card(
        title=f"{trained.config.name}: sentence encoder",
        summary=f"Vectors of texts: {encoder.summary}. Fine-tuned on {tasks}.",
        pipeline_tag="sentence-similarity",
        tags=(settings["model_type"], "sentence-transformers", "feature-extraction"),
        usage=_EMBED,
        architecture=settings,
        recipe={"tasks": tasks},
        start=describe_start(trained.checkpoint),
        base_model=hub_name(trained.checkpoint),
        metrics="dev_",
        library="sentence-transformers",
    )
    return _card(card, trained, differences)


def _card(
    card: Card, trained: TrainedModel[FinetuneConfig], differences: Mapping[str, float]
) -> str:
    history = read_history(trained.checkpoint)
    return model_card(card, trained.config, trained.checkpoint, history, differences)
