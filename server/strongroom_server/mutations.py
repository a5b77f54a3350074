"""What is changed in a shard's metadata, and what is written with it. Pure data.

A change, its audit record and the first answer to its request id are committed together;
here is what they are, in `ports.py` who promises it.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from strongroom.resource_names import AliasName
from strongroom_server.domain.grants import Grant
from strongroom_server.domain.keys import (
    Alias,
    Deletion,
    ExternalMaterial,
    Key,
    KeyState,
    KeyVersion,
    KeyVersionRef,
    WrappedMaterial,
)
from strongroom_server.material_mutations import (
    BeginMaterialDeletion,
    DropMaterial,
    ImportMaterial,
    IssueImportToken,
)

__all__ = [
    "AddRoot",
    "AddVersion",
    "AuditDraft",
    "BeginMaterialDeletion",
    "Change",
    "CreateAlias",
    "CreateGrant",
    "CreateKey",
    "DeleteAlias",
    "DestroyKey",
    "DestroyVersion",
    "DropMaterial",
    "EndGrant",
    "ImportMaterial",
    "IssueImportToken",
    "KeyChange",
    "Mutation",
    "OutboxRow",
    "RequestMemo",
    "RetireRoot",
    "RewrappedVersion",
    "RootState",
    "SetDeletion",
    "SetPolicy",
    "SetState",
    "SetVersionDeletion",
    "UpdateAlias",
    "UpdateKey",
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
    """Change a key's state. Its revision becomes `expected_revision` + 1, as with all below."""

    key_id: uuid.UUID
    state: KeyState
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        return _changed(replace(key, state=self.state), self.time)


@dataclass(frozen=True, slots=True)
class AddVersion:
    """Add a version and make it primary."""

    key_id: uuid.UUID
    version: KeyVersion
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        versions = (*key.versions, self.version)
        after = replace(key, versions=versions, primary_version=self.version.number)
        return _changed(after, self.time)


@dataclass(frozen=True, slots=True)
class UpdateKey:
    """Change what a key says of itself."""

    key_id: uuid.UUID
    description: str
    tags: tuple[tuple[str, str], ...]
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        return _changed(replace(key, description=self.description, tags=self.tags), self.time)


@dataclass(frozen=True, slots=True)
class SetDeletion:
    """Schedule, cancel or begin the deletion of a key."""

    key_id: uuid.UUID
    state: KeyState
    deletion: Deletion | None
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        return _changed(replace(key, state=self.state, deletion=self.deletion), self.time)


@dataclass(frozen=True, slots=True)
class SetVersionDeletion:
    """Schedule, cancel or begin the deletion of one version."""

    key_id: uuid.UUID
    number: int
    deletion: Deletion | None
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        versions = tuple(
            replace(version, deletion=self.deletion) if version.number == self.number else version
            for version in key.versions
        )
        return _changed(replace(key, versions=versions), self.time)


@dataclass(frozen=True, slots=True)
class DestroyVersion:
    """Note that a version's material is gone, and erase what the store has of it."""

    key_id: uuid.UUID
    number: int
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        versions = tuple(
            _destroyed(version, self.time) if version.number == self.number else version
            for version in key.versions
        )
        return _changed(replace(key, versions=versions), self.time)


@dataclass(frozen=True, slots=True)
class DestroyKey:
    """Note the same of every version, and leave a tombstone."""

    key_id: uuid.UUID
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        after = replace(
            key,
            state=KeyState.DESTROYED,
            deletion=None,
            destroy_time=self.time,
            versions=tuple(_destroyed(version, self.time) for version in key.versions),
        )
        return _changed(after, self.time)


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Give a key policy number `number`, the one after the last; that one is kept."""

    key_id: uuid.UUID
    policy: str
    number: int
    author: str
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        return _changed(replace(key, policy=self.policy), self.time)


KeyChange = (
    SetState
    | AddVersion
    | UpdateKey
    | SetDeletion
    | SetPolicy
    | SetVersionDeletion
    | DestroyVersion
    | DestroyKey
    | ImportMaterial
    | BeginMaterialDeletion
    | DropMaterial
)
"""A change of a key that is there; only `expected_revision` of it is changed."""


def _changed(key: Key, time: datetime) -> Key:
    return replace(key, update_time=time, revision=key.revision + 1)


def _destroyed(version: KeyVersion, time: datetime) -> KeyVersion:
    if version.destroy_time is not None:
        return version
    external = None if version.external is None else ExternalMaterial()
    return replace(version, wrapped=None, deletion=None, destroy_time=time, external=external)


@dataclass(frozen=True, slots=True)
class CreateAlias:
    """Insert an alias; also where one of that name was deleted."""

    alias: Alias


@dataclass(frozen=True, slots=True)
class UpdateAlias:
    """Point an alias elsewhere, when it still names `expected_key_id`."""

    alias: Alias
    expected_key_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class DeleteAlias:
    """Take an alias away, when it still names `expected_key_id`."""

    name: AliasName
    expected_key_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class CreateGrant:
    """Insert a grant."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class EndGrant:
    """Take a grant away, retired or revoked."""

    grant: Grant


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


Change = (
    CreateKey
    | KeyChange
    | CreateAlias
    | UpdateAlias
    | DeleteAlias
    | CreateGrant
    | EndGrant
    | IssueImportToken
    | AddRoot
    | RetireRoot
)


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
    """A change, its audit record and its memo: committed together or not at all.

    Without a change, the record and the memo of a call that found nothing to change.
    """

    change: Change | None
    draft: AuditDraft
    memo: RequestMemo | None = None


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A record that was committed with its change and waits to be moved to the spool."""

    outbox_id: int
    draft: AuditDraft
