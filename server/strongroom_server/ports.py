"""What the services need from outside, and what each promise is worth.

All ports are used from one event loop. Deadlines are absolute, in seconds of
`Clock.monotonic`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from strongroom.receipts import Receipt
from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import (
    Alias,
    Key,
    KeyState,
    KeyVersion,
    KeyVersionRef,
)

__all__ = [
    "AddVersion",
    "AuditDraft",
    "AuditTrail",
    "Change",
    "Clock",
    "CreateAlias",
    "CreateKey",
    "HsmToken",
    "KeyStore",
    "Mutation",
    "Outbox",
    "OutboxRow",
    "RequestMemo",
    "SetState",
]


class Clock(Protocol):
    """Time as an argument."""

    def now(self) -> datetime:
        """Return the wall clock, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back; the event loop's clock."""
        ...


class HsmToken(Protocol):
    """One shard's HSM. Material never leaves it.

    `sealed` is IV (12 bytes) || ciphertext || tag (16 bytes), AES-256-GCM; `aad` is 1 to
    8,214 bytes. Every method raises HsmUnavailableError when the HSM fails, does not
    answer by `deadline`, or does not show a version that the caller knows to exist.
    Calls without side effects are retried once on another session by the token itself.
    """

    async def create_version(self, ref: KeyVersionRef, *, deadline: float) -> None:
        """Generate the material of `ref`; durable on return.

        Idempotent: material that is already there under this `ref` is kept. On return
        every session of this process can use it.
        """
        ...

    async def encrypt(
        self, ref: KeyVersionRef, plaintext: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        """Encrypt 1 to 4,096 bytes; return sealed bytes."""
        ...

    async def decrypt(
        self, ref: KeyVersionRef, sealed: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        """Decrypt sealed bytes.

        Raises:
            CiphertextInvalidError: The tag does not match (and the HSM is well).
        """
        ...

    async def reencrypt(
        self,
        source: KeyVersionRef,
        sealed: bytes,
        source_aad: bytes,
        destination: KeyVersionRef,
        destination_aad: bytes,
        *,
        deadline: float,
    ) -> bytes:
        """Decrypt and encrypt in one hop; the plaintext stays in the HSM worker.

        Raises:
            CiphertextInvalidError: The tag does not match (and the HSM is well).
        """
        ...

    async def generate_data_key(
        self, ref: KeyVersionRef, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> tuple[bytes, bytes]:
        """Make 1 to 1,024 random bytes in the HSM; return them plain and sealed."""
        ...

    async def generate_sealed_data_key(
        self, ref: KeyVersionRef, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> bytes:
        """Make 1 to 1,024 random bytes in the HSM; return them sealed only."""
        ...

    async def generate_random(self, number_of_bytes: int, *, deadline: float) -> bytes:
        """Return 1 to 1,024 random bytes from the HSM."""
        ...


@dataclass(frozen=True, slots=True)
class AuditDraft:
    """An audit record before it has a place in the spool (audit-record-v1.md).

    `outcome` is ``OK``, ``DENIED``, ``REFUSED`` or ``FAILED``. None means left out.
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


class AuditTrail(Protocol):
    """One shard's durable audit records: the spool, and the outbox in front of it."""

    def ensure_accepting(self) -> None:
        """Refuse early, before an HSM operation or a change is spent.

        Raises:
            AuditUnavailableError: The spool is at its limit, or cannot be written.
        """
        ...

    async def record(self, draft: AuditDraft, *, deadline: float) -> Receipt:
        """Make a record durable; return its receipt only then.

        Raises:
            AuditUnavailableError: It could not be made durable by `deadline`. It may
                still become durable later: then the log has an operation that nobody
                was told about, never the other way round.
        """
        ...

    async def record_committed(self, outbox_id: int, *, deadline: float) -> Receipt:
        """Move a record, committed with its change in the store, into the spool.

        Raises:
            AuditUnavailableError: Not by `deadline`; it stays in the outbox and is moved
                as soon as it can be.
        """
        ...


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


Change = CreateKey | SetState | AddVersion | CreateAlias


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


class KeyStore(Protocol):
    """One shard's metadata.

    Reads are synchronous and come from memory; they include every change committed by
    this process, and those of other processes within one second; when that cannot be
    promised they raise ShardUnavailableError. Writes are durable on return (SQLite WAL,
    synchronous=FULL) and raise ShardUnavailableError when the database fails.
    """

    def find_key(self, key_id: uuid.UUID) -> Key | None:
        """Return a key with all its versions."""
        ...

    def find_alias(self, name: AliasName) -> Alias | None:
        """Return an alias."""
        ...

    def list_keys(self, *, after: tuple[datetime, uuid.UUID] | None) -> Sequence[Key]:
        """Return keys by ascending (create_time, key_id), from beyond `after`."""
        ...

    async def find_memo(self, principal: str, method: str, request_id: str) -> RequestMemo | None:
        """Return the memo of a request id, kept for at least 24 hours."""
        ...

    async def commit(self, mutation: Mutation) -> int:
        """Commit; return the outbox id of its record (ascending in commit order).

        Raises:
            EtagMismatchError: The key's revision is not the expected one.
            AliasExistsError: The alias exists.
            KeyNotFoundError: The alias' key does not exist.
            RequestIdReusedError: The memo's request id was taken meanwhile; told before
                any of the others.
        """
        ...

    async def reserve_uses(self, ref: KeyVersionRef, uses: int) -> int:
        """Reserve `uses` (1 or more) encryptions; return the version's new reserved total.

        Durable on return: what was reserved and not used before a crash is never
        handed out again. The key's revision stays.

        Raises:
            KeyExhaustedError: The total would pass 2^32 (SP 800-38D, 8.3).
        """
        ...


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A record that was committed with its change and waits to be moved to the spool."""

    outbox_id: int
    draft: AuditDraft


class Outbox(Protocol):
    """The records of state changes, as the store keeps them (audit-spool-v1.md, Outbox).

    Ids ascend in commit order and are never used twice, also after a deletion. Both
    methods raise ShardUnavailableError when the database fails.
    """

    async def outbox_after(self, outbox_id: int, limit: int) -> list[OutboxRow]:
        """Return at most `limit` rows with ids above `outbox_id`, ascending."""
        ...

    async def delete_outbox_through(self, outbox_id: int) -> None:
        """Delete the rows with ids up to and including `outbox_id`; durable on return.

        Called only when the spool holds them durably. Idempotent.
        """
        ...
