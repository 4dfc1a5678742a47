"""Runs parts in worker processes. Only this file and `data_prep.engine.task_feed` import Dask.

On one machine, a ``LocalCluster`` of processes with one thread each is started at the first call;
on a cluster, the workers of a running scheduler are used, found by its scheduler file. Dask
restarts a worker that dies and runs its part again; parts are idempotent, so that is enough.

Dask runs code for whoever connects. So every connection is TLS with a key of this run, which each
side demands of the other; without the key nobody connects.
"""

import logging
import signal
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field

from configs.load import Config, UserError
from configs.paths import ConfigPathText
from data_prep.engine.engine import Engine, SerialEngine, WorkersKilled
from data_prep.engine.interrupts import Stopped
from data_prep.engine.resources import Resources, usable_resources
from data_prep.engine.task_feed import TaskFeed
from data_prep.engine.tasks import Work
from data_prep.engine.worker_memory import MAIN_PROCESS_SHARE, allow

START_ATTEMPTS = 3
"""How often worker processes are started where one of them dies before it is ready."""

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
    """Number of worker processes. When not given: one per CPU core that this process may use (by
    its cores, the CPU quota of its cgroups and SLURM_CPUS_PER_TASK), as long as the memory limit of
    its cgroups is enough for `worker_memory_mb` each."""
    worker_memory_mb: int = Field(default=3000, ge=200)
    """Memory above which a worker is restarted, MB; more where a tokenizer is learned."""

    def build(self) -> "Engine":
        """An engine that starts worker processes when it is first used."""
        return DaskEngine(self._start)

    def _start(self) -> Any:
        """A client of new workers; UserError where they do not start, as often as it is tried."""
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                return self._start_once()
            except (RuntimeError, OSError) as error:  # a cluster that fails has closed itself
                reason = " ".join(str(error).split()) or type(error).__name__
                logger.warning(
                    "the worker processes did not start (attempt %d of %d): %s",
                    *(attempt, START_ATTEMPTS, reason),
                )
        raise UserError(
            f"the worker processes did not start in {START_ATTEMPTS} attempts, the last error: "
            f"{reason}. A worker that is killed while it starts usually lacks memory: lower "
            "engine.workers, or set engine.type to serial; the same command resumes"
        )

    def worker_limits(self, resources: Resources) -> tuple[int, int]:
        """(number of workers, memory of each in bytes) where these resources may be used."""
        memory_bytes = self.worker_memory_mb * 1_000_000
        if resources.memory_bytes is None:
            return self.workers or resources.cpus, memory_bytes
        usable_bytes = int(resources.memory_bytes * (1 - MAIN_PROCESS_SHARE))
        memory_bytes = min(memory_bytes, usable_bytes)
        return self.workers or min(resources.cpus, usable_bytes // memory_bytes), memory_bytes

    def _start_once(self) -> Any:
        from dask.config import set as dask_settings
        from distributed import Client, LocalCluster
        from distributed.security import Security

        resources = usable_resources()
        workers, memory_bytes = self.worker_limits(resources)
        logger.info(
            "%d worker processes of up to %d MB (%d CPUs by %s, memory limit %s)",
            *(workers, memory_bytes // 1_000_000, resources.cpus, resources.cpus_by),
            f"{resources.memory_bytes / 1e9:.1f} GB" if resources.memory_bytes else "none",
        )
        if resources.memory_bytes and workers * memory_bytes > resources.memory_bytes:
            logger.warning(
                "engine.workers (%d) x engine.worker_memory_mb is more than the memory limit; if "
                "processes are killed, lower one of the two",
                workers,
            )
        security = Security.temporary()
        # A worker that spilled results would write them to disk as pickles.
        no_spilling = {f"distributed.worker.memory.{key}": False for key in ("target", "spill")}
        # So long after the death of a worker, its place would be given up for good if the next
        # process in it has died, too, and is just being replaced.
        dask_settings({"distributed.deploy.lost-worker-timeout": "1000 days"})
        # Ctrl-C reaches every process of a terminal's job. This process ends the workers; they
        # inherit from its threads that the signal is blocked.
        resource_tracker.ensure_running()  # starting it later would unblock the signal
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with dask_settings(no_spilling):
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=memory_bytes,
                    security=security,
                    protocol="tls://",
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    worker_dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
                try:
                    return Client(cluster, security=security, set_as_default=False)
                except BaseException:
                    cluster.close()
                    raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


class SchedulerEngineConfig(Config):
    """Runs parts on the workers of a running Dask scheduler."""

    type: Literal["scheduler"]
    scheduler_file: ConfigPathText
    """The file that ``dask scheduler --scheduler-file`` wrote."""
    tls_folder: ConfigPathText | None = None
    """Folder of the cert.pem and key.pem that ``python -m data_prep.scheduler_key`` wrote and with
    which the scheduler and its workers were started; that of the scheduler file when not given."""
    wait_s: float = Field(default=300, gt=0)
    """How long to wait for the scheduler and its first worker, seconds."""

    def build(self) -> "Engine":
        """An engine that connects when it is first used."""
        return DaskEngine(self._connect)

    def _connect(self) -> Any:
        from distributed import Client
        from distributed.security import Security

        folder = Path(self.tls_folder or Path(self.scheduler_file).parent)
        files = {"cert": folder / CERTIFICATE_FILE, "key": folder / KEY_FILE}
        for path in files.values():
            if not path.is_file():
                raise UserError(
                    f"{path}: no such file. A scheduler runs code for whoever connects, so that it "
                    "has to demand a key: 'python -m data_prep.scheduler_key FOLDER' writes one, "
                    "for the scheduler, the workers and engine.tls_folder"
                )
        security = Security(
            require_encryption=True,
            tls_ca_file=str(files["cert"]),
            tls_client_cert=str(files["cert"]),
            tls_client_key=str(files["key"]),
        )
        try:
            client = Client(
                scheduler_file=self.scheduler_file,
                security=security,
                timeout=self.wait_s,
                set_as_default=False,
            )
            client.wait_for_workers(1, timeout=self.wait_s)
        except (OSError, TimeoutError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.scheduler_file}: no Dask scheduler with workers and this key ({folder}) "
                f"responded within {self.wait_s:.0f} s ({error}); start 'dask scheduler "
                "--scheduler-file FILE' and 'dask worker --scheduler-file FILE' first, both with "
                "--tls-ca-file, --tls-cert and --tls-key"
            ) from None
        return client


CERTIFICATE_FILE, KEY_FILE = "cert.pem", "key.pem"


def new_scheduler_key() -> dict[str, str]:
    """A new key of one scheduler, its workers and its clients: PEM texts by file name.

    The certificate is signed with the key itself, so that it is its own authority.
    """
    from distributed.security import Security

    security: Any = Security.temporary()
    return {CERTIFICATE_FILE: security.tls_ca_file, KEY_FILE: security.tls_scheduler_key}


EngineConfig = Annotated[
    SerialEngineConfig | LocalEngineConfig | SchedulerEngineConfig, Field(discriminator="type")
]


class DaskEngine:
    """Runs the calls on the workers of a Dask client, which connects at the first call."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._client: Any = None
        self._part_bytes = 0

    def run(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        names: Sequence[str],
        shared: Sequence[Any] = (),
        part_bytes: int = 0,
        result_on_disk: Callable[..., Any] | None = None,
    ) -> Iterator[Any]:
        """The results, as they come in; the first error ends the run."""
        if not calls:
            return
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker

        if self._client is None:
            self._client = self._connect()
            logger.info("Dask dashboard: %s", _dashboard_of(self._client))
        if part_bytes != self._part_bytes:
            allow(self._client, part_bytes)
            self._part_bytes = part_bytes
        work = Work(function, result_on_disk)
        feed = TaskFeed(self._client, work, calls, names, shared)
        try:
            yield from feed.results()
        except KilledWorker as error:
            raise WorkersKilled(
                f"{feed.open_calls(str(error.task))} killed its worker process "
                f"{error.allowed_failures + 1} times (usually memory): raise "
                "engine.worker_memory_mb (in a Slurm job WORKER_MEMORY), or lower engine.workers; "
                "the same command resumes, and finished parts are kept"
            ) from None
        except (CancelledError, CommClosedError) as error:
            raise UserError(
                f"the connection to the Dask scheduler was lost ({error}); finished parts are kept:"
                " run the same command again"
            ) from None
        finally:
            feed.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, Stopped):
            return  # closing can take long; the caller ends the workers with this process
        if self._client is not None:
            cluster = self._client.cluster
            self._client.close()
            if cluster is not None:
                cluster.close()
            self._client = None


def _dashboard_of(client: Any) -> str:
    """The address of the dashboard, which listens on the loopback interface of its host."""
    info = client.scheduler_info()
    port, host = info["services"].get("dashboard"), urlsplit(info["address"]).hostname
    if port is None:
        return "off"
    address = f"http://127.0.0.1:{port}/status"
    return address if host == "127.0.0.1" else f"{address} (on {host} itself only: use ssh -L)"
