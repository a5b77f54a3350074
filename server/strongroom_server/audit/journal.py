"""The journal: appends frames to segments, durably.

A segment comes into being whole: header and first frames are written under a temporary
name, synced, renamed, and the directory synced. So a segment that is there always has a
good header and at least one frame that was durable, and is never torn but in its tail.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom_server.audit.files import (
    NEW_SUFFIX,
    segment_path,
    sync_directory,
    write_fully,
)
from strongroom_server.audit.segment import HEADER_BYTES, SegmentHeader, encode_header

__all__ = ["SEGMENT_BYTES", "Journal", "Placement"]

SEGMENT_BYTES: Final = 8 * 2**20

_ATTEMPTS: Final = 2


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a commit was written: the segment, and the offsets around its frames."""

    segment_first_sequence: int
    offset: int
    end: int


class Journal:
    """Appends to the last segment.

    Thread safety: one thread at a time; after recovery that is the spool's writer.
    """

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES):
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._fd = -1
        self._first_sequence = 0
        self._end = 0

    def commit(self, header: SegmentHeader, frames: bytes) -> Placement:
        """Write whole frames and sync them.

        A failed write or fdatasync retires the segment: after a failed sync the kernel may
        drop the pages and call the next sync a success, so nothing is retried on them. What
        a retired segment has beyond its last durable frame is ignored by readers, because
        the next segment begins with those sequences again.

        Args:
            header: What the header says should a segment begin with these frames.
            frames: The frames.

        Raises:
            OSError: Neither the segment nor a new one took them; the next commit tries a new
                segment.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if self._fd >= 0 and self._end + len(frames) <= self._segment_bytes:
                    return self._append(frames)
                return self.begin_segment(header, frames)
            except OSError:
                self._retire()
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError  # the loop returns or raises

    def begin_segment(self, header: SegmentHeader, frames: bytes) -> Placement:
        """Make a segment, or replace the one that begins with the same sequence.

        Replacing is safe: it happens to a segment without an answered frame, or at start with
        the same frames again.

        Raises:
            OSError: It is not there, or not certain to be.
        """
        self._retire()
        path = segment_path(self._directory, header.first_sequence)
        temporary = path.with_name(path.name + NEW_SUFFIX)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_fully(fd, encode_header(header) + frames, 0)
            os.fsync(fd)
            temporary.rename(path)
            sync_directory(self._directory)
        except OSError:
            os.close(fd)
            # Gives its space back; what stays is deleted at start.
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._fd = fd
        self._first_sequence = header.first_sequence
        self._end = HEADER_BYTES + len(frames)
        return Placement(header.first_sequence, HEADER_BYTES, self._end)

    def close(self) -> None:
        """Close the segment; what was committed is durable already."""
        self._retire()

    def _append(self, frames: bytes) -> Placement:
        write_fully(self._fd, frames, self._end)
        os.fdatasync(self._fd)
        offset = self._end
        self._end += len(frames)
        return Placement(self._first_sequence, offset, self._end)

    def _retire(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            # close can report a late write error; those bytes were synced or are written anew.
            with contextlib.suppress(OSError):
                os.close(fd)
