"""The destruction of what is due: crashes between its steps, other servers, failures."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.support.memory_service import MemoryService, caller
from tests.support.virtual_clock import VirtualClock

from strongroom.resource_names import AliasName, KeyVersionName
from strongroom_server.domain.deletion import MAX_STEP_SECONDS
from strongroom_server.domain.keys import (
    Key,
    KeyMaterial,
    KeyState,
    KeyStorage,
    VersionState,
)
from strongroom_server.errors import (
    AuditUnavailableError,
    HsmUnavailableError,
    KeyStateInvalidError,
    StrongroomError,
)
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.destruction import PRINCIPAL, KeyDestruction

DAY = 86_400
PLAIN = ChangeRequest()


class Heard:
    """A DestructionObserver that remembers."""

    def __init__(self) -> None:
        self.names: list[tuple[str, int]] = []
        self.problems: list[str] = []

    def destroyed(self, name: str, versions: int) -> None:
        self.names.append((name, versions))

    def waits(self, name: str, problem: StrongroomError) -> None:
        del name
        self.problems.append(problem.reason)

    def failed(self, fault: Exception) -> None:
        raise fault


class Server:
    """One server's part: its own monotonic clock over the same ports."""

    def __init__(self, service: MemoryService) -> None:
        self.heard = Heard()
        self.destruction = KeyDestruction(
            service.topology.shard("eu-1"), service.recorder, service.clock, self.heard
        )

    async def look(self) -> None:
        await self.destruction.look()


@pytest.fixture
def service() -> MemoryService:
    return MemoryService("eu-1", clock=VirtualClock())


def clock_of(service: MemoryService) -> VirtualClock:
    assert isinstance(service.clock, VirtualClock)
    return service.clock


def pass_days(service: MemoryService, days: float) -> None:
    """Let time pass while another server looks after the shard."""
    clock_of(service).sleep(days * DAY + MAX_STEP_SECONDS)
    service.eu.store.observed += int(days * DAY) + MAX_STEP_SECONDS


async def scheduled(
    service: MemoryService, storage: KeyStorage = KeyStorage.RESIDENT, versions: int = 2
) -> Key:
    """Make a key with some versions that waits for its deletion for a week."""
    key = await service.create_key(storage=storage)
    for _ in range(versions - 1):
        await service.lifecycle.rotate_key(caller(), key.name, PLAIN)
    waiting, _ = await service.management.deletion.schedule_key(caller(), key.name, 7, PLAIN)
    return waiting


@pytest.mark.parametrize("storage", KeyStorage)
async def test_what_is_due_is_destroyed_and_leaves_a_tombstone(
    service: MemoryService, storage: KeyStorage
) -> None:
    """The material is gone from HSM and store, each step is on record, the key says when."""
    key = await scheduled(service, storage)
    server = Server(service)
    pass_days(service, 7)
    await server.look()
    gone = service.eu.store.keys[key.key_id]
    assert (gone.state, gone.deletion) == (KeyState.DESTROYED, None)
    assert gone.destroy_time == clock_of(service).now()
    assert [v.state for v in gone.versions] == [VersionState.DESTROYED] * 2
    assert [v.wrapped for v in gone.versions] == [None, None]
    assert service.eu.token.materials == {}
    assert server.heard.names == [(str(key.name), 2)]
    records = service.records()[-2:]
    assert [r.method for r in records] == ["BeginKeyDestruction", "DestroyKey"]
    assert {(r.principal, r.key, r.outcome, r.policy) for r in records} == {
        (PRINCIPAL, str(key.name), "OK", "scheduled-deletion")
    }
    await server.look()
    assert service.eu.store.keys[key.key_id] == gone
    with pytest.raises(KeyError):
        gone.material(1)


