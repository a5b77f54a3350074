"""Audit drafts survive the outbox exactly, and nothing else is taken for one."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.store_samples import make_draft, make_key

from strongroom_server.mutations import AuditDraft
from strongroom_server.store.draft_codec import DraftFormatError, decode_draft, encode_draft

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_OPTIONAL_TEXT = st.none() | _TEXT
_DRAFTS = st.builds(
    AuditDraft,
    record_id=st.uuids(),
    time=st.datetimes(timezones=st.just(UTC)),
    principal=_TEXT,
    peer=_TEXT,
    method=_TEXT,
    outcome=_TEXT,
    request_id=_TEXT,
    key=_OPTIONAL_TEXT,
    key_version=st.none() | st.integers(1, 2**32 - 1),
    encryption_context=st.dictionaries(_TEXT, _TEXT, max_size=4),
    reason=_OPTIONAL_TEXT,
    policy=_OPTIONAL_TEXT,
    validate_only=st.booleans(),
    mode=st.none() | _TEXT,
    count=st.none() | st.integers(1, 2**63),
    details=st.dictionaries(_TEXT, _TEXT, max_size=3),
    identifier_key=st.none() | _TEXT,
)


@given(_DRAFTS)
def test_any_draft_survives(draft: AuditDraft) -> None:
    """Every draft decodes to itself."""
    assert decode_draft(encode_draft(draft)) == draft


def test_absent_members_are_left_out() -> None:
    """What is None is not in the text."""
    members = json.loads(encode_draft(make_draft(make_key())))
    assert "key_version" not in members
    assert "reason" not in members


def _changed(**members: object) -> str:
    text = encode_draft(make_draft(make_key()))
    changed = json.loads(text) | members
    return json.dumps(changed, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        _changed(extra="x"),
        _changed(key=None),
        _changed(time="2026-03-04T05:06:07Z"),
        _changed(time=True),
        _changed(time=1.5),
        _changed(time=2**80),
        _changed(validate_only=1),
        _changed(key_version="1"),
        _changed(details={}),
        _changed(details={"a": 1}),
        _changed(details=[]),
        _changed(count="1"),
        _changed(encryption_context=["a"]),
        _changed(encryption_context={"a": 1}),
        _changed(id="not-a-uuid"),
        _changed(id=uuid.UUID(int=10).hex),
        _changed() + " ",
        _changed().replace('"validate_only":false', '"validate_only":false,"validate_only":false'),
        _changed().replace(",", ", ", 1),
        _changed().replace("ü", "\\u00fc"),
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    """A text that is not exactly an encoded draft is refused with one error."""
    with pytest.raises(DraftFormatError):
        decode_draft(text)


def test_texts_and_times_that_cannot_be_stored_are_refused() -> None:
    """A lone surrogate and a time without zone are refused before they reach the database."""
    draft = make_draft(make_key())
    with pytest.raises(DraftFormatError):
        encode_draft(_replace(draft, request_id="\ud800"))
    with pytest.raises(DraftFormatError):
        encode_draft(_replace(draft, time=datetime(2026, 1, 1)))  # noqa: DTZ001 - the bad case


def _replace(draft: AuditDraft, **fields: object) -> AuditDraft:
    values = {name: getattr(draft, name) for name in AuditDraft.__slots__}
    return AuditDraft(**(values | fields))
