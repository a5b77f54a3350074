"""Using keys: encrypt, decrypt, re-encrypt, data keys, random bytes.

The way of a request: resolve the name to shard and key, authorise, check the state,
count the use, one hop to the HSM, record, answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from strongroom import encryption_context as contexts
from strongroom.receipts import Receipt
from strongroom_server.domain import ciphertext
from strongroom_server.domain.algorithms import Algorithm, choose_algorithm, is_pair
from strongroom_server.domain.keys import Key, KeyVersionRef
from strongroom_server.domain.policy import Action
from strongroom_server.errors import StrongroomError
from strongroom_server.services.caller import Caller
from strongroom_server.services.key_access import KeyAccess, KeyOrAlias, Use
from strongroom_server.services.records import Recorder, Trace
from strongroom_server.services.rsa import open_with_rsa, seal_with_rsa
from strongroom_server.services.use_counters import UseCounters
from strongroom_server.shards.topology import Shard, Topology

__all__ = ["CryptoService", "DataKey", "Decrypted", "Encrypted", "ReEncrypted"]


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A ciphertext (empty with validate_only) and the key version that made it."""

    key_version: str
    blob: bytes
    receipts: tuple[Receipt, ...]
    algorithm: Algorithm = Algorithm.AES_256_GCM


@dataclass(frozen=True, slots=True, repr=False)
class Decrypted:
    """A plaintext (empty with validate_only) and the key version that opened it."""

    key_version: str
    plaintext: bytes
    used_primary: bool
    receipts: tuple[Receipt, ...]
    algorithm: Algorithm = Algorithm.AES_256_GCM


@dataclass(frozen=True, slots=True)
class ReEncrypted:
    """A new ciphertext blob and the two key versions."""

    source_key_version: str
    destination_key_version: str
    blob: bytes
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True, repr=False)
class DataKey:
    """A data key, plain (empty when not asked for) and wrapped."""

    key_version: str
    plaintext: bytes
    blob: bytes
    receipts: tuple[Receipt, ...]


