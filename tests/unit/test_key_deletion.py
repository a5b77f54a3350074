"""Waiting times: how long, by which clock, and that no jump ends them early."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory_service import MemoryService, caller
from tests.support.virtual_clock import VirtualClock

from strongroom.resource_names import KeyVersionName
from strongroom_server.domain.deletion import (
    LOOK_SECONDS,
    MAX_STEP_SECONDS,
    ObservedTime,
    is_due,
    pending_days,
    schedule,
)
from strongroom_server.domain.keys import Deletion, KeyState, VersionState
from strongroom_server.errors import (
    ArgumentInvalidError,
    EtagMismatchError,
    KeyNotFoundError,
    KeyStateInvalidError,
    RequestIdReusedError,
)
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.key_deletion import KeyDeletion

DAY = 86_400
NOW = datetime(2026, 3, 4, tzinfo=UTC)
REQUEST_ID = "11111111-1111-4111-8111-111111111111"


@pytest.mark.parametrize(("asked", "minimum", "days"), [(0, 7, 30), (7, 7, 7), (30, 30, 30)])
def test_waiting_times_within_the_limits(asked: int, minimum: int, days: int) -> None:
    """7 to 30 days, 30 when nothing is said."""
    assert pending_days(asked, minimum=minimum) == days


@pytest.mark.parametrize(("asked", "minimum"), [(6, 7), (1, 7), (31, 7), (13, 14)])
def test_other_waiting_times_are_refused(asked: int, minimum: int) -> None:
    """One day less than the deployment's minimum, and 31, are ARGUMENT_INVALID."""
    with pytest.raises(ArgumentInvalidError, match=f"{minimum} to 30"):
        pending_days(asked, minimum=minimum)


def test_both_clocks_have_to_agree() -> None:
    """What is due by one of them alone is not due; what has begun always is."""
    deletion = schedule(NOW, 1000, days=7)
    assert deletion.time == NOW + timedelta(days=7)
    assert deletion.mark is not None
    assert not is_due(deletion, deletion.time - timedelta(seconds=1), deletion.mark)
    assert not is_due(deletion, deletion.time, deletion.mark - 1)
    assert not is_due(deletion, NOW + timedelta(days=400), 1000)
    assert not is_due(deletion, NOW - timedelta(days=400), deletion.mark + 400 * DAY)
    assert is_due(deletion, deletion.time, deletion.mark)
    assert is_due(Deletion(deletion.time, None), NOW - timedelta(days=400), 0)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.floats(0, 500, allow_nan=False),
            st.sampled_from(["look", "restart", "lost"]),
        ),
        max_size=60,
    )
)
def test_several_servers_never_observe_more_than_there_was(
    walk: list[tuple[int, float, str]],
) -> None:
    """Whatever the pauses, restarts and lost races, the count stays behind true time."""
    servers = [ObservedTime() for _ in range(3)]
    offsets = [0.0, 1e6, 123.0]  # monotonic clocks of processes have nothing in common
    stored, elapsed = 0, 0.0
    for number, pause, what in walk:
        elapsed += pause
        if what == "restart":
            servers[number] = ObservedTime()
        seconds = servers[number].step(stored, elapsed + offsets[number])
        assert 0 <= seconds <= MAX_STEP_SECONDS
        if seconds and what != "lost":
            stored += seconds
            servers[number].moved(seconds)
        assert stored <= elapsed


def test_one_server_observes_nearly_all_of_it() -> None:
    """Fractions of seconds are not lost from look to look, only what one look misses."""
    server, stored = ObservedTime(), 0
    for look in range(1, 1001):
        seconds = server.step(stored, look * (LOOK_SECONDS + 0.7))
        stored += seconds
        server.moved(seconds)
    assert 999 * (LOOK_SECONDS + 0.7) - 1 <= stored <= 999 * (LOOK_SECONDS + 0.7)


def test_a_long_sleep_is_cut_off_and_idle_time_is_not_counted() -> None:
    """A step counts two minutes at most; what passes while nothing waits does not count."""
    server = ObservedTime()
    assert server.step(0, 0.0) == 0
    assert server.step(0, 1e7) == MAX_STEP_SECONDS
    server.moved(MAX_STEP_SECONDS)
    assert server.step(MAX_STEP_SECONDS, 1e7 + 10) == 10
    server.idle()
    assert server.step(MAX_STEP_SECONDS, 2e7) == 0
    assert server.step(MAX_STEP_SECONDS, 2e7 + 5) == 5


@pytest.fixture
def service() -> MemoryService:
    return MemoryService(clock=VirtualClock())


async def test_a_scheduled_key_waits_and_comes_back_disabled(service: MemoryService) -> None:
    """ScheduleKeyDeletion tells the time; CancelKeyDeletion leaves a disabled key."""
    key = await service.create_key()
    deletion = service.management.deletion
    waiting, _ = await deletion.schedule_key(caller(), key.name, 0, ChangeRequest())
    assert waiting.state is KeyState.PENDING_DELETION
    assert waiting.deletion is not None
    assert waiting.deletion.time == service.clock.now() + timedelta(days=30)
    assert waiting.etag != key.etag
    back, _ = await deletion.cancel_key(caller(), key.name, ChangeRequest())
    assert (back.state, back.deletion) == (KeyState.DISABLED, None)
    methods = [record.method for record in service.records()]
    assert methods == ["CreateKey", "ScheduleKeyDeletion", "CancelKeyDeletion"]