async def test_nothing_is_destroyed_early(service: MemoryService) -> None:
    """Not by a wall clock 400 days ahead, and not by one 400 days behind that comes back."""
    key = await scheduled(service)
    server = Server(service)
    for days in (400, -400):
        clock_of(service).jump(timedelta(days=days))
        for _ in range(3):
            clock_of(service).sleep(60)
            await server.look()
        clock_of(service).jump(timedelta(days=-days))
        await server.look()
    assert service.eu.store.keys[key.key_id] == key
    assert server.heard.names == []
    clock_of(service).jump(timedelta(days=-400))
    late, _ = await service.management.deletion.cancel_key(caller(), key.name, PLAIN)
    await service.management.deletion.schedule_key(caller(), late.name, 7, PLAIN)
    clock_of(service).jump(timedelta(days=400))  # scheduled by a clock that was slow
    await server.look()
    assert service.eu.store.keys[key.key_id].state is KeyState.PENDING_DELETION


async def test_a_week_of_looks_is_what_it_takes(service: MemoryService) -> None:
    """One server alone, looking once a minute, destroys after seven days and not before."""
    key = await scheduled(service)
    server = Server(service)
    looks = 0
    while service.eu.store.keys[key.key_id].state is KeyState.PENDING_DELETION:
        clock_of(service).sleep(MAX_STEP_SECONDS)
        await server.look()
        looks += 1
    days = looks * MAX_STEP_SECONDS / DAY
    assert 7 <= days < 7.01


async def test_a_destruction_that_was_cut_off_goes_on(service: MemoryService) -> None:
    """The HSM fails between the steps: the key cannot be taken back, and goes later."""
    key = await scheduled(service)
    pass_days(service, 7)
    service.eu.token.fault = HsmUnavailableError("eu-1", "gone")
    server = Server(service)
    await server.look()
    begun = service.eu.store.keys[key.key_id]
    assert begun.state is KeyState.PENDING_DELETION
    assert begun.deletion is not None
    assert begun.deletion.has_begun
    assert server.heard.problems == ["HSM_UNAVAILABLE"]
    with pytest.raises(KeyStateInvalidError, match="being destroyed"):
        await service.management.deletion.cancel_key(caller(), key.name, PLAIN)
    service.eu.token.fault = None
    clock_of(service).jump(timedelta(days=-400))  # what has begun waits for no clock
    other = Server(service)
    await other.look()
    assert service.eu.store.keys[key.key_id].state is KeyState.DESTROYED
    methods = [r.method for r in service.records() if r.principal == PRINCIPAL]
    assert methods == ["BeginKeyDestruction", "DestroyKey"]


async def test_those_that_fail_do_not_hide_the_others(service: MemoryService) -> None:
    """Forty keys that the HSM does not let go of come first; forty others go in one look."""
    stuck = [await scheduled(service, versions=1) for _ in range(40)]
    free = [await scheduled(service, versions=1) for _ in range(40)]
    pass_days(service, 7)
    destroy = service.eu.token.destroy_version
    held = {key.key_id for key in stuck}

    async def refusing(material: KeyMaterial, *, deadline: float) -> None:
        if material.ref.key_id in held:
            raise HsmUnavailableError("eu-1", "it is not to be destroyed")
        await destroy(material, deadline=deadline)

    service.eu.token.destroy_version = refusing  # type: ignore[method-assign]
    server = Server(service)
    await server.look()
    keys = service.eu.store.keys
    assert {keys[key.key_id].state for key in free} == {KeyState.DESTROYED}
    assert {keys[key.key_id].state for key in stuck} == {KeyState.PENDING_DELETION}
    assert server.heard.problems == ["HSM_UNAVAILABLE"] * 40
    held.clear()
    await server.look()
    assert {key.state for key in keys.values()} == {KeyState.DESTROYED}


async def test_nothing_begins_that_could_not_be_recorded(service: MemoryService) -> None:
    """With a full spool the key stays as it is."""
    key = await scheduled(service)
    pass_days(service, 7)
    service.eu.trail.full = True
    with pytest.raises(AuditUnavailableError):
        await Server(service).look()
    assert service.eu.store.keys[key.key_id] == key