class CryptoService:
    """Operations that use key material. Plain types in and out."""

    def __init__(
        self,
        *,
        topology: Topology,
        access: KeyAccess,
        uses: UseCounters,
        recorder: Recorder,
    ) -> None:
        """Take the collaborators; holds no state of its own."""
        self._topology = topology
        self._access = access
        self._uses = uses
        self._recorder = recorder

    async def encrypt(
        self,
        caller: Caller,
        name: KeyOrAlias,
        plaintext: bytes,
        context: Mapping[str, str],
        *,
        algorithm: Algorithm | None = None,
        validate_only: bool,
    ) -> Encrypted:
        """Encrypt 1 to 4,096 bytes; with an RSA key, what there is room for.

        Args:
            caller: Who asks.
            name: Key to encrypt with.
            plaintext: What to encrypt.
            context: Encryption context; empty with an RSA key, which binds nothing.
            algorithm: None takes the only one that the key has.
            validate_only: Stop before a use is counted.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._topology.shard(name.region)
        use = Use.of(
            Action.ENCRYPT, name, context, caller=caller, shard=shard, validate_only=validate_only
        )

        async def work() -> Encrypted:
            key = await self._access.usable_key(use, name)
            chosen = choose_algorithm(key.spec, key.usage, algorithm)
            if is_pair(key.spec):
                sealed = await seal_with_rsa(use, key, chosen, plaintext)
                return Encrypted(str(key.version_name(key.primary_version)), sealed, (), chosen)
            if validate_only:
                return Encrypted(str(key.version_name(key.primary_version)), b"", ())
            ref = await self._uses.take(shard, key)
            use.trace.key_version = ref.version
            header = ciphertext.header_for(ref)
            sealed = await shard.token.encrypt(
                key.material(ref.version),
                plaintext,
                header + contexts.encode(context),
                deadline=caller.hsm_deadline,
            )
            return Encrypted(str(key.version_name(ref.version)), header + sealed, ())

        result, receipt = await self._recorder.run(shard, caller, use.trace, work)
        return replace(result, receipts=(receipt,))

    async def decrypt(
        self,
        caller: Caller,
        name: KeyOrAlias | None,
        blob: bytes,
        context: Mapping[str, str],
        *,
        algorithm: Algorithm | None = None,
        validate_only: bool,
    ) -> Decrypted:
        """Decrypt a ciphertext blob, or what an RSA key encrypted.

        Args:
            caller: Who asks.
            name: The key that must have made it; None takes the blob's word.
            blob: What `encrypt` returned.
            context: The one it was encrypted under.
            algorithm: None takes the only one that the key has.
            validate_only: Stop before the HSM.

        Raises:
            StrongroomError: As the error table says; recorded when a shard is known.
        """
        shard = await self._shard_of(name, blob)
        use = Use.of(
            Action.DECRYPT, name, context, caller=caller, shard=shard, validate_only=validate_only
        )

        async def work() -> Decrypted:
            if name is None:
                key, parsed = await self._access.key_of_blob(use, None, blob)
            else:
                key = await self._access.usable_key(use, name)
                if is_pair(key.spec):
                    chosen = choose_algorithm(key.spec, key.usage, algorithm)
                    opened = await open_with_rsa(use, key, chosen, blob)
                    first = str(key.version_name(key.primary_version))
                    return Decrypted(
                        first, opened, used_primary=True, receipts=(), algorithm=chosen
                    )
                parsed = self._access.blob_of(use, key, blob)
            choose_algorithm(key.spec, key.usage, algorithm)
            version = parsed.ref.version
            name_used = str(key.version_name(version))
            used_primary = version == key.primary_version
            if validate_only:
                return Decrypted(name_used, b"", used_primary, ())
            aad = parsed.header + contexts.encode(context)
            plaintext = await shard.token.decrypt(
                key.material(version), parsed.sealed, aad, deadline=caller.hsm_deadline
            )
            return Decrypted(name_used, plaintext, used_primary, ())

        result, receipt = await self._recorder.run(shard, caller, use.trace, work)
        return replace(result, receipts=(receipt,))

    async def re_encrypt(
        self,
        caller: Caller,
        *,
        source_name: KeyOrAlias | None,
        blob: bytes,
        source_context: Mapping[str, str],
        destination_name: KeyOrAlias,
        destination_context: Mapping[str, str],
        validate_only: bool,
    ) -> ReEncrypted:
        """Decrypt and encrypt again; the caller never sees the plaintext.

        Leaves two records, ReEncryptFrom in the source's shard and ReEncryptTo in the
        destination's: two keys are used. Within one shard it is one hop and the plaintext
        stays in the HSM worker.

        Raises:
            StrongroomError: As the error table says; recorded in the shard it concerns.
        """
        source_shard = await self._shard_of(source_name, blob)
        target_shard = self._topology.shard(destination_name.region)
        source = Use.of(
            Action.RE_ENCRYPT_FROM,
            source_name,
            source_context,
            caller=caller,
            shard=source_shard,
            validate_only=validate_only,
        )
        target = Use.of(
            Action.RE_ENCRYPT_TO,
            destination_name,
            destination_context,
            caller=caller,
            shard=target_shard,
            validate_only=validate_only,
        )

        async def check_source() -> tuple[Key, ciphertext.CiphertextBlob]:
            return await self._access.key_of_blob(source, source_name, blob)

        async def check_target() -> tuple[Key, KeyVersionRef]:
            key = await self._access.usable_key(target, destination_name)
            if validate_only:
                return key, key.version_ref(key.primary_version)
            return key, await self._uses.take(target_shard, key)

        refusing = self._recorder.refusing
        source_key, parsed = await refusing(source_shard, caller, source.trace, check_source)
        target_key, ref = await refusing(target_shard, caller, target.trace, check_target)
        target.trace.key_version = ref.version
        source_material = source_key.material(parsed.ref.version)
        target_material = target_key.material(ref.version)
        header = ciphertext.header_for(ref)
        source_aad = parsed.header + contexts.encode(source_context)
        target_aad = header + contexts.encode(destination_context)
        deadline = caller.hsm_deadline
        plaintext = b""

        async def use_source() -> bytes:
            """Return sealed bytes within a shard, the plaintext between two."""
            if validate_only:
                return b""
            if source_shard is target_shard:
                return await source_shard.token.reencrypt(
                    source_material,
                    parsed.sealed,
                    source_aad,
                    target_material,
                    target_aad,
                    deadline=deadline,
                )
            return await source_shard.token.decrypt(
                source_material, parsed.sealed, source_aad, deadline=deadline
            )

        async def use_target() -> bytes:
            if validate_only or source_shard is target_shard:
                return plaintext
            return await target_shard.token.encrypt(
                target_material, plaintext, target_aad, deadline=deadline
            )

        plaintext, first = await self._recorder.run(source_shard, caller, source.trace, use_source)
        try:
            sealed, second = await self._recorder.run(
                target_shard, caller, target.trace, use_target
            )
        except StrongroomError as error:
            # The source was used and that is on record: the refusal says so too.
            error.receipts = (first, *error.receipts)
            raise
        return ReEncrypted(
            source_key_version=str(source_key.version_name(parsed.ref.version)),
            destination_key_version=str(target_key.version_name(ref.version)),
            blob=b"" if validate_only else header + sealed,
            receipts=(first, second),
        )

    async def generate_data_key(
        self,
        caller: Caller,
        name: KeyOrAlias,
        number_of_bytes: int,
        context: Mapping[str, str],
        *,
        with_plaintext: bool,
        validate_only: bool,
    ) -> DataKey:
        """Make a data key of 1 to 1,024 bytes in the HSM.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        action = (
            Action.GENERATE_DATA_KEY
            if with_plaintext
            else Action.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT
        )
        shard = self._topology.shard(name.region)
        use = Use.of(action, name, context, caller=caller, shard=shard, validate_only=validate_only)

        async def work() -> DataKey:
            key = await self._access.usable_key(use, name)
            if validate_only:
                return DataKey(str(key.version_name(key.primary_version)), b"", b"", ())
            ref = await self._uses.take(shard, key)
            use.trace.key_version = ref.version
            material = key.material(ref.version)
            header = ciphertext.header_for(ref)
            aad = header + contexts.encode(context)
            deadline = caller.hsm_deadline
            plaintext = b""
            if with_plaintext:
                plaintext, sealed = await shard.token.generate_data_key(
                    material, number_of_bytes, aad, deadline=deadline
                )
            else:
                sealed = await shard.token.generate_sealed_data_key(
                    material, number_of_bytes, aad, deadline=deadline
                )
            return DataKey(str(key.version_name(ref.version)), plaintext, header + sealed, ())

        result, receipt = await self._recorder.run(shard, caller, use.trace, work)
        return DataKey(result.key_version, result.plaintext, result.blob, (receipt,))

    async def generate_random(
        self, caller: Caller, region: str, number_of_bytes: int
    ) -> tuple[bytes, Receipt]:
        """Return 1 to 1,024 random bytes from a shard's HSM; any principal may ask.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._topology.shard(region)
        trace = Trace("GenerateRandom", policy="any-principal")

        async def work() -> bytes:
            return await shard.token.generate_random(number_of_bytes, deadline=caller.hsm_deadline)

        return await self._recorder.run(shard, caller, trace, work)

    async def _shard_of(self, name: KeyOrAlias | None, blob: bytes) -> Shard:
        if name is not None:
            return self._topology.shard(name.region)
        if len(self._topology.shards) == 1:
            return self._topology.shards[0]
        shard, _ = await self._topology.owner_of(ciphertext.parse(blob).ref.key_id)
        return shard
