"""What envelope clients do, without I/O: operations in the sense of _core.py."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from strongroom import encryption_context as contexts
from strongroom.resource_names import KeyVersionName
from strongroom_client import _cobblestone, _crypto_calls, _format
from strongroom_client._cobblestone import Buffer, Decryptor, Encryptor
from strongroom_client._core import Operation, encode_context, parse_name
from strongroom_client._data_key import DataKey
from strongroom_client._fallback import NEXT_KEY, RegionHealth, most_telling
from strongroom_client._format import Header, WrappedKey
from strongroom_client.data_key_cache import DataKeyCache
from strongroom_client.errors import (
    ArgumentInvalidError,
    EnvelopeInvalidError,
    NoEndpointError,
    StrongroomError,
)
from strongroom_client.secret_bytes import SecretBytes

__all__ = ["EnvelopeCore"]

#: Attempts per wrapped key while there are others to try.
ATTEMPTS_WITH_ALTERNATIVE: Final = 2

# The two kinds of names in the cache never meet: who may only decrypt makes no messages.
_SEALING: Final = b"S"
_OPENING: Final = b"O"


class EnvelopeCore:
    """Operations on envelopes and their headers.

    Thread safety: any number of threads.
    """

    def __init__(
        self,
        *,
        keys: Sequence[str],
        regions: Sequence[str],
        cache: DataKeyCache | None,
        health: RegionHealth,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ):
        """Check and keep the arguments.

        Args:
            keys: Keys or aliases that wrap each data key; none for a client that only opens.
            regions: Regions with endpoints, in order of preference for opening.
            cache: Where data keys are kept; None for a fresh one per message.
            health: What is known of the regions.
            random_bytes: Source of message ids and salts.

        Raises:
            ArgumentInvalidError: A name is not one, or there are more than 16.
            NoEndpointError: A key is in a region without endpoint.
        """
        self._keys = _check_keys(keys, regions)
        self._cache_name = _SEALING + "\n".join(self._keys).encode() + b"\n"
        self._regions = tuple(regions)
        self._cache = cache
        self._health = health
        self._random_bytes = random_bytes

    def encrypt(self, plaintext: Buffer, encryption_context: Mapping[str, str]) -> Operation[bytes]:
        """Make an envelope in memory."""
        aad = encode_context("encryption_context", encryption_context)
        data_key = self._cached_for_sealing(aad, len(plaintext))
        if data_key is None:
            data_key = yield from self._key_for_sealing(aad, encryption_context, len(plaintext))
        with data_key:
            random = self._random_bytes(_format.MESSAGE_ID_BYTES + _cobblestone.SALT_BYTES)
            immutable, header = _make_header(data_key, random[: _format.MESSAGE_ID_BYTES], aad)
            return _cobblestone.encrypt(
                data_key.key,
                plaintext,
                salt=random[_format.MESSAGE_ID_BYTES :],
                context=immutable,
                header=header,
            )

    def start_encrypting(
        self, encryption_context: Mapping[str, str], message_bytes: int | None
    ) -> Operation[tuple[bytes, Encryptor]]:
        """Return the header of a new envelope and the encryptor of its body.

        Args:
            encryption_context: The context.
            message_bytes: Length of the plaintext. None when it is not known: then the
                data key is a fresh one, because a cached one could not be accounted for.
        """
        aad = encode_context("encryption_context", encryption_context)
        data_key = self._cached_for_sealing(aad, message_bytes)
        if data_key is None:
            data_key = yield from self._key_for_sealing(aad, encryption_context, message_bytes)
        with data_key:
            random = self._random_bytes(_format.MESSAGE_ID_BYTES + _cobblestone.SALT_BYTES)
            immutable, header = _make_header(data_key, random[: _format.MESSAGE_ID_BYTES], aad)
            salt = random[_format.MESSAGE_ID_BYTES :]
            return header, Encryptor(data_key.key, salt=salt, context=immutable)

    def decrypt(
        self, envelope: Buffer, expected_aad: bytes | None
    ) -> Operation[tuple[Header, bytes]]:
        """Open an envelope in memory; return its verified header and the plaintext."""
        cursor = _format.Cursor(envelope)
        header = _format.parse_header(cursor.read, expected_aad=expected_aad)
        body = memoryview(envelope)[cursor.offset :]
        data_key = yield from self._key_for_opening(header, len(body))
        with data_key:
            return header, _cobblestone.decrypt(data_key.key, body, context=header.immutable)

    def start_decrypting(
        self, header: Header, prefix: bytes, message_bytes: int
    ) -> Operation[Decryptor]:
        """Verify a header and return the decryptor of the body that begins with `prefix`."""
        data_key = yield from self._key_for_opening(header, message_bytes)
        with data_key:
            return Decryptor(data_key.key, prefix=prefix, context=header.immutable)

    def rekey(self, header: Header, keys: Sequence[str] | None) -> Operation[bytes]:
        """Verify a header and return it with its data key wrapped anew.

        Args:
            header: The header.
            keys: Keys or aliases of the new list; None for the client's own.
        """
        names = self._keys if keys is None else _check_keys(keys, self._regions)
        _require_keys(names)
        context = contexts.decode(header.aad)
        data_key = yield from self._key_for_opening(header, 0)
        with data_key:
            wrapped_keys = yield from _wrap_all(names, data_key.key, context)
            authenticated = header.immutable + _encode_list(wrapped_keys)
            return authenticated + data_key.mac(authenticated)

    def _cached_for_sealing(self, aad: bytes, message_bytes: int | None) -> DataKey | None:
        """Return a cached data key for one message, acquired."""
        if self._cache is None or message_bytes is None:
            return None
        return self._cache.take(self._cache_name + aad, message_bytes)

    def _key_for_sealing(
        self, aad: bytes, context: Mapping[str, str], message_bytes: int | None
    ) -> Operation[DataKey]:
        """Return a fresh data key for one message, acquired, and cache it for others."""
        cache = self._cache
        if cache is None or message_bytes is None:
            data_key = yield from self._generate(context)
            data_key.retire()
            return data_key
        made_at = cache.now()
        data_key = yield from self._generate(context)
        cache.put(self._cache_name + aad, data_key, message_bytes, made_at=made_at)
        return data_key

    def _generate(self, context: Mapping[str, str]) -> Operation[DataKey]:
        """Have the first key make a data key and the others wrap it."""
        _require_keys(self._keys)
        generated = yield from _crypto_calls.generate_data_key(
            self._keys[0], encryption_context=context, number_of_bytes=_cobblestone.KEY_BYTES
        )
        secret = generated.plaintext_data_key
        try:
            first = WrappedKey(_key_of(generated.key_version), generated.wrapped_data_key)
            # One missing region fails the message: an envelope that silently lacks the key
            # of a region would be found out on the day the other region is down.
            others = yield from _wrap_all(self._keys[1:], secret, context)
            return DataKey(secret, _encode_list([first, *others]))
        except BaseException:
            secret.wipe()
            raise

    def _key_for_opening(self, header: Header, message_bytes: int) -> Operation[DataKey]:
        """Return the header's data key, acquired, after its MAC was checked with it."""
        data_key = yield from self._unwrap(header, message_bytes)
        try:
            data_key.verify(header)
        except BaseException:
            data_key.release()
            raise
        return data_key

    def _unwrap(self, header: Header, message_bytes: int) -> Operation[DataKey]:
        cache = self._cache
        if cache is None:
            _, data_key = yield from self._unwrap_first(header)
            data_key.retire()
            return data_key
        for wrapped in header.wrapped_keys:
            cached = cache.take(_digest(wrapped, header.aad), message_bytes)
            if cached is not None:
                return cached
        made_at = cache.now()
        wrapped, data_key = yield from self._unwrap_first(header)
        name = _digest(wrapped, header.aad)
        cache.put(name, data_key, message_bytes, made_at=made_at)
        return data_key

    def _unwrap_first(self, header: Header) -> Operation[tuple[WrappedKey, DataKey]]:
        """Decrypt one of the wrapped keys: the first that works."""
        context = contexts.decode(header.aad)
        candidates = self._candidates(header)
        failures: list[StrongroomError] = []
        for index, wrapped in enumerate(candidates):
            left = len(candidates) - index
            try:
                result = yield from _crypto_calls.decrypt(
                    wrapped.key,
                    wrapped.blob,
                    encryption_context=context,
                    max_attempts=ATTEMPTS_WITH_ALTERNATIVE if left > 1 else None,
                    time_share=1.0 / left,
                )
            except NEXT_KEY as exc:
                self._health.note(wrapped.region, exc)
                failures.append(exc)
                continue
            self._health.note(wrapped.region, None)
            if len(result.plaintext) != _cobblestone.KEY_BYTES:
                raise EnvelopeInvalidError
            return wrapped, DataKey(SecretBytes(result.plaintext))
        raise most_telling(failures, [wrapped.key for wrapped in candidates])

    def _candidates(self, header: Header) -> list[WrappedKey]:
        """Return the wrapped keys that can be tried, the best first."""
        order = {region: index for index, region in enumerate(self._regions)}
        candidates = [wrapped for wrapped in header.wrapped_keys if wrapped.region in order]
        if not candidates:
            regions = ", ".join(sorted({wrapped.region for wrapped in header.wrapped_keys}))
            raise NoEndpointError(
                f"the envelope has keys in {regions}, the options have no endpoint there"
            )
        candidates.sort(
            key=lambda wrapped: (self._health.is_avoided(wrapped.region), order[wrapped.region])
        )
        return candidates


