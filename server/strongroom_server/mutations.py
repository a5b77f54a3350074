"""What is changed in a shard's metadata, and what is written with it. Pure data.

A change, its audit record and the first answer to its request id are committed together;
here is what they are, in `ports.py` who promises it.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from strongroom_server.domain.keys import (
    Alias,
    Key,
    KeyState,
    KeyVersion,
    KeyVersionRef,
    WrappedMaterial,
)

__all__ = [
    "AddRoot",
    "AddVersion",
    "AuditDraft",
    "Change",
    "CreateAlias",
    "CreateKey",
    "Mutation",
    "OutboxRow",
    "RequestMemo",
    "RetireRoot",
    "RewrappedVersion",
    "RootState",
    "SetState",
    "WrappingRoot",
]


@dataclass(frozen=True, slots=True)
class AuditDraft:
    """An audit record before it has a place in the spool (audit-record-v1.md).

    `outcome` is ``OK``, ``DENIED``, ``REFUSED`` or ``FAILED``. None means left out, and so
    does an empty `details`.
    """

    record_id: uuid.UUID
    time: datetime
    principal: str
    peer: str
    method: str
    outcome: str
    request_id: str
    key: str | None = None
    key_version: int | None = None
    encryption_context: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    policy: str | None = None
    validate_only: bool = False
    mode: str | None = None
    count: int | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    identifier_key: str | None = None


@dataclass(frozen=True, slots=True)
class CreateKey:
    """Insert a key, at revision 1, with its first version."""

    key: Key


@dataclass(frozen=True, slots=True)
class SetState:
    """Change a key's state. Its revision becomes `expected_revision` + 1."""

    key_id: uuid.UUID
    state: KeyState
    time: datetime
    expected_revision: int


@dataclass(frozen=True, slots=True)
class AddVersion:
    """Add a version and make it primary. The key's revision becomes `expected_revision` + 1."""

    key_id: uuid.UUID
    version: KeyVersion
    time: datetime
    expected_revision: int


@dataclass(frozen=True, slots=True)
class CreateAlias:
    """Insert an alias."""

    alias: Alias


@dataclass(frozen=True, slots=True)
class AddRoot:
    """Add wrapping root `number`, the highest: new versions are wrapped under it from now on."""

    number: int
    time: datetime


@dataclass(frozen=True, slots=True)
class RetireRoot:
    """Note that no version is wrapped under root `number` any more.

    Its token object stays: backups of the store need it.
    """

    number: int
    time: datetime


Change = CreateKey | SetState | AddVersion | CreateAlias | AddRoot | RetireRoot


class RootState(enum.StrEnum):
    """What a wrapping root is for."""

    ACTIVE = "ACTIVE"
    """The newest: wraps and unwraps."""
    RETIRING = "RETIRING"
    """Unwraps versions that have not been re-wrapped yet."""
    RETIRED = "RETIRED"
    """No version is wrapped under it; backups of the store may need it."""


@dataclass(frozen=True, slots=True)
class WrappingRoot:
    """A wrapping root as the store knows it."""

    number: int
    state: RootState
    create_time: datetime


@dataclass(frozen=True, slots=True)
class RewrappedVersion:
    """A version's material under a newer root; `before` is what it replaces."""

    ref: KeyVersionRef
    before: WrappedMaterial
    after: WrappedMaterial


@dataclass(frozen=True, slots=True)
class RequestMemo:
    """The first answer to a request id.

    `digest` is the SHA-256 of the canonical request, 32 bytes; `answer` is opaque to the
    store (the service's own encoding).
    """

    principal: str
    method: str
    request_id: str
    digest: bytes
    answer: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change, its audit record and its memo: committed together or not at all."""

    change: Change
    draft: AuditDraft
    memo: RequestMemo | None = None


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A record that was committed with its change and waits to be moved to the spool."""

    outbox_id: int
    draft: AuditDraft
