"""The writer: one thread that commits what the event loop hands it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from strongroom_server.audit.journal import Journal, Placement
from strongroom_server.audit.segment import SegmentHeader

__all__ = ["Outcome", "SpoolWriter"]

Outcome = Placement | OSError


class SpoolWriter:
    """Runs one commit at a time off the event loop.

    Ownership: the thread has the journal; it shares nothing else with the loop. A thread,
    not an executor: the hand-over is one queue operation each way.
    """

    def __init__(self, journal: Journal, name: str, done: Callable[[Outcome], None]):
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._done = done
        self._jobs: queue.SimpleQueue[tuple[SegmentHeader, list[bytes]] | None] = (
            queue.SimpleQueue()
        )
        # A daemon: a process that ends without closing the spool has answered nothing that
        # is not durable.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, header: SegmentHeader, frames: list[bytes]) -> None:
        """Commit `frames`; `done` is called on the loop with the outcome.

        Call it again only after that.
        """
        self._jobs.put((header, frames))

    async def close(self) -> None:
        """End the thread, after the commit under way."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            header, frames = job
            outcome: Outcome
            try:
                outcome = self._journal.commit(header, b"".join(frames))
            except OSError as exc:
                outcome = exc
            try:
                self._loop.call_soon_threadsafe(self._done, outcome)
            except RuntimeError:  # the loop is closed: nobody is left to be answered
                break
        self._journal.close()
