"""The metadata store of one shard: a SQLite file on disk, and a catalog in memory.

Two threads beside the event loop, each with a connection of its own: the writer runs
every transaction that changes something, one after the other; the reader looks for other
processes' changes and answers what is not in memory. The event loop owns the catalog and
never waits for the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Self, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Alias, Key, KeyVersionRef
from strongroom_server.errors import ShardUnavailableError
from strongroom_server.ports import Clock, Mutation, OutboxRow, RequestMemo
from strongroom_server.store import changes, opening, rows
from strongroom_server.store.catalog import Catalog, StoreCounts, StoredAlias, StoredKey
from strongroom_server.store.connection import DatabaseClosedError, DatabaseThread
from strongroom_server.store.digests import StoreDamagedError

__all__ = ["SqliteKeyStore"]

POLL_SECONDS: Final = 0.25
# A disabled key must be refused everywhere within a second: when the database cannot be
# asked for so long, memory may not be believed any more.
STALE_AFTER_ERRORS_SECONDS: Final = 1.0
# The same without an error, when a poll hangs or this process was stopped. Longer, so that
# a busy machine alone refuses nothing.
STALE_SECONDS: Final = 3.0

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class SqliteKeyStore:
    """Implements ports.KeyStore and ports.Outbox.

    Thread safety: used from one event loop.
    """

    def __init__(
        self,
        region: str,
        catalog: Catalog,
        *,
        clock: Clock,
        writer: DatabaseThread,
        reader: DatabaseThread,
        change_number: int,
    ) -> None:
        self._region = region
        self._catalog = catalog
        self._clock = clock
        self._writer = writer
        self._reader = reader
        self._listeners: list[Callable[[uuid.UUID], None]] = []
        # Every change up to this number, of any process, is in the catalog.
        self._seen = change_number
        self._polling: asyncio.Task[None] | None = None
        self._polled_at = clock.monotonic()
        self._poll_failed = False

    @classmethod
    async def open(cls, path: Path, region: str, *, clock: Clock) -> Self:
        """Open the shard's database, made anew when there is none, and load it.

        Raises:
            StartRefusedError: It is damaged, of another region, of a later program, or
                cannot be used; the message has the cure.
        """
        loop = asyncio.get_running_loop()
        with opening.refusals(path):
            await loop.run_in_executor(
                None, lambda: opening.create_if_absent(path, region, now=clock.now())
            )
        writer = DatabaseThread(path, writes=True)
        reader = DatabaseThread(path, writes=False)
        try:
            with opening.refusals(path):
                await reader.run(opening.check)
                await writer.run(opening.upgrade_if_older)
                snapshot = await reader.run(lambda found: opening.load(found, region))
        except BaseException:  # whatever it is, the threads must not stay; re-raised
            await writer.close()
            await reader.close()
            raise
        catalog = Catalog()
        for key in snapshot.keys:
            catalog.put_key(key)
        for alias in snapshot.aliases:
            catalog.put_alias(alias)
        return cls(
            region,
            catalog,
            clock=clock,
            writer=writer,
            reader=reader,
            change_number=snapshot.change_number,
        )

    def on_change(self, callback: Callable[[uuid.UUID], None]) -> None:
        """Call `callback` with the id of every key that is new or has a new revision.

        On the event loop, after the catalog has the change. It must not raise.
        """
        self._listeners.append(callback)

    def start_polling(self) -> None:
        """Begin to follow other processes; from here on stale reads are refused."""
        if self._polling is None:
            self._polled_at = self._clock.monotonic()
            self._polling = asyncio.get_running_loop().create_task(self._poll())

    async def close(self) -> None:
        """Finish what was begun, stop polling, close the database. Idempotent."""
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            await asyncio.wait([polling])
        await self._writer.close()
        await self._reader.close()

    @property
    def is_current(self) -> bool:
        """Whether memory has what other processes committed a second ago; for readiness."""
        if self._polling is None:
            return True
        age_seconds = self._clock.monotonic() - self._polled_at
        return age_seconds <= (STALE_AFTER_ERRORS_SECONDS if self._poll_failed else STALE_SECONDS)

    def counts(self) -> StoreCounts:
        """Return how much there is, for metrics; constant time."""
        return self._catalog.counts()

    def find_key(self, key_id: uuid.UUID) -> Key | None:
        """Return a key with all its versions."""
        self._ensure_current()
        return self._catalog.find_key(key_id)

    def find_alias(self, name: AliasName) -> Alias | None:
        """Return an alias."""
        self._ensure_current()
        return self._catalog.find_alias(name)

    def list_keys(self, *, after: tuple[datetime, uuid.UUID] | None) -> Sequence[Key]:
        """Return keys by ascending (create_time, key_id), from beyond `after`; no copy."""
        self._ensure_current()
        return self._catalog.list_keys(after=after)

    async def find_memo(self, principal: str, method: str, request_id: str) -> RequestMemo | None:
        """Return the memo of a request id; from the database, so of any process."""
        return await self._run(
            self._reader,
            lambda connection: rows.read_memo(connection, principal, method, request_id),
        )

    async def commit(self, mutation: Mutation) -> int:
        """Commit a change with its record and memo; see ports.KeyStore.

        When a database error is raised the change may still have been committed, if the
        error came after the commit was on disk; a repeat with the same request id tells.

        Raises:
            KeyNotFoundError: The alias' key does not exist.
        """
        now = self._clock.now()
        outbox_id, _ = await self._run(
            self._writer,
            lambda connection: changes.apply_mutation(connection, self._region, mutation, now=now),
            then=lambda result: self._put(result[1]),
        )
        return outbox_id

    async def reserve_uses(self, ref: KeyVersionRef, uses: int) -> int:
        """Reserve `uses` (1 or more) encryptions; see ports.KeyStore.

        Raises:
            KeyExhaustedError: The version's total would pass 2^32.
        """
        if uses < 1:
            raise ValueError("at least one use has to be reserved")
        stored = await self._run(
            self._writer,
            lambda connection: changes.reserve(connection, self._region, ref, uses),
            then=self._put,
        )
        return next(v.reserved_uses for v in stored.key.versions if v.number == ref.version)

    async def outbox_after(self, outbox_id: int, limit: int) -> list[OutboxRow]:
        """Return outbox rows; see ports.Outbox."""
        return await self._run(
            self._reader,
            lambda connection: rows.read_outbox(connection, after=outbox_id, limit=limit),
        )

    async def delete_outbox_through(self, outbox_id: int) -> None:
        """Delete outbox rows that the spool holds; see ports.Outbox."""
        await self._run(
            self._writer,
            lambda connection: changes.delete_outbox(connection, through=outbox_id),
        )

    async def last_outbox_id(self) -> int:
        """Return the highest outbox id ever given out, 0 when none was.

        A spool that knows a higher one shows that this database is an older copy: its
        next ids would be taken for repeats and their records dropped. Such a shard must
        not start.
        """
        meta = await self._run(self._reader, rows.read_meta)
        return meta.last_outbox_id

    async def refresh(self) -> None:
        """Take over what other processes have committed so far."""
        since = self._seen
        started_at = self._clock.monotonic()
        await self._run(
            self._reader,
            lambda connection: rows.read_unseen(connection, self._region, since=since),
            then=self._take_over,
        )
        self._polled_at = started_at

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.refresh()
            except ShardUnavailableError as exc:
                if not self._poll_failed:
                    _log.warning("store_poll_failed", region=self._region, error=str(exc.__cause__))
                self._poll_failed = True
            except Exception:
                # Without the poll, reads are refused from now on: somebody has to know why.
                _log.exception("store_poll_ended", region=self._region)
                raise
            else:
                self._poll_failed = False

    def _take_over(self, snapshot: rows.Snapshot | None) -> None:
        if snapshot is None:
            return
        for alias in snapshot.aliases:
            self._put(alias)
        for key in snapshot.keys:
            self._put(key)
        self._seen = max(self._seen, snapshot.change_number)

    def _put(self, stored: StoredKey | StoredAlias) -> None:
        if isinstance(stored, StoredAlias):
            self._catalog.put_alias(stored)
        elif self._catalog.put_key(stored):
            for callback in self._listeners:
                callback(stored.key.key_id)

    def _ensure_current(self) -> None:
        if not self.is_current:
            raise ShardUnavailableError(self._region, "the metadata store cannot be followed")

    async def _run(
        self,
        thread: DatabaseThread,
        work: Callable[[Connection], _T],
        *,
        then: Callable[[_T], None] | None = None,
    ) -> _T:
        try:
            return await thread.run(work, then=then)
        except StoreDamagedError as exc:
            raise ShardUnavailableError(self._region, "the metadata store is damaged") from exc
        except DatabaseClosedError as exc:
            raise ShardUnavailableError(self._region, "the metadata store is closed") from exc
        except (SQLAlchemyError, sqlite3.Error) as exc:
            raise ShardUnavailableError(self._region, "the metadata store does not answer") from exc
