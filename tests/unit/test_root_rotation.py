"""Rotation of the wrapping root: every version is re-wrapped, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator

import pytest
from tests.support.memory_ports import MemoryClock, MemoryStore, MemoryToken, MemoryTrail

from strongroom_server.domain.keys import (
    Key,
    KeyManager,
    KeyMaterial,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
    KeyVersionRef,
    WrappedMaterial,
)
from strongroom_server.errors import AuditUnavailableError, HsmUnavailableError, StrongroomError
from strongroom_server.mutations import AuditDraft, CreateKey, Mutation, RootState
from strongroom_server.ports import HsmToken
from strongroom_server.services.records import Recorder
from strongroom_server.services.rewrap import RootRotation
from strongroom_server.services.root_rotation import RewrapProgress, RootRotator
from strongroom_server.shards.topology import Shard

REGION = "eu-1"
PLAINTEXT = b"17 gold bars"
AAD = b"where they are"


class Vault:
    """One shard over ports in memory, with what this file does to it."""

    def __init__(self) -> None:
        self.clock = MemoryClock()
        self.token = StubbornToken(REGION)
        self.store = MemoryStore(REGION)
        self.trail = MemoryTrail(REGION, self.store)
        self.shard = Shard(REGION, self.token, self.store, self.trail)
        ids = itertools.count(1)
        self.recorder = Recorder(
            clock=self.clock,
            new_record_id=lambda: uuid.UUID(int=next(ids)),
            on_outcome=lambda *_: None,
        )
        self.steps: list[RewrapProgress] = []
        self.roots = self.another_process()
        self.sealed: dict[KeyVersionRef, bytes] = {}

    def another_process(self) -> RootRotator:
        """Return the same roots with a lock of their own, as another process has it."""
        return RootRotator(
            REGION,
            token=self.token,
            store=self.store,
            recorder=self.recorder,
            clock=self.clock,
            mutations=asyncio.Lock(),
        )

    def deadline(self) -> float:
        return self.clock.monotonic() + 5

    async def add_keys(self, count: int, *, root: int = 1) -> None:
        """Make wrapped keys under `root`, and a ciphertext of each."""
        for _ in range(count):
            ref = KeyVersionRef(uuid.uuid4(), 1)
            material = await self.token.create_version(
                ref,
                spec=KeySpec.AES_256,
                usage=KeyUsage.ENCRYPT_DECRYPT,
                root=root,
                deadline=self.deadline(),
            )
            self.sealed[ref] = await self.token.encrypt(
                material, PLAINTEXT, AAD, deadline=self.deadline()
            )
            key = wrapped_key(self.clock, material)
            draft = AuditDraft(uuid.uuid4(), self.clock.now(), "x", "", "CreateKey", "OK", "")
            await self.store.commit(Mutation(CreateKey(key), draft))

    async def check_all_decrypt(self) -> None:
        """Every ciphertext opens with the material that the store has now."""
        for ref, sealed in self.sealed.items():
            key = await self.store.find_key(ref.key_id)
            assert key is not None
            found = await self.token.decrypt(key.material(1), sealed, AAD, deadline=self.deadline())
            assert found == PLAINTEXT

    async def states(self) -> list[RootState]:
        return [root.state for root in await self.store.list_roots()]

    def root_records(self) -> list[tuple[str, str | None, str]]:
        """Return method, name and principal of the records of root changes."""
        return [
            (draft.method, draft.key, draft.principal)
            for draft in self.store.outbox
            if draft.method.endswith("WrappingRoot")
        ]


class Listener:
    """A RotationObserver that remembers."""

    def __init__(self, steps: list[RewrapProgress]) -> None:
        self.stepped = steps.append
        self.problems: list[StrongroomError] = []

    def waits(self, problem: StrongroomError) -> None:
        self.problems.append(problem)

    def failed(self, fault: Exception) -> None:
        raise AssertionError("a fault of the program") from fault


class StubbornToken(MemoryToken):
    """Fails to re-wrap chosen versions, as an HSM does whose object is damaged."""

    refuses: frozenset[uuid.UUID] = frozenset()
    mixes_up: frozenset[uuid.UUID] = frozenset()
    other: WrappedMaterial

    async def rewrap(self, material: KeyMaterial, root: int, *, deadline: float) -> WrappedMaterial:
        if material.ref.key_id in self.refuses:
            raise HsmUnavailableError(REGION, "does not unwrap")
        if material.ref.key_id in self.mixes_up and root == self.other.root:
            return self.other
        return await super().rewrap(material, root, deadline=deadline)

    async def mix_up(self, key_id: uuid.UUID, root: int, *, deadline: float) -> None:
        """From now on re-wrapping `key_id` under `root` gives another key's material."""
        other = await self.create_version(
            KeyVersionRef(uuid.uuid4(), 1),
            spec=KeySpec.AES_256,
            usage=KeyUsage.ENCRYPT_DECRYPT,
            root=root,
            deadline=deadline,
        )
        assert other.wrapped is not None
        self.other = other.wrapped
        self.mixes_up = frozenset({key_id})


