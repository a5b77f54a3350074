"""The keys that a caller may see, page by page, out of many that it may not."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from strongroom_server.domain.keys import Key
from strongroom_server.services import pages
from strongroom_server.services.authorization import Authorization
from strongroom_server.shards.topology import Shard

__all__ = ["visible_page"]

# A policy is evaluated for each key of a list: some milliseconds a read, then others' turn,
# and half a second a page at most.
READ_KEYS: Final = 50
MAX_READS: Final = 200


async def visible_page(
    shard: Shard,
    authorization: Authorization,
    principal: str,
    *,
    after: tuple[datetime, uuid.UUID] | None,
    size: int,
) -> tuple[Sequence[Key], str]:
    """Return at most `size` keys from beyond `after`, and the token of the next page.

    Other calls have their turn between the reads of the store. When there are very many
    keys that the principal may not see, a page has fewer keys, or none, and a token.

    Raises:
        ShardUnavailableError: The store cannot tell.
    """
    parent = f"regions/{shard.region}"
    page: list[Key] = []
    for _ in range(MAX_READS):
        keys = await shard.store.list_keys(after=after, limit=READ_KEYS)
        for key in keys:
            if not authorization.may_list(principal, key):
                continue
            if len(page) == size:
                last = page[-1]
                return page, pages.key_token(parent, last.create_time, last.key_id)
            page.append(key)
        if len(keys) < READ_KEYS:
            return page, ""
        after = (keys[-1].create_time, keys[-1].key_id)
    return page, "" if after is None else pages.key_token(parent, *after)
