"""The shard's audit trail: the spool, and the outbox in front of it (audit-spool-v1.md, Outbox).

A state change commits its record with itself, in the store's outbox. One task moves those
rows to the spool in the order of their ids, and deletes them from the store once they are
durable in the spool. A crash between the two leaves rows that the spool already has;
`recover` deletes those, by the highest id in the spool, before anything moves.
What another process commits is found within a second, without being told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from functools import partial
from typing import Final

import structlog

from strongroom.receipts import Receipt
from strongroom_server.audit.deadlines import Deadlines
from strongroom_server.audit.spool import Spool
from strongroom_server.errors import AuditUnavailableError, InternalError, ShardUnavailableError
from strongroom_server.mutations import AuditDraft
from strongroom_server.ports import Outbox

__all__ = ["ShardAuditTrail"]

_BATCH_ROWS: Final = 256
_RETRY_SECONDS: Final = 1.0
_DELETE_AFTER_SECONDS: Final = 0.25
# Rows that another process committed (`strongroom hsm rotate-root` has no spool of its own)
# are looked for this often: one read of a key range.
_LOOK_SECONDS: Final = 1.0
# Receipts of moved rows whose caller has not asked yet: it asks right after its commit.
_KEPT_RECEIPTS: Final = 4096

_log = structlog.get_logger(__name__)


class ShardAuditTrail:
    """The port AuditTrail over one spool and one outbox.

    Owned by one event loop; `recover` starts its task, `close` ends it. The spool is not
    closed with it.
    """

    def __init__(self, spool: Spool, outbox: Outbox, *, region: str):
        self._spool = spool
        self._outbox = outbox
        self._region = region
        self._loop = asyncio.get_running_loop()
        self._kick = asyncio.Event()
        # A record goes its way whether its future is cancelled, expired or answered.
        self._deadlines: Deadlines[Receipt] = Deadlines(self._too_late)
        self._waiters: dict[int, asyncio.Future[Receipt]] = {}
        self._receipts: OrderedDict[int, Receipt] = OrderedDict()
        self._deleted_through = 0
        self._task: asyncio.Task[None] | None = None

    async def recover(self) -> None:
        """Delete the rows that the spool has, move the others, go on moving.

        A spool that is full or failing does not stop the start: its consumer must be able
        to drain it. The rows stay and are moved when it accepts.

        Raises:
            ShardUnavailableError: The store fails.
        """
        await self._delete_moved()
        with contextlib.suppress(AuditUnavailableError):
            await self._move_rows()
        self._kick.set()
        self._task = asyncio.create_task(self._run(), name=f"outbox-{self._region}")

    async def close(self) -> None:
        """Stop moving; what is left is moved after the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._fail_waiters("the server is stopping")

    def ensure_accepting(self) -> None:
        """Implement the port."""
        self._spool.ensure_accepting()

    async def record(self, draft: AuditDraft, *, deadline: float) -> Receipt:
        """Implement the port."""
        return await self._deadlines.wait(self._spool.append(draft), deadline)

    async def record_buffered(self, draft: AuditDraft, *, deadline: float) -> Receipt:
        """Implement the port."""
        answer = self._spool.append_buffered(draft)
        return (
            answer if isinstance(answer, Receipt) else await self._deadlines.wait(answer, deadline)
        )

    def record_event(self, draft: AuditDraft) -> asyncio.Future[Receipt]:
        """Implement the port."""
        return self._spool.append(draft, of_service=True)

    async def record_committed(self, outbox_id: int, *, deadline: float) -> Receipt:
        """Implement the port. A receipt is given out once."""
        receipt = self._receipts.pop(outbox_id, None)
        if receipt is not None:
            return receipt
        waiter = self._waiters[outbox_id] = self._loop.create_future()
        self._kick.set()
        try:
            return await self._deadlines.wait(waiter, deadline)
        finally:
            self._waiters.pop(outbox_id, None)

    def _too_late(self) -> AuditUnavailableError:
        return AuditUnavailableError(
            self._region, "the audit record was not durable by the deadline"
        )

    async def _run(self) -> None:
        delay = _LOOK_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._kick.wait(), delay)
            self._kick.clear()
            delay = _LOOK_SECONDS
            try:
                await self._move_rows()
                if self._spool.durable_outbox_id > self._deleted_through:
                    await self._delete_moved()
            except (AuditUnavailableError, InternalError, ShardUnavailableError) as exc:
                _log.warning("audit_outbox_waits", region=self._region, problem=exc.message)
                self._fail_waiters(exc.message)
                delay = _RETRY_SECONDS
            except Exception:  # noqa: BLE001 - the task's edge: it must outlive a row it cannot read
                _log.exception("audit_outbox_failed", region=self._region)
                self._fail_waiters("the outbox cannot be moved to the audit spool")
                delay = _RETRY_SECONDS
            else:
                if self._spool.appended_outbox_id > self._deleted_through:
                    delay = _DELETE_AFTER_SECONDS

    async def _move_rows(self) -> None:
        """Append every row that is not in the spool yet."""
        while True:
            after = self._spool.appended_outbox_id
            rows = await self._outbox.outbox_after(after, _BATCH_ROWS)
            for row in rows:
                future = self._spool.append(row.draft, row.outbox_id)
                future.add_done_callback(partial(self._moved, row.outbox_id))
            if len(rows) < _BATCH_ROWS:
                return

    def _moved(self, outbox_id: int, future: asyncio.Future[Receipt]) -> None:
        waiter = self._waiters.get(outbox_id)
        error = future.exception()
        if error is not None:
            # The spool keeps the record and writes it when it can: it is not appended again.
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
        elif waiter is not None and not waiter.done():
            waiter.set_result(future.result())
        else:
            self._receipts[outbox_id] = future.result()
            if len(self._receipts) > _KEPT_RECEIPTS:
                self._receipts.popitem(last=False)

    async def _delete_moved(self) -> None:
        through = self._spool.durable_outbox_id
        await self._outbox.delete_outbox_through(through)
        self._deleted_through = through

    def _fail_waiters(self, message: str) -> None:
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(AuditUnavailableError(self._region, message))
