"""What the log reads of a record: its schema and its position, unambiguously."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.audit_records import record

from strongroom_auditlog.errors import RecordInvalidError
from strongroom_auditlog.records import MAX_RECORD_BYTES, Position, parse_position

GOOD = record("eu-1", 7, 9)


def test_the_position_of_a_record_is_read() -> None:
    """Region, epoch and sequence come out as they are written."""
    assert parse_position(GOOD) == Position("eu-1", 7, 9)


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=5))
def test_no_encryption_context_confuses_the_reader(context: dict[str, str]) -> None:
    """Contexts are the caller's: names like ours, quotes, colons and escapes change nothing."""
    context = {**context, "sequence": "1", "region": ":x", "epoch": '","epoch":5,"'}
    text = record("eu-1", 7, 9, encryption_context=context)
    assert parse_position(text) == Position("eu-1", 7, 9)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_the_one_error(data: bytes) -> None:
    """Nothing but RecordInvalidError comes out of malformed input."""
    with pytest.raises(RecordInvalidError):
        parse_position(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_leaves_a_position(at: int, value: int) -> None:
    """Damage gives the one error or a position, never another exception."""
    data = bytearray(GOOD)
    data[at] = value
    with contextlib.suppress(RecordInvalidError):
        assert isinstance(parse_position(bytes(data)), Position)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "strongroom.audit.v2"},
        {"schema": None},
        {"region": "EU-1"},
        {"region": "eu-1\n"},
        {"region": "r" * 33},
        {"region": 1},
        {"epoch": 0},
        {"epoch": True},
        {"epoch": 7.0},
        {"epoch": "7"},
        {"sequence": 0},
        {"sequence": -1},
        {"sequence": 2**63},
        {"sequence": 10**400},
        {"sequence": None},
    ],
)
def test_other_schemas_and_positions_are_refused(changes: dict[str, Any]) -> None:
    """Types and ranges are exact; True is not 1."""
    with pytest.raises(RecordInvalidError):
        parse_position(record("eu-1", 7, 9, **changes))


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace(b'"sequence":9', b'"sequence":8,"sequence":9'),
        GOOD.replace(b'"sequence":9', b'"sequenc\\u0065":8,"sequence":9'),
        GOOD.replace(b'"policy":"owner"', b'"policy":"owner","policy":":owner"'),
        GOOD.replace(b'{"tenant":"acme"}', b'{"tenant":"acme","tenant":"other"}'),
        GOOD.replace(b'"sequence":9', b'"sequence":9,"x":{"a":1,"a":2}'),
    ],
)
def test_a_name_twice_is_refused(text: bytes) -> None:
    """Two readers of one record must not see two positions, callers or contexts."""
    with pytest.raises(RecordInvalidError):
        parse_position(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" " + GOOD,
        GOOD + b"\n",
        b"[" + GOOD + b"]",
        GOOD + GOOD,
        b"{}",
        b"{" * 60_000 + b"}",
        b'{"a":' * 12_000 + b"1" + b"}" * 12_000,
        b"\xff" + GOOD,
        GOOD[:-1],
        GOOD.replace(b"acme", b"ac\xc3e"),
    ],
)
def test_what_is_not_one_object_is_refused(text: bytes) -> None:
    """One JSON object, nothing around it, not too deep."""
    with pytest.raises(RecordInvalidError):
        parse_position(text)


def test_the_limit_of_size_is_exact() -> None:
    """65,535 bytes are a record, 65,536 are not."""
    room = MAX_RECORD_BYTES - len(GOOD)
    fits = record("eu-1", 7, 9, policy="owner" + "x" * room)
    assert len(fits) == MAX_RECORD_BYTES
    assert parse_position(fits).sequence == 9
    with pytest.raises(RecordInvalidError):
        parse_position(record("eu-1", 7, 9, policy="owner" + "x" * (room + 1)))


def test_nested_objects_other_than_the_context_are_read_the_slow_way() -> None:
    """Members of a later schema do not change what the position is."""
    text = record("eu-1", 7, 9, future={"sequence": 5, "region": "us-1"})
    assert json.loads(text)["future"]["sequence"] == 5
    assert parse_position(text) == Position("eu-1", 7, 9)
