"""``strongroom hsm roots`` and ``rotate-root``: what is refused before anything is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from tests.support.spool import SystemClock

from strongroom_server.cli import hsm_roots
from strongroom_server.cli.failures import CliError
from strongroom_server.cli.hsm_roots import (
    STALLED_SECONDS,
    _alone,
    _list_roots,
    _rotate,
    _wait_for_server,
)
from strongroom_server.cli.hsm_shards import choose_shard
from strongroom_server.config import ShardConfig
from strongroom_server.store.sqlite_store import SqliteKeyStore


@pytest.fixture
def shard(tmp_path: Path) -> Callable[[str], ShardConfig]:
    """Return a function that makes the configuration of a region; no HSM is behind it."""

    def make(region: str) -> ShardConfig:
        (tmp_path / region).mkdir(exist_ok=True)
        return ShardConfig(
            region=region,
            module=tmp_path / "no-module.so",
            token_label="none",  # noqa: S106 - the name of a token, no secret
            pin_file=tmp_path / "pin",
            store=tmp_path / region / "store.sqlite3",
            spool=tmp_path / region / "spool",
        )

    return make


def test_the_only_region_need_not_be_named(shard: Callable[[str], ShardConfig]) -> None:
    """One region is meant when there is one; of several one has to be named."""
    eu, us = shard("eu-1"), shard("us-1")
    assert choose_shard((eu,), None) is eu
    assert choose_shard((eu, us), "us-1") is us
    for shards, region in (((eu, us), None), ((eu, us), "ap-1"), ((eu,), "us-1")):
        with pytest.raises(CliError, match="eu-1") as refused:
            choose_shard(shards, region)
        assert refused.value.reason == "USAGE"


def test_one_command_at_a_time(shard: Callable[[str], ShardConfig]) -> None:
    """While one command works on a shard's roots another is refused, and one later is not."""
    eu, us = shard("eu-1"), shard("us-1")
    with _alone(eu):
        with pytest.raises(CliError, match="eu-1") as refused, _alone(eu):
            raise AssertionError("two at once")
        assert refused.value.reason == "UNAVAILABLE"
        with _alone(us):
            pass
    with _alone(eu):
        pass


def test_a_database_is_never_made_by_looking(shard: Callable[[str], ShardConfig]) -> None:
    """Without a database both commands are refused, and there is none afterwards."""
    eu = shard("eu-1")
    with pytest.raises(CliError, match="start the server first"):
        asyncio.run(_list_roots(eu))
    with pytest.raises(CliError, match="start the server first"):
        asyncio.run(_rotate(eu, wait=False, rewrap=False, progress=None))
    assert not eu.store.exists()


async def test_a_shard_without_wrapped_keys_has_no_root(
    shard: Callable[[str], ShardConfig],
) -> None:
    """Nothing is listed, and there is nothing to rotate: no login to the HSM is tried."""
    eu = shard("eu-1")
    store = await SqliteKeyStore.open(eu.store, "eu-1", clock=SystemClock())
    await store.close()
    assert await _list_roots(eu) == []
    with pytest.raises(CliError, match="no wrapping root yet") as refused:
        await _rotate(eu, wait=False, rewrap=False, progress=None)
    assert refused.value.reason == "NO_WRAPPING_ROOT"


class _Server:
    """What is seen of a server that re-wraps a version each second, until it stops; its clock."""

    def __init__(self, *stale: int) -> None:
        self._stale = list(stale)
        self.seconds = 0.0

    def now(self) -> datetime:
        raise NotImplementedError

    def monotonic(self) -> float:
        return self.seconds

    async def refresh(self) -> None:
        self.seconds += 20.0
        if len(self._stale) > 1:
            self._stale.pop(0)

    async def count_stale_versions(self, root: int) -> int:
        return self._stale[0] if root else 10

    async def is_settled(self) -> bool:
        return self._stale[0] == 0


async def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """--wait goes on as long as the server does something, and then says what it looks like."""
    monkeypatch.setattr(hsm_roots, "WAIT_SECONDS", 0.0)
    told: list[tuple[int, int]] = []
    done = _Server(9, 9, 9, 5, 5, 5, 1, 1, 1, 0)
    await _wait_for_server(done, done, 2, lambda now, all_: told.append((now, all_)), done)
    assert told[-1] == (10, 10)
    assert done.seconds > STALLED_SECONDS
    stuck = _Server(9, 3)
    with pytest.raises(CliError, match="3 key versions are left") as stopped:
        await _wait_for_server(stuck, stuck, 2, None, stuck)
    assert stopped.value.reason == "UNAVAILABLE"
    assert "--rewrap" in stopped.value.hints[0]
