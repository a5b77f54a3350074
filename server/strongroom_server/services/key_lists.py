"""The keys that a caller may see, page by page, out of many that it may not."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom_server.domain.keys import Key, KeyState
from strongroom_server.services import pages
from strongroom_server.services.authorization import Authorization
from strongroom_server.shards.topology import Shard

__all__ = ["KeyList", "visible_page"]

# A policy is evaluated for each key of a list: some milliseconds a read, then others' turn,
# and half a second a page at most.
READ_KEYS: Final = 50
MAX_READS: Final = 200


@dataclass(frozen=True, slots=True)
class KeyList:
    """Which keys, and in which order.

    Attributes:
        states: One of which a key has; None for all but the destroyed ones.
        tags: All of which a key has, with these values.
        newest_first: By age descending; else ascending.
    """

    states: frozenset[KeyState] | None = None
    tags: frozenset[tuple[str, str]] = frozenset()
    newest_first: bool = False

    def wants(self, key: Key) -> bool:
        """Say whether a key is one of these."""
        if self.states is None:
            if key.state is KeyState.DESTROYED:
                return False
        elif key.state not in self.states:
            return False
        return not self.tags or self.tags <= frozenset(key.tags)

    def bind(self, parent: str) -> str:
        """Return what the page tokens of this list are bound to, not longer than a hash."""
        if self == KeyList():
            return parent  # as before there was a choice: tokens outlive updates
        states = None if self.states is None else sorted(self.states)
        said = json.dumps([parent, states, sorted(self.tags), self.newest_first])
        return hashlib.sha256(said.encode()).hexdigest()


async def visible_page(
    shard: Shard,
    authorization: Authorization,
    principal: str,
    wanted: KeyList,
    *,
    page_token: str,
    size: int,
) -> tuple[Sequence[Key], str]:
    """Return at most `size` keys of a list, and the token of the next page.

    A token names the last key seen, so keys that come or go between two pages make no
    other come twice or be left out. Other calls have their turn between the reads of the
    store. When there are very many keys that the principal may not see, or that are not
    wanted, a page has fewer keys, or none, and a token.

    Raises:
        ArgumentInvalidError: The token is of another list.
        ShardUnavailableError: The store cannot tell.
    """
    parent = wanted.bind(f"regions/{shard.region}")
    after: tuple[datetime, uuid.UUID] | None = pages.key_position(page_token, parent)
    page: list[Key] = []
    for _ in range(MAX_READS):
        keys = await shard.store.list_keys(
            after=after, limit=READ_KEYS, newest_first=wanted.newest_first
        )
        for key in keys:
            if not wanted.wants(key) or not authorization.may_list(principal, key):
                continue
            if len(page) == size:
                last = page[-1]
                return page, pages.key_token(parent, last.create_time, last.key_id)
            page.append(key)
        if len(keys) < READ_KEYS:
            return page, ""
        after = (keys[-1].create_time, keys[-1].key_id)
    return page, "" if after is None else pages.key_token(parent, *after)
