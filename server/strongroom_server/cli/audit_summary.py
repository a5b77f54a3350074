"""``strongroom audit summary``: who used what, how often, and what was refused."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom_server.cli.audit_options import (
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
from strongroom_server.cli.options import ConfigOption, Format, Invocation

if TYPE_CHECKING:
    from strongroom_auditlog.record_filter import RecordFields

__all__ = ["Summary", "summary"]

OUTCOMES = ("OK", "DENIED", "REFUSED", "FAILED")


class By(enum.StrEnum):
    """What is counted by."""

    KEY = "key"
    PRINCIPAL = "principal"
    METHOD = "method"
    REGION = "region"


class Bucket(enum.StrEnum):
    """How long a row is about."""

    ALL = "all"
    DAY = "day"
    HOUR = "hour"
    MINUTE = "minute"


class SummaryFormat(enum.StrEnum):
    """How a summary is printed."""

    TABLE = "table"
    JSON = "json"
    PROMETHEUS = "prometheus"


#: How much of a time names its bucket, and what completes it.
_CUTS = {
    Bucket.ALL: (0, ""),
    Bucket.DAY: (10, "T00:00:00Z"),
    Bucket.HOUR: (13, ":00:00Z"),
    Bucket.MINUTE: (16, ":00Z"),
}


@dataclass(slots=True)
class _Row:
    first: str = "~"
    last: str = ""
    outcomes: dict[str, int] = field(default_factory=dict)


class Summary:
    """Counts records; as large as there are values and buckets, not records."""

    def __init__(self, by: tuple[By, ...], bucket: Bucket):
        self._by = by
        self._cut, self._completion = _CUTS[bucket]
        self._rows: dict[tuple[str, ...], _Row] = {}

    def add(self, record: RecordFields) -> None:
        """Count a record."""
        values = (getattr(record, name.value) for name in self._by)
        group = (record.time[: self._cut], *values)
        row = self._rows.setdefault(group, _Row())
        row.first = min(row.first, record.time or "~")
        row.last = max(row.last, record.time)
        row.outcomes[record.outcome] = row.outcomes.get(record.outcome, 0) + 1

    def rows(self) -> list[dict[str, str | int]]:
        """Return flat rows, ordered by bucket and values."""
        rows: list[dict[str, str | int]] = []
        for group, row in sorted(self._rows.items()):
            first = row.first if row.last else ""
            # A bucket without a time is of records that have none.
            time = f"{group[0]}{self._completion}" if self._cut and group[0] else first
            counts = {name.lower(): row.outcomes.get(name, 0) for name in OUTCOMES}
            values = {name.value: value for name, value in zip(self._by, group[1:], strict=True)}
            rows.append(
                {
                    "time": time,
                    **values,
                    "records": sum(row.outcomes.values()),
                    **counts,
                    "first": first,
                    "last": row.last,
                }
            )
        return rows

    def exposition(self) -> str:
        """Return the counts as Prometheus text, for node_exporter's textfile collector."""
        counts = ["# TYPE strongroom_audit_summary_records gauge"]
        uses = ["# TYPE strongroom_audit_summary_last_use_timestamp_seconds gauge"]
        for group, row in sorted(self._rows.items()):
            labels = [
                f'{name.value}="{_escaped(value)}"'
                for name, value in zip(self._by, group[1:], strict=True)
            ]
            for outcome, count in sorted(row.outcomes.items()):
                text = ",".join([*labels, f'outcome="{_escaped(outcome)}"'])
                counts.append(f"strongroom_audit_summary_records{{{text}}} {count}")
            if row.last:
                uses.append(
                    f"strongroom_audit_summary_last_use_timestamp_seconds{{{','.join(labels)}}} "
                    f"{_seconds(row.last)}"
                )
        return "\n".join([*counts, *uses]) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _seconds(time: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(time).timestamp())


def _remember(context: typer.Context, value: SummaryFormat) -> SummaryFormat:
    if isinstance(context.obj, Invocation):
        context.obj.output = Format.JSON if value is SummaryFormat.JSON else Format.TABLE
    return value


def summary(
    *,
    by: Annotated[
        list[By] | None, typer.Option("--by", help="Count by; may be repeated. Default: key.")
    ] = None,
    bucket: Annotated[
        Bucket, typer.Option("--bucket", help="A row for each day, hour or minute (UTC).")
    ] = Bucket.ALL,
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
    output: Annotated[
        SummaryFormat,
        typer.Option(
            "--output",
            "-o",
            envvar="STRONGROOM_OUTPUT",
            callback=_remember,
            is_eager=True,
            help="How the counts are printed.",
        ),
    ] = SummaryFormat.TABLE,
) -> None:
    """Count records.

    By key, principal, method or region: how many, how they ended, first and last use. json is
    a flat array of rows, as Grafana's JSON data sources read them; prometheus is text for
    node_exporter's textfile collector.

    Only records that match the filters are counted.
    """
    from strongroom_auditlog.record_filter import RecordFields
    from strongroom_server.cli.audit_source import open_source
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import print_rows

    groups = tuple(dict.fromkeys(by or [By.KEY]))
    if output is SummaryFormat.PROMETHEUS and bucket is not Bucket.ALL:
        raise CliError.usage("--bucket is not for prometheus: its samples have no times")
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
    counted = Summary(groups, bucket)
    with open_source(config=config, log=log, vkey=vkey) as source:
        for page in source.ascending(wanted, 0):
            for _, record in page:
                counted.add(RecordFields.of(record))
    if output is SummaryFormat.PROMETHEUS:
        print(counted.exposition(), end="")
        return
    rows = counted.rows()
    if output is SummaryFormat.JSON:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    times = [] if bucket is Bucket.ALL else ["time"]
    names = [name.value for name in groups]
    columns = [*times, *names, "records", *map(str.lower, OUTCOMES), "first", "last"]
    print_rows(rows, columns, Format.TABLE)
