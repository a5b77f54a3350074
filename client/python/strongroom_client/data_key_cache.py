"""A bounded cache of data keys: fewer calls of the service, more messages per data key.

A cached key goes on encrypting and decrypting without the service being asked: a
disabled key, a changed policy or a removed permission takes effect for this process only
when the entry has aged out, and those uses leave no audit record. Choose `max_age_seconds`
with that in mind, or use no cache.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from strongroom_client._data_key import DataKey

__all__ = ["DataKeyCache"]

DEFAULT_MAX_AGE_SECONDS: Final = 300.0
#: Far below what Cobblestone-256 allows (2^45 messages of 1 GiB): these two bound how much
#: is lost with one data key, not what the cipher can bear.
DEFAULT_MAX_MESSAGES: Final = 2**16
DEFAULT_MAX_BYTES: Final = 2**36  # 64 GiB
DEFAULT_MAX_ENTRIES: Final = 1000


@dataclass(slots=True)
class _Entry:
    data_key: DataKey
    expires: float
    messages: int
    bytes_: int


class DataKeyCache:
    """Keeps data keys for a while. One cache may serve several envelope clients of one principal.

    Entries leave by age, by the number of messages, by the bytes in them, and, when there are too
    many, by last use. A key is wiped when it has left and nobody is using it. Entries for
    encryption are found by key names and encryption context, entries for decryption by
    wrapped key and encryption context: another context is another data key.

    Thread safety: any number of threads. The lock is never held during a call.
    """

    def __init__(
        self,
        *,
        max_age_seconds: float = DEFAULT_MAX_AGE_SECONDS,
        max_messages: int = DEFAULT_MAX_MESSAGES,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_entries: int = DEFAULT_MAX_ENTRIES,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        """Make an empty cache.

        Args:
            max_age_seconds: An entry is used for so long after it was made; more than 0.
            max_messages: Most messages per entry, 1 to 2^32.
            max_bytes: Most plaintext bytes per entry; 1 or more.
            max_entries: Most entries, for encryption and decryption together; 1 or more.
            monotonic: The clock, in seconds.

        Raises:
            ValueError: A limit is out of range.
        """
        if not 0 < max_age_seconds < float("inf"):
            raise ValueError("max_age_seconds must be more than 0")
        if not 1 <= max_messages <= 2**32:
            raise ValueError("max_messages must be 1 to 2^32")
        if max_bytes < 1 or max_entries < 1:
            raise ValueError("max_bytes and max_entries must be 1 or more")
        self._max_age_seconds = max_age_seconds
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._monotonic = monotonic
        # Guards `_entries`: least recently used first.
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        """Return how many entries there are, aged ones included."""
        return len(self._entries)

    def take(self, name: bytes, message_bytes: int) -> DataKey | None:
        """Return the key under `name` for one more message, acquired; None if there is none.

        Internal to the SDK, like `put`.
        """
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return None
            if (
                self._monotonic() >= entry.expires
                or entry.messages >= self._max_messages
                or entry.bytes_ + message_bytes > self._max_bytes
            ):
                del self._entries[name]
                entry.data_key.retire()
                return None
            entry.messages += 1
            entry.bytes_ += message_bytes
            self._entries.move_to_end(name)
            # Under the lock: nobody can retire and wipe the key in between.
            return entry.data_key.acquire()

    def put(self, name: bytes, data_key: DataKey, message_bytes: int, *, made_at: float) -> None:
        """Keep `data_key`, which has protected one message already, and own its retirement.

        Args:
            name: What it will be asked for by.
            data_key: The key; another one under this name is retired.
            message_bytes: Length of the message it was made for.
            made_at: When it was asked for, on this cache's clock: age counts from there.
        """
        retired: list[DataKey] = []
        with self._lock:
            if message_bytes > self._max_bytes or self._max_messages == 1:
                retired.append(data_key)
            else:
                old = self._entries.pop(name, None)
                if old is not None:
                    retired.append(old.data_key)
                self._entries[name] = _Entry(
                    data_key, made_at + self._max_age_seconds, 1, message_bytes
                )
                while len(self._entries) > self._max_entries:
                    retired.append(self._entries.popitem(last=False)[1].data_key)
        for key in retired:
            key.retire()

    def now(self) -> float:
        """Return the cache's clock; internal to the SDK."""
        return self._monotonic()

    def drop_expired(self) -> None:
        """Drop, and so wipe, every entry that is too old. Entries are else dropped on use only."""
        now = self._monotonic()
        with self._lock:
            expired = [name for name, entry in self._entries.items() if now >= entry.expires]
            keys = [self._entries.pop(name).data_key for name in expired]
        for key in keys:
            key.retire()

    def clear(self) -> None:
        """Drop, and so wipe, every entry."""
        with self._lock:
            keys = [entry.data_key for entry in self._entries.values()]
            self._entries.clear()
        for key in keys:
            key.retire()

    def __repr__(self) -> str:
        return f"<DataKeyCache with {len(self)} entries>"
