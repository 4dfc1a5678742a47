"""The record of a sweep itself, whose run in MLflow is the parent of those of its children."""

import json

from configs.redact import redact
from data_prep.dataset.atomic import write_atomic
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.sweep.results import ChildResult, SweepResults
from pipeline.finetuning.sweep.table import in_words
from pipeline.run.folder_identity import identify
from pipeline.run.run_folder import RUN_NAME
from pipeline.tracking import lineage
from pipeline.tracking.event_log import EventLog
from pipeline.tracking.parent_run import ParentRun
from pipeline.tracking.sender_process import send_rest
from pipeline.tracking.tracked_run import tracked_run


class SweepRecord:
    """Appends to the event log of a sweep; for rank 0.

    It is sent to MLflow at its start and its end, since no process of the sweep itself sends it.
    """

    def __init__(self, config: FinetuneConfig) -> None:
        self._config = config
        self._log = EventLog(config.output)

    def start(self) -> ParentRun:
        """Records a start; what children name as their parent."""
        config = self._config
        run = {"config": redact(config.model_dump(mode="json"), {}), "data_fingerprint": ""}
        write_atomic(config.output / RUN_NAME, json.dumps(run, indent=1) + "\n")
        content = {
            "params": lineage.describe_code(config),
            "tags": {"state": "running", "kind": "sweep", **lineage.describe_launch()},
            "status": "RUNNING",
        }
        self._log.append("start", content)
        self._send()
        return ParentRun(identify(config.output).id, config.name)

    def child(self, number: int, result: ChildResult) -> None:
        """Records the result of the child that ended as the `number`-th, from 1."""
        values = {"child/is_diverged": float(result.state == "diverged")}
        if result.score is not None:
            values |= {"child/dev_score": result.score}
            values |= {f"child/{name}": value for name, value in result.metrics.items()}
        self._log.metrics(number, values)

    def end(self, results: SweepResults) -> None:
        """Records the table, and that the sweep is finished or was stopped."""
        if results.settings and results.is_finished:
            best = results.settings[0]
            spread = {"median": best.median, "min": best.min, "max": best.max, "std": best.std}
            values = {f"best_setting/{name}": v for name, v in spread.items() if v is not None}
            self._log.metrics(len(results.children) + 1, values)
        tags = {"state": "finished" if results.is_finished else "stopped"}
        if results.best is not None:
            tags |= {
                "best_child": results.best,
                "best_setting": in_words(results.settings[0].setting),
            }
        for place, one in enumerate(results.settings[:20], 1):
            shown = ", ".join(
                f"{name} {value:.4f}"
                for name in ("median", "min", "max", "std")
                if (value := getattr(one, name)) is not None
            )
            text = f"{in_words(one.setting)}: {shown or 'no score'} ({one.seeds} seeds)"
            tags[f"setting.{place:02d}"] = text
        status = "FINISHED" if results.is_finished else "KILLED"
        self._log.append("end", {"tags": tags, "status": status})
        self._send()

    def _send(self) -> None:
        if self._config.tracking.enabled:
            send_rest(tracked_run(self._config))
