"""The services' ports in memory: fakes that keep the promises of `ports.py`.

They hold state and can be told to fail, nothing more; no test asks them how they were
called, only what is true afterwards.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.support.memory_imports import MemoryImportStore
from tests.support.memory_permissions import MemoryPermissions
from tests.support.memory_token import MemoryToken

from strongroom.receipts import Receipt
from strongroom.resource_names import AliasName, KeyName
from strongroom_server.domain.deletion import is_due
from strongroom_server.domain.keys import (
    Alias,
    Deletion,
    Key,
    KeyMaterial,
    KeyVersion,
    KeyVersionRef,
)
from strongroom_server.domain.rotation import MAX_USES
from strongroom_server.errors import (
    AliasExistsError,
    AuditUnavailableError,
    EtagMismatchError,
    KeyExhaustedError,
    RequestIdReusedError,
)
from strongroom_server.mutations import (
    AddRoot,
    AddVersion,
    AuditDraft,
    Change,
    CreateAlias,
    CreateGrant,
    CreateKey,
    DeleteAlias,
    EndGrant,
    ImportMaterial,
    IssueImportToken,
    Mutation,
    RequestMemo,
    RetireRoot,
    RewrappedVersion,
    RootState,
    SetPolicy,
    UpdateAlias,
    WrappingRoot,
)

__all__ = ["EPOCH", "MemoryClock", "MemoryStore", "MemoryToken", "MemoryTrail"]

EPOCH = 1_700_000_000_000


class MemoryClock:
    """Every look at the clock is a second later; `jump` sets it, back or forth."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def jump(self, by: timedelta) -> None:
        self._now += by

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@dataclass
class MemoryStore(MemoryImportStore):
    """Keys, aliases and memos in dicts; the outbox is a list of drafts.

    With `forgets`, nothing is in memory until it was asked for: every first use is a miss.
    """

    region: str
    keys: dict[uuid.UUID, Key] = field(default_factory=dict)
    aliases: dict[AliasName, Alias] = field(default_factory=dict)
    roots: dict[int, WrappingRoot] = field(default_factory=dict)
    memos: dict[tuple[str, str, str], RequestMemo] = field(default_factory=dict)
    outbox: list[AuditDraft] = field(default_factory=list)
    reserved: dict[KeyVersionRef, int] = field(default_factory=dict)
    observed: int = 0
    fault: Exception | None = None
    forgets: bool = False
    permissions: MemoryPermissions = field(default_factory=MemoryPermissions)

    def cached_key(self, key_id: uuid.UUID) -> Key | None:
        if self.fault is not None:
            raise self.fault
        return None if self.forgets else self.keys.get(key_id)

    async def find_key(self, key_id: uuid.UUID) -> Key | None:
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        return self.keys.get(key_id)

    async def find_alias(self, name: AliasName) -> Alias | None:
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        return self.aliases.get(name)

    async def list_keys(
        self,
        *,
        after: tuple[datetime, uuid.UUID] | None,
        limit: int,
        newest_first: bool = False,
    ) -> Sequence[Key]:
        await asyncio.sleep(0)
        places = sorted((key.create_time, key.key_id) for key in self.keys.values())
        if newest_first:
            places.reverse()
            rest = [place for place in places if after is None or place < after]
        else:
            rest = [place for place in places if after is None or place > after]
        return [self.keys[key_id] for _, key_id in rest[:limit]]

    async def list_aliases(
        self, *, key_id: uuid.UUID | None, after: str, limit: int
    ) -> Sequence[Alias]:
        await asyncio.sleep(0)
        found = [
            alias
            for alias in self.aliases.values()
            if alias.name.alias > after and key_id in {None, alias.key_id}
        ]
        return sorted(found, key=lambda alias: alias.name.alias)[:limit]

    async def due_deletions(self, *, now: datetime, observed: int, limit: int) -> Sequence[Key]:
        await asyncio.sleep(0)
        return [
            key
            for key in self.keys.values()
            if any(is_due(deletion, now, observed) for deletion in _deletions(key))
        ][:limit]

    async def has_deletions(self) -> bool:
        await asyncio.sleep(0)
        return any(_deletions(key) for key in self.keys.values())

    async def observed_seconds(self) -> int:
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        return self.observed

    async def advance_observed(self, *, expected: int, seconds: int) -> bool:
        await asyncio.sleep(0)
        if self.observed != expected:
            return False
        self.observed += seconds
        return True

    async def list_roots(self) -> Sequence[WrappingRoot]:
        await asyncio.sleep(0)
        return [self.roots[number] for number in sorted(self.roots)]

    async def stale_versions(self, root: int, *, limit: int) -> Sequence[KeyMaterial]:
        await asyncio.sleep(0)
        return self._stale(root)[:limit]

    async def count_stale_versions(self, root: int) -> int:
        await asyncio.sleep(0)
        return len(self._stale(root))

    async def replace_wrapped(self, versions: Sequence[RewrappedVersion]) -> int:
        await asyncio.sleep(0)
        replaced = 0
        for each in versions:
            self._ensure_usable_root(each.after.root)
            key = self.keys[each.ref.key_id]
            if key.material(each.ref.version).wrapped == each.before:
                after = tuple(
                    dataclasses.replace(version, wrapped=each.after)
                    if version.number == each.ref.version
                    else version
                    for version in key.versions
                )
                self.keys[key.key_id] = dataclasses.replace(key, versions=after)
                replaced += 1
        return replaced

    async def find_memo(self, principal: str, method: str, request_id: str) -> RequestMemo | None:
        await asyncio.sleep(0)
        return self.memos.get((principal, method, request_id))

    async def commit(self, mutation: Mutation) -> int:
        await asyncio.sleep(0)
        memo = mutation.memo
        if memo is not None and (memo.principal, memo.method, memo.request_id) in self.memos:
            raise RequestIdReusedError
        self._apply(mutation.change)
        if memo is not None:
            self.memos[memo.principal, memo.method, memo.request_id] = memo
        self.outbox.append(mutation.draft)
        return len(self.outbox)

    def _apply(self, change: Change | None) -> None:  # noqa: C901, PLR0912 - one case for each change
        match change:
            case None:
                return
            case CreateKey(key):
                self._ensure_usable_roots(key.versions)
                self.keys[key.key_id] = key
            case CreateAlias(alias):
                if alias.name in self.aliases:
                    raise AliasExistsError(f"{alias.name} exists")
                self.aliases[alias.name] = alias
            case UpdateAlias(alias, expected):
                self._expect_alias(alias.name, expected)
                self.aliases[alias.name] = alias
            case DeleteAlias(name, expected):
                self._expect_alias(name, expected)
                del self.aliases[name]
            case CreateGrant() | EndGrant():
                self.permissions.apply(change)
            case IssueImportToken(issued):
                self.issue(issued)
            case AddRoot(number, time):
                self._add_root(number, time)
            case RetireRoot(number):
                root = self.roots.get(number)
                under_it = any(
                    version.wrapped is not None and version.wrapped.root == number
                    for key in self.keys.values()
                    for version in key.versions
                )
                if root is None or root.state is not RootState.RETIRING or under_it:
                    raise EtagMismatchError(f"wrapping root {number}")
                self.roots[number] = dataclasses.replace(root, state=RootState.RETIRED)
            case _:
                key = self._at_revision(change.key_id, change.expected_revision)
                if isinstance(change, SetPolicy):
                    self.permissions.set_policy(key, change)
                if isinstance(change, AddVersion):
                    self._ensure_usable_roots((change.version,))
                if isinstance(change, ImportMaterial):
                    self.use(change.token_sha256)
                self.keys[key.key_id] = change.apply(key)

    def _expect_alias(self, name: AliasName, key_id: uuid.UUID) -> None:
        there = self.aliases.get(name)
        if there is None or there.key_id != key_id:
            raise EtagMismatchError(str(name))

    def _add_root(self, number: int, time: datetime) -> None:
        if any(number <= known for known in self.roots):
            raise EtagMismatchError(f"wrapping root {number}")
        for root in list(self.roots.values()):
            if root.state is RootState.ACTIVE:
                self.roots[root.number] = dataclasses.replace(root, state=RootState.RETIRING)
        self.roots[number] = WrappingRoot(number, RootState.ACTIVE, time)

    def _ensure_usable_roots(self, versions: Sequence[KeyVersion]) -> None:
        for version in versions:
            if version.wrapped is not None:
                self._ensure_usable_root(version.wrapped.root)

    def _ensure_usable_root(self, number: int) -> None:
        root = self.roots.get(number)
        if root is None:
            raise ValueError(f"material under wrapping root {number}, which the shard has not")
        if root.state is RootState.RETIRED:
            raise EtagMismatchError(f"wrapping root {number}")

    def _stale(self, root: int) -> list[KeyMaterial]:
        return [
            key.material(version.number)
            for key in self.keys.values()
            for version in key.versions
            if version.wrapped is not None and version.wrapped.root != root
        ]

    def _at_revision(self, key_id: uuid.UUID, revision: int) -> Key:
        key = self.keys[key_id]
        if key.revision != revision:
            raise EtagMismatchError(str(key.name))
        return key

    async def reserve_uses(self, ref: KeyVersionRef, uses: int) -> int:
        await asyncio.sleep(0)
        total = self.reserved.get(ref, 0) + uses
        if total > MAX_USES:
            raise KeyExhaustedError(f"{KeyName(self.region, ref.key_id)}/versions/{ref.version}")
        self.reserved[ref] = total
        return total


