"""Appends to a log and dies by SIGKILL at the n-th step that reaches the disk.

    python auditlog_crash_child.py ROOT KEY_HEX FIRST_STEP

For FIRST_STEP and every later step a forked child opens the log, appends batches and kills
itself right before the step (a write, fsync, rename, or a commit of SQLite's). After each
death the log is opened as it is, which checks it, and verified in full. Prints the number
of steps; ends when a child got through without reaching its step.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.audit_records import ORIGIN, LogHome, batch

from strongroom.tlog.checkpoint import open_checkpoint
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.verify import verify_log

REGION, EPOCH = "eu-1", 5
BATCHES = (3, 250, 5)


class Countdown:
    """Kills this process when it has counted enough steps."""

    def __init__(self, steps: int):
        self._left = steps

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted


class CountedConnection(sqlite3.Connection):
    """A connection whose statements are steps."""

    countdown: Countdown

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql.startswith(("BEGIN", "UPDATE", "INSERT", "COMMIT")):
            return self.countdown.wrap(super().execute)(sql, *args)  # type: ignore[no-any-return]
        return super().execute(sql, *args)


def append_until_killed(home: LogHome, steps: int) -> None:
    """Append in one process with the n-th step deadly."""
    countdown = Countdown(steps)
    for name in ("write", "fsync", "rename", "replace"):
        setattr(os, name, countdown.wrap(getattr(os, name)))
    CountedConnection.countdown = countdown
    connect = sqlite3.connect

    def counted_connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, factory=CountedConnection, **kwargs)

    sqlite3.connect = counted_connect  # type: ignore[assignment]
    log = home.open()
    _, following = log.next_position(REGION) or (EPOCH, 1)
    for count in BATCHES:
        log.append([batch(REGION, EPOCH, range(following, following + count))])
        following += count
    log.close()


def main() -> None:
    """Die at every step in turn."""
    root, key_hex, first_step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    home = LogHome(
        root, Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key_hex)))
    )
    older: list[str] = []
    step = first_step
    while True:
        pid = os.fork()
        if pid == 0:
            append_until_killed(home, step)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        # What was published before the next start is what others may have kept.
        older.append((home.directory / "checkpoint").read_text())
        log = home.open()
        published, known = log.checkpoint, log.next_position(REGION)
        log.close()
        size = published.size
        if size < open_checkpoint(older[-1], home.key).size or known not in (
            None,
            (EPOCH, size + 1),
        ):
            sys.exit(f"step {step}: {size} leaves, position {known}")
        verified = verify_log(home.directory, home.key, older_checkpoints=older[-3:])
        if size and verified.shards != {REGION: (EPOCH, size)}:
            sys.exit(f"step {step}: {verified.shards}")
        if status == 0:
            sys.stdout.write(f"{step - first_step} {size}\n")
            return
        if os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"step {step}: the child ended with status {status}")
        step += 1


if __name__ == "__main__":
    main()
