"""What a record is asked by: its fields as texts, and filters over them.

A filter is judged on the record's own bytes, always; the index only says where to look.
Values within a field are alternatives, fields are all required. A record without a field,
or with something else than a text in it, has the empty text there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

__all__ = ["TIME_FORM", "RecordFields", "RecordFilter", "key_id"]

TIME_FORM: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
"""audit-record-v1.md: RFC 3339 in one spelling, so the order of texts is that of times."""

_decode: Final = json.JSONDecoder().raw_decode


class RecordFields(NamedTuple):
    """The fields of a record that it can be found by."""

    time: str
    """Empty when the record's is not in the form of audit-record-v1.md."""
    region: str
    key: str
    principal: str
    method: str
    outcome: str
    reason: str

    @classmethod
    def of_members(cls, members: dict[str, Any]) -> RecordFields:
        """Read the fields from a record that was parsed."""
        get = members.get
        time = get("time", "")
        if type(time) is not str or TIME_FORM.fullmatch(time) is None:
            time = ""
        values = [
            value if type(value) is str else ""
            for value in (
                get("region", ""),
                get("key", ""),
                get("principal", ""),
                get("method", ""),
                get("outcome", ""),
                get("reason", ""),
            )
        ]
        return cls(time, *values)

    @classmethod
    def of(cls, record: bytes) -> RecordFields:
        """Read the fields of a record in the log; all are empty when it is no JSON object."""
        try:
            members, _ = _decode(record.decode())
        except (ValueError, RecursionError):
            members = None
        # Only `verify_log` complains about such a record; here it matches no filter.
        return cls.of_members(members if isinstance(members, dict) else {})


def key_id(name: str) -> str:
    """Return the last part of a key's name: what the name and the bare id have in common."""
    return name.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """Which records are wanted; an empty field asks for nothing."""

    keys: frozenset[str] = frozenset()
    """Full names, or bare ids: a text without a slash is compared with the last part."""
    principals: frozenset[str] = frozenset()
    methods: frozenset[str] = frozenset()
    outcomes: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()
    since: str = ""
    """Earliest time, in the records' form; the time itself is wanted."""
    until: str = ""
    """Latest time, in the records' form; the time itself is not wanted."""

    @property
    def is_empty(self) -> bool:
        """Whether every record matches."""
        return not any(getattr(self, field.name) for field in fields(self))

    def matches(self, record: RecordFields) -> bool:
        """Whether a record is wanted."""
        if self.since and not record.time >= self.since:
            return False
        if self.until and not ("" < record.time < self.until):
            return False
        if self.keys and not (record.key in self.keys or key_id(record.key) in self.keys):
            return False
        return (
            (not self.principals or record.principal in self.principals)
            and (not self.methods or record.method in self.methods)
            and (not self.outcomes or record.outcome in self.outcomes)
            and (not self.reasons or record.reason in self.reasons)
            and (not self.regions or record.region in self.regions)
        )
