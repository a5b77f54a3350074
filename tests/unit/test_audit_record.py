"""Audit records: golden bytes, canonical form, limits."""

from __future__ import annotations

import json
import uuid
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.spool import make_draft

from strongroom_server.audit.record import (
    MAX_RECORD_BYTES,
    RecordInvalidError,
    encode_record,
    new_record_id,
)
from strongroom_server.mutations import AuditDraft

TIME = datetime(2026, 3, 4, 5, 6, 7, 80, tzinfo=UTC)
RECORD_ID = uuid.UUID("019cb6a5-0298-7000-8000-000000000001")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)

DRAFTS = st.builds(
    AuditDraft,
    record_id=st.uuids(),
    time=st.datetimes(timezones=st.just(UTC)),
    principal=TEXT,
    peer=TEXT,
    method=TEXT,
    outcome=st.sampled_from(["OK", "DENIED", "REFUSED", "FAILED"]),
    request_id=TEXT,
    key=st.none() | TEXT,
    key_version=st.none() | st.integers(1, 2**31),
    encryption_context=st.dictionaries(TEXT, TEXT, max_size=6),
    reason=st.none() | TEXT,
    policy=st.none() | TEXT,
    validate_only=st.booleans(),
    mode=st.none() | TEXT,
    count=st.none() | st.integers(1, 2**63),
    details=st.dictionaries(TEXT, TEXT, max_size=3),
    identifier_key=st.none() | TEXT,
)


def encode(draft: AuditDraft) -> bytes:
    return encode_record(draft, region="eu-1", epoch=1_700_000_000_000, sequence=42)


def test_full_record_has_its_golden_bytes():
    """A record with every field has exactly the bytes of the format page."""
    draft = make_draft(
        record_id=RECORD_ID,
        time=TIME,
        reason="KEY_DISABLED",
        outcome="REFUSED",
        validate_only=True,
        encryption_context={"z": 'q"\\\n\x01\x7f', "a": "ü/€"},
    )
    expected = (
        '{"encryption_context":{"a":"ü/€","z":"q\\"\\\\\\n\\u0001\x7f"},"epoch":1700000000000,'
        '"id":"019cb6a5-0298-7000-8000-000000000001",'
        '"key":"regions/eu-1/keys/655632f3-5323-47a7-b91c-2b2d3d6263e6","key_version":1,'
        '"method":"GenerateDataKey","outcome":"REFUSED","peer":"127.0.0.1:53412",'
        '"policy":"default-owner","principal":"spiffe://example.org/orders",'
        '"reason":"KEY_DISABLED","region":"eu-1","request_id":"7b0c0d66",'
        '"schema":"strongroom.audit.v1","sequence":42,"time":"2026-03-04T05:06:07.000080Z",'
        '"validate_only":true}'
    )
    assert encode(draft) == expected.encode()


def test_later_members_have_their_place():
    """Members that came later stand in the order of the format page."""
    draft = make_draft(
        record_id=RECORD_ID,
        time=TIME,
        method="PeerRefused",
        mode="BUFFERED",
        count=17,
        details={"last": "b", "first": "a"},
        identifier_key="00112233445566aa",
        encryption_context={},
    )
    expected = (
        '{"count":17,"details":{"first":"a","last":"b"},"encryption_context":{},'
        '"epoch":1700000000000,"id":"019cb6a5-0298-7000-8000-000000000001",'
        '"identifier_key":"00112233445566aa",'
        '"key":"regions/eu-1/keys/655632f3-5323-47a7-b91c-2b2d3d6263e6","key_version":1,'
        '"method":"PeerRefused","mode":"BUFFERED","outcome":"OK","peer":"127.0.0.1:53412",'
        '"policy":"default-owner","principal":"spiffe://example.org/orders","region":"eu-1",'
        '"request_id":"7b0c0d66","schema":"strongroom.audit.v1","sequence":42,'
        '"time":"2026-03-04T05:06:07.000080Z","validate_only":false}'
    )
    assert encode(draft) == expected.encode()


