"""D1, kill -9: what was acknowledged is there, and nothing is there by halves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.store_rewrapper import material_of
from tests.support.store_samples import (
    REGION,
    START,
    SteppingClock,
    all_keys,
    creation,
    make_key,
    new_root,
)

from strongroom_server.mutations import RootState
from strongroom_server.store import SqliteKeyStore

_ROOT = Path(__file__).parents[2]
_ROUNDS = int(os.environ.get("STRONGROOM_SOAK_FACTOR", "1")) * 4


def _run_until_killed(module: str, *arguments: str, acknowledged_at_least: int) -> list[str]:
    """Run a writer, kill it in full flight, return the whole lines it wrote."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.support.{module}", *arguments],
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
        acknowledged += _run_until_killed(
            "store_writer", str(path), str(seed), acknowledged_at_least=40 + 17 * (seed % 5)
        )
        # Opening runs integrity_check and checks every row's digest.
        store = await SqliteKeyStore.open(path, REGION, clock=SteppingClock())
        rows = await store.outbox_after(0, 100_000)
        outbox_ids = [row.outbox_id for row in rows]
        # No reader ever deleted one: ids are dense, so outbox rows equal commits.
        assert outbox_ids == list(range(1, len(rows) + 1))
        assert await store.last_outbox_id() == len(rows)
        for line in acknowledged:
            outbox_id, key_id, revision, uses = line.split()
            key = await store.find_key(uuid.UUID(key_id))
            assert key is not None
            assert key.revision >= int(revision)
            assert key.versions[0].reserved_uses >= int(uses)
            assert int(outbox_id) <= len(rows)
        # Each change has its record: a key's revision is one more than its changes.
        records = Counter((row.draft.key, row.draft.method) for row in rows)
        keys = await all_keys(store)
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


@pytest.mark.timeout(60 + 30 * _ROUNDS)
async def test_killed_while_re_wrapping(tmp_path: Path) -> None:
    """After each kill every version lies whole under one root, and what was acknowledged stays."""
    path = tmp_path / "store.db"
    store = await SqliteKeyStore.open(path, REGION, clock=SteppingClock())
    await store.commit(new_root(1))
    for number in range(100):
        key = make_key(
            create_time=START + timedelta(seconds=number),
            description=str(number),
            wrapped=material_of(str(number), 1),
        )
        await store.commit(creation(key))
    await store.close()
    seen_apart = 0
    for round_ in range(_ROUNDS):
        lines = _run_until_killed(
            "store_rewrapper", str(path), acknowledged_at_least=2 + 5 * (round_ % 4)
        )
        # Opening checks every digest, and with them each version's material.
        store = await SqliteKeyStore.open(path, REGION, clock=SteppingClock())
        roots = {root.number: root.state for root in await store.list_roots()}
        keys = await all_keys(store)
        assert len(keys) == 100
        under = Counter[int]()
        for key in keys:
            material = key.material(1).wrapped
            assert material is not None
            assert material == material_of(key.description, material.root)
            assert roots[material.root] is not RootState.RETIRED
            assert key.revision == 1
            under[material.root] += 1
        root, replaced = map(int, lines[-1].split())
        assert sum(count for number, count in under.items() if number >= root) >= replaced
        assert len(under) <= 2
        assert await store.count_stale_versions(max(roots)) == 100 - under[max(roots)]
        seen_apart += len(under) == 2
        await store.close()
    assert seen_apart > 0
