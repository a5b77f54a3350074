"""What the services need from outside, and what each promise is worth.

All ports are used from one event loop. Deadlines are absolute, in seconds of
`Clock.monotonic`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from strongroom.receipts import Receipt
from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import (
    Alias,
    Key,
    KeyMaterial,
    KeySpec,
    KeyUsage,
    KeyVersionRef,
    WrappedMaterial,
)
from strongroom_server.import_ports import ImportStore, ImportToken
from strongroom_server.mutations import (
    AuditDraft,
    Mutation,
    OutboxRow,
    RequestMemo,
    RewrappedVersion,
    WrappingRoot,
)
from strongroom_server.pair_ports import PairToken
from strongroom_server.permission_ports import PermissionStore

__all__ = [
    "AuditTrail",
    "Clock",
    "HsmToken",
    "KeyStore",
    "Outbox",
]


class Clock(Protocol):
    """Time as an argument."""

    def now(self) -> datetime:
        """Return the wall clock, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back; the event loop's clock."""
        ...


class HsmToken(PairToken, ImportToken, Protocol):
    """One shard's HSM. Material never leaves it unwrapped.

    `sealed` is IV (12 bytes) || ciphertext || tag (16 bytes), AES-256-GCM; `aad` is 1 to
    8,214 bytes. Every method raises HsmUnavailableError when the HSM fails, does not
    answer by `deadline`, or does not show a version that the caller knows to exist.
    Calls without side effects are retried once on another session by the token itself.
    """

    async def create_version(
        self,
        ref: KeyVersionRef,
        *,
        spec: KeySpec,
        usage: KeyUsage,
        root: int | None,
        deadline: float,
    ) -> KeyMaterial:
        """Generate the material of `ref` inside the HSM.

        Args:
            root: None makes a token object, durable on return: idempotent, what is there
                under this `ref` is kept, and every session can use it. A number wraps the
                material under that root instead; then each call makes another material,
                and the caller stores it or drops it.

        Raises:
            KeySpecUnsupportedError: The HSM cannot make or use such keys.
        """
        ...

    async def destroy_version(self, material: KeyMaterial, *, deadline: float) -> None:
        """Destroy every object of a version, and whatever a worker has unwrapped of it.

        Idempotent. On return a fresh search, by every worker, has found nothing left.
        """
        ...

    async def create_root(self, root: int, *, deadline: float) -> None:
        """Generate wrapping root `root`, a token object that wraps and unwraps only.

        Idempotent and durable on return.
        """
        ...

    async def rewrap(self, material: KeyMaterial, root: int, *, deadline: float) -> WrappedMaterial:
        """Wrap a wrapped version again, under `root`; in the clear only inside the HSM."""
        ...

    async def encrypt(
        self, material: KeyMaterial, plaintext: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        """Encrypt 1 to 4,096 bytes; return sealed bytes."""
        ...

    async def decrypt(
        self, material: KeyMaterial, sealed: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        """Decrypt sealed bytes.

        Raises:
            CiphertextInvalidError: The tag does not match (and the HSM is well).
        """
        ...

    async def reencrypt(
        self,
        source: KeyMaterial,
        sealed: bytes,
        source_aad: bytes,
        destination: KeyMaterial,
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
        self, material: KeyMaterial, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> tuple[bytes, bytes]:
        """Make 1 to 1,024 random bytes in the HSM; return them plain and sealed."""
        ...

    async def generate_sealed_data_key(
        self, material: KeyMaterial, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> bytes:
        """Make 1 to 1,024 random bytes in the HSM; return them sealed only."""
        ...

    async def generate_random(self, number_of_bytes: int, *, deadline: float) -> bytes:
        """Return 1 to 1,024 random bytes from the HSM."""
        ...


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

    async def record_buffered(self, draft: AuditDraft, *, deadline: float) -> Receipt:
        """Take a record of a BUFFERED key; return its receipt when it has its place.

        Beyond the configured bound on such records and on their age it is as `record`. The
        receipt says whether it waited for the disk (audit-spool-v1.md, Buffered records).

        Raises:
            AuditUnavailableError: As `record`.
        """
        ...

    def record_event(self, draft: AuditDraft) -> asyncio.Future[Receipt]:
        """Take a record of what the service itself did or saw, also when calls find no room.

        The future has the receipt when the record is durable, and an AuditUnavailableError
        when that takes longer; the record is written all the same.

        Raises:
            AuditUnavailableError: Not accepted.
        """
        ...

    async def record_committed(self, outbox_id: int, *, deadline: float) -> Receipt:
        """Move a record, committed with its change in the store, into the spool.

        Raises:
            AuditUnavailableError: Not by `deadline`; it stays in the outbox and is moved
                as soon as it can be.
        """
        ...


class KeyStore(ImportStore, Protocol):
    """One shard's metadata.

    What is used often is in memory, within a bound; the rest is read when it is asked for.
    Reads include every change committed by this process, and those of other processes
    within one second; when that cannot be promised, or a row is not as it was written,
    they raise ShardUnavailableError. Writes are durable on return (SQLite WAL,
    synchronous=FULL) and raise ShardUnavailableError when the database fails.
    """

    @property
    def permissions(self) -> PermissionStore:
        """Grants and past policies of the same shard."""
        ...

    def cached_key(self, key_id: uuid.UUID) -> Key | None:
        """Return a key with all its versions when it is in memory: the hot path."""
        ...

    async def find_key(self, key_id: uuid.UUID) -> Key | None:
        """Return a key with all its versions, from memory or the database."""
        ...

    async def find_alias(self, name: AliasName) -> Alias | None:
        """Return an alias, from memory or the database."""
        ...

    async def list_keys(
        self,
        *,
        after: tuple[datetime, uuid.UUID] | None,
        limit: int,
        newest_first: bool = False,
    ) -> Sequence[Key]:
        """Return at most `limit` keys by (create_time, key_id), from beyond `after`.

        Ascending, or with `newest_first` descending.
        """
        ...

    async def list_aliases(
        self, *, key_id: uuid.UUID | None, after: str, limit: int
    ) -> Sequence[Alias]:
        """Return at most `limit` aliases by name, from beyond `after`; of one key, or all."""
        ...

    async def due_deletions(self, *, now: datetime, observed: int, limit: int) -> Sequence[Key]:
        """Return at most `limit` keys of which all, or a version, is to be destroyed now.

        Those whose time and mark (`domain/deletion.py`) have come, and those whose
        destruction has begun.
        """
        ...

    async def has_deletions(self) -> bool:
        """Say whether anything waits for its destruction."""
        ...

    async def observed_seconds(self) -> int:
        """Return for how long the shard has been looked after (`domain/deletion.py`).

        From the database, so of all its servers.
        """
        ...

    async def advance_observed(self, *, expected: int, seconds: int) -> bool:
        """Move that on when it is still `expected`; say whether it was. Durable on return."""
        ...

    async def list_roots(self) -> Sequence[WrappingRoot]:
        """Return the wrapping roots by ascending number; empty before the first wrapped key."""
        ...

    async def stale_versions(self, root: int, *, limit: int) -> Sequence[KeyMaterial]:
        """Return at most `limit` wrapped versions that lie under another root than `root`."""
        ...

    async def count_stale_versions(self, root: int) -> int:
        """Count the wrapped versions that lie under another root than `root`."""
        ...

    async def replace_wrapped(self, versions: Sequence[RewrappedVersion]) -> int:
        """Put re-wrapped materials in the place of the old ones, in one transaction.

        A version that is not there as `before` says is left alone. Revisions stay.

        Returns:
            How many were replaced.

        Raises:
            EtagMismatchError: The root of an `after` has been retired; nothing was replaced.
        """
        ...

    async def find_memo(self, principal: str, method: str, request_id: str) -> RequestMemo | None:
        """Return the memo of a request id, kept for at least 24 hours."""
        ...

    async def commit(self, mutation: Mutation) -> int:
        """Commit; return the outbox id of its record (ascending in commit order).

        Raises:
            EtagMismatchError: The key's revision is not the expected one; or a wrapping
                root is not as the change has it: the one to add is there, or a higher one;
                the one to retire is not RETIRING, or versions lie under it; the one that
                new material lies under has been retired; or the alias to change has been
                deleted, or names another key than expected.
            GrantNotFoundError: The grant to end is not there any more.
            LimitExceededError: There are as many grants as there may be.
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
