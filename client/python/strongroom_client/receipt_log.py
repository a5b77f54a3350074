"""`ReceiptLog`: every receipt of a client, kept in a file to be checked later.

    with ReceiptLog("receipts.jsonl") as kept, KmsClient(options, receipt_log=kept) as kms: ...

and, some time later, ``strongroom audit check-receipts receipts.jsonl``. One JSON object a line:

    {"receipt": "v1:eu-1:...", "method": "Decrypt", "reason": "KEY_DISABLED", "time": "..."}

`reason` only for refusals, `time` by this machine's clock. When the file is full it becomes
``receipts.jsonl.1``, the one before ``.2``, and so on; the oldest one goes.

Calls never wait for the disk: a thread writes what has gathered and forces it to disk, once
for all of it. A crash loses the receipts of the last moments; `flush` says up to where they
are safe.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from strongroom.receipts import Receipt, ReceiptError

__all__ = ["KeptReceipt", "ReceiptLog", "read_receipt_log"]

MAX_QUEUED: Final = 65_536
MAX_LINE_BYTES: Final = 4096
DEFAULT_MAX_BYTES: Final = 64 * 2**20
DEFAULT_MAX_FILES: Final = 8
FLUSH_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A line of a receipt log.

    Attributes:
        receipt: The receipt.
        method: Name of the call, such as ``Decrypt``.
        reason: Why it was refused; empty when it was not.
        time: When the receipt was kept, RFC 3339, UTC.
    """

    receipt: Receipt
    method: str
    reason: str
    time: str


class ReceiptLog:
    """An append-only file of receipts that one process owns.

    Thread safety: any number of threads; the file is written by one of its own.

    Attributes:
        dropped: How many receipts were dropped because the disk could not keep up.
        error: Why the last write failed; None when it did not. It is tried again.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_files: int = DEFAULT_MAX_FILES,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ):
        """Open or make the file; a line that a crash cut off is removed.

        Args:
            path: The file. Its directory must be there.
            max_bytes: When the file is this long, the next one is begun. At least 4,096.
            max_files: How many files are kept, this one included. At least 1.
            now: The wall clock; aware.

        Raises:
            ValueError: A limit is too small.
            BlockingIOError: Another process owns the file.
            OSError: The file cannot be opened.
        """
        if max_bytes < MAX_LINE_BYTES or max_files < 1:
            raise ValueError(f"max_bytes takes {MAX_LINE_BYTES} or more, max_files 1 or more")
        self.dropped = 0
        self.error: OSError | None = None
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._now = now
        lock = self._path.with_name(f"{self._path.name}.lock")
        self._owner = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The writer's own, from now on.
            self._file, self._length = _open(self._path)
        except OSError as exc:
            os.close(self._owner)
            if isinstance(exc, BlockingIOError):
                exc.filename = str(self._path)
            raise
        # Guards everything below, `dropped` and `error`.
        self._changed = threading.Condition()
        self._queued: deque[bytes] = deque()
        self._added = 0
        self._durable = 0
        self._closing = False
        self._writer = threading.Thread(target=self._write, name="receipt-log", daemon=True)
        self._writer.start()

    def add(self, receipts: tuple[Receipt, ...], *, method: str, reason: str = "") -> None:
        """Keep receipts; returns at once."""
        time = self._now().astimezone(UTC).isoformat(timespec="milliseconds")
        time = time.replace("+00:00", "Z")
        with self._changed:
            for receipt in receipts:
                if self._closing or len(self._queued) >= MAX_QUEUED:
                    self.dropped += 1
                    continue
                line = {"receipt": str(receipt), "method": method, "time": time}
                if reason:
                    line["reason"] = reason
                self._queued.append(json.dumps(line).encode() + b"\n")
                self._added += 1
            self._changed.notify_all()

    def flush(self, timeout_seconds: float = FLUSH_SECONDS) -> None:
        """Wait until every receipt added so far is on disk.

        Raises:
            TimeoutError: It takes longer.
            OSError: It cannot be written.
        """
        with self._changed:
            wanted = self._added
            done = self._changed.wait_for(
                lambda: self._durable >= wanted or self.error is not None, timeout_seconds
            )
            if self.error is not None and self._durable < wanted:
                raise self.error
            if not done:
                raise TimeoutError(f"{self._path}: receipts are not on disk yet")

    def close(self) -> None:
        """Write what is queued and close the file; receipts added later are dropped.

        Raises:
            OSError: The last receipts could not be written.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join()
        if self._owner >= 0:
            os.close(self._file)
            os.close(self._owner)
            self._owner = -1
        if self.error is not None and self._queued:
            raise self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self) -> None:
        """Write batches until there is nothing left after `close`."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queued or self._closing)
                batch = list(self._queued)
                if not batch:
                    return
            try:
                self._append(b"".join(batch))
            except OSError as exc:
                with self._changed:
                    self.error = exc
                    self._changed.notify_all()
                    if self._closing:
                        return
                    self._changed.wait(1.0)
                continue
            with self._changed:
                for _ in batch:
                    self._queued.popleft()
                self._durable += len(batch)
                self.error = None
                self._changed.notify_all()

    def _append(self, data: bytes) -> None:
        """Append to the file, durably; what a failed attempt left is cut off first."""
        if self._length and self._length + len(data) > self._max_bytes:
            self._rotate()
        os.ftruncate(self._file, self._length)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        os.fsync(self._file)
        self._length += len(data)

    def _rotate(self) -> None:
        """Begin the next file. A crash in it leaves a gap in the numbers, and no loss."""
        names = [self._path.name, *(f"{self._path.name}.{n}" for n in range(1, self._max_files))]
        files = [self._path.with_name(name) for name in names]
        for source, target in reversed(list(itertools.pairwise(files))):
            with contextlib.suppress(FileNotFoundError):
                source.replace(target)
        if self._max_files == 1:
            self._path.unlink()
        file, length = _open(self._path)
        os.close(self._file)
        self._file, self._length = file, length


def _open(path: Path) -> tuple[int, int]:
    """Open a file to append to; return its descriptor and the length of its whole lines."""
    # O_APPEND: after an ftruncate the next write is at the new end.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        end = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, MAX_LINE_BYTES, max(0, end - MAX_LINE_BYTES))
        length = end - len(tail) + tail.rfind(b"\n") + 1
        os.ftruncate(descriptor, length)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, length


def read_receipt_log(path: Path | str) -> Iterator[KeptReceipt]:
    """Yield the lines of one file of a receipt log, oldest first.

    A last line without an end is left out: it was being written.

    Raises:
        ValueError: A line is none of a receipt log; the message has its number.
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if not line.endswith(b"\n"):
                if len(line) > MAX_LINE_BYTES:
                    raise ValueError(f"{path}: line {number}: too long")
                return
            try:
                yield _parse(line)
            except (ValueError, KeyError, TypeError, RecursionError) as exc:
                raise ValueError(f"{path}: line {number}: not a line of a receipt log") from exc


def _parse(line: bytes) -> KeptReceipt:
    members = json.loads(line)
    texts = [members["receipt"], members["method"], members.get("reason", ""), members["time"]]
    if not all(isinstance(text, str) for text in texts):
        raise ReceiptError("not texts")
    return KeptReceipt(Receipt.parse(texts[0]), texts[1], texts[2], texts[3])
