"""``strongroom audit export``: records into a file for another tool, again and again."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strongroom_server.cli.audit_options import (
    AuditFormat,
    KeyFilterOption,
    LogOption,
    LogVkeyOption,
    MethodFilterOption,
    OutcomeFilterOption,
    PrincipalFilterOption,
    ReasonFilterOption,
    RegionFilterOption,
    SinceOption,
    UntilOption,
    build_filter,
)
from strongroom_server.cli.options import ConfigOption, Format, OutputOption

if TYPE_CHECKING:
    from strongroom_auditlog.record_filter import RecordFilter
    from strongroom_server.cli.audit_source import RecordSource

__all__ = ["export"]


class ExportFormat(enum.StrEnum):
    """The forms of an exported file, one record a line."""

    CLOUDTRAIL = "cloudtrail"
    OCSF = "ocsf"
    JSONL = "jsonl"


def export(
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="File to make, or to go on with.")
    ],
    form: Annotated[ExportFormat, typer.Option("--format", help="What the lines look like.")],
    key: KeyFilterOption = None,
    principal: PrincipalFilterOption = None,
    method: MethodFilterOption = None,
    outcome: OutcomeFilterOption = None,
    reason: ReasonFilterOption = None,
    region: RegionFilterOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    log: LogOption = None,
    vkey: LogVkeyOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Write records for a SIEM.

    A file that is there is gone on with, behind the last record in it: run it from a timer
    with the same options. What was interrupted half-way in a line is cut off first.

    Formats: docs/formats/audit-exports.md.
    """
    from strongroom_server.cli.audit_source import open_source
    from strongroom_server.cli.output import print_fields

    wanted = build_filter(
        key=key,
        principal=principal,
        method=method,
        outcome=outcome,
        reason=reason,
        region=region,
        since=since,
        until=until,
        config=config,
        offline=log is not None,
    )
    with open_source(config=config, log=log, vkey=vkey) as source:
        written, start, end = _export(source, wanted, out, AuditFormat(form.value))
    print_fields({"file": str(out), "records": written, "from_leaf": start, "to_leaf": end}, output)


def _export(
    source: RecordSource, wanted: RecordFilter, out: Path, form: AuditFormat
) -> tuple[int, int, int]:
    """Append to `out`; return how many records, and which leaves were looked at."""
    import os

    from strongroom_server.cli.audit_print import line_of

    # 0600: records name callers and keys.
    descriptor = os.open(out, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        last = _last_line(out, file)
        start = 0 if last is None else _following(source, out, last, form)
        size = source.size()
        written = 0
        for page in source.ascending(wanted, start, complete=True):
            for leaf, record in page:
                file.write(line_of(form, leaf, record) + b"\n")
                written += 1
                size = max(size, leaf + 1)
            file.flush()
        os.fsync(file.fileno())
    return written, start, size


def _last_line(out: Path, file: Any) -> bytes | None:
    """Cut off what is no whole line, and return the last whole one."""
    from strongroom_server.cli.failures import CliError

    max_line = 4 * 2**20  # a record of 65,535 bytes may grow sixfold when it is escaped
    end = file.seek(0, 2)
    start = max(0, end - 2 * max_line)
    file.seek(start)
    tail = file.read()
    whole = tail.rfind(b"\n") + 1
    if whole == 0 and start > 0:
        raise CliError.usage(f"{out}: is no file of exported records")
    file.truncate(start + whole)
    file.seek(0, 2)
    lines = tail[:whole].splitlines()
    return lines[-1] if lines else None


def _following(source: RecordSource, out: Path, line: bytes, form: AuditFormat) -> int:
    """Return the leaf behind that of the last exported record, which must be in the log.

    Raises:
        CliError: The line is of another form, or of another log: going on would mix two
            histories in one file.
    """
    import json
    from hashlib import sha256

    from strongroom.receipts import Receipt
    from strongroom_auditlog.records import Position
    from strongroom_server.cli.audit_exports import leaf_in, receipt_of
    from strongroom_server.cli.failures import CliError

    strange = CliError.usage(
        f"{out}: its last line is no record in the form {form.value}", "name another file"
    )
    try:
        members = json.loads(line)
        if form is AuditFormat.JSONL:
            receipt, leaf = receipt_of(line, members), None
        else:
            known = leaf_in(members)
            if known is None:
                raise strange
            leaf, receipt = known[0], Receipt.parse(known[1])
        if leaf is None:
            leaf = source.leaf_of(Position(receipt.region, receipt.epoch, receipt.sequence))
        record = None if leaf is None else source.record(leaf)
    except (ValueError, KeyError, TypeError) as exc:
        raise strange from exc
    if leaf is None or record is None or sha256(record).digest() != receipt.record_sha256:
        raise CliError(
            "UNVERIFIABLE",
            f"{out}: its last record is not in this log",
            "is it the file of another log? Otherwise the log was rewritten",
        )
    return leaf + 1
