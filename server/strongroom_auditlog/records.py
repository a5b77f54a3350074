"""Where a record says that it stands (docs/formats/audit-record-v1.md).

The log keeps the exact bytes of a record and reads no more of it than its schema and its
position. What it reads must be unambiguous: an object with a name twice means one thing
to one reader and another to the next, so it is refused.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from strongroom_auditlog.errors import RecordInvalidError

__all__ = [
    "MAX_POSITION",
    "MAX_RECORD_BYTES",
    "Position",
    "Run",
    "is_region",
    "next_positions",
    "parse_position",
]

MAX_RECORD_BYTES: Final = 2**16 - 1  # C2SP tlog-tiles, "Log entries": a uint16 length
MAX_POSITION: Final = 2**63 - 1  # what SQLite can keep in an integer
SCHEMA: Final = "strongroom.audit.v1"

_REGION: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)


class Position(NamedTuple):
    """Region, epoch and sequence of a record: its place in its shard's spool."""

    region: str
    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.region}:{self.epoch}:{self.sequence}"


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive records of one shard in consecutive leaves."""

    first: Position
    records: int
    first_leaf: int


def next_positions(runs: Sequence[Run]) -> dict[str, tuple[int, int]]:
    """Return region -> (epoch, next sequence) after `runs`, which are in the log's order."""
    return {run.first.region: (run.first.epoch, run.first.sequence + run.records) for run in runs}


@functools.lru_cache(maxsize=1024)
def is_region(text: str) -> bool:
    """Whether `text` is a region: 1 to 32 letters, digits and hyphens."""
    return _REGION.fullmatch(text) is not None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return members


_decode: Final = json.JSONDecoder().raw_decode
_decode_unique: Final = json.JSONDecoder(object_pairs_hook=_unique).raw_decode


def _parse(text: str) -> dict[str, Any]:
    """Parse one JSON object whose names, and those of the objects in it, are unique.

    Raises:
        ValueError: It is something else.
    """
    members, end = _decode(text)
    if end != len(text) or type(members) is not dict:
        raise ValueError("not one object")
    # Without escapes each name ends in `":`, and nothing but a name or a text that begins
    # with a colon does. So equal numbers mean that no name was dropped as a repeat. Only
    # when the numbers differ, the slow way decides.
    context = members.get("encryption_context")
    names = len(members) + (len(context) if type(context) is dict else 0)
    if "\\" in text or text.count('":') != names:
        members, _ = _decode_unique(text)
    return cast("dict[str, Any]", members)


def parse_position(record: bytes) -> Position:
    """Return the position that is written in `record`.

    Raises:
        RecordInvalidError: `record` is not one JSON object of the schema, at most 65,535
            bytes, with a region, an epoch and a sequence.
    """
    if not 0 < len(record) <= MAX_RECORD_BYTES:
        raise RecordInvalidError(f"{len(record)} bytes; a record has 1 to {MAX_RECORD_BYTES}")
    if record[0] != ord("{") or record[-1] != ord("}"):
        raise RecordInvalidError("a record is one JSON object without white space around it")
    try:
        members = _parse(record.decode())
    except (ValueError, RecursionError) as exc:
        # ValueError covers UnicodeDecodeError, JSONDecodeError and integers of absurd length.
        raise RecordInvalidError("not UTF-8 JSON with unique names") from exc
    if members.get("schema") != SCHEMA:
        raise RecordInvalidError(f"schema is not {SCHEMA}")
    region, epoch, sequence = members.get("region"), members.get("epoch"), members.get("sequence")
    # `type is int`, for True is an int to isinstance.
    if type(epoch) is not int or type(sequence) is not int or type(region) is not str:
        raise RecordInvalidError("region, epoch or sequence is missing or of another type")
    if not (is_region(region) and 0 < epoch <= MAX_POSITION and 0 < sequence <= MAX_POSITION):
        raise RecordInvalidError("region, epoch or sequence is out of range")
    return Position(region, epoch, sequence)
