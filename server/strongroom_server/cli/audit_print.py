"""Prints records in one of the forms of `AuditFormat`, one by one as they come."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Final

from strongroom_auditlog.record_filter import RecordFields
from strongroom_server.cli.audit_exports import cloudtrail_event, ocsf_event, receipt_of
from strongroom_server.cli.audit_options import AuditFormat
from strongroom_server.cli.output import printable

__all__ = ["RecordPrinter", "line_of"]


def _encoded(line: dict[str, Any]) -> bytes:
    # A record may hold half of a surrogate pair, as an escape: it stays one.
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _table_line(leaf: int, record: bytes) -> bytes:
    members = json.loads(record)
    fields = RecordFields.of_members(members)
    key = fields.key.removeprefix("regions/").replace("/keys/", "/")
    version = members.get("key_version")
    parts = [
        f"{leaf:>6}",
        f"{fields.time[:19]}Z",
        f"{fields.method:<15}",
        f"{fields.outcome + ' ' + fields.reason:<20}",
        fields.principal.removeprefix("spiffe://"),
        key if version is None else f"{key}/{version}",
    ]
    return printable("  ".join(parts)).rstrip().encode()


def _json_line(leaf: int, record: bytes) -> bytes:
    members = json.loads(record)
    line = {"leaf": leaf, "receipt": str(receipt_of(record, members)), "record": members}
    return _encoded(line)


def _exact(leaf: int, record: bytes) -> bytes:
    # sha256sum of the line without its end is the receipt's hash.
    del leaf
    return record


def _cloudtrail(leaf: int, record: bytes) -> bytes:
    return _encoded(cloudtrail_event(leaf, record))


def _ocsf(leaf: int, record: bytes) -> bytes:
    return _encoded(ocsf_event(leaf, record))


_LINES: Final[dict[AuditFormat, Callable[[int, bytes], bytes]]] = {
    AuditFormat.TABLE: _table_line,
    AuditFormat.JSON: _json_line,
    AuditFormat.JSONL: _exact,
    AuditFormat.CLOUDTRAIL: _cloudtrail,
    AuditFormat.OCSF: _ocsf,
}


def line_of(output: AuditFormat, leaf: int, record: bytes) -> bytes:
    """Return a record as a line, without its end."""
    return _LINES[output](leaf, record)


class RecordPrinter:
    """Writes records to standard output; `json` is one array, everything else is lines."""

    def __init__(self, output: AuditFormat):
        self._output = output
        self._is_array = output is AuditFormat.JSON
        self._count = 0

    def print(self, leaf: int, record: bytes) -> None:
        """Print one record."""
        before = b""
        if self._is_array:
            before = b",\n" if self._count else b"[\n"
        end = b"" if self._is_array else b"\n"
        sys.stdout.buffer.write(before + line_of(self._output, leaf, record) + end)
        self._count += 1

    def flush(self) -> None:
        """Let readers see what was printed."""
        sys.stdout.buffer.flush()

    def finish(self) -> None:
        """End the array."""
        if self._is_array:
            sys.stdout.buffer.write(b"\n]\n" if self._count else b"[]\n")
        self.flush()
