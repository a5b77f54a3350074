"""Material that callers bring: parameters, import, deletion (docs/key-import.md).

An import ends in three steps, each of which a crash may come after:

1. The token is claimed for the bytes that came with it: a repeat may bring the same, so
   that an answer that was lost can be asked for again, and nobody can try others.
2. The HSM unwraps and keeps the material. What a crash leaves here belongs to a version
   that has none by the metadata: nobody uses it, and the next import replaces it.
3. The store notes the material and that the token is used, in one transaction with the
   record.

A token that brought what does not unwrap, or other material than the first, is used up as
well: nobody asks an HSM twice about forgeries for one wrapping key.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from strongroom.receipts import Receipt
from strongroom.resource_names import KeyName
from strongroom_server.domain.imports import (
    MATERIAL_BYTES,
    MAX_OPEN_IMPORTS,
    RANDOM_BYTES,
    TOKEN_LIFETIME,
    ImportToken,
    IssuedToken,
    WrappingAlgorithm,
    check_expiry,
    check_external,
    check_token,
    is_being_deleted,
)
from strongroom_server.domain.keys import ExternalMaterial, Key, KeyState, KeyStorage, KeyVersion
from strongroom_server.domain.policy import Action
from strongroom_server.domain.states import check_state
from strongroom_server.errors import (
    CiphertextInvalidError,
    ImportTokenUsedError,
    KeyMaterialMismatchError,
    KeyStateInvalidError,
    LimitExceededError,
    RequestIdReusedError,
    StrongroomError,
)
from strongroom_server.import_ports import ImportedMaterial
from strongroom_server.mutations import (
    Change,
    DropMaterial,
    ImportMaterial,
    IssueImportToken,
    KeyChange,
)
from strongroom_server.ports import Clock
from strongroom_server.services.answers import Answer, ImportParameters
from strongroom_server.services.caller import Caller
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.managed_keys import ManagedKeys, check_etag, key_of
from strongroom_server.services.material_deletion import MaterialDeletion
from strongroom_server.services.records import Trace
from strongroom_server.services.root_book import RootBook
from strongroom_server.shards.topology import Shard

__all__ = ["KeyImport", "NewMaterial"]


@dataclass(frozen=True, slots=True)
class NewMaterial:
    """What ImportKeyMaterial is told; without `expire_time` the material does not end."""

    token: bytes
    encrypted: bytes
    expire_time: datetime | None


class KeyImport:
    """Brings material in, and destroys it. Plain types in and out."""

    def __init__(
        self,
        *,
        keys: ManagedKeys,
        roots: RootBook,
        deletion: MaterialDeletion,
        clock: Clock,
        new_transfer_id: Callable[[], uuid.UUID],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """Take the collaborators; `new_transfer_id` makes random UUIDs (version 4)."""
        self._keys = keys
        self._roots = roots
        self._deletion = deletion
        self._clock = clock
        self._new_transfer_id = new_transfer_id
        self._random_bytes = random_bytes

    async def get_parameters(
        self,
        caller: Caller,
        name: KeyName,
        algorithm: WrappingAlgorithm | None,
        request: ChangeRequest,
    ) -> tuple[ImportParameters, Receipt]:
        """Make a wrapping key and a token for it; what the key had of them before ends.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        action = Action.GET_IMPORT_PARAMETERS
        shard = self._keys.topology.shard(name.region)
        trace = Trace(action.value, str(name), validate_only=request.validate_only)

        async def plan() -> tuple[Change | None, Answer]:
            key = await self._keys.permitted(caller, shard, name, action, trace)
            check_state(action, key)
            check_external(action, key)
            trace.key_version = key.primary_version
            if request.validate_only:
                return None, Answer(parameters=_no_parameters(key, algorithm, self._clock.now()))
            issued, parameters = await self._make(caller, shard, key, algorithm)
            trace.details = {"wrapping_algorithm": str(parameters.algorithm)}
            return IssueImportToken(issued), Answer(parameters=parameters)

        body = (str(name), algorithm)
        answer, receipt = await self._keys.changes.make(
            shard, caller, trace, request, body, plan=plan
        )
        if answer.parameters is None:
            raise RequestIdReusedError
        return answer.parameters, receipt

    async def import_material(
        self, caller: Caller, name: KeyName, new: NewMaterial, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Bring material into a key; or the same again, for another end.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        action = Action.IMPORT_KEY_MATERIAL
        digest = hashlib.sha256(new.token).digest()

        async def plan(shard: Shard, key: Key) -> KeyChange | None:
            check_external(action, key)
            now = self._clock.now()
            version = _primary(key)
            if is_being_deleted(key, version):
                raise KeyStateInvalidError(str(key.name), "losing its material", action)
            check_expiry(new.expire_time, now)
            issued = await shard.store.find_import(digest)
            token = check_token(new.token, issued, key.version_ref(version.number), now)
            external = version.external or ExternalMaterial()
            check, wrapped = external.check, version.wrapped
            if not request.validate_only:
                made = await self._bring_in(caller, shard, key, new, token)
                check = made.check
                wrapped = wrapped if version.has_material else made.wrapped
            return ImportMaterial(
                key.key_id,
                version.number,
                ExternalMaterial(check, now, new.expire_time),
                wrapped,
                KeyState.ENABLED if key.state is KeyState.PENDING_IMPORT else key.state,
                digest,
                now,
                key.revision,
            )

        ends = "" if new.expire_time is None else new.expire_time.isoformat()
        body = (str(name), digest.hex(), _digest(new.encrypted).hex(), ends, request.etag)
        answer = await self._keys.change(caller, name, action, request, body, plan=plan)
        if not request.validate_only:
            await self._close(caller, self._keys.topology.shard(name.region), digest)
        return answer

    async def delete_material(
        self, caller: Caller, name: KeyName, request: ChangeRequest
    ) -> tuple[Key, Receipt]:
        """Destroy imported material; the key waits for the same again.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        action = Action.DELETE_IMPORTED_KEY_MATERIAL
        shard = self._keys.topology.shard(name.region)
        trace = Trace(action.value, str(name), validate_only=request.validate_only)

        async def plan() -> tuple[Change | None, Answer]:
            key = await self._keys.permitted(caller, shard, name, action, trace)
            check_etag(key, request.etag)
            check_state(action, key)
            check_external(action, key)
            version = _primary(key)
            trace.key_version = version.number
            if not version.has_material:
                return None, Answer(key=key)
            change: DropMaterial
            if request.validate_only:
                change = self._deletion.last_step(key, version.number)
            else:
                key, change = await self._deletion.destroy(caller, shard, key, version)
            return change, Answer(key=change.apply(key))

        body = (str(name), request.etag)
        answer, receipt = await self._keys.changes.make(
            shard, caller, trace, request, body, plan=plan
        )
        return key_of(answer), receipt

    async def _make(
        self, caller: Caller, shard: Shard, key: Key, algorithm: WrappingAlgorithm | None
    ) -> tuple[IssuedToken, ImportParameters]:
        store, deadline = shard.store, caller.hsm_deadline
        # Their wrapping keys too, and first: an import that is under way elsewhere with one
        # of them must have ended before there can be another one.
        for before in await store.replace_imports(key.key_id):
            await shard.token.destroy_wrapping_key(before.transfer_id, deadline=deadline)
            await store.forget_wrapping_key(before.token_sha256)
        if await store.count_imports() >= MAX_OPEN_IMPORTS:
            raise LimitExceededError(
                f"region {shard.region}: {MAX_OPEN_IMPORTS} import tokens are open; use them, "
                "or wait for the end of one"
            )
        transfer_id = self._new_transfer_id()
        # A crash after this leaves a key pair that no token names: found by reconciliation.
        made = await shard.token.create_wrapping_key(transfer_id, algorithm, deadline=deadline)
        expire_time = (self._clock.now() + TOKEN_LIFETIME).replace(microsecond=0)
        ref = key.version_ref(key.primary_version)
        random = self._random_bytes(RANDOM_BYTES)
        token = ImportToken(made.algorithm, ref, transfer_id, expire_time, random).to_bytes()
        issued = IssuedToken(_digest(token), key.key_id, transfer_id, expire_time)
        parameters = ImportParameters(
            str(key.version_name(ref.version)),
            made.algorithm,
            made.public_key,
            token,
            expire_time,
            MATERIAL_BYTES[key.spec],
        )
        return issued, parameters

    async def _bring_in(
        self, caller: Caller, shard: Shard, key: Key, new: NewMaterial, token: ImportToken
    ) -> ImportedMaterial:
        digest = _digest(new.token)
        if not await shard.store.claim_import(digest, _digest(new.encrypted)):
            raise ImportTokenUsedError
        version = _primary(key)
        keep = not version.has_material
        root = None
        if keep and key.storage is KeyStorage.WRAPPED:
            root = await self._roots.active(shard, deadline=caller.hsm_deadline)
        try:
            made = await shard.token.import_external(
                key.place_of(version),
                new.encrypted,
                transfer_id=token.transfer_id,
                algorithm=token.algorithm,
                root=root,
                check=b"" if version.external is None else version.external.check,
                keep=keep,
                deadline=caller.hsm_deadline,
            )
        except CiphertextInvalidError:
            await self._give_up(caller, shard, digest)
            raise
        if made is None:
            await self._give_up(caller, shard, digest)
            raise KeyMaterialMismatchError(str(key.version_name(version.number)))
        return made

    async def _give_up(self, caller: Caller, shard: Shard, token_sha256: bytes) -> None:
        await shard.store.end_import(token_sha256)
        await self._close(caller, shard, token_sha256)

    async def _close(self, caller: Caller, shard: Shard, token_sha256: bytes) -> None:
        """Destroy the wrapping key of a token that is over; if that fails, it is tried again.

        By `ImportUpkeep`, in whichever server.
        """
        with contextlib.suppress(StrongroomError):
            issued = await shard.store.find_import(token_sha256)
            if issued is None or issued.wrapping_key_gone:
                return
            await shard.token.destroy_wrapping_key(issued.transfer_id, deadline=caller.hsm_deadline)
            await shard.store.forget_wrapping_key(token_sha256)


def _primary(key: Key) -> KeyVersion:
    """Return the one version that a key has whose material is brought."""
    return key.versions[0]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _no_parameters(
    key: Key, algorithm: WrappingAlgorithm | None, now: datetime
) -> ImportParameters:
    name = str(key.version_name(key.primary_version))
    size = MATERIAL_BYTES[key.spec]
    return ImportParameters(name, algorithm, b"", b"", now + TOKEN_LIFETIME, size)
