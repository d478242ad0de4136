"""What is said of a failure: to whoever flushes, and never with a payload in it."""

from __future__ import annotations

import logging
import threading

from provkeep.errors import ProvkeepError, RecordingError, StoreError

log = logging.getLogger("provkeep")


def where(error: BaseException) -> str:
    """An error's kind and place. Its text may quote a payload, so it is never passed on."""
    if isinstance(error, ProvkeepError):
        return str(error)
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    name = type(error).__name__
    if at is None:
        return name
    module = at.tb_frame.f_globals.get("__name__", "?")
    return f"{name} in {module}, line {at.tb_lineno}"


class Tally:
    """What was lost and why, until somebody is told. Any thread may add to it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may run while it is held
        self._lost = 0
        self._cause: BaseException | None = None
        self.gap = 0  # events lost that no record of the log counts yet

    def add(self, error: BaseException, lost: int) -> None:
        """Something went wrong, and so many events were lost by it."""
        log.debug("provkeep: %d events lost (%s)", lost, where(error))
        if not isinstance(error, ProvkeepError):
            error = StoreError(where(error))
        with self._lock:
            self._cause, self._lost, self.gap = error, self._lost + lost, self.gap + lost

    def recorded(self, gap: int) -> None:
        """A record of the log counts so many lost events."""
        with self._lock:
            self.gap -= gap

    def take(self) -> tuple[int, BaseException | None]:
        """Events lost and the last cause since the last call."""
        with self._lock:
            lost, self._lost, cause, self._cause = self._lost, 0, self._cause, None
        return lost, cause


class Settle:
    """A request to commit what is in the journal: at once, or when the program is at rest."""

    __slots__ = ("at_once", "done", "recover")

    def __init__(self, *, at_once: bool = True, recover: bool = False) -> None:
        self.at_once, self.recover = at_once, recover  # recover: what processes that died left
        self.done = threading.Event()


class Flush:
    """A request to commit and sign everything queued before it."""

    def __init__(self, *, stop: bool = False) -> None:
        self.done = threading.Event()
        self.stop = stop
        self.lost, self.pending = 0, 0
        self.cause: BaseException | None = None

    def tell(self) -> None:
        """Raise when something was lost or still waits."""
        if self.cause is not None or self.pending:
            cause = self.cause or StoreError("the store is not written yet")
            raise RecordingError(self.lost, self.pending, where(cause)) from cause
