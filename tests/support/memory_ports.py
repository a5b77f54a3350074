"""The services' ports in memory: fakes that keep the promises of `ports.py`.

They hold state and can be told to fail, nothing more; no test asks them how they were
called, only what is true afterwards.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.receipts import Receipt
from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import Alias, Key, KeyVersionRef
from strongroom_server.errors import (
    AliasExistsError,
    AuditUnavailableError,
    CiphertextInvalidError,
    EtagMismatchError,
    HsmUnavailableError,
    RequestIdReusedError,
)
from strongroom_server.ports import (
    AddVersion,
    AuditDraft,
    Change,
    CreateAlias,
    CreateKey,
    Mutation,
    RequestMemo,
    SetState,
)

EPOCH = 1_700_000_000_000


class MemoryClock:
    """Every look at the clock is a second later."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@dataclass
class MemoryToken:
    """AES-256-GCM in this process; `fault` and `delay_seconds` are as long as they are set."""

    region: str
    materials: dict[KeyVersionRef, AESGCM] = field(default_factory=dict)
    operations: int = 0
    fault: Exception | None = None
    delay_seconds: float = 0.0

    def _use(self, ref: KeyVersionRef) -> AESGCM:
        self._operate()
        material = self.materials.get(ref)
        if material is None:
            raise HsmUnavailableError(self.region, "does not show a version")
        return material

    def _operate(self) -> None:
        self.operations += 1
        if self.fault is not None:
            raise self.fault

    async def create_version(self, ref: KeyVersionRef, *, deadline: float) -> None:
        del deadline
        self._operate()
        await asyncio.sleep(0)
        self.materials.setdefault(ref, AESGCM(AESGCM.generate_key(256)))

    async def encrypt(
        self, ref: KeyVersionRef, plaintext: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        del deadline
        await asyncio.sleep(self.delay_seconds)
        iv = os.urandom(12)
        return iv + self._use(ref).encrypt(iv, plaintext, aad)

    async def decrypt(
        self, ref: KeyVersionRef, sealed: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        del deadline
        try:
            return self._use(ref).decrypt(sealed[:12], sealed[12:], aad)
        except InvalidTag:
            raise CiphertextInvalidError from None

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
        plaintext = await self.decrypt(source, sealed, source_aad, deadline=deadline)
        return await self.encrypt(destination, plaintext, destination_aad, deadline=deadline)

    async def generate_data_key(
        self, ref: KeyVersionRef, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> tuple[bytes, bytes]:
        data_key = os.urandom(number_of_bytes)
        return data_key, await self.encrypt(ref, data_key, aad, deadline=deadline)

    async def generate_sealed_data_key(
        self, ref: KeyVersionRef, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> bytes:
        return (await self.generate_data_key(ref, number_of_bytes, aad, deadline=deadline))[1]

    async def generate_random(self, number_of_bytes: int, *, deadline: float) -> bytes:
        del deadline
        self._operate()
        return os.urandom(number_of_bytes)


@dataclass
class MemoryStore:
    """Keys, aliases and memos in dicts; the outbox is a list of drafts."""

    region: str
    keys: dict[uuid.UUID, Key] = field(default_factory=dict)
    aliases: dict[AliasName, Alias] = field(default_factory=dict)
    memos: dict[tuple[str, str, str], RequestMemo] = field(default_factory=dict)
    outbox: list[AuditDraft] = field(default_factory=list)
    reserved: dict[KeyVersionRef, int] = field(default_factory=dict)
    fault: Exception | None = None

    def find_key(self, key_id: uuid.UUID) -> Key | None:
        if self.fault is not None:
            raise self.fault
        return self.keys.get(key_id)

    def find_alias(self, name: AliasName) -> Alias | None:
        return self.aliases.get(name)

    def list_keys(self, *, after: tuple[datetime, uuid.UUID] | None) -> Sequence[Key]:
        ordered = sorted(self.keys.values(), key=lambda key: (key.create_time, key.key_id))
        return [key for key in ordered if after is None or (key.create_time, key.key_id) > after]

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

    def _apply(self, change: Change) -> None:
        match change:
            case CreateKey(key):
                self.keys[key.key_id] = key
            case CreateAlias(alias):
                if alias.name in self.aliases:
                    raise AliasExistsError(f"{alias.name} exists")
                self.aliases[alias.name] = alias
            case SetState(key_id, state, time, revision):
                key = self._at_revision(key_id, revision)
                self.keys[key_id] = dataclasses.replace(
                    key, state=state, update_time=time, revision=revision + 1
                )
            case AddVersion(key_id, version, time, revision):
                key = self._at_revision(key_id, revision)
                self.keys[key_id] = dataclasses.replace(
                    key,
                    primary_version=version.number,
                    versions=(*key.versions, version),
                    update_time=time,
                    revision=revision + 1,
                )

    def _at_revision(self, key_id: uuid.UUID, revision: int) -> Key:
        key = self.keys[key_id]
        if key.revision != revision:
            raise EtagMismatchError(str(key.name))
        return key

    async def reserve_uses(self, ref: KeyVersionRef, uses: int) -> int:
        await asyncio.sleep(0)
        self.reserved[ref] = self.reserved.get(ref, 0) + uses
        return self.reserved[ref]


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

    async def record_committed(self, outbox_id: int, *, deadline: float) -> Receipt:
        return await self.record(self.store.outbox[outbox_id - 1], deadline=deadline)