def test_least_record_leaves_optional_fields_out():
    """Optional fields that are absent are left out, never null."""
    draft = make_draft(
        record_id=RECORD_ID,
        time=TIME,
        key=None,
        key_version=None,
        policy=None,
        request_id="",
        encryption_context={},
    )
    assert encode(draft) == (
        b'{"encryption_context":{},"epoch":1700000000000,'
        b'"id":"019cb6a5-0298-7000-8000-000000000001","method":"GenerateDataKey","outcome":"OK",'
        b'"peer":"127.0.0.1:53412","principal":"spiffe://example.org/orders","region":"eu-1",'
        b'"schema":"strongroom.audit.v1","sequence":42,"time":"2026-03-04T05:06:07.000080Z",'
        b'"validate_only":false}'
    )


@settings(max_examples=300, deadline=None)
@given(DRAFTS)
def test_every_draft_round_trips_in_canonical_form(draft: AuditDraft):
    """Whatever Unicode a draft holds, json.loads gives it back, and the form is canonical."""
    record = encode(draft)
    parsed: dict[str, Any] = json.loads(record)
    for field in fields(AuditDraft):
        value = getattr(draft, field.name)
        match field.name:
            case "record_id":
                assert parsed["id"] == str(value)
            case "time":
                assert datetime.fromisoformat(parsed["time"]) == value
            case _ if value is None or (field.name in {"request_id", "details"} and not value):
                assert field.name not in parsed
            case _:
                assert parsed[field.name] == value
    # An independent way to RFC 8785: sort by UTF-16 code units, dump without white space.
    for name in {"encryption_context", "details"} & parsed.keys():
        parsed[name] = dict(sorted(parsed[name].items(), key=lambda i: i[0].encode("utf-16-be")))
    canonical = json.dumps(dict(sorted(parsed.items())), ensure_ascii=False, separators=(",", ":"))
    assert record == canonical.encode()


def test_context_sorts_by_utf16_code_units():
    """A name beyond the BMP comes before U+FFFD (RFC 8785, 3.2.3)."""
    record = encode(make_draft(encryption_context={"\ufffd": "2", "\U0001f600": "1"}))
    assert record.startswith('{"encryption_context":{"\U0001f600":"1","\ufffd":"2"}'.encode())


def test_time_is_written_in_utc():
    """A time with another offset is converted; one without a zone is refused."""
    eastern = TIME.astimezone(timezone(timedelta(hours=-5)))
    assert encode(make_draft(record_id=RECORD_ID, time=eastern)) == encode(
        make_draft(record_id=RECORD_ID, time=TIME)
    )
    with pytest.raises(RecordInvalidError, match="zone"):
        encode(make_draft(time=TIME.replace(tzinfo=None)))


def test_length_limit_is_exact():
    """A record of 65,535 bytes is taken, one more byte is refused."""
    spare = MAX_RECORD_BYTES - len(encode(make_draft(peer="")))
    assert len(encode(make_draft(peer="p" * spare))) == MAX_RECORD_BYTES
    with pytest.raises(RecordInvalidError, match="65536 bytes"):
        encode(make_draft(peer="p" * (spare + 1)))


def test_worst_context_fits():
    """A context at the service's limit, of nothing but control characters, fits."""
    record = encode(make_draft(encryption_context={"k": "\x01" * 8191}, key="k" * 256))
    assert len(record) < MAX_RECORD_BYTES


@pytest.mark.parametrize(
    "change",
    [
        {"principal": "\ud800"},
        {"encryption_context": {"\udfff": ""}},
        {"encryption_context": {"a": "", "b\udfff": ""}},
        {"outcome": "MAYBE"},
    ],
)
def test_what_has_no_encoding_is_refused(change: dict[str, Any]):
    """Lone surrogates and unknown outcomes are refused, without the text in the message."""
    with pytest.raises(RecordInvalidError) as caught:
        encode(make_draft(**change))
    assert caught.value.__cause__ is None


def test_record_ids_are_version_7():
    """An id has the time's milliseconds, version 7, the RFC's variant and the randomness."""
    record_id = new_record_id(TIME, bytes(range(246, 256)))
    assert record_id.version == 7
    assert record_id.variant == uuid.RFC_4122
    assert record_id.int >> 80 == int(TIME.timestamp() * 1000)
    assert new_record_id(TIME, b"\xff" * 10) != new_record_id(TIME, b"\xfe" + b"\xff" * 9)
    with pytest.raises(ValueError, match="exactly 10"):
        new_record_id(TIME, bytes(9))
