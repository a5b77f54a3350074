"""Using MAC keys and key pairs: sign, verify, public keys, MACs, key agreement.

The way of a request is that of `crypto.py`, without counted uses: SP 800-38D's limit is one of
GCM alone. A signature or MAC that does not verify is an error, never an answer that a caller
could forget to look at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from strongroom.receipts import Receipt
from strongroom_server.domain.algorithms import (
    Algorithm,
    algorithms_of,
    check_digest,
    choose_algorithm,
)
from strongroom_server.domain.keys import Key, KeyMaterial, KeySpec, KeyUsage
from strongroom_server.domain.policy import Action
from strongroom_server.services.caller import Caller
from strongroom_server.services.key_access import KeyAccess, KeyOrAlias, Use
from strongroom_server.services.records import Recorder
from strongroom_server.shards.topology import Shard, Topology

__all__ = ["AsymmetricService", "Made", "Message", "PublicKey", "Verified"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """What is signed, at most 4,096 bytes: a message, or the digest of one."""

    data: bytes
    is_digest: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Made:
    """A signature, MAC or shared secret (empty with validate_only), and how it was made."""

    key_version: str
    algorithm: Algorithm
    data: bytes
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Verified:
    """What verified; what does not is an error."""

    key_version: str
    algorithm: Algorithm
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key, DER SubjectPublicKeyInfo, and what its key is for."""

    key_version: str
    data: bytes
    spec: KeySpec
    usage: KeyUsage
    algorithms: tuple[Algorithm, ...]
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class _Operation:
    """A key that may be used, what for, and until when."""

    shard: Shard
    material: KeyMaterial
    algorithm: Algorithm
    deadline: float


