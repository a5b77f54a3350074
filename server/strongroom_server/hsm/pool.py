"""The session pool: one shard's HSM, as `ports.HsmToken`.

All owned by one event loop: this module, `pool_operations` and `pool_pairs` know what
callers ask for; `dispatch` sends it to workers; `workforce` keeps the workers alive.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import (
    KeyMaterial,
    KeyOrigin,
    KeySpec,
    KeyUsage,
    KeyVersionRef,
    WrappedMaterial,
)
from strongroom_server.errors import CiphertextInvalidError, KeySpecUnsupportedError
from strongroom_server.hsm.dispatch import Dispatcher, WorkerLostError
from strongroom_server.hsm.key_kinds import kind_of
from strongroom_server.hsm.observer import NullObserver, PoolObserver
from strongroom_server.hsm.pool_imports import PoolImports, to_transfer_key
from strongroom_server.hsm.pool_operations import to_root, to_wire
from strongroom_server.hsm.wire import NO_KEY, Answer, Operation, WireKey
from strongroom_server.hsm.wire_operations import (
    MAX_TRANSFER_BYTES,
    ORIGIN_EXTERNAL,
    SPEC_NUMBERS,
    USAGE_NUMBERS,
)
from strongroom_server.hsm.worker_process import SessionPoolSettings
from strongroom_server.hsm.workforce import PoolStatus
from strongroom_server.ports import Clock

__all__ = [
    "NullObserver",
    "PoolObserver",
    "PoolStatus",
    "SessionPool",
    "SessionPoolSettings",
    "TransferKey",
]


@dataclass(frozen=True, slots=True)
class TransferKey:
    """A key pair to send material under.

    Attributes:
        name: What `import_material` and `destroy_transfer_key` take.
        public_key: DER SubjectPublicKeyInfo.
        algorithm: RSAES-OAEP with the strongest hash that this HSM takes.
    """

    name: str
    public_key: bytes
    algorithm: Algorithm


class SessionPool(PoolImports):
    """HSM workers of one shard, behind `ports.HsmToken`.

    Thread safety: none; one event loop.
    """

    def __init__(
        self,
        region: str,
        settings: SessionPoolSettings,
        clock: Clock,
        observer: PoolObserver | None = None,
        *,
        jitter: Callable[[], float] | None = None,
    ):
        """Prepare a pool; nothing runs before `start`.

        Args:
            region: The shard's region, for errors.
            settings: Module, token, PIN file and sizes.
            clock: `monotonic` must be CLOCK_MONOTONIC, which the workers read too.
            observer: Hears of operations and workers, for metrics and the log.
            jitter: 0 to 1, uniform; spreads the attempts to replace a worker.
        """
        super().__init__(
            Dispatcher(
                region,
                settings,
                clock,
                observer or NullObserver(),
                jitter or secrets.SystemRandom().random,
            )
        )
        self._region = region
        self._clock = clock
        self._workforce = self._dispatcher.workforce
        self._creation = asyncio.Lock()

    async def start(self) -> None:
        """Start one worker, and when it has logged in, the others.

        Raises:
            StartRefusedError: The first worker cannot serve: the message has the cause and
                the cure. One login was tried at most, and will not be tried again.
        """
        await self._workforce.start()

    async def close(self, grace: float) -> None:
        """Refuse new operations, wait up to `grace` seconds for those under way, end."""
        self._workforce.stop_accepting()
        end = self._clock.monotonic() + grace
        # Polled: the way of a request need not pay for an event that is used once.
        while (  # noqa: ASYNC110
            self._workforce.workers
            and not self._dispatcher.is_idle
            and self._clock.monotonic() < end
        ):
            await asyncio.sleep(0.005)
        await self._workforce.close()
        self._dispatcher.abandon()

    @property
    def ready(self) -> bool:
        """Whether operations can be served now."""
        return self._workforce.accepts

    def status(self) -> PoolStatus:
        """Return the state of the workers."""
        return self._workforce.status(queued=self._dispatcher.queued)

    # What makes objects on the token: one at a time, in one worker, for a search beside a
    # key generation fails in some modules.

    async def create_version(
        self,
        ref: KeyVersionRef,
        *,
        spec: KeySpec,
        usage: KeyUsage,
        root: int | None,
        deadline: float,
    ) -> KeyMaterial:
        """See `ports.HsmToken.create_version`."""
        kind = kind_of(spec, usage)
        if kind is None or (root is not None and not kind.is_wrappable):
            where = "" if root is None else " in wrapped storage"
            raise KeySpecUnsupportedError(self._region, f"{spec} keys for {usage}{where}")
        if root is None:
            material = KeyMaterial(ref, spec, usage)
            await self._make(
                Operation.CREATE, deadline, key=to_wire(material), elsewhere=Operation.LOAD
            )
            return material
        key = WireKey(ref.to_bytes(), SPEC_NUMBERS[spec], USAGE_NUMBERS[usage], root, b"")
        answer = await self._dispatcher.submit(Operation.CREATE_WRAPPED, deadline, key=key)
        return KeyMaterial(ref, spec, usage, WrappedMaterial(root, answer.second))

    async def destroy_version(self, material: KeyMaterial, *, deadline: float) -> None:
        """See `ports.HsmToken.destroy_version`."""
        await self._make(
            Operation.DESTROY, deadline, key=to_wire(material), elsewhere=Operation.DESTROY
        )

    async def create_root(self, root: int, *, deadline: float) -> None:
        """See `ports.HsmToken.create_root`. Every worker finds it when it is first used."""
        await self._make(Operation.CREATE_ROOT, deadline, key=to_root(root))

    async def create_transfer_key(
        self, *, modulus_bits: int = 3072, deadline: float
    ) -> TransferKey:
        """Make a key pair on the token under which another HSM can send material.

        Its private half unwraps, and does nothing else. It stays until it is destroyed.

        Raises:
            KeySpecUnsupportedError: The HSM cannot take part in transfers.
        """
        transfer_id = uuid.UUID(bytes=secrets.token_bytes(16), version=4)
        answer = await self._make(
            Operation.MAKE_TRANSFER_KEY,
            deadline,
            key=to_transfer_key(transfer_id),
            number=modulus_bits,
        )
        return TransferKey(str(transfer_id), answer.second, Algorithm(answer.first[0]))

    async def destroy_transfer_key(self, name: str, *, deadline: float) -> None:
        """Destroy a transfer key; idempotent. Blobs made for it are of no use any more."""
        await self._make(
            Operation.DESTROY_TRANSFER_KEY, deadline, key=to_transfer_key(uuid.UUID(name))
        )

    async def import_material(
        self,
        ref: KeyVersionRef,
        blob: bytes,
        *,
        transfer_key: str,
        spec: KeySpec,
        usage: KeyUsage,
        root: int | None,
        deadline: float,
    ) -> KeyMaterial:
        """Take material out of a transfer blob (docs/formats/key-transfer-v1.md).

        Args:
            ref: What it will be; the blob must say the same, as of spec and usage.
            blob: What `export_material` returned in the other HSM.
            transfer_key: Name of the transfer key that the blob was made for.
            spec: See `ref`.
            usage: See `ref`.
            root: As for `create_version`; None makes a token object, idempotently.
            deadline: See `ports.HsmToken`.

        Raises:
            CiphertextInvalidError: The blob is malformed, says something else, is not for
                this transfer key, or does not verify: nobody is told which.
            KeySpecUnsupportedError: The HSM cannot do this.
        """
        kind = kind_of(spec, usage)
        if kind is None or not kind.is_wrappable:
            raise KeySpecUnsupportedError(self._region, f"transfer of {spec} keys for {usage}")
        if not 0 < len(blob) <= MAX_TRANSFER_BYTES:
            raise CiphertextInvalidError
        key = WireKey(
            ref.to_bytes(),
            SPEC_NUMBERS[spec],
            USAGE_NUMBERS[usage],
            root or 0,
            b"",
            ORIGIN_EXTERNAL,
        )
        key2 = to_transfer_key(uuid.UUID(transfer_key))
        if root is None:
            await self._make(
                Operation.IMPORT, deadline, key=key, key2=key2, data=blob, elsewhere=Operation.LOAD
            )
            return KeyMaterial(ref, spec, usage, origin=KeyOrigin.EXTERNAL)
        answer = await self._dispatcher.submit(
            Operation.IMPORT, deadline, key=key, key2=key2, data=blob
        )
        wrapped = WrappedMaterial(root, answer.second)
        return KeyMaterial(ref, spec, usage, wrapped, KeyOrigin.EXTERNAL)

    async def _make(
        self,
        operation: Operation,
        deadline: float,
        *,
        key: WireKey,
        key2: WireKey = NO_KEY,
        number: int = 0,
        data: bytes = b"",
        aad: bytes = b"",
        elsewhere: Operation | None = None,
    ) -> Answer:
        """Run an operation that makes or destroys objects; all of them are idempotent.

        Tried again in another worker when that one is lost: the first thing it does is to
        look for the object, and the lost worker has been killed by then.

        Args:
            operation: Which.
            deadline: See `ports.HsmToken`.
            key: See `wire`.
            key2: See `wire`.
            number: See `wire`.
            data: See `wire`.
            aad: See `wire`.
            elsewhere: What the other workers are told of `key` afterwards: to load it, so
                that none has to search for it on the way of a request; to let go of it.
        """
        remaining = deadline - self._clock.monotonic()
        if remaining <= 0:
            raise self._dispatcher.too_late()
        try:
            async with asyncio.timeout(remaining), self._creation:
                answer = await self._send_to_lead(
                    operation, deadline, key=key, key2=key2, number=number, data=data, aad=aad
                )
                if elsewhere is not None:
                    await self._tell_others(elsewhere, key, deadline)
        except TimeoutError:
            raise self._dispatcher.too_late() from None
        return answer

    async def _send_to_lead(
        self,
        operation: Operation,
        deadline: float,
        *,
        key: WireKey,
        key2: WireKey,
        number: int,
        data: bytes,
        aad: bytes,
    ) -> Answer:
        for may_retry in (True, False):
            lead = next(iter(self._workforce.workers), None)
            if lead is None or not self.ready:
                raise self._dispatcher.unavailable()
            try:
                return await self._dispatcher.send_bound(
                    lead,
                    operation,
                    deadline,
                    key=key,
                    key2=key2,
                    number=number,
                    data=data,
                    aad=aad,
                )
            except WorkerLostError:
                if not may_retry:
                    break
                # Killed is not gone: a process in the middle of a write ends after it, and
                # what the next one searches for must be there by then.
                await lead.reap(grace_seconds=0.0)
        raise self._dispatcher.unavailable()

    async def _tell_others(self, operation: Operation, key: WireKey, deadline: float) -> None:
        """Have the other workers load a new key, or let go of a destroyed one.

        Those that start from now on load by themselves every key that is there, and a
        worker lost meanwhile is replaced by such a one.
        """
        told = [
            self._dispatcher.send_bound(other, operation, deadline, key=key)
            for other in self._workforce.workers[1:]
        ]
        for answer in await asyncio.gather(*told, return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, WorkerLostError):
                raise answer
