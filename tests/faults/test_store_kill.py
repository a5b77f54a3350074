"""D1, kill -9: what was acknowledged is there, and nothing is there by halves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections import Counter
from pathlib import Path

import pytest
from tests.support.store_samples import REGION, SteppingClock

from strongroom_server.store import SqliteKeyStore

_ROOT = Path(__file__).parents[2]
_ROUNDS = int(os.environ.get("STRONGROOM_SOAK_FACTOR", "1")) * 4


def _write_until_killed(path: Path, seed: int, *, acknowledged_at_least: int) -> list[str]:
    """Run the writer, kill it in full flight, return the whole lines it wrote."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.store_writer", str(path), str(seed)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        if process.stdout is None:
            raise RuntimeError("no standard output")
        lines = [process.stdout.readline() for _ in range(acknowledged_at_least)]
        process.kill()
        lines += process.stdout.readlines()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    return [line for line in lines if line.endswith("\n")]


@pytest.mark.timeout(60 + 30 * _ROUNDS)
async def test_killed_in_a_loop_of_commits(tmp_path: Path) -> None:
    """After each kill every acknowledged change and reservation is there, with its record."""
    path = tmp_path / "store.db"
    acknowledged: list[str] = []
    for seed in range(_ROUNDS):
        acknowledged += _write_until_killed(path, seed, acknowledged_at_least=40 + 17 * (seed % 5))
        # Opening runs integrity_check and checks every row's digest.
        store = await SqliteKeyStore.open(path, REGION, clock=SteppingClock())
        rows = await store.outbox_after(0, 100_000)
        outbox_ids = [row.outbox_id for row in rows]
        # No reader ever deleted one: ids are dense, so outbox rows equal commits.
        assert outbox_ids == list(range(1, len(rows) + 1))
        assert await store.last_outbox_id() == len(rows)
        for line in acknowledged:
            outbox_id, key_id, revision, uses = line.split()
            key = store.find_key(uuid.UUID(key_id))
            assert key is not None
            assert key.revision >= int(revision)
            assert key.versions[0].reserved_uses >= int(uses)
            assert int(outbox_id) <= len(rows)
        # Each change has its record: a key's revision is one more than its changes.
        records = Counter((row.draft.key, row.draft.method) for row in rows)
        keys = list(store.list_keys(after=None))
        aliases = 0
        for key in keys:
            name = str(key.name)
            assert records[name, "CreateKey"] == 1
            assert records[name, "AddVersion"] == len(key.versions) - 1
            changes = records[name, "AddVersion"] + records[name, "SetState"]
            assert key.revision == 1 + changes
            aliases += records[name, "CreateAlias"]
        assert aliases == store.counts().aliases
        assert sum(records.values()) == len(keys) + aliases + sum(k.revision - 1 for k in keys)
        await store.close()
    assert len(acknowledged) >= 40 * _ROUNDS