async def test_the_deployment_can_ask_for_more(service: MemoryService) -> None:
    """With a minimum of 14 days, 13 are refused and 14 taken; nothing changes by a refusal."""
    key = await service.create_key()
    keys = service.management.deletion._keys
    deletion = KeyDeletion(keys=keys, clock=service.clock, minimum_days=14)
    with pytest.raises(ArgumentInvalidError):
        await deletion.schedule_key(caller(), key.name, 13, ChangeRequest())
    assert service.eu.store.keys[key.key_id] == key
    await deletion.schedule_key(caller(), key.name, 14, ChangeRequest())


async def test_a_version_waits_alone(service: MemoryService) -> None:
    """Its uses are refused, the others go on; taken back, it decrypts again."""
    key = await service.create_key()
    old = await service.crypto.encrypt(caller(), key.name, b"old", {}, validate_only=False)
    await service.lifecycle.rotate_key(caller(), key.name, ChangeRequest())
    new = await service.crypto.encrypt(caller(), key.name, b"new", {}, validate_only=False)
    deletion = service.management.deletion
    first = KeyVersionName("eu-1", key.key_id, 1)
    waiting, _ = await deletion.schedule_version(caller(), first, 7, ChangeRequest())
    assert [v.state for v in waiting.versions] == [
        VersionState.PENDING_DELETION,
        VersionState.ENABLED,
    ]
    assert service.records()[-1].key_version == 1

    async def decrypt(blob: bytes) -> bytes:
        opened = await service.crypto.decrypt(caller(), key.name, blob, {}, validate_only=False)
        return opened.plaintext

    with pytest.raises(KeyStateInvalidError, match="versions/1 is waiting for its deletion"):
        await decrypt(old.blob)
    assert await decrypt(new.blob) == b"new"
    await deletion.cancel_version(caller(), first, ChangeRequest())
    assert await decrypt(old.blob) == b"old"


async def test_what_a_version_cannot_be_asked(service: MemoryService) -> None:
    """The primary one stays; one that does not wait cannot be taken back; none is not found."""
    key = await service.create_key()
    await service.lifecycle.rotate_key(caller(), key.name, ChangeRequest())
    deletion = service.management.deletion

    def version(number: int) -> KeyVersionName:
        return KeyVersionName("eu-1", key.key_id, number)

    with pytest.raises(KeyStateInvalidError, match="primary"):
        await deletion.schedule_version(caller(), version(2), 7, ChangeRequest())
    with pytest.raises(KeyStateInvalidError, match="enabled"):
        await deletion.cancel_version(caller(), version(1), ChangeRequest())
    for call in (
        deletion.schedule_version(caller(), version(3), 7, ChangeRequest()),
        deletion.cancel_version(caller(), version(3), ChangeRequest()),
        deletion.get_version(caller(), version(3)),
    ):
        with pytest.raises(KeyNotFoundError, match="versions/3"):
            await call
    await deletion.schedule_version(caller(), version(1), 7, ChangeRequest())
    with pytest.raises(KeyStateInvalidError, match="waiting"):
        await deletion.schedule_version(caller(), version(1), 7, ChangeRequest())
    key_, found, _ = await deletion.get_version(caller(), version(1))
    assert (key_.key_id, found.state) == (key.key_id, VersionState.PENDING_DELETION)


async def test_requests_are_made_once_and_rehearsed(service: MemoryService) -> None:
    """A repeat gets the first answer, another body is refused, validate_only changes nothing."""
    key = await service.create_key()
    deletion = service.management.deletion
    rehearsed, _ = await deletion.schedule_key(
        caller(), key.name, 7, ChangeRequest(validate_only=True)
    )
    assert rehearsed.state is KeyState.PENDING_DELETION
    assert service.eu.store.keys[key.key_id] == key
    request = ChangeRequest(request_id=REQUEST_ID)
    first, _ = await deletion.schedule_key(caller(), key.name, 7, request)
    await deletion.cancel_key(caller(), key.name, ChangeRequest())
    again, _ = await deletion.schedule_key(caller(), key.name, 7, request)
    assert (again.state, again.deletion, again.etag) == (first.state, first.deletion, first.etag)
    assert service.eu.store.keys[key.key_id].state is KeyState.DISABLED
    with pytest.raises(RequestIdReusedError):
        await deletion.schedule_key(caller(), key.name, 8, request)
    with pytest.raises(EtagMismatchError):
        await deletion.schedule_key(caller(), key.name, 7, ChangeRequest(etag=key.etag))


async def test_what_changes_nothing_is_remembered_too(service: MemoryService) -> None:
    """A repeat of EnableKey of an enabled key does not enable one that was disabled since."""
    key = await service.create_key()
    request = ChangeRequest(request_id=REQUEST_ID)
    first, _ = await service.lifecycle.set_state(caller(), key.name, KeyState.ENABLED, request)
    assert first == key
    await service.lifecycle.set_state(caller(), key.name, KeyState.DISABLED, ChangeRequest())
    again, _ = await service.lifecycle.set_state(caller(), key.name, KeyState.ENABLED, request)
    assert again.etag == key.etag
    assert service.eu.store.keys[key.key_id].state is KeyState.DISABLED
    assert service.records()[-1].policy == "first-answer"
