"""Import tokens, and imported material that has ended; on the caller's transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from strongroom_server.domain.imports import IssuedToken, TokenState
from strongroom_server.errors import EtagMismatchError
from strongroom_server.mutations import ImportMaterial
from strongroom_server.store import schema
from strongroom_server.store.digests import StoreDamagedError, check_digest, import_digest
from strongroom_server.store.key_cache import StoredKey
from strongroom_server.store.micros import from_micros, to_micros
from strongroom_server.store.reading import read_keys

__all__ = [
    "claim",
    "count",
    "forget_wrapping_key",
    "issue",
    "read",
    "read_ended",
    "read_expired",
    "read_wrapping_keys",
    "replace_all",
    "use",
    "use_for",
]

_TABLE: Final = schema.import_tokens
_HAS_WRAPPING_KEY: Final = _TABLE.c.wrapping_key_gone == 0
KEPT_AFTER_END: Final = timedelta(days=7)
"""For so long a token that has ended is told from one that never was."""


def read(connection: Connection, token_sha256: bytes) -> IssuedToken | None:
    """Read what there is of a token."""
    row = connection.execute(
        select(_TABLE).where(_TABLE.c.token_sha256 == token_sha256)
    ).one_or_none()
    return None if row is None else _token_of(row)


def count(connection: Connection) -> int:
    """Count the tokens whose wrapping keys are not known to be destroyed."""
    counted = select(func.count()).select_from(_TABLE).where(_HAS_WRAPPING_KEY)
    return int(connection.execute(counted).scalar_one())


def read_wrapping_keys(connection: Connection) -> Sequence[uuid.UUID]:
    """Read the names of those."""
    return [token.transfer_id for token in _read_all(connection, _having_keys())]


def issue(connection: Connection, token: IssuedToken) -> None:
    """Insert a token; those that ended long ago go.

    Raises:
        EtagMismatchError: The key has an OPEN one: somebody else was first.
    """
    ended = _TABLE.c.expire_time < to_micros(token.expire_time - KEPT_AFTER_END)
    connection.execute(delete(_TABLE).where(ended, _TABLE.c.wrapping_key_gone == 1))
    of_key = select(_TABLE).where(_TABLE.c.key_id == token.key_id.bytes)
    if any(each.state is TokenState.OPEN for each in _read_all(connection, of_key)):
        raise EtagMismatchError(f"the import token of key {token.key_id}")
    connection.execute(insert(_TABLE), _to_row(token))


def replace_all(connection: Connection, key_id: uuid.UUID) -> Sequence[IssuedToken]:
    """Close the OPEN tokens of a key; return all of its tokens with wrapping keys."""
    of_key = select(_TABLE).where(_TABLE.c.key_id == key_id.bytes)
    found = []
    for token in _read_all(connection, of_key):
        closed = token
        if token.state is TokenState.OPEN:
            closed = replace(token, state=TokenState.REPLACED)
            _write(connection, closed)
        if not closed.wrapping_key_gone:
            found.append(closed)
    return found


def claim(connection: Connection, token_sha256: bytes, material_sha256: bytes) -> bool:
    """Note what an OPEN token was presented with, unless it was something else."""
    token = read(connection, token_sha256)
    if token is None or token.state is not TokenState.OPEN:
        return False
    if token.claim:
        return token.claim == material_sha256
    _write(connection, replace(token, claim=material_sha256))
    return True


def use(connection: Connection, token_sha256: bytes) -> bool:
    """Make an OPEN token USED; say whether it was OPEN."""
    token = read(connection, token_sha256)
    if token is None or token.state is not TokenState.OPEN:
        return False
    _write(connection, replace(token, state=TokenState.USED))
    return True


def use_for(connection: Connection, change: ImportMaterial) -> None:
    """Use the token of an import, in the transaction that notes the material.

    Raises:
        EtagMismatchError: It was used or replaced meanwhile.
    """
    if not use(connection, change.token_sha256):
        raise EtagMismatchError(f"the import token of key {change.key_id}")


def forget_wrapping_key(connection: Connection, token_sha256: bytes) -> None:
    """Note that a token's wrapping key is destroyed."""
    token = read(connection, token_sha256)
    if token is not None:
        _write(connection, replace(token, wrapping_key_gone=True))


def read_ended(connection: Connection, *, now: datetime, limit: int) -> Sequence[IssuedToken]:
    """Read tokens that are over, and whose wrapping keys are not known to be destroyed."""
    # A shard has 64 of them at most: no index is needed for their states.
    return [
        token
        for token in _read_all(connection, _having_keys())
        if token.state is not TokenState.OPEN or token.expire_time <= now
    ][:limit]


def read_expired(
    connection: Connection, region: str, *, now: datetime, limit: int
) -> Sequence[StoredKey]:
    """Read at most `limit` keys with imported material that has ended."""
    versions = schema.key_versions.c
    wanted = (
        select(versions.key_id)
        .where(versions.expire_time.is_not(None), versions.expire_time <= to_micros(now))
        .order_by(versions.expire_time)
        .limit(limit)
    )
    ids = {uuid.UUID(bytes=row.key_id): None for row in connection.execute(wanted)}
    return list(read_keys(connection, region, list(ids)).values())


def _having_keys() -> Select[Any]:
    return select(_TABLE).where(_HAS_WRAPPING_KEY).order_by(_TABLE.c.expire_time)


def _read_all(connection: Connection, wanted: Select[Any]) -> list[IssuedToken]:
    return [_token_of(row) for row in connection.execute(wanted)]


def _write(connection: Connection, token: IssuedToken) -> None:
    row = _to_row(token)
    connection.execute(
        update(_TABLE).where(_TABLE.c.token_sha256 == row.pop("token_sha256")).values(row)
    )


def _to_row(token: IssuedToken) -> dict[str, object]:
    return {
        "token_sha256": token.token_sha256,
        "key_id": token.key_id.bytes,
        "transfer_id": token.transfer_id.bytes,
        "expire_time": to_micros(token.expire_time),
        "state": token.state.value,
        "claim": token.claim,
        "wrapping_key_gone": int(token.wrapping_key_gone),
        "digest": import_digest(token),
    }


def _token_of(row: Row[Any]) -> IssuedToken:
    try:
        token = IssuedToken(
            token_sha256=row.token_sha256,
            key_id=uuid.UUID(bytes=row.key_id),
            transfer_id=uuid.UUID(bytes=row.transfer_id),
            expire_time=from_micros(row.expire_time),
            state=TokenState(row.state),
            claim=row.claim,
            wrapping_key_gone=bool(row.wrapping_key_gone),
        )
    except (ValueError, OverflowError) as exc:
        raise StoreDamagedError(f"a row of import_tokens is damaged: {exc}") from exc
    check_digest("a row of import_tokens", stored=row.digest, computed=import_digest(token))
    return token
