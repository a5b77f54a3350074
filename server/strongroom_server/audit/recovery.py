"""Start of the spool: find out what is there, refuse what cannot be (audit-spool-v1.md, Start).

What a crash leaves: a torn tail in the last segment, files named ``*.new``, segments that
were to be deleted. All else is damage or tampering, and the shard does not start on it:
a sequence handed out twice would make two records claim one place in the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom_server.audit.buffering import BUFFERED
from strongroom_server.audit.files import (
    NEW_SUFFIX,
    SEGMENT_SUFFIX,
    NumberFile,
    lock_directory,
    sync_directory,
)
from strongroom_server.audit.index import SegmentSpan
from strongroom_server.audit.journal import Journal
from strongroom_server.audit.segment import (
    FIRST_CHAIN,
    HEADER_BYTES,
    Scan,
    SegmentHeader,
    highest_durable_beyond,
    parse_header,
    scan_frames,
)
from strongroom_server.errors import StartRefusedError

__all__ = [
    "ACKNOWLEDGED",
    "DURABLE",
    "EPOCH",
    "OpenedSpool",
    "Recovered",
    "open_spool",
    "recover_spool",
]

EPOCH: Final = "epoch"
ACKNOWLEDGED: Final = "acknowledged"
DURABLE: Final = "durable"

_OF_A_NEW_SPOOL: Final = frozenset(
    {"lock", ACKNOWLEDGED, ACKNOWLEDGED + NEW_SUFFIX, EPOCH + NEW_SUFFIX, "lost+found"}
)
_SEGMENT_NAME: Final = re.compile(r"([0-9]{20})\.seg")


@dataclass(frozen=True, slots=True)
class Recovered:
    """The state of the spool after its last durable record.

    `cut_bytes` is the torn tail that was dropped; `buffered` how many records may be missing
    because their calls were answered ahead of the disk.
    """

    epoch: int
    acknowledged: int
    last_sequence: int
    chain: bytes
    outbox_id: int
    spans: list[SegmentSpan]
    cut_bytes: int = 0
    buffered: int = 0


@dataclass(frozen=True, slots=True)
class _Segment:
    path: Path
    data: bytes
    header: SegmentHeader
    scan: Scan

    @property
    def last_sequence(self) -> int:
        return self.header.first_sequence - 1 if self.scan.last is None else self.scan.last.sequence

    @property
    def chain(self) -> bytes:
        return self.header.chain if self.scan.last is None else self.scan.last.chain


@dataclass(frozen=True, slots=True)
class OpenedSpool:
    """A locked, recovered directory; `lock` is the descriptor that holds the lock."""

    directory: Path
    lock: int
    journal: Journal
    recovered: Recovered


def open_spool(directory: Path, region: str, new_epoch: int, journal: Journal) -> OpenedSpool:
    """Lock and recover the spool; make it, of `new_epoch`, in a missing or empty directory.

    Blocks.

    Raises:
        StartRefusedError: As in `recover_spool`, or another process has the directory, or it
            has something else in it.
    """
    lock = -1
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True)
            sync_directory(directory.parent)
        lock = lock_directory(directory)
        recovered = recover_spool(directory, region, journal)
        if recovered is None:
            _create_spool(directory, new_epoch)
            recovered = Recovered(new_epoch, 0, 0, FIRST_CHAIN, 0, [])
    except BaseException as exc:
        if lock >= 0:
            os.close(lock)
        if isinstance(exc, OSError):
            raise StartRefusedError(f"{directory}: {exc.strerror}; see to the disk") from exc
        raise
    return OpenedSpool(directory, lock, journal, recovered)


def _create_spool(directory: Path, epoch: int) -> None:
    strangers = sorted({path.name for path in directory.iterdir()} - _OF_A_NEW_SPOOL)
    if strangers:
        raise StartRefusedError(
            f"{directory}: no audit spool, and not empty ({strangers[0]}); configure a "
            f"directory of its own"
        )
    # The epoch comes last and completes it; a crash before it leaves nothing to lose.
    NumberFile(directory / ACKNOWLEDGED, keeps_spare=True).store(0)
    NumberFile(directory / EPOCH).store(epoch)


def recover_spool(directory: Path, region: str, journal: Journal) -> Recovered | None:
    """Read and check the spool of a locked directory; clean up what a crash left.

    Returns:
        The state; None when there is no spool in the directory.

    Raises:
        StartRefusedError: Durable records are missing or damaged, the spool is another
            region's, or the disk does not take the last segment. The message has the cure.
    """
    segments = _list_segments(directory)
    epoch = NumberFile(directory / EPOCH).load()
    acknowledged = NumberFile(directory / ACKNOWLEDGED).load()
    durable = NumberFile(directory / DURABLE).load() or 0
    buffered = NumberFile(directory / BUFFERED).load() or 0
    if epoch is None:
        if segments or acknowledged or durable:
            raise _refuse(directory, "the file `epoch` is missing")
        return None
    if acknowledged is None:
        raise _refuse(directory, "the file `acknowledged` is missing")
    proven = max(acknowledged, durable)
    if not segments:
        if proven:
            raise _refuse(directory, f"all segments are missing; {proven} records were durable")
        return Recovered(epoch, 0, 0, FIRST_CHAIN, 0, [], buffered=buffered)
    spans: list[SegmentSpan] = []
    previous: _Segment | None = None
    for path, next_first in zip(segments.values(), [*list(segments)[1:], None], strict=True):
        segment = _read_segment(path, epoch, before=next_first)
        _check_continues(previous, segment, acknowledged)
        spans.append(
            SegmentSpan(
                path,
                segment.header.first_sequence,
                segment.last_sequence,
                segment.scan.end,
                segment.scan.marks,
            )
        )
        previous = segment
    if previous is None:  # `segments` is not empty; for the type checker
        raise AssertionError
    _check_tail(previous, proven)
    _check_region(previous, region)
    spans = _delete_acknowledged(directory, spans, acknowledged)
    _rewrite_last(previous, journal)
    return Recovered(
        epoch,
        acknowledged,
        previous.last_sequence,
        previous.chain,
        previous.scan.outbox_id,
        spans,
        len(previous.data) - previous.scan.end,
        buffered,
    )


def _list_segments(directory: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(directory.iterdir()):
        match = _SEGMENT_NAME.fullmatch(path.name)
        if match is not None:
            found[int(match[1])] = path
        elif path.name.endswith(SEGMENT_SUFFIX + NEW_SUFFIX):
            path.unlink()  # a segment that never came into being
    return found


def _read_segment(path: Path, epoch: int, *, before: int | None) -> _Segment:
    data = path.read_bytes()
    header = parse_header(data)
    # A segment is renamed into place after its header and first frame were synced.
    if header is None or f"{header.first_sequence:020d}" != path.stem:
        raise _refuse(path, "the header is damaged")
    if header.epoch != epoch:
        raise _refuse(path, f"it belongs to epoch {header.epoch}, the spool to {epoch}")
    segment = _Segment(path, data, header, scan_frames(data, header, before=before))
    if segment.scan.last is None or (before and segment.last_sequence != before - 1):
        raise _refuse(path, f"the frame of sequence {segment.last_sequence + 1} is damaged")
    return segment


def _check_continues(previous: _Segment | None, segment: _Segment, acknowledged: int) -> None:
    header = segment.header
    if previous is None:
        if header.first_sequence > acknowledged + 1:
            raise _refuse(
                segment.path,
                f"the records {acknowledged + 1} to {header.first_sequence - 1} before it are "
                f"missing and not acknowledged",
            )
        first = header.first_sequence == 1
        if first and (header.chain != FIRST_CHAIN or header.outbox_id):
            raise _refuse(segment.path, "it is the first segment and its header says it is not")
    elif header.chain != previous.chain or header.outbox_id != previous.scan.outbox_id:
        raise _refuse(segment.path, "it does not continue the segment before it")


def _check_tail(last: _Segment, proven: int) -> None:
    """Tell a torn tail, which nobody was answered about, from damage to durable frames."""
    end = last.scan.end
    proven = max(proven, highest_durable_beyond(last.data, end))
    if last.last_sequence < proven:
        raise _refuse(
            last.path,
            f"the frame of sequence {last.last_sequence + 1} at byte {end} is damaged or missing, "
            f"and everything up to sequence {proven} was durable",
        )


def _check_region(last: _Segment, region: str) -> None:
    frame = last.scan.last
    record = json.loads(frame.record) if frame is not None else {}
    if record.get("region") != region:
        raise StartRefusedError(
            f"{last.path.parent}: this audit spool belongs to region {record.get('region')}, not "
            f"{region}; configure the spool of {region}"
        )


def _delete_acknowledged(
    directory: Path, spans: list[SegmentSpan], acknowledged: int
) -> list[SegmentSpan]:
    """Finish deletions; first, because they may free what the last segment needs."""
    kept = [span for span in spans[:-1] if span.last_sequence > acknowledged] + spans[-1:]
    for span in spans[: len(spans) - len(kept)]:
        # It only takes space; the next start or acknowledgement tries again.
        with contextlib.suppress(OSError):
            span.path.unlink()
    sync_directory(directory)
    return kept


def _rewrite_last(last: _Segment, journal: Journal) -> None:
    """Write the good frames of the last segment anew: this cuts the tail and makes them durable.

    The process before may have died on a failed sync, with frames that are readable from
    memory and not on the disk. To stream those and lose them in a power cut would hand
    out their sequences twice.
    """
    try:
        journal.begin_segment(last.header, last.data[HEADER_BYTES : last.scan.end])
    except OSError as exc:
        raise StartRefusedError(
            f"{last.path}: cannot be written ({exc.strerror}); free at least "
            f"{last.scan.end} bytes on its disk"
        ) from exc


def _refuse(path: Path, what: str) -> StartRefusedError:
    return StartRefusedError(
        f"{path}: {what}; this is not what a crash leaves. Restore the audit spool, or move its "
        f"directory away to begin a new one (a new epoch): its records that are not in the audit "
        f"log are then only in the directory moved away"
    )
