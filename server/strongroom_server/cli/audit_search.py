"""``strongroom audit tail`` and ``search``: records by what they say."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from strongroom_server.cli.audit_options import (
    AuditFormat,
    AuditOutputOption,
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
from strongroom_server.cli.options import ConfigOption

__all__ = ["search", "tail"]

FOLLOW_SECONDS = 0.5


def tail(
    *,
    number: Annotated[int, typer.Option("-n", min=0, help="How many of the newest records.")] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new records until Ctrl-C.")
    ] = False,
    key: KeyFilterOption = None,
    principal: PrincipalFilterOption = None,
    method: MethodFilterOption = None,
    outcome: OutcomeFilterOption = None,
    reason: ReasonFilterOption = None,
    region: RegionFilterOption = None,
    config: ConfigOption = None,
    output: AuditOutputOption = AuditFormat.TABLE,
) -> None:
    """Print the newest records.

    With filters, the newest of those that match. json and jsonl are one record a line: its
    exact bytes, as hashed.
    """
    from strongroom_server.cli.audit_print import RecordPrinter
    from strongroom_server.cli.audit_source import LoggedRecord, open_source

    wanted = build_filter(
        key=key,
        principal=principal,
        method=method,
        outcome=outcome,
        reason=reason,
        region=region,
        config=config,
    )
    # An array would never end with --follow, so json is lines here.
    printer = RecordPrinter(AuditFormat.JSONL if output is AuditFormat.JSON else output)
    with open_source(config=config, log=None, vkey=None) as source:
        position = source.size()
        newest: list[LoggedRecord] = []
        for page in source.descending(wanted) if number else ():
            # Records that came since `size` was read are for --follow.
            newest += [item for item in page if item[0] < position]
            if len(newest) >= number:
                break
        for leaf, record in reversed(newest[:number]):
            printer.print(leaf, record)
        printer.flush()
        while follow:
            size = source.size()
            for page in source.ascending(wanted, position) if size > position else ():
                for leaf, record in page:
                    printer.print(leaf, record)
                    size = max(size, leaf + 1)
                printer.flush()
            position = size
            time.sleep(FOLLOW_SECONDS)


def search(
    *,
    key: KeyFilterOption = None,
    principal: PrincipalFilterOption = None,
    method: MethodFilterOption = None,
    outcome: OutcomeFilterOption = None,
    reason: ReasonFilterOption = None,
    region: RegionFilterOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    number: Annotated[
        int, typer.Option("-n", min=0, help="Stop after so many records; 0 shows all.")
    ] = 1000,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="Against the order of the log.")
    ] = False,
    log: LogOption = None,
    vkey: LogVkeyOption = None,
    config: ConfigOption = None,
    output: AuditOutputOption = AuditFormat.TABLE,
) -> None:
    """Find records.

    By key, principal, method, outcome, reason, region and time: values of one option are
    alternatives, different options must all hold. In the order of the log.

    Formats: docs/formats/audit-exports.md.
    """
    from strongroom_server.cli.audit_print import RecordPrinter
    from strongroom_server.cli.audit_source import open_source
    from strongroom_server.cli.output import note

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
    printer = RecordPrinter(output)
    shown = 0
    with open_source(config=config, log=log, vkey=vkey) as source:
        pages = source.descending(wanted) if newest_first else source.ascending(wanted, 0)
        for page in pages:
            for leaf, record in page:
                if number and shown == number:
                    printer.finish()
                    note(f"there are more than {number} records; -n 0 shows all")
                    return
                printer.print(leaf, record)
                shown += 1
            printer.flush()
    printer.finish()
