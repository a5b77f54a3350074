"""How far back archiving and pruning go: records older than a moment, or below a leaf."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Final

from strongroom_auditlog.tiles import TILE_WIDTH

__all__ = ["Bound", "parse_age", "parse_moment"]

_AGE: Final = re.compile(r"([1-9][0-9]{0,4})([dhw])", re.ASCII)
_HOURS: Final = {"h": 1, "d": 24, "w": 7 * 24}


@dataclass(frozen=True, slots=True)
class Bound:
    """Which bundles are meant: whole ones from 0 on, until one is not meant."""

    before_leaf: int | None = None
    """Only bundles whose leaves are all below this one."""
    before_time: str | None = None
    """Only bundles whose records are all older; in the form of the records' `time`."""

    def end(self, bundles: int) -> int:
        """Return how many of `bundles` lie below the leaf."""
        if self.before_leaf is None:
            return bundles
        return min(bundles, self.before_leaf // TILE_WIDTH)

    def covers(self, last_time: str) -> bool:
        """Whether records up to `last_time` are old enough."""
        return self.before_time is None or last_time < self.before_time

    @classmethod
    def before(cls, moment: dt.datetime) -> Bound:
        """Return the bound of records from before an aware `moment`."""
        return cls(before_time=moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def parse_moment(text: str) -> dt.datetime:
    """Parse a date (its midnight, UTC) or a time with its zone, as in RFC 3339.

    Raises:
        ValueError: It is neither.
    """
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        if len(text) > len("2026-01-02"):
            raise ValueError("a time needs a zone, such as 2026-01-02T00:00:00Z")
        moment = moment.replace(tzinfo=dt.UTC)
    return moment


def parse_age(text: str) -> dt.timedelta:
    """Parse an age: a number and h, d or w.

    Raises:
        ValueError: It is none.
    """
    match = _AGE.fullmatch(text)
    if match is None:
        raise ValueError("an age is a number and h, d or w, such as 90d")
    return dt.timedelta(hours=int(match[1]) * _HOURS[match[2]])
