"""Times as arguments, summaries, and what offline filters refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from strongroom_auditlog.record_filter import RecordFields, RecordFilter
from strongroom_server.cli.audit_options import build_filter
from strongroom_server.cli.audit_summary import Bucket, By, Summary
from strongroom_server.cli.audit_times import parse_time, record_time
from strongroom_server.cli.failures import CliError

NOW = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
UUID = "3f0c2a52-5d0d-4f5e-9a75-1a2b3c4d5e6f"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ""),
        ("2026-01-02", "2026-01-02T00:00:00.000000Z"),
        ("2026-01-02T03:04", "2026-01-02T03:04:00.000000Z"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000Z"),
        ("2026-01-02T03:04:05.6789+02:00", "2026-01-02T01:04:05.678900Z"),
        ("7s", "2026-03-04T05:06:00.000089Z"),
        ("6m", "2026-03-04T05:00:07.000089Z"),
        ("5h", "2026-03-04T00:06:07.000089Z"),
        ("3d", "2026-03-01T05:06:07.000089Z"),
        ("1w", "2026-02-25T05:06:07.000089Z"),
    ],
)
def test_points_in_time_are_understood(text: str | None, expected: str) -> None:
    """Dates, times with and without a zone, and ages become times of records."""
    assert parse_time("--since", text, now=NOW) == expected


@pytest.mark.parametrize("text", ["", "now", "0m", "1y", "-3d", "999999w", "2026-13-01", "10:00"])
def test_other_texts_are_refused(text: str) -> None:
    """What is no point in time is a usage error that names the option."""
    with pytest.raises(CliError, match="--until"):
        parse_time("--until", text, now=NOW)


def test_times_are_spelled_in_one_way() -> None:
    """Records have six digits of seconds and Z, whatever the zone."""
    moment = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert record_time(moment) == "2025-12-31T23:00:00.000000Z"


def test_offline_filters_take_keys_as_records_have_them() -> None:
    """Names and ids are taken; aliases and short names cannot be looked up."""
    name = f"regions/eu-1/keys/{UUID}"
    wanted = build_filter(key=[name, UUID, f"keys/{UUID}"], offline=True)
    assert wanted == RecordFilter(keys=frozenset([name, UUID]))
    for alias in ("payments/card-data", "regions/eu-1/aliases/payments", "keys/x"):
        with pytest.raises(CliError):
            build_filter(key=[alias], offline=True)


def fields(time: str, key: str, outcome: str = "OK", principal: str = "p") -> RecordFields:
    """Return fields of a record."""
    return RecordFields(time, "eu-1", key, principal, "Decrypt", outcome, "")


def test_rows_are_counted_by_bucket_and_value() -> None:
    """Each row is one bucket and one value; records without a time have one of their own."""
    summary = Summary((By.KEY,), Bucket.DAY)
    for record in (
        fields("2026-01-02T23:59:59.999999Z", "a"),
        fields("2026-01-03T00:00:00.000000Z", "a", "DENIED"),
        fields("2026-01-03T00:00:01.000000Z", "a"),
        fields("", "b", "strange"),
    ):
        summary.add(record)
    rows = summary.rows()
    assert [(row["time"], row["key"], row["records"]) for row in rows] == [
        ("", "b", 1),
        ("2026-01-02T00:00:00Z", "a", 1),
        ("2026-01-03T00:00:00Z", "a", 2),
    ]
    assert rows[2] == {
        "time": "2026-01-03T00:00:00Z",
        "key": "a",
        "records": 2,
        "ok": 1,
        "denied": 1,
        "refused": 0,
        "failed": 0,
        "first": "2026-01-03T00:00:00.000000Z",
        "last": "2026-01-03T00:00:01.000000Z",
    }


def test_prometheus_text_is_escaped() -> None:
    """Labels that come from records cannot break the exposition."""
    summary = Summary((By.PRINCIPAL, By.KEY), Bucket.ALL)
    summary.add(fields("2026-01-02T03:04:05.678901Z", "k", principal='a"b\\c\nd'))
    assert summary.exposition() == (
        "# TYPE strongroom_audit_summary_records gauge\n"
        'strongroom_audit_summary_records{principal="a\\"b\\\\c\\nd",key="k",outcome="OK"} 1\n'
        "# TYPE strongroom_audit_summary_last_use_timestamp_seconds gauge\n"
        "strongroom_audit_summary_last_use_timestamp_seconds"
        '{principal="a\\"b\\\\c\\nd",key="k"} 1767323045\n'
    )
