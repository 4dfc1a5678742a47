"""All ranks leave a step between the same two micro-batches once one of them has a stop signal.

Ranks are at different micro-batches, and under ZeRO 2, 3 and tensor parallelism each micro-batch
has collectives: a rank that simply left would let its peers wait. A collective per micro-batch
would cost every step what only a stop needs. So a thread of each rank asks the launch's key-value
store a few times a second whether any rank has a signal. Then each rank publishes how many
micro-batches it has started and starts no more; rank 0 publishes the highest of these numbers, and
every rank continues to that number and leaves there.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._C._distributed_c10d import PrefixStore

from pipeline.launch.signals import StopRequest

POLL_S = 0.25
RANKS_PER_POLL = 512
"""With more ranks they ask less often, so that the store of rank 0 is not kept busy."""
AGREEMENT_POLL_S = 0.02
AGREEMENT_TIMEOUT_S = 120.0
"""Longest wait for the numbers of all ranks; a rank that is gone publishes none."""

logger = logging.getLogger(__name__)


class StepAbandoned(Exception):
    """All ranks left a step between two micro-batches for a stop signal; no weight has changed."""


class StopAgreement:
    """A stop request of any rank, upon which all leave a step at the same micro-batch."""

    def __init__(self, request: StopRequest, store: Any, rank: int, world_size: int) -> None:
        """`store` is the key-value store of the launch; every rank makes one at the same time."""
        self._request = request
        self._rank = rank
        self._world_size = world_size
        use = store.add(f"stop-agreements/{rank}", 1)  # a process group may see several runs
        self._store = PrefixStore(f"stop/{use}", store.clone())
        self._changed = threading.Condition()
        self._num_started = 0
        self._is_frozen = False
        self._last: int | None = None
        """The number of started micro-batches at which all ranks leave."""
        self._error: Exception | None = None

    @property
    def seen(self) -> bool:
        """Whether this rank has received a stop signal."""
        return self._request.seen

    def leaves_step(self) -> bool:
        """Whether no further micro-batch may start; call before each one, on every rank.

        Raises RuntimeError if the ranks could not agree.
        """
        if self._world_size == 1:
            return self.seen
        with self._changed:
            if self._is_frozen and not self._is_settled():
                self._changed.wait_for(self._is_settled, AGREEMENT_TIMEOUT_S)
                if self._last is None:
                    raise RuntimeError("the ranks did not agree where to stop") from self._error
            if self._last is not None and self._num_started >= self._last:
                return True
            self._num_started += 1
            return False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """In this block a stop signal of any rank is noticed; there may be several blocks."""
        if self._world_size == 1 or self._last is not None:
            yield
            return
        end = threading.Event()
        thread = threading.Thread(target=self._watch, args=(end,), name="stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join(AGREEMENT_TIMEOUT_S)

    def _is_settled(self) -> bool:
        return self._last is not None or self._error is not None

    def _watch(self, end: threading.Event) -> None:
        poll_s = POLL_S * max(1.0, self._world_size / RANKS_PER_POLL)
        try:
            while not end.wait(poll_s):
                if self._request.seen:
                    self._store.set("requested", "1")
                if self._request.seen or self._store.check(["requested"]):
                    self._agree(end)
                    return
        except Exception as error:  # rank 0, whose store it is, has ended
            logger.debug("stop signals of other ranks are not noticed any more: %s", error)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _agree(self, end: threading.Event) -> None:
        with self._changed:
            self._is_frozen = True
            num_started = self._num_started
        self._store.set(f"started/{self._rank}", str(num_started))
        if self._rank == 0:
            keys = [f"started/{rank}" for rank in range(self._world_size)]
            if not self._wait_for(keys, end):
                return
            self._store.set("last", str(max(int(self._store.get(key)) for key in keys)))
        if self._wait_for(["last"], end):
            with self._changed:
                self._last = int(self._store.get("last"))
                self._changed.notify_all()

    def _wait_for(self, keys: list[str], end: threading.Event) -> bool:
        """Whether all `keys` are set; False if the block of `watching` ends before."""
        while not self._store.check(keys):
            if end.wait(AGREEMENT_POLL_S):
                return False
        return True
