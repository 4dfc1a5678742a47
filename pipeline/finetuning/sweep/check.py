"""Whether the children that a folder holds are those of the sweep that is asked for now."""

import json
from collections.abc import Sequence

from configs.differences import differences
from configs.load import UserError
from configs.redact import redact
from data_prep.dataset.files import read_json
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.sweep.children import Child, sweep_of
from pipeline.run.run_folder import RUN_NAME

FREE = (
    *("name", "output", "hang_timeout_s", "log_every_steps", "compute", "parallel"),
    *("checkpoint", "tracking", "sweep", "micro_rows"),
)
"""Keys that may differ: how a child is computed, recorded and kept. Smaller micro-batches are what
helps where memory does not suffice; they change the last bits of sums."""
OF_DATA = ("tasks", "start", "mlm")


def check_changes(config: FinetuneConfig, children: Sequence[Child], data_fingerprint: str) -> None:
    """Raises UserError for children that were started with settings, or files, other than now.

    A finished child is not repeated, so its scores would stand beside those of other settings.
    `data_fingerprint` is that of the first child's files.
    """
    lines = []
    for child in children:
        path = child.config.output / RUN_NAME
        if not path.exists():
            continue
        try:
            stored = read_json(path)
            tree = redact(dict(stored["config"]), {})
            before = FinetuneConfig.from_stored(tree, origin=str(path))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error!r}): delete this child's folder") from None
        plain = redact(json.loads(child.config.model_dump_json()), {})
        now = FinetuneConfig.from_stored(plain, origin="this sweep")
        free = [*FREE]  # and steps that follow from epochs
        free += ["steps"] if now.epochs is not None else []
        free += ["evaluate_every_steps"] if now.evaluate_every_epochs is not None else []
        lines += [
            f"{child.name}: {found}"
            for found in differences(before, now)
            if found.path.split(".")[0] not in free
        ]
        if stored["data_fingerprint"] != data_fingerprint and not _changes_data(config):
            lines.append(f"{child.name}: its files, or the tokenizer, are different now")
    if lines:
        raise UserError(
            f"{config.output}: holds children that were trained otherwise:\n"
            + "\n".join(f"  {line}" for line in lines[:20])
            + (f"\n  and {len(lines) - 20} more" if len(lines) > 20 else "")
            + "\nchoose a new output, restore the settings, or delete the folders of these "
            "children to train them again"
        )


def _changes_data(config: FinetuneConfig) -> bool:
    """Whether children may have different files."""
    return any(key.split(".")[0] in OF_DATA for key in sweep_of(config).axes)