def wrapped_key(clock: MemoryClock, material: KeyMaterial) -> Key:
    now = clock.now()
    return Key(
        key_id=material.ref.key_id,
        region=REGION,
        spec=KeySpec.AES_256,
        usage=KeyUsage.ENCRYPT_DECRYPT,
        state=KeyState.ENABLED,
        manager=KeyManager.CUSTOMER,
        description="",
        primary_version=1,
        creator="spiffe://example.org/orders",
        create_time=now,
        update_time=now,
        revision=1,
        policy="permit (principal, action, resource);",
        versions=(KeyVersion(1, now, 0, material.wrapped),),
        storage=KeyStorage.WRAPPED,
    )


@pytest.fixture
async def vault() -> Vault:
    """A shard with 150 keys under root 1."""
    made = Vault()
    assert await made.roots.add() == 1
    await made.add_keys(150)
    return made


@contextlib.asynccontextmanager
async def rotating(vault: Vault) -> AsyncIterator[Listener]:
    """Run the background task of the vault's shard."""
    listener = Listener(vault.steps)
    rotation = RootRotation(vault.shard, vault.recorder, vault.clock, listener)
    task = asyncio.create_task(rotation.run())
    try:
        yield listener
    finally:
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_the_port_is_kept() -> None:
    """The stubborn token is a token."""
    token: HsmToken = StubbornToken(REGION)
    assert token is not None


async def test_without_roots_there_is_nothing_to_do() -> None:
    """A shard without wrapped keys is settled and stays without roots."""
    empty = Vault()
    assert await empty.roots.is_settled()
    assert await empty.roots.settle(empty.steps.append)
    assert await empty.store.list_roots() == []
    assert empty.steps == []


async def test_a_rotation_re_wraps_everything_and_retires_the_old_root(vault: Vault) -> None:
    """All versions end under the new root, open what they sealed, and both steps are recorded."""
    assert await vault.roots.is_settled()
    assert await vault.roots.add() == 2
    assert await vault.states() == [RootState.RETIRING, RootState.ACTIVE]
    assert not await vault.roots.is_settled()
    await vault.check_all_decrypt()
    assert await vault.roots.settle(vault.steps.append)
    assert await vault.states() == [RootState.RETIRED, RootState.ACTIVE]
    assert await vault.store.count_stale_versions(2) == 0
    assert await vault.store.count_stale_versions(0) == 150
    assert await vault.roots.is_settled()
    await vault.check_all_decrypt()
    assert vault.root_records() == [
        ("RotateWrappingRoot", "regions/eu-1/wrapping-roots/1", "strongroom:roots"),
        ("RotateWrappingRoot", "regions/eu-1/wrapping-roots/2", "strongroom:roots"),
        ("RetireWrappingRoot", "regions/eu-1/wrapping-roots/1", "strongroom:roots"),
    ]


async def test_progress_adds_up(vault: Vault) -> None:
    """Steps count every version once, and what is left goes down to nothing."""
    await vault.roots.add()
    await vault.roots.settle(vault.steps.append)
    assert sum(step.rewrapped for step in vault.steps) == 150
    assert [step.stale for step in vault.steps] == [150, 86, 22, 0, 0]
    assert {step.root for step in vault.steps} == {2}


async def test_two_rotations_at_once_end_under_the_newest(vault: Vault) -> None:
    """Versions under two older roots are put under the third, and both older ones retire."""
    await vault.roots.add()
    await vault.add_keys(10, root=2)
    await vault.roots.add()
    while not await vault.roots.settle(vault.steps.append):
        pass
    assert await vault.states() == [RootState.RETIRED, RootState.RETIRED, RootState.ACTIVE]
    assert await vault.store.count_stale_versions(3) == 0
    await vault.check_all_decrypt()


async def test_a_rotation_that_was_cut_off_is_taken_up(vault: Vault) -> None:
    """What was done before a stop is not done again; the rest is."""
    await vault.roots.add()
    cut = asyncio.create_task(vault.roots.settle(vault.steps.append))
    async with asyncio.timeout(5):
        while not any(step.rewrapped for step in vault.steps):  # noqa: ASYNC110 - a plain list
            await asyncio.sleep(0)
    cut.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await cut
    left = await vault.store.count_stale_versions(2)
    assert 0 < left < 150
    assert await vault.states() == [RootState.RETIRING, RootState.ACTIVE]
    await vault.check_all_decrypt()
    vault.steps.clear()
    assert await vault.another_process().settle(vault.steps.append)
    assert sum(step.rewrapped for step in vault.steps) == left
    await vault.check_all_decrypt()


