"""What finished, as one JSON file each: what is there is not computed again."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset.atomic import write_atomic

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """The results of one study, FOLDER/results/STUDY/NAME.json."""

    folder: Path
    """Of all studies."""
    study: str

    def path(self, name: str) -> Path:
        """The file of a result."""
        return self.folder / "results" / self.study / f"{name}.json"

    def run_folder(self, name: str) -> Path:
        """Where the run of a result works."""
        return self.folder / "runs" / self.study / name

    def get(self, name: str) -> Values | None:
        """A result; None if there is none yet."""
        path = self.path(name)
        return json.loads(path.read_text()) if path.exists() else None

    def all(self) -> dict[str, Values]:
        """Every result, by name."""
        paths = sorted(self.path("x").parent.glob("*.json"))
        return {path.stem: json.loads(path.read_text()) for path in paths}

    def compute(self, name: str, compute: Callable[[Path], Values]) -> Values:
        """A result, by `compute(run folder)` if there is none yet."""
        found = self.get(name)
        if found is None:
            found = compute(self.run_folder(name))
            write_atomic(self.path(name), json.dumps(found, indent=1) + "\n")
            print(f"{self.study}/{name}: {_short(found)}", flush=True)
        return found


def _short(values: Values) -> str:
    numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
    return "  ".join(f"{key} {value:.6g}" for key, value in numbers.items())


def side_by_side(jobs: Sequence[Callable[[], Values]]) -> list[Values]:
    """The results of `jobs`, as many at a time as there are cores, each with one thread."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:  # also SystemExit: start none of those that wait
            pool.shutdown(wait=False, cancel_futures=True)
            raise
