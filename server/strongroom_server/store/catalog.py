"""A shard's keys and aliases in memory: what every read of the service is answered from.

Owned by the event loop: no method may be called from another thread. Entries carry the
change number of the row they came from and only go forward: a snapshot that another
thread took before a commit of this process cannot undo that commit here.
"""

from __future__ import annotations

import bisect
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import overload

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Alias, Key, KeyState

__all__ = ["Catalog", "StoreCounts", "StoredAlias", "StoredKey"]

_Position = tuple[datetime, uuid.UUID]


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key and the change number of its row."""

    key: Key
    change_number: int


@dataclass(frozen=True, slots=True)
class StoredAlias:
    """An alias and the change number of its row."""

    alias: Alias
    change_number: int


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """How much is in the store, for metrics. Every state has an entry."""

    keys_by_state: Mapping[KeyState, int]
    versions: int
    aliases: int


class Catalog:
    """Keys by id and by age, aliases by name. Nothing is ever removed in this release."""

    def __init__(self) -> None:
        self._keys: dict[uuid.UUID, StoredKey] = {}
        self._aliases: dict[AliasName, StoredAlias] = {}
        # Positions ascending. Only ever appended to in place; any other insertion makes a
        # new list, so that a range handed out before keeps its indices.
        self._order: list[_Position] = []
        self._states: Counter[KeyState] = Counter()
        self._versions = 0

    def find_key(self, key_id: uuid.UUID) -> Key | None:
        """Return a key."""
        stored = self._keys.get(key_id)
        return None if stored is None else stored.key

    def find_alias(self, name: AliasName) -> Alias | None:
        """Return an alias."""
        stored = self._aliases.get(name)
        return None if stored is None else stored.alias

    def list_keys(self, *, after: _Position | None) -> Sequence[Key]:
        """Return the keys beyond `after`, oldest first, without copying them.

        The range does not grow or shift afterwards; its keys are looked up when they are
        asked for.
        """
        start = 0 if after is None else bisect.bisect_right(self._order, after)
        return _KeyRange(self._keys, self._order, range(start, len(self._order)))

    def counts(self) -> StoreCounts:
        """Return how much there is; constant time."""
        return StoreCounts(
            keys_by_state={state: self._states[state] for state in KeyState},
            versions=self._versions,
            aliases=len(self._aliases),
        )

    def put_key(self, stored: StoredKey) -> bool:
        """Take over a key's row, unless a newer one is here.

        Returns:
            Whether the key is new or has another revision; reserved uses alone are not
            worth telling anybody.
        """
        key = stored.key
        old = self._keys.get(key.key_id)
        if old is not None:
            if old.change_number >= stored.change_number:
                return False
            self._states[old.key.state] -= 1
            self._versions -= len(old.key.versions)
        else:
            self._insert_position((key.create_time, key.key_id))
        self._keys[key.key_id] = stored
        self._states[key.state] += 1
        self._versions += len(key.versions)
        return old is None or old.key.revision != key.revision

    def put_alias(self, stored: StoredAlias) -> None:
        """Take over an alias' row, unless a newer one is here."""
        old = self._aliases.get(stored.alias.name)
        if old is None or old.change_number < stored.change_number:
            self._aliases[stored.alias.name] = stored

    def _insert_position(self, position: _Position) -> None:
        if not self._order or self._order[-1] < position:
            self._order.append(position)
            return
        # A clock that went back, or another process' key that arrives late.
        at = bisect.bisect_left(self._order, position)
        self._order = [*self._order[:at], position, *self._order[at:]]


class _KeyRange(Sequence[Key]):
    """Some keys by age; see Catalog.list_keys."""

    __slots__ = ("_indices", "_keys", "_order")

    def __init__(
        self, keys: Mapping[uuid.UUID, StoredKey], order: Sequence[_Position], indices: range
    ) -> None:
        self._keys = keys
        self._order = order
        self._indices = indices

    @overload
    def __getitem__(self, index: int) -> Key: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Key]: ...
    def __getitem__(self, index: int | slice) -> Key | Sequence[Key]:
        if isinstance(index, slice):
            return _KeyRange(self._keys, self._order, self._indices[index])
        return self._key_at(self._indices[index])

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Key]:
        return map(self._key_at, self._indices)

    def _key_at(self, position: int) -> Key:
        return self._keys[self._order[position][1]].key
