"""`AsyncKmsClient`: the key service, call by call, for asyncio."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from types import TracebackType
from typing import Self

from strongroom_client import _crypto_calls, _key_calls
from strongroom_client._async_import_methods import AsyncImportMethods
from strongroom_client._async_lifecycle_methods import AsyncLifecycleMethods
from strongroom_client._async_pair_methods import AsyncPairMethods
from strongroom_client._async_permission_methods import AsyncPermissionMethods
from strongroom_client._drivers import AsyncDriver, Limits
from strongroom_client._transport import AsyncGrpcTransport
from strongroom_client.audit import AsyncAuditClient
from strongroom_client.options import ClientOptions
from strongroom_client.receipt_log import ReceiptLog
from strongroom_client.results import (
    Algorithm,
    Alias,
    AuditMode,
    DecryptResult,
    EncryptResult,
    GeneratedDataKey,
    Key,
    KeyOrigin,
    KeySpec,
    KeyState,
    KeyStorage,
    KeyUsage,
    KeyVersion,
    RandomBytes,
    ReEncryptResult,
    RotatedKey,
    WrappedDataKey,
)

__all__ = ["AsyncKmsClient"]


class AsyncKmsClient(
    AsyncImportMethods, AsyncLifecycleMethods, AsyncPairMethods, AsyncPermissionMethods
):
    """Calls the key service. The region in a name picks the endpoint.

    Every method raises a subclass of StrongroomError when the service refuses or cannot
    be reached; the class says why. `encryption_context` is never optional: say ``{}`` when
    there is none. It is not secret; it must be the same for decryption.

    Calls that change something carry a request id, so that a retry never changes it
    twice. Give your own to make a repeat safe across restarts of your program.

    Thread safety: one event loop.

    Attributes:
        regions: The regions with endpoints, the preferred one first.
        driver: Internal to the SDK.
    """

    regions: tuple[str, ...]
    driver: AsyncDriver

    def __init__(self, options: ClientOptions, *, receipt_log: ReceiptLog | None = None):
        """Make a client; it connects on its first call.

        Args:
            options: What it is told.
            receipt_log: Keeps every receipt of this client; close it after the client.
        """
        limits = Limits(options.timeout_seconds, options.max_attempts)
        self.driver = AsyncDriver(AsyncGrpcTransport(options), limits, receipt_log=receipt_log)
        self.regions = options.regions

    @classmethod
    def over(cls, driver: AsyncDriver, regions: tuple[str, ...]) -> Self:
        """Make a client over another driver, such as a fake's; internal to the SDK."""
        client = cls.__new__(cls)
        client.driver = driver
        client.regions = regions
        return client

    @property
    def audit(self) -> AsyncAuditClient:
        """The audit log: proofs of receipts. The options must have its endpoint."""
        return AsyncAuditClient(self.driver)

    def with_timeout(self, timeout_seconds: float) -> Self:
        """Return a client with another time limit per operation, over the same connections."""
        limits = Limits(timeout_seconds, self.driver.limits.max_attempts)
        return self.over(self.driver.with_limits(limits), self.regions)

    async def close(self) -> None:
        """Close the connections; later calls raise ClientClosedError."""
        await self.driver.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def create_key(
        self,
        region: str,
        *,
        description: str = "",
        policy: str = "",
        spec: KeySpec = KeySpec.AES_256,
        usage: KeyUsage | None = None,
        storage: KeyStorage | None = None,
        audit_mode: AuditMode = AuditMode.REQUIRED,
        tags: Mapping[str, str] | None = None,
        origin: KeyOrigin = KeyOrigin.HSM,
        request_id: str | None = None,
    ) -> Key:
        """Create a key in the HSM of `region`: an AES-256 key unless you say otherwise.

        Args:
            region: Its home, such as ``eu-1``.
            description: Words for people, at most 8,192 characters. Never secret.
            policy: Cedar policy set, at most 32,768 bytes. Without one, you and the
                deployment's administrators may do everything.
            spec: What the material is.
            usage: What the key is for, ENCRYPT_DECRYPT for AES when None. Others need it.
            storage: Where the material is kept; the region's default when None.
            audit_mode: BUFFERED for a key that is used very often: its uses are answered
                before their records are on disk, within the region's bound.
            tags: At most 50, names of 1 to 128 characters, values of at most 256. Never secret.
            origin: EXTERNAL for a key whose material you bring (`import_key_material`).
            request_id: A UUID; a repeat with it returns the first answer.

        Raises:
            KeySpecUnsupportedError: The region's HSM has no such keys, or not there.
            PolicyInvalidError: The policy does not parse, or locks everybody out.
            RequestIdReusedError: `request_id` was used with another request.
        """
        return await self.driver.run(
            _key_calls.create_key(
                region,
                description=description,
                policy=policy,
                spec=spec,
                usage=usage,
                storage=storage,
                audit_mode=audit_mode,
                tags=tags,
                origin=origin,
                request_id=request_id or str(uuid.uuid4()),
            )
        )

    async def get_key(self, name: str) -> Key:
        """Describe a key, named by itself or by an alias."""
        return await self.driver.run(_key_calls.get_key(name))

    async def list_keys(
        self,
        region: str,
        *,
        page_size: int = 100,
        states: Collection[KeyState] | None = None,
        tags: Mapping[str, str] | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Key]:
        """Yield the keys of `region` that you may see, by age, page by page.

        Args:
            region: Their home.
            page_size: How many to ask for at once, at most 1,000.
            states: One of which a key has; all but DESTROYED when None.
            tags: Which a key has, with these values.
            newest_first: Else the oldest come first.
        """
        token = ""
        while True:
            keys, token = await self.driver.run(
                _key_calls.list_keys(
                    region, token, page_size, states=states, tags=tags, newest_first=newest_first
                )
            )
            for key in keys:
                yield key
            if not token:
                return

    async def enable_key(self, key: str, *, etag: str = "", request_id: str | None = None) -> Key:
        """Let a disabled key be used again.

        Args:
            key: Name of the key; aliases are not taken.
            etag: When given, the key must not have changed since.
            request_id: A UUID; a repeat with it returns the first answer.

        Raises:
            EtagMismatchError: The key changed.
        """
        request_id = request_id or str(uuid.uuid4())
        return await self.driver.run(_key_calls.enable_key(key, etag=etag, request_id=request_id))

    async def disable_key(self, key: str, *, etag: str = "", request_id: str | None = None) -> Key:
        """Stop every use of a key until it is enabled again. Arguments as for `enable_key`."""
        request_id = request_id or str(uuid.uuid4())
        return await self.driver.run(_key_calls.disable_key(key, etag=etag, request_id=request_id))

    async def rotate_key(
        self, key: str, *, etag: str = "", request_id: str | None = None
    ) -> RotatedKey:
        """Make a new primary version; older versions go on decrypting. As for `enable_key`."""
        request_id = request_id or str(uuid.uuid4())
        return await self.driver.run(_key_calls.rotate_key(key, etag=etag, request_id=request_id))

    async def list_key_versions(
        self, key: str, *, page_size: int = 100
    ) -> AsyncIterator[KeyVersion]:
        """Yield the versions of a key, oldest first, page by page."""
        token = ""
        while True:
            versions, token = await self.driver.run(
                _key_calls.list_key_versions(key, token, page_size)
            )
            for version in versions:
                yield version
            if not token:
                return

    async def create_alias(
        self, region: str, *, alias_id: str, key: str, request_id: str | None = None
    ) -> Alias:
        """Give a key a second name.

        Args:
            region: Home of the key, and so of the alias.
            alias_id: Alias without prefix, such as ``payments/card-data``.
            key: Name of the key.
            request_id: A UUID; a repeat with it returns the first answer.

        Raises:
            AliasExistsError: The alias exists.
        """
        request_id = request_id or str(uuid.uuid4())
        return await self.driver.run(
            _key_calls.create_alias(region, alias_id=alias_id, key=key, request_id=request_id)
        )

    async def encrypt(
        self,
        key: str,
        plaintext: bytes,
        *,
        encryption_context: Mapping[str, str],
        algorithm: Algorithm | None = None,
    ) -> EncryptResult:
        """Encrypt 1 to 4,096 bytes inside the HSM; for more, use `AsyncEnvelopeClient`."""
        return await self.driver.run(
            _crypto_calls.encrypt(
                key, plaintext, encryption_context=encryption_context, algorithm=algorithm
            )
        )

    async def decrypt(
        self,
        key: str,
        ciphertext: bytes,
        *,
        encryption_context: Mapping[str, str],
        algorithm: Algorithm | None = None,
    ) -> DecryptResult:
        """Decrypt what `key`, and no other key, encrypted.

        Raises:
            CiphertextInvalidError: It cannot be decrypted; tag, context or format.
            WrongKeyError: Another key made it.
        """
        return await self.driver.run(
            _crypto_calls.decrypt(
                key, ciphertext, encryption_context=encryption_context, algorithm=algorithm
            )
        )

    async def decrypt_with_any_key(
        self, region: str, ciphertext: bytes, *, encryption_context: Mapping[str, str]
    ) -> DecryptResult:
        """Decrypt with whichever key the ciphertext names, of those that you may use.

        Prefer `decrypt`: it refuses a ciphertext that somebody made with a key of theirs.
        """
        return await self.driver.run(
            _crypto_calls.decrypt_with_any_key(
                region, ciphertext, encryption_context=encryption_context
            )
        )

    async def re_encrypt(
        self,
        ciphertext: bytes,
        *,
        source_key: str,
        source_encryption_context: Mapping[str, str],
        destination_key: str,
        destination_encryption_context: Mapping[str, str],
    ) -> ReEncryptResult:
        """Decrypt and encrypt inside the service, under another key, version or context.

        Raises:
            WrongRegionError: No server hosts both keys' shards.
        """
        return await self.driver.run(
            _crypto_calls.re_encrypt(
                ciphertext,
                source_key=source_key,
                source_encryption_context=source_encryption_context,
                destination_key=destination_key,
                destination_encryption_context=destination_encryption_context,
            )
        )

    async def generate_data_key(
        self, key: str, *, encryption_context: Mapping[str, str], number_of_bytes: int = 32
    ) -> GeneratedDataKey:
        """Make a data key of 1 to 1,024 bytes: in the clear, and wrapped under `key`."""
        return await self.driver.run(
            _crypto_calls.generate_data_key(
                key, encryption_context=encryption_context, number_of_bytes=number_of_bytes
            )
        )

    async def generate_data_key_without_plaintext(
        self, key: str, *, encryption_context: Mapping[str, str], number_of_bytes: int = 32
    ) -> WrappedDataKey:
        """Make a data key of 1 to 1,024 bytes, wrapped under `key` only."""
        return await self.driver.run(
            _crypto_calls.generate_data_key_without_plaintext(
                key, encryption_context=encryption_context, number_of_bytes=number_of_bytes
            )
        )

    async def generate_random(self, region: str, number_of_bytes: int) -> RandomBytes:
        """Return 1 to 1,024 random bytes from the HSM of `region`."""
        return await self.driver.run(_crypto_calls.generate_random(region, number_of_bytes))
