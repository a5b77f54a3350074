"""Spools under test: a clock, drafts, an outbox in memory, and a check of everything read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from strongroom_server.audit.limits import SpoolLimits
from strongroom_server.audit.record import RANDOM_BYTES, new_record_id
from strongroom_server.audit.spool import Spool
from strongroom_server.errors import ShardUnavailableError
from strongroom_server.mutations import AuditDraft, OutboxRow

REGION = "eu-1"
LIMIT_BYTES = 64 * 2**20
LIMITS = SpoolLimits(LIMIT_BYTES, 3600.0, 1000, 0.25)


class SystemClock:
    """The port Clock on the machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def make_draft(**changes: Any) -> AuditDraft:
    """Make a draft like that of a usual call."""
    now = datetime.now(UTC)
    draft = AuditDraft(
        record_id=new_record_id(now, os.urandom(RANDOM_BYTES)),
        time=now,
        principal="spiffe://example.org/orders",
        peer="127.0.0.1:53412",
        method="GenerateDataKey",
        outcome="OK",
        request_id="7b0c0d66",
        key="regions/eu-1/keys/655632f3-5323-47a7-b91c-2b2d3d6263e6",
        key_version=1,
        encryption_context={"tenant": "42"},
        policy="default-owner",
    )
    return replace(draft, **changes)


async def open_spool(directory: Path, **changes: Any) -> Spool:
    """Open a spool with the settings of the tests."""
    settings: dict[str, Any] = {"clock": SystemClock()} | changes
    limits = {
        name: settings.pop(name) for name in SpoolLimits.__slots__ if settings.get(name) is not None
    }
    settings["limits"] = replace(LIMITS, **limits)
    return await Spool.open(directory, settings.pop("region", REGION), **settings)


async def read_all(spool: Spool, from_sequence: int = 1) -> list[bytes]:
    """Read every durable record; check that they are numbered without gaps."""
    records: list[bytes] = []
    while batch := await spool.durable.read(
        from_sequence + len(records), max_records=500, max_bytes=2**18
    ):
        records += batch
    for sequence, record in enumerate(records, from_sequence):
        parsed = json.loads(record)
        assert (parsed["sequence"], parsed["epoch"]) == (sequence, spool.epoch)
    assert from_sequence + len(records) - 1 == spool.durable.last_sequence
    return records


class MemoryOutbox:
    """The port Outbox in memory; `is_failing` makes it fail as a store does."""

    def __init__(self, rows: Sequence[OutboxRow] = (), *, last_id: int = 0):
        self.rows = list(rows)
        self.last_id = last_id
        self.is_failing = False

    def commit(self, draft: AuditDraft) -> int:
        """Add a row, as a committed change does."""
        self.last_id += 1
        self.rows.append(OutboxRow(self.last_id, draft))
        return self.last_id

    def copy(self) -> MemoryOutbox:
        """Return what a crash leaves of it now."""
        return MemoryOutbox(self.rows, last_id=self.last_id)

    async def outbox_after(self, outbox_id: int, limit: int) -> list[OutboxRow]:
        self._fail()
        return [row for row in self.rows if row.outbox_id > outbox_id][:limit]

    async def delete_outbox_through(self, outbox_id: int) -> None:
        self._fail()
        self.rows = [row for row in self.rows if row.outbox_id > outbox_id]

    def _fail(self) -> None:
        if self.is_failing:
            raise ShardUnavailableError(REGION, "the database fails")
