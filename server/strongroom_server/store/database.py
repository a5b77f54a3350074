"""A shard's database from the event loop: three threads, and what their errors mean.

The writer runs every transaction that changes something, one after the other; the reader
answers what is not in memory and looks for other processes' changes; the scanner does
what takes long and may wait: counting. Each has a connection of its own.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from strongroom_server.errors import ShardUnavailableError
from strongroom_server.store.connection import DatabaseClosedError, DatabaseThread
from strongroom_server.store.digests import StoreDamagedError

__all__ = ["CURE", "ShardDatabase"]

CURE: Final = "stop every server of this shard and restore the database from a backup"

_log = structlog.get_logger(__name__)


class ShardDatabase:
    """The threads of one shard's database.

    `damage` is what the check in the background found; once it is set nothing is
    written any more.
    """

    def __init__(self, path: Path, region: str) -> None:
        self.path = path
        self.region = region
        self.writer = DatabaseThread(path, name="store-writer", writes=True)
        self.reader = DatabaseThread(path, name="store-reader", writes=False)
        self.scanner = DatabaseThread(path, name="store-scanner", writes=False)
        self.damage: str | None = None
        self._told: str | None = None

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Turn what can go wrong in the block into a ShardUnavailableError.

        Of its own for each caller, who adds receipts to it, even where several wait for
        one read.
        """
        try:
            yield
        except StoreDamagedError as exc:
            self._tell(str(exc))
            raise ShardUnavailableError(self.region, "the metadata store is damaged") from exc
        except DatabaseClosedError as exc:
            raise ShardUnavailableError(self.region, "the metadata store is closed") from exc
        except (SQLAlchemyError, sqlite3.Error) as exc:
            raise ShardUnavailableError(self.region, "the metadata store does not answer") from exc

    def _tell(self, damage: str) -> None:
        if damage != self._told:  # a damaged row that is asked for often is told once
            self._told = damage
            _log.error("store_row_damaged", region=self.region, error=damage, cure=CURE)

    def ensure_whole(self) -> None:
        """Refuse once the check has found damage.

        Raises:
            ShardUnavailableError: It has.
        """
        if self.damage is not None:
            raise ShardUnavailableError(self.region, "the metadata store is damaged")

    async def close(self) -> None:
        """Finish the work that was given, then close; idempotent."""
        for thread in (self.writer, self.reader, self.scanner):
            await thread.close()
