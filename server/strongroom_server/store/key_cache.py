"""A shard's keys and aliases in memory: those used last, up to a bound.

Owned by the event loop: no method may be called from another thread. Entries carry the
change number of the row they came from and only go forward: a row that another thread
read before a commit of this process cannot undo that commit here.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Alias, Key

__all__ = ["DEFAULT_KEY_CACHE_KEYS", "KeyCache", "StoredAlias", "StoredKey"]

DEFAULT_KEY_CACHE_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key and the change number of its row."""

    key: Key
    change_number: int


@dataclass(frozen=True, slots=True)
class StoredAlias:
    """An alias and the change number of its row.

    `deleted` is what is left of one: kept like the others for a while, so that a row which
    another thread read before the deletion cannot bring it back.
    """

    alias: Alias
    change_number: int
    deleted: bool = False


class KeyCache:
    """At most `limit` keys and `limit` aliases; the ones not used for longest go first.

    What is not here is not known: absence is never kept.
    """

    def __init__(self, limit: int) -> None:
        """Take the bound, at least 1, for keys and for aliases each."""
        if limit < 1:
            raise ValueError("a cache must have room for one key")
        self._limit = limit
        self._keys: OrderedDict[uuid.UUID, StoredKey] = OrderedDict()
        self._aliases: OrderedDict[AliasName, StoredAlias] = OrderedDict()

    def __len__(self) -> int:
        """Return how many keys are here."""
        return len(self._keys)

    def __iter__(self) -> Iterator[uuid.UUID]:
        """Go over the ids of the keys, that used last at the end; no use."""
        return iter(self._keys)

    @property
    def aliases(self) -> int:
        """How many aliases are here."""
        return len(self._aliases)

    def key(self, key_id: uuid.UUID) -> Key | None:
        """Return a key and count it as used now."""
        stored = self._keys.get(key_id)
        if stored is None:
            return None
        self._keys.move_to_end(key_id)
        return stored.key

    def alias(self, name: AliasName) -> Alias | None:
        """Return an alias and count it as used now."""
        stored = self._aliases.get(name)
        if stored is None or stored.deleted:
            return None
        self._aliases.move_to_end(name)
        return stored.alias

    def put_key(self, stored: StoredKey) -> bool:
        """Take over a key's row, unless a newer one is here.

        Returns:
            Whether the key is new here or has another revision; reserved uses and other
            wrapping alone are not worth telling anybody.
        """
        key_id = stored.key.key_id
        old = self._keys.get(key_id)
        if old is not None and old.change_number >= stored.change_number:
            return False
        self._keys[key_id] = stored
        self._keys.move_to_end(key_id)
        if len(self._keys) > self._limit:
            self._keys.popitem(last=False)
        return old is None or old.key.revision != stored.key.revision

    def replace_key(self, stored: StoredKey) -> None:
        """Take over a key's row only where an older one is here; no use."""
        old = self._keys.get(stored.key.key_id)
        if old is not None and old.change_number < stored.change_number:
            self._keys[stored.key.key_id] = stored

    def put_alias(self, stored: StoredAlias) -> None:
        """Take over an alias' row, unless a newer one is here."""
        old = self._aliases.get(stored.alias.name)
        if old is not None and old.change_number >= stored.change_number:
            return
        self._aliases[stored.alias.name] = stored
        self._aliases.move_to_end(stored.alias.name)
        if len(self._aliases) > self._limit:
            self._aliases.popitem(last=False)

    def drop_older_keys(self, changed: Iterable[tuple[uuid.UUID, int]]) -> list[uuid.UUID]:
        """Drop the keys whose row has a higher change number now; return those dropped."""
        dropped = []
        for key_id, change_number in changed:
            stored = self._keys.get(key_id)
            if stored is not None and stored.change_number < change_number:
                del self._keys[key_id]
                dropped.append(key_id)
        return dropped

    def drop_older_aliases(self, changed: Iterable[tuple[AliasName, int]]) -> None:
        """Drop the aliases whose row has a higher change number now."""
        for name, change_number in changed:
            stored = self._aliases.get(name)
            if stored is not None and stored.change_number < change_number:
                del self._aliases[name]

    def drop_everything(self) -> list[uuid.UUID]:
        """Drop all; return the ids of the keys that were here."""
        dropped = list(self._keys)
        self._keys.clear()
        self._aliases.clear()
        return dropped
