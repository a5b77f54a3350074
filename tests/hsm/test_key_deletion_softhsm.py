"""Keys are scheduled, waited for, destroyed: real token, database and spool, virtual clocks."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.memory_service import ADMIN, caller
from tests.support.softhsm import TestToken, running_pool
from tests.support.virtual_clock import VirtualClock

from strongroom_server.audit.limits import SpoolLimits
from strongroom_server.audit.outbox import ShardAuditTrail
from strongroom_server.audit.record import new_record_id
from strongroom_server.audit.spool import Spool
from strongroom_server.cli.hsm_reconcile import _look
from strongroom_server.config import ShardConfig
from strongroom_server.domain.keys import Key, KeySpec, KeyState, KeyStorage, KeyUsage
from strongroom_server.errors import KeyStateInvalidError, StrongroomError
from strongroom_server.hsm.reconcile import compare
from strongroom_server.services.authorization import Authorization
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.destruction import KeyDestruction
from strongroom_server.services.key_management import KeyManagement
from strongroom_server.services.lifecycle import LifecycleService, NewKey
from strongroom_server.services.managed_keys import ManagedKeys
from strongroom_server.services.records import Recorder
from strongroom_server.services.root_book import RootBook
from strongroom_server.shards.topology import Shard, Topology
from strongroom_server.store.sqlite_store import SqliteKeyStore

pytestmark = [pytest.mark.hsm, pytest.mark.timeout(120)]

REGION = "eu-1"
DAY = 86_400
PLAIN = ChangeRequest()
AAD = b"bound"


class _Heard:
    """A DestructionObserver that remembers names, and lets no problem pass."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def destroyed(self, name: str, versions: int) -> None:
        del versions
        self.names.append(name)

    def waits(self, name: str, problem: StrongroomError) -> None:
        raise AssertionError(f"{name}: {problem}")

    def failed(self, fault: Exception) -> None:
        raise fault


class _Deployment:
    """One shard with everything real but the clocks."""

    def __init__(self, shard: Shard, store: SqliteKeyStore, clock: VirtualClock) -> None:
        self.shard, self.store, self.clock = shard, store, clock
        recorder = Recorder(
            clock=clock,
            new_record_id=lambda: new_record_id(clock.now(), uuid.uuid4().bytes[:10]),
            on_outcome=lambda *_: None,
        )
        authorization = Authorization(
            administrators=frozenset({ADMIN}),
            key_creators=frozenset(),
            on_decision=lambda _: None,
        )
        keys = ManagedKeys(
            topology=Topology([shard]), authorization=authorization, recorder=recorder
        )
        self.lifecycle = LifecycleService(
            keys=keys,
            roots=RootBook(recorder=recorder, clock=clock),
            clock=clock,
            new_key_id=uuid.uuid4,
        )
        self.deletion = KeyManagement.of(keys, clock, minimum_deletion_days=7).deletion
        self.heard = _Heard()
        self.destruction = KeyDestruction(shard, recorder, clock, self.heard)

    async def create(self, storage: KeyStorage, spec: KeySpec, usage: KeyUsage) -> Key:
        new = NewKey(REGION, "", spec, usage, "", storage)
        key, _ = await self.lifecycle.create_key(caller(ADMIN), new, PLAIN)
        if spec is KeySpec.AES_256:
            key, _ = await self.lifecycle.rotate_key(caller(ADMIN), key.name, PLAIN)
        return key

    async def observe(self, days: float) -> None:
        """Let time pass while other servers look after the shard."""
        seconds = int(days * DAY) + 300
        self.clock.sleep(seconds)
        observed = await self.store.observed_seconds()
        assert await self.store.advance_observed(expected=observed, seconds=seconds)


@pytest.fixture
async def deployment(token: TestToken, tmp_path: Path) -> AsyncIterator[_Deployment]:
    clock = VirtualClock(time.monotonic())
    store = await SqliteKeyStore.open(tmp_path / "store.sqlite3", REGION, clock=clock)
    limits = SpoolLimits(2**20, 1e9, 0, 1.0)  # a record may wait for years: the clock is virtual
    spool = await Spool.open(tmp_path / "spool", REGION, limits=limits, clock=clock)
    trail = ShardAuditTrail(spool, store, region=REGION)
    await trail.recover()
    async with running_pool(token.with_settings(sessions=2)) as pool:
        yield _Deployment(Shard(REGION, pool, store, trail), store, clock)
        await trail.close()
        await spool.close()
        await store.close()


async def test_keys_of_every_kind_are_destroyed_when_both_clocks_say_so(
    deployment: _Deployment,
    token: TestToken,
    tmp_path: Path,
    figures: Callable[..., None],
) -> None:
    """Resident, wrapped and pairs go after a week, not by a jump; HSM and database agree."""
    aes = (KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)
    kinds = [
        (KeyStorage.RESIDENT, *aes),
        (KeyStorage.WRAPPED, *aes),
        (KeyStorage.RESIDENT, KeySpec.EC_P256, KeyUsage.SIGN_VERIFY),
    ]
    doomed = [await deployment.create(*kind) for kind in kinds]
    kept = [await deployment.create(*kind) for kind in kinds]
    for key in doomed:
        await deployment.deletion.schedule_key(caller(ADMIN), key.name, 7, PLAIN)
    for days in (400, -400, 400):
        deployment.clock.jump(timedelta(days=days))
        await deployment.destruction.look()
    deployment.clock.jump(timedelta(days=-400))
    await deployment.observe(6)
    await deployment.destruction.look()
    assert deployment.heard.names == []
    await deployment.observe(1)
    began = time.monotonic()
    await deployment.destruction.look()
    figures(destroyed_keys=len(doomed), seconds=time.monotonic() - began)
    assert sorted(deployment.heard.names) == sorted(str(key.name) for key in doomed)
    for key in doomed:
        now = await deployment.store.find_key(key.key_id)
        assert now is not None
        assert now.state is KeyState.DESTROYED
        assert all(version.wrapped is None for version in now.versions)
    for key in kept:
        assert await deployment.store.find_key(key.key_id) == key
    config = ShardConfig(
        region=REGION,
        module=token.settings.module,
        module_environment=dict(token.settings.module_environment),
        token_label=token.settings.token_label,
        pin_file=token.settings.pin_file,
        store=tmp_path / "store.sqlite3",
        spool=tmp_path / "spool",
    )
    look = await asyncio.to_thread(_look, config)
    assert compare(look, look) == []
    assert not any(str(key.key_id) in item.name for item in look.items for key in doomed)


async def test_a_deletion_taken_back_leaves_a_key_that_works(deployment: _Deployment) -> None:
    """CancelKeyDeletion on the last day: disabled, then enabled, and its material is there."""
    aes = (KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)
    key = await deployment.create(KeyStorage.WRAPPED, *aes)
    token = deployment.shard.token
    sealed = await token.encrypt(key.material(1), b"x", AAD, deadline=time.monotonic() + 10)
    await deployment.deletion.schedule_key(caller(ADMIN), key.name, 7, PLAIN)
    await deployment.observe(6.9)
    await deployment.destruction.look()
    await deployment.deletion.cancel_key(caller(ADMIN), key.name, PLAIN)
    await deployment.observe(400)
    await deployment.destruction.look()
    back, _ = await deployment.lifecycle.set_state(caller(ADMIN), key.name, KeyState.ENABLED, PLAIN)
    opened = await token.decrypt(back.material(1), sealed, AAD, deadline=time.monotonic() + 10)
    assert opened == b"x"
    with pytest.raises(KeyStateInvalidError):
        await deployment.deletion.cancel_key(caller(ADMIN), key.name, PLAIN)
