"""Changes of material that callers bring. Part of `mutations`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import datetime

from strongroom_server.domain.imports import IssuedToken
from strongroom_server.domain.keys import ExternalMaterial, Key, KeyState, WrappedMaterial

__all__ = [
    "BeginMaterialDeletion",
    "DropMaterial",
    "ImportMaterial",
    "IssueImportToken",
]


@dataclass(frozen=True, slots=True)
class ImportMaterial:
    """Note the material that a version has now, and that the token for it is used up."""

    key_id: uuid.UUID
    number: int
    external: ExternalMaterial
    wrapped: WrappedMaterial | None
    state: KeyState
    token_sha256: bytes
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        versions = tuple(
            replace(version, external=self.external, wrapped=self.wrapped)
            if version.number == self.number
            else version
            for version in key.versions
        )
        return _changed(replace(key, state=self.state, versions=versions), self.time)


@dataclass(frozen=True, slots=True)
class BeginMaterialDeletion:
    """Stop the use of imported material, which the HSM will be told to destroy.

    It is then material that has ended, in a key that waits for another import: whichever
    server sees it goes on.
    """

    key_id: uuid.UUID
    number: int
    state: KeyState
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        versions = tuple(
            replace(version, external=replace(version.external, expire_time=self.time))
            if version.number == self.number and version.external is not None
            else version
            for version in key.versions
        )
        return _changed(replace(key, state=self.state, versions=versions), self.time)


@dataclass(frozen=True, slots=True)
class DropMaterial:
    """Note that imported material is gone, and erase what the store has of it."""

    key_id: uuid.UUID
    number: int
    state: KeyState
    time: datetime
    expected_revision: int

    def apply(self, key: Key) -> Key:
        """Return the key as it is afterwards."""
        versions = tuple(
            replace(version, wrapped=None, external=ExternalMaterial(version.external.check))
            if version.number == self.number and version.external is not None
            else version
            for version in key.versions
        )
        return _changed(replace(key, state=self.state, versions=versions), self.time)


@dataclass(frozen=True, slots=True)
class IssueImportToken:
    """Keep what there has to be known of a new import token."""

    issued: IssuedToken


def _changed(key: Key, time: datetime) -> Key:
    return replace(key, update_time=time, revision=key.revision + 1)
