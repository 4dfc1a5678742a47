"""The checkpoints of a run: those that were recorded, and those that are there."""

from dataclasses import dataclass, replace
from pathlib import Path

from configs.load import UserError
from pipeline.checkpoint.manifest import list_checkpoints, read_manifest
from pipeline.reporting.events import MAX_STEP
from pipeline.tracking.checkpoint_record import CHECKPOINTS_NAME, PRUNED_KEY, is_entry
from pipeline.tracking.json_lines import read_objects


@dataclass(frozen=True)
class Save:
    """One checkpoint."""

    step: int
    end_row: int
    """Rows that were consumed."""
    score: float | None
    """Held-out loss, or mean error on the dev files; None: not measured at its step."""
    sha256: str
    num_bytes: int
    is_there: bool
    """Whether its folder still exists."""


def read_saves(folder: Path) -> tuple[list[Save], list[str]]:
    """The checkpoints by step, and what could not be read."""
    saves: dict[int, Save] = {}
    problems: list[str] = []
    path = folder / CHECKPOINTS_NAME
    if path.exists():
        try:
            for entry, _ in read_objects(path, is_valid=is_entry):
                if not entry.get(PRUNED_KEY) and 0 <= entry["step"] <= MAX_STEP:
                    saves[entry["step"]] = _recorded(entry)
        except OSError as error:
            problems.append(f"{CHECKPOINTS_NAME} cannot be read ({error})")
    for checkpoint in list_checkpoints(folder / "checkpoints"):
        number = checkpoint.name.removeprefix("step-")
        if not number.isdecimal():
            continue
        if int(number) in saves:
            saves[int(number)] = replace(saves[int(number)], is_there=True)
            continue
        try:  # of a run without tracking, or one that was saved a moment ago
            manifest = read_manifest(checkpoint)
        except (UserError, OSError) as error:
            problems.append(f"checkpoint {checkpoint.name}: {error}")
            continue
        saves[manifest.step] = Save(
            step=manifest.step,
            end_row=manifest.consumed_rows,
            score=manifest.selection_score,
            sha256=manifest.sha256 or "",
            num_bytes=sum(file.bytes for file in manifest.files),
            is_there=True,
        )
    return [saves[step] for step in sorted(saves)], problems


def _recorded(entry: dict[str, object]) -> Save:
    scores = (entry.get("heldout_loss"), entry.get("dev_error"))
    num_bytes = entry.get("bytes")
    step, end_row = entry["step"], entry["end_row"]
    assert isinstance(step, int)
    assert isinstance(end_row, int)  # `is_entry`
    return Save(
        step=step,
        end_row=end_row,
        score=next((float(s) for s in scores if isinstance(s, int | float)), None),
        sha256=str(entry.get("sha256", "")),
        num_bytes=num_bytes if isinstance(num_bytes, int) and num_bytes < 1 << 63 else 0,
        is_there=False,
    )
