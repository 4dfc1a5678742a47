"""The run in MLflow that another run belongs to: of a sweep, or of the folder it was copied from.

Imports no mlflow.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.run.folder_identity import FolderIdentity

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_run import MlflowRun

MLFLOW_PARENT_TAG = "mlflow.parentRunId"
"""MLflow's pages show a run with this tag below the run that it names."""


@dataclass(frozen=True)
class ParentRun:
    """The run of a sweep, whose children are runs of their own."""

    key: str
    """The id of its folder, by which MLflow finds it."""
    name: str

    def describe(self) -> dict[str, str]:
        """As the record of a child holds it."""
        return asdict(self)


def tag_parent(run: "MlflowRun", parent: Mapping[str, Any]) -> None:
    """Makes `run` a child of the run that `parent` describes, which is created if it is missing."""
    parent_id = run.find_or_create(str(parent["key"]), str(parent["name"]))
    run.log_tags({MLFLOW_PARENT_TAG: parent_id})


def tags_of_copy(run: "MlflowRun", identity: FolderIdentity) -> dict[str, str]:
    """Tags of a copied folder's run: MLflow's id of the parent, if it has that, and its folder."""
    parent = identity.parent
    if parent is None:
        return {}
    run_id = parent.run_id or (run.find_id(parent.id) if parent.id else None)
    tags = {"parent_run": run_id or parent.id, "parent_folder": parent.path}
    return {name: value for name, value in tags.items() if value}
