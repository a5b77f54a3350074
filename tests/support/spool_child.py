"""A process that appends to a spool and writes the receipt of every answered record.

Usage: python spool_child.py DIRECTORY CALLERS [PAUSE_SECONDS [MODE]]; MODE is REQUIRED, or
BUFFERED for the records of a key of that mode. Lines on standard output:
``receipt <receipt>``, ``refused``, ``accepted`` (again, after a refusal).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.spool import REGION, MemoryOutbox, make_draft, open_spool

from strongroom_server.audit.outbox import ShardAuditTrail
from strongroom_server.errors import AuditUnavailableError


async def run(directory: Path, callers: int, pause_seconds: float, mode: str) -> None:
    """Append for ever."""
    spool = await open_spool(directory)
    trail = ShardAuditTrail(spool, MemoryOutbox(), region=REGION)
    loop = asyncio.get_running_loop()
    record = trail.record_buffered if mode == "BUFFERED" else trail.record
    draft_mode = mode if mode == "BUFFERED" else None
    if spool.early.lost_records:  # as the server begins
        await trail.record_event(
            make_draft(method="BufferedRecordsLost", count=spool.early.lost_records)
        )
        await spool.early.note_loss_recorded()
    was_refused = False

    async def call() -> None:
        nonlocal was_refused
        while True:
            line = "refused"
            try:
                trail.ensure_accepting()
                receipt = await record(make_draft(mode=draft_mode), deadline=loop.time() + 5)
                line = f"receipt {receipt}"
                if was_refused:
                    was_refused = False
                    sys.stdout.write("accepted\n")
            except AuditUnavailableError:
                was_refused = True
                await asyncio.sleep(0.05)
            # One write a line, straight to the pipe: what was written survives the kill.
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            await asyncio.sleep(pause_seconds)

    await asyncio.gather(*(call() for _ in range(callers)))


if __name__ == "__main__":
    asyncio.run(
        run(
            Path(sys.argv[1]),
            int(sys.argv[2]),
            float(sys.argv[3]) if sys.argv[3:] else 0.0,
            sys.argv[4] if sys.argv[4:] else "REQUIRED",
        )
    )
