"""The held-out metrics of pretraining, for objectives that train several heads too."""

from collections.abc import Mapping

from model.config import MLM_HEAD
from model.objectives.head_names import KEPT_SHARE, REPLACED_HEAD
from pipeline.data.heldout import HeldoutRows, HeldoutScore


def heldout_metrics(
    heldout: HeldoutRows, scores: Mapping[str, Mapping[str, HeldoutScore]]
) -> dict[str, float]:
    """The metrics of the held-out `scores`, by head and source.

    Of replaced-token detection the loss is the one that is trained on, the weighted sum of both
    networks' mean losses; accuracy, perplexity and unigram loss stay those of the generator.
    """
    values = heldout.metrics(scores[MLM_HEAD])
    if REPLACED_HEAD not in scores or not values:
        return values
    values["heldout_generator_loss"] = values["heldout_loss"]
    found = _total(scores[REPLACED_HEAD])
    values["heldout_loss"] += heldout.head_weights[REPLACED_HEAD] * found.loss
    values["heldout_discriminator_loss"] = found.loss
    values["heldout_discriminator_accuracy"] = found.accuracy
    values["heldout_kept_share"] = _total(scores[KEPT_SHARE]).accuracy
    for name, score in scores[REPLACED_HEAD].items():
        values[f"heldout_loss/{name}"] += heldout.head_weights[REPLACED_HEAD] * score.loss
    return values


def summary_line(heldout: HeldoutRows, values: Mapping[str, float]) -> str:
    """The held-out metrics in one line."""
    line = heldout.summary_line(values)
    if "heldout_discriminator_loss" not in values:
        return line
    return (
        f"{line}  generator {values['heldout_generator_loss']:.3f}  discriminator "
        f"{values['heldout_discriminator_loss']:.3f}, right "
        f"{values['heldout_discriminator_accuracy']:.1%} (not replaced "
        f"{values['heldout_kept_share']:.1%})"
    )


def _total(scores: Mapping[str, HeldoutScore]) -> HeldoutScore:
    return sum(scores.values(), HeldoutScore(0.0, 0.0, 0.0))
