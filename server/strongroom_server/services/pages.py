"""Page tokens: where a list goes on. Opaque to callers, bound to their list.

A token holds a position, nothing secret: what it leads to is filtered by permission like
everything else. It survives restarts and concurrent changes, for it names the last item
seen and not an offset.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from strongroom_server.errors import ArgumentInvalidError

__all__ = [
    "DEFAULT_PAGE_SIZE",
    "alias_position",
    "alias_token",
    "key_position",
    "key_token",
    "numbered_position",
    "numbered_token",
    "version_position",
    "version_token",
]

DEFAULT_PAGE_SIZE: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def key_token(parent: str, create_time: datetime, key_id: UUID) -> str:
    """Return the token of the page after this key."""
    microseconds = (create_time - _EPOCH) // timedelta(microseconds=1)
    return _encode(["keys", parent, microseconds, str(key_id)])


def key_position(token: str, parent: str) -> tuple[datetime, UUID] | None:
    """Return the position a token names; None for the empty token of the first page.

    Raises:
        ArgumentInvalidError: It is not a token of this list.
    """
    match _decode(token):
        case None:
            return None
        case ["keys", str(of), int(microseconds), str(key_id)] if of == parent:
            try:
                return _EPOCH + timedelta(microseconds=microseconds), UUID(key_id)
            except (ValueError, OverflowError) as exc:
                raise _invalid() from exc
        case _:
            raise _invalid()


def numbered_token(kind: str, parent: str, number: int) -> str:
    """Return the token of the page after this one of a numbered kind."""
    return _encode([kind, parent, number])


def numbered_position(kind: str, token: str, parent: str) -> int:
    """Return the last number seen; 0 for the first page.

    Raises:
        ArgumentInvalidError: It is not a token of this list.
    """
    match _decode(token):
        case None:
            return 0
        case [str(of_kind), str(of), int(number)] if (of_kind, of) == (kind, parent):
            return number
        case _:
            raise _invalid()


def version_token(parent: str, number: int) -> str:
    """Return the token of the page after this version."""
    return numbered_token("versions", parent, number)


def version_position(token: str, parent: str) -> int:
    """Return the number of the last version seen; 0 for the first page.

    Raises:
        ArgumentInvalidError: It is not a token of this list.
    """
    return numbered_position("versions", token, parent)


def alias_token(parent: str, alias: str) -> str:
    """Return the token of the page after this alias."""
    return _encode(["aliases", parent, alias])


def alias_position(token: str, parent: str) -> str:
    """Return the last alias seen; empty for the first page.

    Raises:
        ArgumentInvalidError: It is not a token of this list.
    """
    match _decode(token):
        case None:
            return ""
        case ["aliases", str(of), str(alias)] if of == parent:
            return alias
        case _:
            raise _invalid()


def _encode(position: list[str | int]) -> str:
    data = json.dumps(position, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(token: str) -> object:
    if not token:
        return None
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        position: object = json.loads(data)
    except (binascii.Error, ValueError, RecursionError) as exc:
        raise _invalid() from exc
    if position is None:
        raise _invalid()
    return position


def _invalid() -> ArgumentInvalidError:
    return ArgumentInvalidError.of(
        "page_token", "page_token.invalid", "not a next_page_token of this list"
    )
