"""Runs parts in worker processes. Only this file imports Dask.

On one machine, a ``LocalCluster`` of processes with one thread each is started at the first call;
on a cluster, the workers of a running scheduler are used, found by its scheduler file. Dask
restarts a worker that dies and runs its part again; parts are idempotent, so that is enough.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Annotated, Any, Literal, Protocol, Self
from uuid import uuid4

from pydantic import Field

from configs.load import Config, UserError

logger = logging.getLogger(__name__)


class SerialEngineConfig(Config):
    """Runs every part in this process, one after another."""

    type: Literal["serial"]

    def build(self) -> "Engine":
        """An engine without workers."""
        return SerialEngine()


class LocalEngineConfig(Config):
    """Runs parts in worker processes of this machine."""

    type: Literal["local"] = "local"
    workers: int | None = Field(default=None, ge=1)
    """Number of worker processes; one per CPU core when not given."""
    worker_memory_mb: int = Field(default=3000, ge=200)
    """Memory above which a worker is restarted, MB."""

    def build(self) -> "Engine":
        """An engine that starts worker processes when it is first used."""
        return DaskEngine(self._start)

    def _start(self) -> Any:
        from distributed import Client, LocalCluster

        cluster = LocalCluster(
            n_workers=self.workers or len(os.sched_getaffinity(0)),
            threads_per_worker=1,
            processes=True,
            memory_limit=self.worker_memory_mb * 1_000_000,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
        return Client(cluster, set_as_default=False)


class SchedulerEngineConfig(Config):
    """Runs parts on the workers of a running Dask scheduler."""

    type: Literal["scheduler"]
    scheduler_file: str
    """The file that ``dask scheduler --scheduler-file`` wrote."""
    wait_s: float = Field(default=300, gt=0)
    """How long to wait for the scheduler and its first worker, seconds."""

    def build(self) -> "Engine":
        """An engine that connects when it is first used."""
        return DaskEngine(self._connect)

    def _connect(self) -> Any:
        from distributed import Client

        try:
            client = Client(
                scheduler_file=self.scheduler_file, timeout=self.wait_s, set_as_default=False
            )
            client.wait_for_workers(1, timeout=self.wait_s)
        except (OSError, TimeoutError) as error:
            raise UserError(
                f"{self.scheduler_file}: no Dask scheduler with workers responded within "
                f"{self.wait_s:.0f} s ({error}); start 'dask scheduler --scheduler-file FILE' and "
                "'dask worker --scheduler-file FILE' first"
            ) from None
        return client


EngineConfig = Annotated[
    SerialEngineConfig | LocalEngineConfig | SchedulerEngineConfig, Field(discriminator="type")
]


class Engine(Protocol):
    """Where parts are run. Use it in a ``with`` block."""

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], names: Sequence[str]
    ) -> Iterator[Any]:
        """The results of ``function(*call)`` for all calls, as they come in; `names` of the calls
        are for people."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class SerialEngine:
    """Runs the calls in this process."""

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], names: Sequence[str]
    ) -> Iterator[Any]:
        """The results, in the order of the calls."""
        for call in calls:
            yield function(*call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class DaskEngine:
    """Runs the calls on the workers of a Dask client, which connects at the first call."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._client: Any = None

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], names: Sequence[str]
    ) -> Iterator[Any]:
        """The results, as they come in; the first error ends the run."""
        if not calls:
            return
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        if self._client is None:
            self._client = self._connect()
            logger.info("Dask dashboard: %s", self._client.dashboard_link)
        # Dask's pages show the names; no key is used twice, as its first result might be kept.
        keys = {f"{name}-{uuid4().hex}": name for name in names}
        futures = [
            self._client.submit(function, *call, key=key)
            for key, call in zip(keys, calls, strict=True)
        ]
        try:
            for future in as_completed(futures, loop=self._client.loop):
                yield future.result()
                future.release()
        except KilledWorker as error:
            raise UserError(
                f"{keys.get(str(error.task), error.task)}: this part killed its worker process "
                f"{error.allowed_failures + 1} times (usually memory): raise "
                "engine.worker_memory_mb, lower engine.workers, or lower part_mb with "
                "--restart-from ingest (for the tokenizer, also tokenizer.sample_mb)"
            ) from None
        finally:
            self._client.cancel(futures)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            cluster = self._client.cluster
            self._client.close()
            if cluster is not None:
                cluster.close()
            self._client = None
