"""The newest durable records in memory, so that a consumer that keeps up reads no files."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["RECENT_BYTES", "RecentRecords"]

RECENT_BYTES: Final = 4 * 2**20


class RecentRecords:
    """The records of the last commits, up to a number of bytes."""

    def __init__(self, *, limit_bytes: int = RECENT_BYTES):
        self._limit_bytes = limit_bytes
        self._commits: deque[tuple[int, int, list[bytes]]] = deque()
        self._bytes = 0

    def add(self, first_sequence: int, records: list[bytes], number_of_bytes: int) -> None:
        """Keep a commit; forget the oldest ones beyond the limit."""
        self._commits.append((first_sequence, number_of_bytes, records))
        self._bytes += number_of_bytes
        while self._bytes > self._limit_bytes:
            self._bytes -= self._commits.popleft()[1]

    def read(self, sequence: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Return the records from `sequence` on, at least one; [] when it is not here."""
        if not self._commits or not self._commits[0][0] <= sequence:
            return []
        wanted: list[list[bytes]] = []
        for first, _, records in reversed(self._commits):
            if first <= sequence:
                wanted.append(records[sequence - first :])
                break
            wanted.append(records)
        found: list[bytes] = []
        left = max_bytes
        for records in reversed(wanted):
            for record in records:
                left -= len(record)
                if found and (left < 0 or len(found) >= max_records):
                    return found
                found.append(record)
        return found