async def test_a_key_that_was_taken_back_stays(service: MemoryService) -> None:
    """A cancellation between a server's reading and its writing wins."""
    key = await scheduled(service)
    pass_days(service, 7)
    server = Server(service)
    read = service.eu.store.due_deletions

    async def slowly(**asked: object) -> object:
        due = await read(**asked)  # type: ignore[arg-type]  # as it was called
        await service.management.deletion.cancel_key(caller(), key.name, PLAIN)
        return due

    service.eu.store.due_deletions = slowly  # type: ignore[method-assign,assignment]
    await server.look()
    assert service.eu.store.keys[key.key_id].state is KeyState.DISABLED
    assert len(service.eu.token.materials) == 2
    assert server.heard.problems == []


async def test_two_servers_destroy_once(service: MemoryService) -> None:
    """Both look at the same time; one of them writes the records."""
    keys = [await scheduled(service) for _ in range(3)]
    pass_days(service, 7)
    servers = [Server(service), Server(service)]
    await asyncio.gather(*(server.look() for server in servers))
    assert {service.eu.store.keys[key.key_id].state for key in keys} == {KeyState.DESTROYED}
    methods = [r.method for r in service.records() if r.principal == PRINCIPAL]
    assert sorted(methods) == ["BeginKeyDestruction"] * 3 + ["DestroyKey"] * 3
    assert sum(len(server.heard.names) for server in servers) == 3


@pytest.mark.parametrize("storage", KeyStorage)
async def test_a_version_goes_alone(service: MemoryService, storage: KeyStorage) -> None:
    """Its ciphertexts are refused for ever, the primary version goes on."""
    key = await service.create_key(storage=storage)
    old = await service.crypto.encrypt(caller(), key.name, b"old", {}, validate_only=False)
    await service.lifecycle.rotate_key(caller(), key.name, PLAIN)
    first = KeyVersionName("eu-1", key.key_id, 1)
    await service.management.deletion.schedule_version(caller(), first, 7, PLAIN)
    pass_days(service, 7)
    server = Server(service)
    await server.look()
    now = service.eu.store.keys[key.key_id]
    assert [v.state for v in now.versions] == [VersionState.DESTROYED, VersionState.ENABLED]
    assert now.state is KeyState.ENABLED
    assert server.heard.names == [(str(first), 1)]
    records = service.records()[-2:]
    assert [(r.method, r.key_version) for r in records] == [
        ("BeginKeyVersionDestruction", 1),
        ("DestroyKeyVersion", 1),
    ]
    with pytest.raises(KeyStateInvalidError, match="versions/1 is destroyed"):
        await service.crypto.decrypt(caller(), key.name, old.blob, {}, validate_only=False)
    await service.crypto.encrypt(caller(), key.name, b"new", {}, validate_only=False)
    with pytest.raises(KeyStateInvalidError, match="destroyed"):
        await service.management.deletion.cancel_version(caller(), first, PLAIN)
    third, _ = await service.lifecycle.rotate_key(caller(), key.name, PLAIN)
    assert third.versions[-1].number == 3


async def test_an_alias_of_a_destroyed_key_leads_nowhere_else(service: MemoryService) -> None:
    """It goes on naming the tombstone until it is deleted, and is then free to be made."""
    key = await scheduled(service)
    other = await service.create_key()
    alias = AliasName("eu-1", "orders")
    fresh = await service.create_key()
    await service.aliases.create(caller(), alias, fresh.name, PLAIN)
    await service.management.deletion.schedule_key(caller(), fresh.name, 7, PLAIN)
    pass_days(service, 7)
    await Server(service).look()
    assert service.eu.store.keys[key.key_id].state is KeyState.DESTROYED
    with pytest.raises(KeyStateInvalidError):
        await service.crypto.encrypt(caller(), alias, b"x", {}, validate_only=False)
    with pytest.raises(KeyStateInvalidError):
        await service.aliases.update(caller(), alias, other.name, PLAIN)
    gone, _ = await service.aliases.delete(caller(), alias, PLAIN)
    assert gone.key_id == fresh.key_id
    await service.aliases.create(caller(), alias, other.name, PLAIN)
    await service.crypto.encrypt(caller(), alias, b"x", {}, validate_only=False)
