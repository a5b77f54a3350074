"""Handles of session objects: a bounded set of unwrapped keys, and those of one operation.

Session objects live in the worker's one session (PKCS#11 3.1, 2.5): they are gone with it,
and nobody else sees them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from strongroom_server.hsm.return_codes import Action, HsmFaultError, ReturnCodeError
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.wire_operations import WireKey

__all__ = ["BoundedMap", "SessionObjects", "UnwrappedKeys", "destroy", "session_objects"]

K = TypeVar("K")
V = TypeVar("V")


class BoundedMap(Generic[K, V]):
    """The entries used last, at most `capacity` of them."""

    __slots__ = ("_capacity", "_entries")

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return an entry, None when it is not there; it is now the last one used."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> V | None:
        """Keep an entry; return the one that had to go for it."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            return self._entries.popitem(last=False)[1]
        return None

    def keys(self) -> list[K]:
        """Return what there is an entry for; no use."""
        return list(self._entries)

    def pop(self, key: K) -> V | None:
        """Forget an entry; return it."""
        return self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()


class UnwrappedKeys:
    """Unwrapped material, ready for use; the least recently used is destroyed for the next.

    Keyed by all that decides what the object is and may do: two records that hold the
    same wrapped bytes as different kinds of key do not share one. Owned by the worker's
    thread. The bound is that of the HSM's session memory.
    """

    def __init__(self, capacity: int, destroy_handle: Callable[[KeyHandle], None]):
        self._keys: BoundedMap[WireKey, KeyHandle] = BoundedMap(capacity)
        self._destroy = destroy_handle

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._keys)

    def get(self, key: WireKey) -> KeyHandle | None:
        """Return the handle of a key that is unwrapped."""
        return self._keys.get(key)

    def put(self, key: WireKey, handle: KeyHandle) -> None:
        """Keep a handle; may destroy another one."""
        evicted = self._keys.put(key, handle)
        if evicted is not None:
            self._destroy(evicted)

    def forget(self, key: WireKey) -> None:
        """Drop a handle that is stale: the module may have given its number to another."""
        self._keys.pop(key)

    def discard(self, ref: bytes) -> None:
        """Destroy what was unwrapped of a version, under whichever root."""
        for key in self._keys.keys():  # noqa: SIM118 - a BoundedMap, not a dict
            if key.ref == ref:
                handle = self._keys.pop(key)
                if handle is not None:
                    self._destroy(handle)

    def forget_all(self) -> None:
        """Drop all: their session is gone, and they are with it."""
        self._keys.clear()


class SessionObjects:
    """The session objects of one operation, destroyed at its end."""

    def __init__(self, session: TokenSession):
        self._session = session
        self._handles: list[KeyHandle] = []

    def keep(self, handle: KeyHandle) -> KeyHandle:
        """Remember an object; return its handle."""
        self._handles.append(handle)
        return handle

    def release(self) -> None:
        """Let them live on; they have another owner now."""
        self._handles.clear()

    def destroy_all(self) -> None:
        """Destroy them."""
        while self._handles:
            destroy(self._session, self._handles.pop())


@contextmanager
def session_objects(session: TokenSession) -> Iterator[SessionObjects]:
    """Give an operation's session objects.

    After an error they are destroyed as far as that goes: what the operation met is what
    counts, and a session that is broken takes them with it.
    """
    objects = SessionObjects(session)
    try:
        yield objects
    except BaseException:
        with suppress(HsmFaultError):
            objects.destroy_all()
        raise
    objects.destroy_all()


def destroy(session: TokenSession, handle: KeyHandle) -> None:
    """Destroy an object; one that is gone already is what was wanted.

    Raises:
        HsmFaultError: Anything else.
    """
    try:
        session.destroy(handle)
    except ReturnCodeError as exc:
        if exc.action not in {Action.REFIND, Action.REOPEN}:
            raise HsmFaultError(f"destroy: {exc}") from exc
