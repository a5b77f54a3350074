"""Handles of session objects: bounded, destroyed once, dropped when their session is gone."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom_server.hsm.handles import UnwrappedKeys, session_objects
from strongroom_server.hsm.return_codes import HsmFaultError, ReturnCodeError
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.wire_operations import WireKey


def _key(number: int, *, usage: int = 1) -> WireKey:
    return WireKey(number.to_bytes(20, "big"), 1, usage, 1, b"w")


class _Session:
    """Remembers what was destroyed; can fail."""

    def __init__(self, rv: int = 0):
        self.destroyed: list[int] = []
        self.rv = rv

    def destroy(self, handle: int) -> None:
        """Destroy an object."""
        if self.rv:
            raise ReturnCodeError(self.rv)
        self.destroyed.append(handle)


@given(st.lists(st.integers(0, 12), max_size=200))
def test_the_keys_used_last_are_kept(uses: list[int]) -> None:
    """Whatever is used: never more than the bound, the latest among them, each destroyed once."""
    alive: set[int] = set()

    def destroy(handle: KeyHandle) -> None:
        alive.remove(handle)

    keys = UnwrappedKeys(4, destroy)
    recent: list[int] = []
    made = 0
    for number in uses:
        if keys.get(_key(number)) is None:
            made += 1
            alive.add(made)
            keys.put(_key(number), KeyHandle(made))
        recent = [number, *(each for each in recent if each != number)][:4]
        assert len(keys) == len(alive) == len(recent)
    for number in recent:
        assert keys.get(_key(number)) is not None


def test_kinds_do_not_share_a_handle() -> None:
    """The same wrapped bytes as another kind of key are another object."""
    keys = UnwrappedKeys(4, lambda _: None)
    keys.put(_key(1), KeyHandle(7))
    for other in (
        _key(2),
        _key(1, usage=3),
        _key(1)._replace(root=2),
        _key(1)._replace(wrapped=b"x"),
        _key(1)._replace(spec=3),
    ):
        assert keys.get(other) is None
    assert keys.get(_key(1)) == 7


def test_stale_handles_are_dropped_and_not_destroyed() -> None:
    """What went with a session may have its number taken by another object: hands off."""
    destroyed: list[int] = []
    keys = UnwrappedKeys(4, destroyed.append)
    for number in range(4):
        keys.put(_key(number), KeyHandle(number + 1))
    keys.forget(_key(0))
    assert keys.get(_key(0)) is None
    keys.forget_all()
    assert len(keys) == 0
    assert destroyed == []


def test_session_objects_go_at_the_end() -> None:
    """Objects of an operation are destroyed, last first; those with another owner are not."""
    session = _Session()
    with session_objects(cast("TokenSession", session)) as objects:
        objects.keep(KeyHandle(1))
        objects.keep(KeyHandle(2))
    assert session.destroyed == [2, 1]
    with session_objects(cast("TokenSession", session)) as objects:
        objects.keep(KeyHandle(3))
        objects.release()
    assert session.destroyed == [2, 1]


def test_the_first_error_counts() -> None:
    """After an error objects go as far as that works, and the error stays what it was."""
    for broken in (0, 0x30):
        session = _Session(rv=broken)
        with pytest.raises(ReturnCodeError, match="0xB3"):
            _fail_with_an_object(session)
        assert session.destroyed == ([] if broken else [1])


def _fail_with_an_object(session: _Session) -> None:
    with session_objects(cast("TokenSession", session)) as objects:
        objects.keep(KeyHandle(1))
        raise ReturnCodeError(0xB3)


@pytest.mark.parametrize("rv", [0x82, 0x60, 0xB3], ids=hex)
def test_what_is_gone_is_destroyed(rv: int) -> None:
    """An object that is gone, or whose session is, needs no destroying."""
    with session_objects(cast("TokenSession", _Session(rv=rv))) as objects:
        objects.keep(KeyHandle(1))


def test_an_object_that_stays_is_a_fault() -> None:
    """An object that cannot be destroyed would pile up: the worker ends."""
    with (
        pytest.raises(HsmFaultError, match="destroy"),
        session_objects(cast("TokenSession", _Session(rv=0x30))) as objects,
    ):
        objects.keep(KeyHandle(1))