@dataclass
class MemoryTrail:
    """Records in order. With `refuses_at`, nothing from that record on becomes durable."""

    region: str
    store: MemoryStore
    records: list[AuditDraft] = field(default_factory=list)
    refuses_at: int | None = None
    full: bool = False

    def ensure_accepting(self) -> None:
        if self.full:
            raise AuditUnavailableError(self.region, "the spool is full")

    async def record(self, draft: AuditDraft, *, deadline: float) -> Receipt:
        del deadline
        await asyncio.sleep(0)
        if self.refuses_at is not None and len(self.records) + 1 >= self.refuses_at:
            raise AuditUnavailableError(self.region, "the record cannot be made durable")
        self.records.append(draft)
        return Receipt.for_record(
            region=self.region,
            epoch=EPOCH,
            sequence=len(self.records),
            record=repr(draft).encode(),
        )

    async def record_buffered(self, draft: AuditDraft, *, deadline: float) -> Receipt:
        return dataclasses.replace(await self.record(draft, deadline=deadline), is_buffered=True)

    def record_event(self, draft: AuditDraft) -> asyncio.Future[Receipt]:
        if self.full:
            raise AuditUnavailableError(self.region, "the spool is full")
        return asyncio.ensure_future(self.record(draft, deadline=0.0))

    async def record_committed(self, outbox_id: int, *, deadline: float) -> Receipt:
        return await self.record(self.store.outbox[outbox_id - 1], deadline=deadline)


def _deletions(key: Key) -> list[Deletion]:
    """Return what waits of a key and its versions."""
    all_ = [key.deletion, *(version.deletion for version in key.versions)]
    return [deletion for deletion in all_ if deletion is not None]
