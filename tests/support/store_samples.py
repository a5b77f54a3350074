"""Keys, drafts and mutations for tests of the metadata store."""

from __future__ import annotations

import hashlib
import time
import uuid
from datetime import UTC, datetime, timedelta

from strongroom.resource_names import AliasName
from strongroom_server.domain.keys import (
    Alias,
    Key,
    KeyManager,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
    WrappedMaterial,
)
from strongroom_server.mutations import (
    AddRoot,
    AddVersion,
    AuditDraft,
    Change,
    CreateAlias,
    CreateKey,
    Mutation,
    RequestMemo,
    RetireRoot,
    SetState,
)
from strongroom_server.ports import KeyStore

REGION = "eu-test"
START = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
PRINCIPAL = "spiffe://example.org/orders"


class SteppingClock:
    """A wall clock that the test moves, beside the real monotonic one."""

    def __init__(self, now: datetime = START) -> None:
        self.wall = now
        self.monotonic_offset = 0.0

    def now(self) -> datetime:
        """Return the time the test has set."""
        return self.wall

    def monotonic(self) -> float:
        """Return real seconds, plus what the test has added."""
        return time.monotonic() + self.monotonic_offset


def make_key(
    *,
    key_id: uuid.UUID | None = None,
    create_time: datetime = START,
    region: str = REGION,
    description: str = "orders at rest",
    wrapped: WrappedMaterial | None = None,
) -> Key:
    """Make a new key with one version, in wrapped storage when there is material."""
    return Key(
        key_id=key_id or uuid.uuid4(),
        region=region,
        spec=KeySpec.AES_256,
        usage=KeyUsage.ENCRYPT_DECRYPT,
        state=KeyState.ENABLED,
        manager=KeyManager.CUSTOMER,
        description=description,
        primary_version=1,
        creator=PRINCIPAL,
        create_time=create_time,
        update_time=create_time,
        revision=1,
        policy=f'permit(principal == User::"{PRINCIPAL}", action, resource);',
        versions=(KeyVersion(1, create_time, 0, wrapped),),
        storage=KeyStorage.RESIDENT if wrapped is None else KeyStorage.WRAPPED,
    )


def make_material(root: int, filler: int = 0) -> WrappedMaterial:
    """Make wrapped material; nobody can unwrap it."""
    return WrappedMaterial(root, filler.to_bytes(40, "big"))


def make_draft(key: Key, method: str = "CreateKey") -> AuditDraft:
    """Make the audit draft of a change of `key`."""
    return AuditDraft(
        record_id=uuid.uuid4(),
        time=START,
        principal=PRINCIPAL,
        peer="ipv4:127.0.0.1:50000",
        method=method,
        outcome="OK",
        request_id="7b6f0d0e",
        key=str(key.name),
        encryption_context={"purpose": "süß"},
        policy="default",
    )


def make_memo(request_id: str, *, answer: str = "{}", body: bytes = b"request") -> RequestMemo:
    """Make the memo of a request id."""
    return RequestMemo(PRINCIPAL, "CreateKey", request_id, hashlib.sha256(body).digest(), answer)


def mutation(key: Key, change: Change, memo: RequestMemo | None = None) -> Mutation:
    """Wrap a change of `key` with a draft."""
    return Mutation(change, make_draft(key, type(change).__name__), memo)


def creation(key: Key, memo: RequestMemo | None = None) -> Mutation:
    """Create `key`."""
    return mutation(key, CreateKey(key), memo)


def state_change(key: Key, state: KeyState, *, revision: int | None = None) -> Mutation:
    """Set the state of `key`, expecting its revision."""
    expected = key.revision if revision is None else revision
    return mutation(key, SetState(key.key_id, state, START + timedelta(seconds=1), expected))


def new_version(
    key: Key, *, revision: int | None = None, wrapped: WrappedMaterial | None = None
) -> Mutation:
    """Rotate `key`, expecting its revision."""
    expected = key.revision if revision is None else revision
    time_ = START + timedelta(seconds=2)
    version = KeyVersion(key.versions[-1].number + 1, time_, 0, wrapped)
    return mutation(key, AddVersion(key.key_id, version, time_, expected))


def new_root(number: int) -> Mutation:
    """Add a wrapping root."""
    return Mutation(AddRoot(number, START), make_root_draft("CreateWrappingRoot", number))


def retirement(number: int) -> Mutation:
    """Retire a wrapping root."""
    return Mutation(RetireRoot(number, START), make_root_draft("RetireWrappingRoot", number))


def make_root_draft(method: str, number: int) -> AuditDraft:
    """Make the audit draft of a change of a wrapping root."""
    return AuditDraft(
        record_id=uuid.uuid4(),
        time=START,
        principal="strongroom:roots",
        peer="",
        method=method,
        outcome="OK",
        request_id="",
        key=f"regions/{REGION}/wrapping-roots/{number}",
    )


def new_alias(key: Key, alias: str, memo: RequestMemo | None = None) -> Mutation:
    """Give `key` an alias."""
    name = AliasName(key.region, alias)
    return mutation(key, CreateAlias(Alias(name, key.key_id, START)), memo)


async def all_keys(store: KeyStore) -> list[Key]:
    """Return every key, read in pages that are not the reader's own size."""
    found: list[Key] = []
    while True:
        after = (found[-1].create_time, found[-1].key_id) if found else None
        page = await store.list_keys(after=after, limit=7)
        found += page
        if len(page) < 7:
            return found
