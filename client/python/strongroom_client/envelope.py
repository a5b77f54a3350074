"""Envelope encryption in memory: data of any size under keys that stay in the HSM.

`EnvelopeClient` encrypts with a data key from the service and puts that key, wrapped once
per key and region, in front of the data (docs/formats/envelope-v1.md). Files and streams
are in `strongroom_client.stream`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from strongroom import encryption_context as contexts
from strongroom_client import _format
from strongroom_client._cobblestone import Buffer
from strongroom_client._core import encode_context
from strongroom_client._drivers import AsyncDriver, Driver
from strongroom_client._envelope_core import EnvelopeCore
from strongroom_client._fallback import RegionHealth
from strongroom_client.async_client import AsyncKmsClient
from strongroom_client.client import KmsClient
from strongroom_client.data_key_cache import DataKeyCache

__all__ = [
    "ANY_CONTEXT",
    "AnyContext",
    "AsyncEnvelopeClient",
    "EnvelopeClient",
    "EnvelopeInfo",
    "ExpectedContext",
    "OpenedEnvelope",
    "read_envelope_info",
]


class AnyContext(enum.Enum):
    """Type of `ANY_CONTEXT`."""

    ANY_CONTEXT = enum.auto()


#: Takes an envelope with whatever encryption context it was made with. Whoever can write
#: envelopes can then swap one for another: compare the context that is returned.
ANY_CONTEXT: Final = AnyContext.ANY_CONTEXT

#: The context that an envelope must have been made with, to the last pair; or ANY_CONTEXT.
ExpectedContext: TypeAlias = Mapping[str, str] | AnyContext


@dataclass(frozen=True, slots=True)
class OpenedEnvelope:
    """A plaintext, and the encryption context that is authenticated with it."""

    plaintext: bytes = field(repr=False)
    encryption_context: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EnvelopeInfo:
    """What a header says. **Not authenticated**: anybody may have written it."""

    encryption_context: Mapping[str, str]
    keys: tuple[str, ...]
    header_bytes: int


def read_envelope_info(envelope: Buffer) -> EnvelopeInfo:
    """Read what a header says, without a call and without any guarantee.

    Args:
        envelope: An envelope, or its first 108,667 bytes.

    Raises:
        EnvelopeInvalidError: It does not begin with a header.
    """
    header = _format.parse_header(_format.Cursor(envelope).read, expected_aad=None)
    return EnvelopeInfo(
        encryption_context=contexts.decode(header.aad),
        keys=tuple(wrapped.key for wrapped in header.wrapped_keys),
        header_bytes=header.size,
    )


def expected_aad(encryption_context: ExpectedContext) -> bytes | None:
    """Return the canonical bytes of an expected context, None for any; internal to the SDK."""
    if isinstance(encryption_context, AnyContext):
        return None
    return encode_context("encryption_context", encryption_context)


class EnvelopeClient:
    """Encrypts and decrypts data of any size that fits in memory, for threads.

    Thread safety: any number of threads.

    Attributes:
        core: Internal to the SDK.
        driver: Internal to the SDK.
    """

    def __init__(self, kms: KmsClient, *, keys: Sequence[str], cache: DataKeyCache | None = None):
        """Make a client over `kms`, which stays the caller's to close.

        Args:
            kms: Makes the calls.
            keys: Names of keys or aliases, at most 16. The first makes the data keys, the
                others wrap them too: any single one opens the message, so name keys in two
                regions to read while one is down. None for a client that only decrypts.
            cache: Keeps data keys for a while. Without one each message costs a call per
                key, and each leaves its audit record.

        Raises:
            ArgumentInvalidError: A name is not one, or there are too many.
            NoEndpointError: A key is in a region without endpoint.
        """
        self.driver: Driver = kms.driver
        self.core = EnvelopeCore(keys=keys, regions=kms.regions, cache=cache, health=RegionHealth())

    def encrypt(self, plaintext: Buffer, *, encryption_context: Mapping[str, str]) -> bytes:
        """Encrypt `plaintext` of any length, also none.

        Args:
            plaintext: What to encrypt.
            encryption_context: Bound to the envelope and readable in it; ``{}`` for none.
                Decryption must state the same. Not secret.

        Returns:
            The envelope: 200 to 600 bytes longer in the usual case, and 16 bytes per 16 KiB.

        Raises:
            StrongroomError: A key cannot be used, or a region not be reached. No envelope is
                made with fewer keys than were asked for.
        """
        return self.driver.run(self.core.encrypt(_as_bytes(plaintext), encryption_context))

    def decrypt(self, envelope: Buffer, *, encryption_context: Mapping[str, str]) -> bytes:
        """Decrypt an envelope that was made with exactly `encryption_context`.

        Raises:
            EnvelopeInvalidError: The envelope is not valid for this context. Nobody is told why.
            StrongroomError: None of its keys can be used; the error of the most telling one.
        """
        aad = encode_context("encryption_context", encryption_context)
        _, plaintext = self.driver.run(self.core.decrypt(_as_bytes(envelope), aad))
        return plaintext

    def decrypt_returning_context(self, envelope: Buffer) -> OpenedEnvelope:
        """Decrypt an envelope with any context, and return that with the plaintext.

        Prefer `decrypt`. Without a look at the returned context, whoever can write
        envelopes can swap one for another.
        """
        header, plaintext = self.driver.run(self.core.decrypt(_as_bytes(envelope), None))
        return OpenedEnvelope(plaintext, contexts.decode(header.aad))

    def rekey(
        self,
        envelope: Buffer,
        *,
        encryption_context: ExpectedContext,
        keys: Sequence[str] | None = None,
    ) -> bytes:
        """Wrap an envelope's data key anew, under other keys or the keys' newest versions.

        The body stays as it is, byte by byte.

        Args:
            envelope: The envelope.
            encryption_context: What it must have been made with, or ANY_CONTEXT.
            keys: Keys or aliases that will open it; the client's own when None. Whoever holds
                an old copy can still open that with the old keys.
        """
        view = memoryview(_as_bytes(envelope))
        cursor = _format.Cursor(view)
        header = _format.parse_header(cursor.read, expected_aad=expected_aad(encryption_context))
        return self.driver.run(self.core.rekey(header, keys)) + view[header.size :]


class AsyncEnvelopeClient:
    """Encrypts and decrypts data of any size that fits in memory, for asyncio.

    The calls are awaited; the cipher runs in the event loop, about 0.2 ms per MiB.

    Thread safety: one event loop.

    Attributes:
        core: Internal to the SDK.
        driver: Internal to the SDK.
    """

    def __init__(
        self, kms: AsyncKmsClient, *, keys: Sequence[str], cache: DataKeyCache | None = None
    ):
        """Make a client over `kms`; arguments and errors as of `EnvelopeClient`."""
        self.driver: AsyncDriver = kms.driver
        self.core = EnvelopeCore(keys=keys, regions=kms.regions, cache=cache, health=RegionHealth())

    async def encrypt(self, plaintext: Buffer, *, encryption_context: Mapping[str, str]) -> bytes:
        """Encrypt; as `EnvelopeClient.encrypt`."""
        return await self.driver.run(self.core.encrypt(_as_bytes(plaintext), encryption_context))

    async def decrypt(self, envelope: Buffer, *, encryption_context: Mapping[str, str]) -> bytes:
        """Decrypt; as `EnvelopeClient.decrypt`."""
        aad = encode_context("encryption_context", encryption_context)
        _, plaintext = await self.driver.run(self.core.decrypt(_as_bytes(envelope), aad))
        return plaintext

    async def decrypt_returning_context(self, envelope: Buffer) -> OpenedEnvelope:
        """Decrypt with any context; as `EnvelopeClient.decrypt_returning_context`."""
        header, plaintext = await self.driver.run(self.core.decrypt(_as_bytes(envelope), None))
        return OpenedEnvelope(plaintext, contexts.decode(header.aad))

    async def rekey(
        self,
        envelope: Buffer,
        *,
        encryption_context: ExpectedContext,
        keys: Sequence[str] | None = None,
    ) -> bytes:
        """Wrap the data key anew; as `EnvelopeClient.rekey`."""
        view = memoryview(_as_bytes(envelope))
        cursor = _format.Cursor(view)
        header = _format.parse_header(cursor.read, expected_aad=expected_aad(encryption_context))
        return await self.driver.run(self.core.rekey(header, keys)) + view[header.size :]


def _as_bytes(data: Buffer) -> Buffer:
    # A view of wider items would count items where bytes are meant.
    return data.cast("B") if isinstance(data, memoryview) else data
