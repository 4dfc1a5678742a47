"""The work of a run, finished or not, read without changing anything."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.load import UserError
from data_prep.config import DataConfig
from data_prep.documents.ingest import IngestStage
from data_prep.documents.lookup import FinishedPart
from data_prep.engine.plan_changes import listed
from data_prep.engine.records import StageFolder
from data_prep.engine.stage import Stage, StageResult
from data_prep.preparation import Preparation
from data_prep.stage_builders import build_ingest
from data_prep.stages import STAGES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class History:
    """What a work folder holds."""

    run: Preparation
    """With the stages that are finished, up to the first one that is not."""
    parts: Sequence[FinishedPart]
    """The finished parts of the first stage."""
    pending: str | None
    """The first stage that is not finished under this config; None if all are."""
    problem: str = ""
    """Why nothing is known of that stage, where it is not that it has not run."""


def read_history(config: DataConfig) -> History:
    """The history of a run. UserError where there is none, or it is one of other settings."""
    plan = _read_plan(config)
    run = Preparation(config)
    first = build_ingest(run, plan)
    if not first.extends_settings(plan):
        raise UserError(
            f"{config.work}: was made under different settings:\n"
            + listed(first.differences(plan))
            + "\nuse the config that it was made with"
        )
    parts: list[FinishedPart] = []
    for entry in STAGES:
        if not entry.condition.holds(config):
            continue
        try:
            stage = first if entry.stage is IngestStage else entry.build(run)
        except (UserError, OSError) as error:
            return History(run, parts, entry.name, str(error))
        folder = StageFolder(config.work / stage.name, stage)
        records = folder.records(stage.output_folder or folder.path)
        if stage is first:
            parts = [
                FinishedPart(folder.path, part, records[part.name])
                for part in first.parts
                if part.name in records
            ]
        if len(records) < len(stage.parts):
            return History(run, parts, entry.name)
        run.add(stage, _result_of(stage, folder.path, records))
    return History(run, parts, None)


def _result_of(stage: Stage[Any], path: Path, records: dict[str, Any]) -> StageResult[Any]:
    in_order = [records[part.name] for part in stage.parts]
    return StageResult(
        folder=path,
        parts=stage.parts,
        records=in_order,
        content_fingerprint=stage.result_fingerprint(in_order),
    )


def _read_plan(config: DataConfig) -> dict[str, Any]:
    """The frozen plan of the first stage."""
    path = config.work / IngestStage.name / "plan.json"
    try:
        plan = json.loads(path.read_bytes())
        if not isinstance(plan, dict) or not {"parts", "settings", "inputs"} <= plan.keys():
            raise ValueError("no plan")
        plan.pop("sha256", None)
    except FileNotFoundError:
        hint = "run data preparation first"
        if (config.output / "manifest.json").exists():
            hint = (
                f"the rows in {config.output} are finished, but what became of each document is "
                "known only from the work folder, which was deleted: run data preparation again "
                "with another 'output'"
            )
        raise UserError(f"{config.work}: holds no work of data preparation; {hint}") from None
    except ValueError:
        raise UserError(
            f"{path}: damaged; run data preparation again, which repairs the work folder"
        ) from None
    return plan
