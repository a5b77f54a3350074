"""Where records come from: the audit log's service, or a copy of its directory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from strongroom.tlog.cosignature import NO_WITNESSES, WitnessPolicy
from strongroom_auditlog.errors import EntryArchivedError
from strongroom_auditlog.keys import load_verifier_key
from strongroom_auditlog.proofs import find_position
from strongroom_auditlog.record_filter import RecordFilter
from strongroom_auditlog.record_search import Found, RecordSearch
from strongroom_auditlog.records import Position
from strongroom_auditlog.tiles import LogFiles
from strongroom_auditlog.verify import verify_log
from strongroom_server.cli.audit_remote import AuditLogClient, RecordsArchivedError
from strongroom_server.cli.connection import load_client_options
from strongroom_server.cli.failures import CliError
from strongroom_server.cli.output import note
from strongroom_server.cli.progress import counted

__all__ = ["LoggedRecord", "RecordSource", "open_source"]

PAGE_RECORDS = 1000

LoggedRecord = tuple[int, bytes]
"""A leaf and the exact bytes of its record."""


class RecordSource(Protocol):
    """Yields records. Every method raises CliError, or VerificationError of a local copy."""

    def size(self) -> int:
        """Return how many records the log has."""
        ...

    def ascending(
        self, wanted: RecordFilter, start: int, *, complete: bool = False
    ) -> Iterator[list[LoggedRecord]]:
        """Yield pages of the records from leaf `start` on; a page may be empty.

        Records that were pruned from the log are left out, and that is told; they are an
        error when the answer must be `complete`.
        """
        ...

    def descending(self, wanted: RecordFilter) -> Iterator[list[LoggedRecord]]:
        """Yield pages of the records, the newest first; a page may be empty."""
        ...

    def record(self, leaf: int) -> bytes | None:
        """Return the record in a leaf; None when there is no such leaf."""
        ...

    def leaf_of(self, position: Position) -> int | None:
        """Return the leaf of the record at `position`; None when it is not in the log."""
        ...


@contextlib.contextmanager
def open_source(
    *,
    config: Path | None,
    log: Path | None,
    vkey: Path | None,
    witnesses: WitnessPolicy = NO_WITNESSES,
) -> Iterator[RecordSource]:
    """Connect to the audit log, or verify and open a local copy, cosigned by `witnesses`.

    Raises:
        CliError: There is no configuration; or one of `log` and `vkey` is missing.
        VerificationError: The copy does not verify.
    """
    if log is None:
        if vkey is not None:
            raise CliError.usage("--vkey is for --log DIR")
        with AuditLogClient(load_client_options(config)) as client:
            yield _RemoteSource(client)
        return
    if vkey is None:
        raise CliError.usage(
            "--log needs --vkey FILE, the verifier key that was got out of band",
            "a copy is read only after all of it was verified",
        )
    with counted("verifying", "records") as progress:
        verified = verify_log(log, load_verifier_key(vkey), witnesses=witnesses, progress=progress)
    note(f"verified {verified.checkpoint.size} records of {verified.checkpoint.origin}")
    if verified.unread:
        _note_pruned(verified.unread)
    yield _LocalSource(LogFiles(log), verified.checkpoint.size, verified.unread)


def _note_pruned(minimum_index: int) -> None:
    note(f"the records below leaf {minimum_index} are in the archive and are not looked at")


class _RemoteSource:
    def __init__(self, client: AuditLogClient):
        self._client = client

    def size(self) -> int:
        return self._client.size()

    def ascending(
        self, wanted: RecordFilter, start: int, *, complete: bool = False
    ) -> Iterator[list[LoggedRecord]]:
        try:
            yield from self._client.pages(wanted, start=start)
        except RecordsArchivedError as exc:
            if complete or exc.minimum_index <= start:
                raise
            # Of what was yielded nothing lies behind the mark.
            _note_pruned(exc.minimum_index)
            yield from self._client.pages(wanted, start=exc.minimum_index)

    def descending(self, wanted: RecordFilter) -> Iterator[list[LoggedRecord]]:
        try:
            yield from self._client.pages(wanted, descending=True)
        except RecordsArchivedError as exc:
            _note_pruned(exc.minimum_index)

    def record(self, leaf: int) -> bytes | None:
        records, _ = self._client.records(leaf, 1)
        return records[0][1] if records and records[0][0] == leaf else None

    def leaf_of(self, position: Position) -> int | None:
        return self._client.leaf_of(position)


class _LocalSource:
    def __init__(self, files: LogFiles, size: int, first: int):
        self._files = files
        self._size = size
        self._first = first
        self._search = RecordSearch(files)

    def size(self) -> int:
        return self._size

    def ascending(
        self, wanted: RecordFilter, start: int, *, complete: bool = False
    ) -> Iterator[list[LoggedRecord]]:
        if complete and start < self._first:
            raise CliError("RECORD_ARCHIVED", f"the records below leaf {self._first} were pruned")
        at: int | None = max(start, self._first)
        while at is not None and at < self._size:
            found: Found = self._search.ascending(
                wanted, size=self._size, start=at, limit=PAGE_RECORDS
            )
            yield found.records
            at = found.following

    def descending(self, wanted: RecordFilter) -> Iterator[list[LoggedRecord]]:
        at: int | None = self._size
        while at is not None and at > self._first:
            try:
                found: Found = self._search.descending(
                    wanted, size=self._size, end=at, limit=PAGE_RECORDS
                )
            except EntryArchivedError:
                return  # `open_source` said so
            yield found.records
            at = found.following

    def record(self, leaf: int) -> bytes | None:
        if not self._first <= leaf < self._size:
            return None
        return self._files.read_entry(leaf, self._size)

    def leaf_of(self, position: Position) -> int | None:
        found = find_position(self._files, self._size, position)
        return None if found is None else found[0]
