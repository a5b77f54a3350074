"""Wrapping roots in a write transaction: which may follow which.

Numbers only go up. Exactly one root is ACTIVE, the highest; a root that is RETIRED has no
version under it, and none is ever put under it again.
"""

from __future__ import annotations

import dataclasses

from sqlalchemy import Connection, insert, select, update

from strongroom_server.errors import EtagMismatchError
from strongroom_server.mutations import AddRoot, RetireRoot, RootState, WrappingRoot
from strongroom_server.store import schema
from strongroom_server.store.reading import read_roots
from strongroom_server.store.rows import to_root_row

__all__ = ["add", "ensure_usable", "retire"]


def add(connection: Connection, region: str, change: AddRoot, change_number: int) -> None:
    """Add the new active root; the one before it is RETIRING from now on.

    Raises:
        EtagMismatchError: A root with this or a higher number is there: somebody else
            was first.
    """
    for root in read_roots(connection, region):
        if root.number >= change.number:
            raise _mismatch(region, change.number)
        if root.state is RootState.ACTIVE:
            _set_state(connection, region, root, RootState.RETIRING, change_number)
    new = WrappingRoot(change.number, RootState.ACTIVE, change.time)
    connection.execute(insert(schema.wrapping_roots), to_root_row(region, new, change_number))


def retire(connection: Connection, region: str, change: RetireRoot, change_number: int) -> None:
    """Note that nothing lies under a root any more.

    Raises:
        EtagMismatchError: There is no such root, it is the active one or retired already,
            or a version was wrapped under it meanwhile.
    """
    found = [root for root in read_roots(connection, region) if root.number == change.number]
    if not found or found[0].state is not RootState.RETIRING:
        raise _mismatch(region, change.number)
    under_it = select(schema.key_versions.c.number).where(
        schema.key_versions.c.wrapped_root == change.number
    )
    if connection.execute(under_it.limit(1)).first() is not None:
        raise _mismatch(region, change.number)
    _set_state(connection, region, found[0], RootState.RETIRED, change_number)


def ensure_usable(connection: Connection, region: str, number: int) -> None:
    """Refuse material under a root that the shard does not have, or has retired.

    Raises:
        EtagMismatchError: It has been retired since the material was wrapped.
        ValueError: There is no such root.
    """
    for root in read_roots(connection, region):
        if root.number == number:
            if root.state is RootState.RETIRED:
                raise _mismatch(region, number)
            return
    raise ValueError(f"material under wrapping root {number}, which the shard does not have")


def _set_state(
    connection: Connection, region: str, root: WrappingRoot, state: RootState, change_number: int
) -> None:
    row = to_root_row(region, dataclasses.replace(root, state=state), change_number)
    connection.execute(
        update(schema.wrapping_roots)
        .where(schema.wrapping_roots.c.number == row.pop("number"))
        .values(row)
    )


def _mismatch(region: str, number: int) -> EtagMismatchError:
    return EtagMismatchError(f"wrapping root {number} of regions/{region}")
