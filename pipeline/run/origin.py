"""What all checkpoints of a launch say about the run that wrote them."""

from typing import Any

from configs.redact import redact
from data_prep.dataset.manifest import SpecialTokens
from pipeline.checkpoint.build import Origin
from pipeline.checkpoint.start_record import StartRecord
from pipeline.run.config import RunConfig
from pipeline.run.versions import versions


def describe_origin(
    config: RunConfig,
    *,
    tp_size: int,
    dp_size: int,
    vocab_size: int,
    data_fingerprint: str,
    tokenizer_sha256: str,
    special_tokens: SpecialTokens | None = None,
    network: dict[str, Any] | None = None,
    start: StartRecord | None = None,
) -> Origin:
    """The origin of the checkpoints of `config` at this grid; arguments as the manifest's fields.

    What a checkpoint holds of each parameter is declared by the optimizer.
    """
    return Origin(
        config=redact(config.model_dump(mode="json"), {}),
        seed=config.seed,
        tp_size=tp_size,
        dp_size=dp_size,
        zero_stage=config.parallel.zero_stage,
        vocab_size=vocab_size,
        data_fingerprint=data_fingerprint,
        tokenizer_sha256=tokenizer_sha256,
        versions=versions(),
        state_keys=config.optimizer.state_keys,
        network=network,
        special_tokens=special_tokens,
        start=start,
    )
