"""Grants in memory: of the principals that were asked for last, up to a bound.

Owned by the event loop. That a principal has none is kept too: who is refused often must
not cost a read each time. So everything here has to go when it changes, grants that are
made included; commits of this process and the change feed tell whose.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from strongroom_server.domain.grants import PrincipalGrants

__all__ = ["GrantCache", "GrantPlace"]

MAX_CACHED_GRANTS: Final = 50_000

GrantPlace = tuple[uuid.UUID, str]
"""A key and a grantee."""


class GrantCache:
    """At most `limit` grants and principals together; those not asked for longest go first."""

    def __init__(self, limit: int = MAX_CACHED_GRANTS) -> None:
        """Take the bound; a principal without grants counts as one."""
        self._limit = limit
        self._held = 0
        self._entries: OrderedDict[GrantPlace, tuple[PrincipalGrants, int]] = OrderedDict()

    @property
    def held(self) -> int:
        """How much of the bound is taken."""
        return self._held

    def get(self, place: GrantPlace) -> PrincipalGrants | None:
        """Return a principal's grants and count them as used now; None when not known."""
        entry = self._entries.get(place)
        if entry is None:
            return None
        self._entries.move_to_end(place)
        return entry[0]

    def put(self, place: GrantPlace, grants: PrincipalGrants, change_number: int) -> None:
        """Take over what was read, as of its book's change number."""
        self.drop(place)
        self._entries[place] = (grants, change_number)
        self._held += _cost(grants)
        while self._held > self._limit:
            self.drop(next(iter(self._entries)))

    def drop(self, place: GrantPlace) -> None:
        """Let go of a principal's grants."""
        entry = self._entries.pop(place, None)
        if entry is not None:
            self._held -= _cost(entry[0])

    def drop_older(self, changed: Iterable[tuple[GrantPlace, int]]) -> None:
        """Let go of those that are older than the given change numbers."""
        for place, change_number in changed:
            entry = self._entries.get(place)
            if entry is not None and entry[1] < change_number:
                self.drop(place)

    def drop_everything(self) -> None:
        """Let go of all."""
        self._entries.clear()
        self._held = 0


def _cost(grants: PrincipalGrants) -> int:
    return 1 + len(grants.grants)