class AsymmetricService:
    """Operations on MAC keys and key pairs. Plain types in and out."""

    def __init__(self, *, topology: Topology, access: KeyAccess, recorder: Recorder) -> None:
        """Take the collaborators; holds no state of its own."""
        self._topology = topology
        self._access = access
        self._recorder = recorder

    async def sign(
        self,
        caller: Caller,
        name: KeyOrAlias,
        message: Message,
        algorithm: Algorithm | None,
        *,
        validate_only: bool,
    ) -> Made:
        """Sign a message or digest.

        Args:
            caller: Who asks.
            name: Key for SIGN_VERIFY.
            message: What to sign.
            algorithm: None takes the only one that the key has.
            validate_only: Stop before the HSM.

        Raises:
            StrongroomError: As the error table says; recorded.
        """

        async def sign(on: _Operation) -> bytes:
            if message.is_digest:
                check_digest(on.algorithm, message.data)
            if validate_only:
                return b""
            return await on.shard.token.sign(
                on.material,
                on.algorithm,
                message.data,
                is_digest=message.is_digest,
                deadline=on.deadline,
            )

        return _made(
            *await self._run(
                Action.SIGN, caller, name, algorithm, sign, validate_only=validate_only
            )
        )

    async def verify(
        self,
        caller: Caller,
        name: KeyOrAlias,
        message: Message,
        signature: bytes,
        algorithm: Algorithm | None,
        *,
        validate_only: bool,
    ) -> Verified:
        """Verify what `sign` returned; arguments as there.

        Raises:
            SignatureInvalidError: It does not verify.
            StrongroomError: As the error table says; recorded.
        """

        async def verify(on: _Operation) -> None:
            if message.is_digest:
                check_digest(on.algorithm, message.data)
            if not validate_only:
                await on.shard.token.verify(
                    on.material,
                    on.algorithm,
                    message.data,
                    signature,
                    is_digest=message.is_digest,
                    deadline=on.deadline,
                )

        return _verified(
            *await self._run(
                Action.VERIFY, caller, name, algorithm, verify, validate_only=validate_only
            )
        )

    async def generate_mac(
        self,
        caller: Caller,
        name: KeyOrAlias,
        message: bytes,
        algorithm: Algorithm | None,
        *,
        validate_only: bool,
    ) -> Made:
        """Return the HMAC of a message of at most 4,096 bytes.

        Raises:
            StrongroomError: As the error table says; recorded.
        """

        async def generate(on: _Operation) -> bytes:
            if validate_only:
                return b""
            return await on.shard.token.generate_mac(
                on.material, on.algorithm, message, deadline=on.deadline
            )

        return _made(
            *await self._run(
                Action.GENERATE_MAC, caller, name, algorithm, generate, validate_only=validate_only
            )
        )

    async def verify_mac(
        self,
        caller: Caller,
        name: KeyOrAlias,
        message: bytes,
        mac: bytes,
        algorithm: Algorithm | None,
        *,
        validate_only: bool,
    ) -> Verified:
        """Verify what `generate_mac` returned.

        Raises:
            MacInvalidError: It does not verify.
            StrongroomError: As the error table says; recorded.
        """

        async def verify(on: _Operation) -> None:
            if not validate_only:
                await on.shard.token.verify_mac(
                    on.material, on.algorithm, message, mac, deadline=on.deadline
                )

        return _verified(
            *await self._run(
                Action.VERIFY_MAC, caller, name, algorithm, verify, validate_only=validate_only
            )
        )

    async def derive_shared_secret(
        self,
        caller: Caller,
        name: KeyOrAlias,
        public_key: bytes,
        algorithm: Algorithm | None,
        *,
        validate_only: bool,
    ) -> Made:
        """Return the ECDH shared secret with another's public key.

        With `validate_only` that key is not looked at: only the HSM's side knows its curve.

        Raises:
            StrongroomError: As the error table says; recorded.
        """

        async def derive(on: _Operation) -> bytes:
            if validate_only:
                return b""
            return await on.shard.token.derive_shared_secret(
                on.material, public_key, deadline=on.deadline
            )

        return _made(
            *await self._run(
                Action.DERIVE_SHARED_SECRET,
                caller,
                name,
                algorithm,
                derive,
                validate_only=validate_only,
            )
        )

    async def public_key(self, caller: Caller, name: KeyOrAlias) -> PublicKey:
        """Return the public key of a pair.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        shard = self._topology.shard(name.region)
        use = Use.of(
            Action.GET_PUBLIC_KEY, name, {}, caller=caller, shard=shard, validate_only=False
        )

        async def work() -> tuple[Key, bytes]:
            key = await self._access.usable_key(use, name)
            use.trace.key_version = key.primary_version
            return key, await shard.token.public_key(
                key.material(key.primary_version), deadline=caller.hsm_deadline
            )

        (key, data), receipt = await self._recorder.run(shard, caller, use.trace, work)
        return PublicKey(
            str(key.version_name(key.primary_version)),
            data,
            key.spec,
            key.usage,
            algorithms_of(key.spec, key.usage),
            receipt,
        )

    async def _run(
        self,
        action: Action,
        caller: Caller,
        name: KeyOrAlias,
        algorithm: Algorithm | None,
        operate: Callable[[_Operation], Awaitable[T]],
        *,
        validate_only: bool,
    ) -> tuple[str, Algorithm, T, Receipt]:
        """Use a key, once it is known that the caller may, and record it."""
        shard = self._topology.shard(name.region)
        use = Use.of(action, name, {}, caller=caller, shard=shard, validate_only=validate_only)

        async def work() -> tuple[str, Algorithm, T]:
            key = await self._access.usable_key(use, name)
            version = key.primary_version
            use.trace.key_version = version
            chosen = choose_algorithm(key.spec, key.usage, algorithm)
            on = _Operation(shard, key.material(version), chosen, caller.hsm_deadline)
            return str(key.version_name(version)), chosen, await operate(on)

        (version_name, chosen, result), receipt = await self._recorder.run(
            shard, caller, use.trace, work
        )
        return version_name, chosen, result, receipt


def _made(key_version: str, algorithm: Algorithm, data: bytes, receipt: Receipt) -> Made:
    return Made(key_version, algorithm, data, receipt)


def _verified(key_version: str, algorithm: Algorithm, nothing: None, receipt: Receipt) -> Verified:
    del nothing
    return Verified(key_version, algorithm, receipt)
