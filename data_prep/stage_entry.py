"""What the list of stages holds of each: how it is built, when, and what it reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.config import DataConfig
from data_prep.dedup import clean
from data_prep.documents import ingest
from data_prep.engine.stage import Stage
from data_prep.preparation import Preparation
from data_prep.tokenization.config import LEARNED


@dataclass(frozen=True)
class Condition:
    """When a run has a stage."""

    key: str
    """The config key that asks for it; empty for a stage of every run."""
    holds: Callable[[DataConfig], bool]


ALWAYS = Condition("", lambda config: True)
LINES = Condition("dedup.lines", lambda config: config.dedup.lines is not None)
DECONTAMINATE = Condition("decontaminate", lambda config: config.decontaminate is not None)
LEARNED_TOKENIZER = Condition(
    "tokenizer.sample_mb", lambda config: isinstance(config.tokenizer, LEARNED)
)
MIXED = Condition("pack.mixed", lambda config: config.pack.mixed)
ORDERED = Condition("pack.order_by", lambda config: config.pack.order_field is not None)


def _no_check(run: Preparation) -> None:
    pass


@dataclass(frozen=True)
class StageEntry:
    """A stage in the list."""

    stage: type[Stage[Any]]
    build: Callable[[Preparation], Stage[Any]]
    """Makes it, once all stages before it are finished."""
    reads: Sequence[type[Stage[Any]]] = ()
    """Earlier stages whose outputs it reads, if the run has them."""
    condition: Condition = ALWAYS
    check: Callable[[Preparation], None] = _no_check
    """Raises UserError if its results do not allow the run to continue."""

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    def reads_in(self, run: Preparation) -> list[str]:
        """The names of the stages whose outputs it reads in this run."""
        stages = [stage for stage in self.reads if run.has(stage)]
        if clean.CleanStage in stages:  # its documents take the place of the ingested ones
            stages.remove(ingest.IngestStage)
        return [stage.name for stage in stages]
