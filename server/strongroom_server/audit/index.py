"""The spool's index in memory: which segment holds which sequences, and where.

Owned by the event loop; only `read_records` and `locate_record`, which take a frozen
window, run elsewhere.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from strongroom_server.audit.files import segment_path
from strongroom_server.audit.journal import Placement
from strongroom_server.audit.segment import (
    HEADER_BYTES,
    MARK_SPACING_BYTES,
    MAX_FRAME_BYTES,
    Frame,
    Mark,
    parse_frame,
)

__all__ = [
    "ReadWindow",
    "SegmentIndex",
    "SegmentSpan",
    "SpoolDamagedError",
    "locate_record",
    "read_records",
]


class SpoolDamagedError(Exception):
    """Bytes that were durable are not what they were."""


@dataclass(frozen=True, slots=True)
class ReadWindow:
    """A range of a segment that begins with a frame and has the frame of `sequence` in it.

    `span_end` is where the durable frames of the segment end; they never change.
    """

    path: Path
    sequence: int
    begin_sequence: int
    begin: int
    end: int
    span_end: int


@dataclass(slots=True)
class SegmentSpan:
    """The durable part of a segment: sequences, end offset, and marks to begin reading at."""

    path: Path
    first_sequence: int
    last_sequence: int
    end: int
    marks: list[Mark] = field(default_factory=list)

    def window(self, sequence: int, max_bytes: int) -> ReadWindow:
        """Return what to read for `sequence`, which is in here, and about `max_bytes` more."""
        behind = bisect.bisect_right(self.marks, sequence, key=lambda mark: mark.sequence)
        mark = self.marks[behind - 1]
        next_offset = self.marks[behind].offset if behind < len(self.marks) else self.end
        end = min(self.end, next_offset + max_bytes + MAX_FRAME_BYTES)
        return ReadWindow(self.path, sequence, mark.sequence, mark.offset, end, self.end)


class SegmentIndex:
    """All segments, in order."""

    def __init__(self, directory: Path, spans: list[SegmentSpan]):
        self._directory = directory
        self._spans = spans

    @property
    def first_sequence(self) -> int:
        """The oldest sequence on disk; 0 when there is none."""
        return self._spans[0].first_sequence if self._spans else 0

    @property
    def total_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(span.end for span in self._spans)

    def add_commit(self, placement: Placement, first_sequence: int, last_sequence: int) -> None:
        """Note a commit that has become durable."""
        if not self._spans or self._spans[-1].first_sequence != placement.segment_first_sequence:
            path = segment_path(self._directory, placement.segment_first_sequence)
            self._spans.append(SegmentSpan(path, first_sequence, last_sequence, 0))
        span = self._spans[-1]
        if not span.marks or placement.offset - span.marks[-1].offset >= MARK_SPACING_BYTES:
            span.marks.append(Mark(first_sequence, placement.offset))
        span.last_sequence = last_sequence
        span.end = placement.end

    def span_of(self, sequence: int) -> SegmentSpan | None:
        """Return the segment that holds `sequence`."""
        position = bisect.bisect_right(self._spans, sequence, key=lambda span: span.first_sequence)
        if position == 0 or self._spans[position - 1].last_sequence < sequence:
            return None
        return self._spans[position - 1]

    def frame_bytes_after(self, sequence: int) -> int:
        """Return the bytes of the frames in segments that begin behind `sequence`."""
        return sum(
            span.end - HEADER_BYTES for span in self._spans if span.first_sequence > sequence
        )

    def deletable_through(self, sequence: int) -> list[SegmentSpan]:
        """Return the segments that are acknowledged whole and have a newer one behind them."""
        return [span for span in self._spans[:-1] if span.last_sequence <= sequence]

    def forget(self, spans: list[SegmentSpan]) -> None:
        """Drop segments that were deleted."""
        self._spans = [span for span in self._spans if span not in spans]


def read_records(window: ReadWindow, max_records: int, max_bytes: int) -> list[bytes]:
    """Return the records from the window's sequence on; always at least one. Blocks.

    Raises:
        SpoolDamagedError: The segment is gone, or a frame is not what was written.
    """
    records: list[bytes] = []
    left = max_bytes
    for _, frame in _read_frames(window):
        if frame.sequence < window.sequence:
            continue
        left -= len(frame.record)
        if records and (left < 0 or len(records) >= max_records):
            break
        records.append(frame.record)
    return records


def locate_record(window: ReadWindow) -> tuple[int, bytes]:
    """Return the offset of the frame of the window's sequence, and its record. Blocks.

    Raises:
        SpoolDamagedError: As in `read_records`.
    """
    for offset, frame in _read_frames(window):
        if frame.sequence == window.sequence:
            return offset, frame.record
    raise SpoolDamagedError(f"{window.path}: sequence {window.sequence} is not there")


def _read_frames(window: ReadWindow) -> Iterator[tuple[int, Frame]]:
    try:
        fd = os.open(window.path, os.O_RDONLY)
        try:
            data = os.pread(fd, window.end - window.begin, window.begin)
        finally:
            os.close(fd)
    except OSError as exc:
        raise SpoolDamagedError(f"{window.path}: {exc.strerror}") from exc
    offset, sequence = 0, window.begin_sequence
    while window.begin + offset < window.end:
        frame = parse_frame(data, offset)
        if frame is None or frame.sequence != sequence:
            if sequence > window.sequence and window.end < window.span_end:
                return  # the window cuts this frame; the next read begins with it
            raise SpoolDamagedError(f"{window.path}: the frame of {sequence} is damaged")
        yield window.begin + offset, frame
        offset, sequence = frame.end, sequence + 1
