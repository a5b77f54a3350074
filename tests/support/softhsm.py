"""SoftHSM tokens and session pools for tests."""

from __future__ import annotations

import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from strongroom_server.domain.keys import KeyVersionRef
from strongroom_server.hsm.pool import SessionPool, SessionPoolSettings
from strongroom_server.hsm.softhsm import init_token

__all__ = [
    "RecordingObserver",
    "SystemClock",
    "TestToken",
    "make_token",
    "new_ref",
    "running_pool",
    "wait_until",
]


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the wall clock."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return CLOCK_MONOTONIC."""
        return time.monotonic()


@dataclass(frozen=True)
class TestToken:
    """A token of its own, with its PIN file, in a directory of its own."""

    __test__ = False

    directory: Path
    pin: str = field(repr=False)
    settings: SessionPoolSettings

    @property
    def tokens(self) -> Path:
        """The directory that is the token."""
        return self.directory / "tokens"

    def with_settings(self, **changes: object) -> SessionPoolSettings:
        """Return the settings with changes."""
        return replace(self.settings, **changes)  # type: ignore[arg-type]  # checked by the dataclass


def make_token(directory: Path, *, label: str = "strongroom-test") -> TestToken:
    """Initialise a token under `directory`."""
    pin = secrets.token_hex(8)
    token = init_token(directory, label, pin)
    pin_file = directory / "pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(pin + "\n")
    settings = SessionPoolSettings(
        module=token.module,
        token_label=token.label,
        pin_file=pin_file,
        module_environment=token.environment,
    )
    return TestToken(directory, pin, settings)


def new_ref(version: int = 1) -> KeyVersionRef:
    """Return a reference to a key version that does not exist yet."""
    return KeyVersionRef(uuid.uuid4(), version)


@dataclass
class RecordingObserver:
    """Remembers what a pool told."""

    operations: list[tuple[str, str]] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    lost: list[tuple[int, str]] = field(default_factory=list)
    retired: list[tuple[int, str]] = field(default_factory=list)
    breaker_states: list[str] = field(default_factory=list)
    alarms: list[tuple[str, str]] = field(default_factory=list)

    def operation(self, mechanism: str, seconds: float, category: str) -> None:
        """Remember an operation."""
        assert seconds >= 0
        self.operations.append((mechanism, category))

    def worker_started(self, pid: int, seconds: float) -> None:
        """Remember a start."""
        assert seconds > 0
        self.started.append(pid)

    def worker_lost(self, pid: int, reason: str) -> None:
        """Remember a loss."""
        self.lost.append((pid, reason))

    def worker_retired(self, pid: int, reason: str) -> None:
        """Remember a retirement."""
        self.retired.append((pid, reason))

    def breaker(self, state: str) -> None:
        """Remember a state of the circuit breaker."""
        self.breaker_states.append(state)

    def alarm(self, category: str, text: str) -> None:
        """Remember an alarm."""
        self.alarms.append((category, text))


@asynccontextmanager
async def running_pool(
    settings: SessionPoolSettings, observer: RecordingObserver | None = None
) -> AsyncIterator[SessionPool]:
    """Run a pool; at the end, no process of it is left."""
    pool = SessionPool("eu-test", settings, SystemClock(), observer)
    await pool.start()
    pids = pool.status().pids
    try:
        yield pool
    finally:
        pids += pool.status().pids
        await pool.close(1.0)
    for pid in pids:
        assert not _runs(pid), f"worker {pid} is left behind"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def wait_until(condition: object, seconds: float) -> float:
    """Wait until a callable returns something true; return how long it took."""
    import asyncio  # noqa: PLC0415 - keeps the synchronous users light

    assert callable(condition)
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - began
