"""The session pool: one shard's HSM, as `ports.HsmToken`.

Three parts, all owned by one event loop: this one knows what callers ask for; `dispatch`
sends it to workers; `workforce` keeps the workers alive.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from strongroom_server.domain.keys import KeyVersionRef
from strongroom_server.errors import CiphertextInvalidError
from strongroom_server.hsm.dispatch import Dispatcher, WorkerLostError
from strongroom_server.hsm.observer import NullObserver, PoolObserver
from strongroom_server.hsm.wire import Operation
from strongroom_server.hsm.worker_process import SessionPoolSettings
from strongroom_server.hsm.workforce import PoolStatus
from strongroom_server.ports import Clock

__all__ = ["NullObserver", "PoolObserver", "PoolStatus", "SessionPool", "SessionPoolSettings"]

_MIN_SEALED_BYTES: Final = 29  # docs/formats/ciphertext-blob-v1.md
_MAX_SEALED_BYTES: Final = 4124


class SessionPool:
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
        self._clock = clock
        self._dispatcher = Dispatcher(
            region,
            settings,
            clock,
            observer or NullObserver(),
            jitter or secrets.SystemRandom().random,
        )
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

    # ports.HsmToken

    async def encrypt(
        self, ref: KeyVersionRef, plaintext: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        """See `ports.HsmToken.encrypt`."""
        answer = await self._dispatcher.submit(
            Operation.ENCRYPT, deadline, key=ref.to_bytes(), data=plaintext, aad=aad
        )
        return answer.second

    async def decrypt(
        self, ref: KeyVersionRef, sealed: bytes, aad: bytes, *, deadline: float
    ) -> bytes:
        """See `ports.HsmToken.decrypt`."""
        if not _MIN_SEALED_BYTES <= len(sealed) <= _MAX_SEALED_BYTES:
            raise CiphertextInvalidError
        answer = await self._dispatcher.submit(
            Operation.DECRYPT, deadline, key=ref.to_bytes(), data=sealed, aad=aad
        )
        return answer.first

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
        """See `ports.HsmToken.reencrypt`."""
        if not _MIN_SEALED_BYTES <= len(sealed) <= _MAX_SEALED_BYTES:
            raise CiphertextInvalidError
        answer = await self._dispatcher.submit(
            Operation.REENCRYPT,
            deadline,
            key=source.to_bytes(),
            key2=destination.to_bytes(),
            data=sealed,
            aad=source_aad,
            aad2=destination_aad,
        )
        return answer.second

    async def generate_data_key(
        self, ref: KeyVersionRef, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> tuple[bytes, bytes]:
        """See `ports.HsmToken.generate_data_key`."""
        answer = await self._dispatcher.submit(
            Operation.DATA_KEY, deadline, key=ref.to_bytes(), number=number_of_bytes, aad=aad
        )
        return answer.first, answer.second

    async def generate_sealed_data_key(
        self, ref: KeyVersionRef, number_of_bytes: int, aad: bytes, *, deadline: float
    ) -> bytes:
        """See `ports.HsmToken.generate_sealed_data_key`."""
        answer = await self._dispatcher.submit(
            Operation.SEALED_DATA_KEY,
            deadline,
            key=ref.to_bytes(),
            number=number_of_bytes,
            aad=aad,
        )
        return answer.second

    async def generate_random(self, number_of_bytes: int, *, deadline: float) -> bytes:
        """See `ports.HsmToken.generate_random`."""
        answer = await self._dispatcher.submit(Operation.RANDOM, deadline, number=number_of_bytes)
        return answer.first

    async def create_version(self, ref: KeyVersionRef, *, deadline: float) -> None:
        """See `ports.HsmToken.create_version`.

        One at a time, in one worker: a search beside a key generation fails in some
        modules. Tried again in another worker when that one is lost: the first thing it
        does is to look for the key, and the lost worker has been killed by then.
        """
        key = ref.to_bytes()
        remaining = deadline - self._clock.monotonic()
        if remaining <= 0:
            raise self._dispatcher.too_late()
        try:
            async with asyncio.timeout(remaining), self._creation:
                await self._create_in_lead(key, deadline)
                # Workers that start from now on load every key by themselves, and a
                # worker lost meanwhile is replaced by such a one.
                others = self._workforce.workers[1:]
                loads = [
                    self._dispatcher.send_bound(other, Operation.LOAD, key, deadline)
                    for other in others
                ]
                for answer in await asyncio.gather(*loads, return_exceptions=True):
                    if isinstance(answer, BaseException) and not isinstance(
                        answer, WorkerLostError
                    ):
                        raise answer
        except TimeoutError:
            raise self._dispatcher.too_late() from None

    async def _create_in_lead(self, key: bytes, deadline: float) -> None:
        for may_retry in (True, False):
            lead = next(iter(self._workforce.workers), None)
            if lead is None or not self.ready:
                raise self._dispatcher.unavailable()
            try:
                await self._dispatcher.send_bound(lead, Operation.CREATE, key, deadline)
            except WorkerLostError:
                if not may_retry:
                    raise self._dispatcher.unavailable() from None
            else:
                return