async def test_two_processes_at_once_do_not_disturb_each_other(vault: Vault) -> None:
    """Each version is replaced once; the roots are retired once."""
    await vault.roots.add()
    others: list[RewrapProgress] = []
    other = vault.another_process()
    await asyncio.gather(vault.roots.settle(vault.steps.append), other.settle(others.append))
    assert await vault.roots.settle(vault.steps.append)
    assert sum(step.rewrapped for step in [*vault.steps, *others]) == 150
    assert await vault.states() == [RootState.RETIRED, RootState.ACTIVE]
    assert [method for method, _, _ in vault.root_records()].count("RetireWrappingRoot") == 1
    await vault.check_all_decrypt()


async def test_versions_that_fail_do_not_stop_the_others(vault: Vault) -> None:
    """The rest is re-wrapped, the old root stays, and the failure is told."""
    broken = [ref.key_id for ref in vault.sealed][:70]
    vault.token.refuses = frozenset(broken[::7])
    await vault.roots.add()
    with pytest.raises(HsmUnavailableError, match="does not unwrap"):
        await vault.roots.settle(vault.steps.append)
    assert await vault.store.count_stale_versions(2) == 10
    assert vault.steps[-1].stale == 10
    assert sum(step.failed for step in vault.steps) == 10
    assert await vault.states() == [RootState.RETIRING, RootState.ACTIVE]
    vault.token.refuses = frozenset()
    assert await vault.roots.settle(vault.steps.append)
    await vault.check_all_decrypt()


async def test_material_that_is_not_what_it_was_replaces_nothing(vault: Vault) -> None:
    """An HSM that re-wraps something else is found out while the old bytes are still there."""
    await vault.roots.add()
    victim = next(iter(vault.sealed)).key_id
    await vault.token.mix_up(victim, 2, deadline=vault.deadline())
    with pytest.raises(HsmUnavailableError, match="something else"):
        await vault.roots.settle(vault.steps.append)
    assert await vault.store.count_stale_versions(2) == 1
    await vault.check_all_decrypt()
    vault.token.mixes_up = frozenset()
    assert await vault.roots.settle(vault.steps.append)
    await vault.check_all_decrypt()


async def test_a_failing_hsm_ends_the_round_at_once(vault: Vault) -> None:
    """Nothing is changed, and not every version is tried on an HSM that is gone."""
    await vault.roots.add()
    vault.token.fault = HsmUnavailableError(REGION, "gone")
    before = vault.token.operations
    with pytest.raises(HsmUnavailableError, match="gone"):
        await vault.roots.settle(vault.steps.append)
    assert vault.token.operations - before <= 64
    assert await vault.store.count_stale_versions(2) == 150
    with pytest.raises(HsmUnavailableError, match="gone"):
        await vault.roots.add()
    assert len(await vault.store.list_roots()) == 2


async def test_the_background_task_notices_a_new_root(vault: Vault) -> None:
    """A root that another process added is rotated to without being told, while calls go on."""
    async with rotating(vault):
        await asyncio.sleep(0.05)
        assert vault.steps == []
        await vault.another_process().add()
        async with asyncio.timeout(20):
            while await vault.states() != [RootState.RETIRED, RootState.ACTIVE]:
                await vault.check_all_decrypt()
                await asyncio.sleep(0.05)
    assert vault.steps[-1].stale == 0


async def test_the_background_task_outlives_failures(vault: Vault) -> None:
    """A failing HSM only delays; nothing is lost and nobody has to start it again."""
    await vault.roots.add()
    vault.token.fault = HsmUnavailableError(REGION, "gone")
    async with rotating(vault) as listener:
        async with asyncio.timeout(10):
            while not listener.problems:  # noqa: ASYNC110 - a plain list
                await asyncio.sleep(0.02)
        vault.token.fault = None
        async with asyncio.timeout(20):
            while await vault.states() != [RootState.RETIRED, RootState.ACTIVE]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    await vault.check_all_decrypt()


async def test_nothing_begins_that_cannot_be_recorded(vault: Vault) -> None:
    """With a full spool the background work waits."""
    await vault.roots.add()
    vault.trail.full = True
    rotation = RootRotation(vault.shard, vault.recorder, vault.clock, Listener(vault.steps))
    with pytest.raises(AuditUnavailableError):
        await rotation.settle()
    assert vault.steps == []
    vault.trail.full = False
    assert await rotation.settle()