def _wrap_all(
    names: Sequence[str], secret: SecretBytes, context: Mapping[str, str]
) -> Operation[list[WrappedKey]]:
    wrapped_keys = []
    for name in names:
        result = yield from _crypto_calls.encrypt(name, bytes(secret), encryption_context=context)
        # A comprehension cannot yield.
        wrapped_keys += [WrappedKey(_key_of(result.key_version), result.ciphertext)]
    return wrapped_keys


def _make_header(data_key: DataKey, message_id: bytes, aad: bytes) -> tuple[bytes, bytes]:
    immutable = _format.encode_immutable(message_id, aad)
    authenticated = immutable + data_key.wrapped_keys
    return immutable, authenticated + data_key.mac(authenticated)


def _check_keys(keys: Sequence[str], regions: Sequence[str]) -> tuple[str, ...]:
    if isinstance(keys, str):
        raise ArgumentInvalidError.of("keys", "list", "expected a list of names, got a text")
    if len(keys) > _format.MAX_WRAPPED_KEYS:
        raise ArgumentInvalidError.of("keys", "list.max", f"at most {_format.MAX_WRAPPED_KEYS}")
    for key in keys:
        region = parse_name("keys", key).region
        if region not in regions:
            raise NoEndpointError(f"{key}: the options have no endpoint for region {region}")
    return tuple(keys)


def _require_keys(keys: tuple[str, ...]) -> None:
    if not keys:
        raise ArgumentInvalidError.of("keys", "list.min", "name at least one key to encrypt")


def _encode_list(wrapped_keys: Sequence[WrappedKey]) -> bytes:
    try:
        return _format.encode_wrapped_keys(wrapped_keys)
    except ValueError as exc:
        # Only now is it known that two aliases are one key.
        raise ArgumentInvalidError.of("keys", "list.unique", str(exc)) from exc


def _key_of(key_version: str) -> str:
    return str(KeyVersionName.parse(key_version).key)


def _digest(wrapped: WrappedKey, aad: bytes) -> bytes:
    # The two names have lengths that the blob's own does not change: the key name has no
    # zero byte, and the blob's length stands before it.
    size = len(wrapped.blob).to_bytes(2, "big")
    text = b"".join((wrapped.key.encode(), b"\0", size, wrapped.blob, aad))
    return _OPENING + hashlib.sha256(text).digest()
