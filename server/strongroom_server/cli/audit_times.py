"""Points in time as arguments: RFC 3339, a date, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from strongroom_server.cli.failures import CliError

__all__ = ["parse_time", "record_time"]

_AGO: Final = re.compile(r"(?P<number>[1-9][0-9]{0,5})(?P<unit>[smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_time(option: str, text: str | None, *, now: datetime) -> str:
    """Return a point in time as records spell it; the empty text for None.

    Args:
        option: Name of the option, for the message.
        text: ``2026-01-02``, ``2026-01-02T03:04:05Z``, or an age such as ``15m`` or ``7d``.
            Without a time zone it is UTC.
        now: The clock; aware.

    Raises:
        CliError: It is none of these.
    """
    if text is None:
        return ""
    match = _AGO.fullmatch(text)
    try:
        if match is not None:
            moment = now - timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
        else:
            moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return record_time(moment)
    except (ValueError, OverflowError) as exc:
        raise CliError.usage(
            f"{option} {text!r} is not a point in time",
            "such as 2026-01-02, 2026-01-02T03:04:05Z, or 15m, 2h, 7d for how long ago",
        ) from exc


def record_time(moment: datetime) -> str:
    """Return `moment`, which is aware, as audit-record-v1.md spells times."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")
