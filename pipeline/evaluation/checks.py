"""Runs the checks of an evaluation, one model after another."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from configs.load import UserError, fingerprint
from configs.redact import redact
from pipeline.evaluation.as_trained import measure_checkpoint
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.inputs import Inputs
from pipeline.evaluation.models import FoundModel, load_model
from pipeline.evaluation.results import CheckResult, Evaluation, Measure, ModelResults
from pipeline.run.versions import versions
from pipeline.tracking.lineage import git_commit

if TYPE_CHECKING:
    from model.heads import MaskedLanguageModel

AS_TRAINED, HELDOUT, MINIMAL_PAIRS = "as trained", "held-out words", "minimal pairs"
FILL_MASK, EMBEDDINGS, SPEED = "fill-mask", "embeddings", "speed"
NOT_COMPARED = ("results", "models", "mlflow")
"""Keys of the config that do not change the numbers."""

logger = logging.getLogger(__name__)


def fingerprint_of(config: EvaluationConfig, models: Sequence[FoundModel], inputs: Inputs) -> str:
    """Hash of what decides the results but for times: the checks, the weights and the texts."""
    checks = config.model_dump(mode="json", exclude=set(NOT_COMPARED))
    weights = {model.name: model.origin["sha256"] for model in models}
    return fingerprint([checks, weights, inputs.fingerprint])


def evaluate_models(
    config: EvaluationConfig, models: Sequence[FoundModel], inputs: Inputs
) -> Evaluation:
    """The results of all checks for all models.

    What cannot be computed for a model is left out with a note. Raises UserError where nothing is
    left, and for the config of a run that disagrees with its checkpoint.
    """
    from pipeline.evaluation.speed import machine

    start = time.time()
    trained = {model.name: _as_trained(model) for model in models if "as_trained" in config.checks}
    results = []
    for model in models:
        checks: dict[str, CheckResult] = {}
        if (found := trained.get(model.name)) is not None:
            checks[AS_TRAINED] = found
        checks |= _checks(config, models, inputs, model)
        results.append(ModelResults(model.name, _origin(model), checks))
    if not any(check.measures for one in results for check in one.checks.values()):
        notes = [note for one in results for check in one.checks.values() for note in check.notes]
        raise UserError("nothing could be evaluated:\n  " + "\n  ".join([*inputs.notes, *notes]))
    commit, dirty = git_commit()
    facts: dict[str, Any] = {
        "started": datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - start, 1),
        "precision": config.inference_precision,
        **machine(),
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": versions(),
        "texts": _texts_facts(inputs),
        "probe_files": dict(inputs.files),
        "notes": list(inputs.notes),
    }
    return Evaluation(
        fingerprint=fingerprint_of(config, models, inputs),
        facts=facts,
        config=redact(config.model_dump(mode="json"), {}),
        models=tuple(results),
    )


def _as_trained(model: FoundModel) -> CheckResult | None:
    """What training measures; None for a folder, which says nothing of its training."""
    if model.run is None or model.checkpoint is None:
        return None
    logger.info("%s: held-out or dev metrics as in training", model.name)
    try:
        found = measure_checkpoint(model.run, model.checkpoint)
    except (UserError, OSError) as error:
        if not model.is_stored_config:
            raise
        return CheckResult(notes=(f"{model.name}: not evaluated as in training: {error}",))
    measures = []
    for name, value in found.values.items():
        quantity, _, group = name.partition("/")
        count, documents = found.size_of(name)
        measures.append(Measure(quantity, value, group, count=count, documents=documents))
    return CheckResult(tuple(measures), notes=found.notes)


def _checks(
    config: EvaluationConfig, models: Sequence[FoundModel], inputs: Inputs, model: FoundModel
) -> dict[str, CheckResult]:
    import torch

    from model.parallel.grid import single_rank_grid

    found: dict[str, CheckResult] = {}
    with single_rank_grid() as grid:
        module = load_model(model, grid)
        if config.inference_precision == "bf16":
            module.to(torch.bfloat16)
        for name, check in _wanted(config, models, inputs, model, module).items():
            start = time.monotonic()
            found[name] = check()
            logger.info("%s: %s: %.1f s", model.name, name, time.monotonic() - start)
    return found


def _wanted(
    config: EvaluationConfig,
    models: Sequence[FoundModel],
    inputs: Inputs,
    model: FoundModel,
    module: "MaskedLanguageModel",
) -> Mapping[str, Callable[[], CheckResult]]:
    """By name, the checks that there is something to do for."""
    from pipeline.evaluation.embeddings import embeddings_check
    from pipeline.evaluation.fill_mask import fill_mask_check
    from pipeline.evaluation.heldout import heldout_check
    from pipeline.evaluation.minimal_pairs import minimal_pairs_check
    from pipeline.evaluation.speed import speed_check

    size = config.batch_tokens
    wanted: dict[str, Callable[[], CheckResult]] = {}
    if (masked := inputs.masked) is not None:
        number = [one.name for one in models if not one.no_masks]
        wanted[HELDOUT] = lambda: heldout_check(
            model, number.index(model.name), module, masked, size
        )
    if inputs.minimal_pairs:
        method = config.minimal_pairs.method
        wanted[MINIMAL_PAIRS] = lambda: minimal_pairs_check(
            model, module, inputs.minimal_pairs, method, size
        )
    if inputs.probes:
        wanted[FILL_MASK] = lambda: fill_mask_check(model, module, inputs.probes, size)
    if model.no_masks:
        note = CheckResult(notes=(f"{model.name}: {model.no_masks}",))
        wanted = {name: lambda: note for name in wanted}
    if inputs.text_pairs:
        pooling = config.embeddings.pooling
        wanted[EMBEDDINGS] = lambda: embeddings_check(
            model, module, inputs.text_pairs, pooling, size
        )
    if "speed" in config.checks:
        wanted[SPEED] = lambda: speed_check(model, module, config.speed)
    return wanted


def _origin(model: FoundModel) -> dict[str, Any]:
    from model.size import count_parameters

    return {
        **{key: value for key, value in model.origin.items() if value is not None},
        "parameters": count_parameters(model.config, model.vocab_size),
        "vocab_size": model.vocab_size,
        "max_row_tokens": model.config.max_row_tokens,
    }


def _texts_facts(inputs: Inputs) -> dict[str, Any]:
    if inputs.texts is None:
        return {}
    return {
        **inputs.texts.origin,
        "fingerprint": inputs.texts.fingerprint,
        "sources": {
            name: {
                "texts": len(texts),
                "documents": inputs.texts.samples[name].documents,
                "bytes": sum(len(text.encode()) for text in texts),
            }
            for name, texts in inputs.texts.sources.items()
        },
        "left_out": dict(inputs.texts.left_out),
    }
