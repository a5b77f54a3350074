"""A data key in memory: who uses it, and when it is wiped."""

from __future__ import annotations

import hmac
import threading
from types import TracebackType
from typing import Self

from strongroom_client import _format
from strongroom_client._cobblestone import Buffer
from strongroom_client.secret_bytes import SecretBytes

__all__ = ["DataKey"]


class DataKey:
    """32 bytes that protect messages, and the wrapped forms that go into their headers.

    Several threads may use one key while the cache drops it. So users are counted, and
    the bytes are wiped only when the key is retired and its last user has left: a key
    wiped too early would encrypt under zeros.

    Thread safety: any number of threads.
    """

    __slots__ = ("_lock", "_mac_key", "_retired", "_users", "key", "wrapped_keys")

    def __init__(self, key: SecretBytes, wrapped_keys: bytes = b""):
        """Take over `key`; it is wiped with this object.

        Args:
            key: 32 uniformly random bytes.
            wrapped_keys: The encoded list for headers; empty for a key that only opens.
        """
        self.key = key
        self.wrapped_keys = wrapped_keys
        self._mac_key = SecretBytes(_format.derive_mac_key(key))
        # Guards the two fields below.
        self._lock = threading.Lock()
        self._users = 1
        self._retired = False

    def acquire(self) -> Self:
        """Enter as a user; leave with `release`. The maker of the key is in already.

        Raises:
            RuntimeError: The key is wiped.
        """
        with self._lock:
            if self._retired and self._users == 0:
                raise RuntimeError("the data key is wiped")
            self._users += 1
        return self

    def release(self) -> None:
        """Leave; wipes the key when it is retired and this was the last user."""
        with self._lock:
            self._users -= 1
            wipe = self._retired and self._users == 0
        if wipe:
            self._wipe()

    def retire(self) -> None:
        """Have the key wiped as soon as nobody uses it."""
        with self._lock:
            wipe = not self._retired and self._users == 0
            self._retired = True
        if wipe:
            self._wipe()

    def mac(self, data: Buffer) -> bytes:
        """Return the header MAC of `data`."""
        return hmac.digest(self._mac_key, data, "sha256")

    def verify(self, header: _format.Header) -> None:
        """Check the MAC of a header.

        Raises:
            EnvelopeInvalidError: It does not match.
        """
        header.verify(self._mac_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return "<DataKey>"

    def _wipe(self) -> None:
        self.key.wipe()
        self._mac_key.wipe()
