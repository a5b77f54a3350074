"""Hashed identifiers: what stands in the record, and who can tell what it was."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
from tests.support.memory_service import MemoryService, caller
from tests.support.spool import make_draft

from strongroom_server.audit.identifiers import HASHABLE, IdentifierHasher, load_identifier_key
from strongroom_server.config_audit import AuditConfig
from strongroom_server.errors import StartRefusedError
from strongroom_server.services.records import Recorder, Trace

KEY = bytes(range(32))


def hashed(value: str) -> str:
    return "hmac-sha256:" + hmac.new(KEY, value.encode(), hashlib.sha256).hexdigest()


def key_file(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    path = directory / "identifiers.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_the_configured_fields_are_hashed_and_no_other():
    """Values become HMACs that anybody with the key makes again; names and the rest stay."""
    draft = make_draft(peer="ipv4:192.0.2.1:50000", encryption_context={"tenant": "42", "e": ""})
    hidden = IdentifierHasher(KEY, HASHABLE).hide(draft)
    assert hidden.peer == hashed("ipv4:192.0.2.1")
    assert hidden.principal == hashed("spiffe://example.org/orders")
    assert hidden.request_id == hashed("7b0c0d66")
    assert hidden.encryption_context == {"tenant": hashed("42"), "e": ""}
    assert (hidden.key, hidden.method, hidden.time) == (draft.key, draft.method, draft.time)
    only_peer = IdentifierHasher(KEY, ["peer"]).hide(draft)
    assert only_peer.peer == hidden.peer
    assert only_peer.encryption_context == draft.encryption_context
    assert only_peer.principal == draft.principal


def test_every_port_of_an_address_has_one_hash():
    """Who has the key finds all calls of an address."""
    hide = IdentifierHasher(KEY, ["peer"]).hide
    peers = {hide(make_draft(peer=f"ipv4:192.0.2.1:{port}")).peer for port in range(100)}
    assert peers == {hashed("ipv4:192.0.2.1")}


def test_the_service_and_the_absent_stay_as_they_are():
    """Principals of the service itself are no secret; an empty text has nothing to hide."""
    hidden = IdentifierHasher(KEY, HASHABLE).hide(
        make_draft(principal="strongroom:server", peer="", request_id="", encryption_context={})
    )
    assert (hidden.principal, hidden.peer, hidden.request_id) == ("strongroom:server", "", "")
    assert hidden.encryption_context == {}


def test_the_record_says_which_key():
    """The id tells keys apart and is no hash of the key alone."""
    first, second = (IdentifierHasher(key, ["peer"]) for key in (KEY, bytes(32)))
    label = hmac.new(KEY, b"strongroom audit identifier key", hashlib.sha256).hexdigest()
    assert first.key_id == label[:16]
    assert first.key_id != second.key_id
    assert first.hide(make_draft()).identifier_key == first.key_id


async def test_drafts_are_hidden_before_they_reach_any_store():
    """The recorder makes no draft that shows what is to be hidden, for outbox or spool."""
    service = MemoryService()
    recorder = Recorder(
        clock=service.clock,
        new_record_id=lambda: make_draft().record_id,
        on_outcome=lambda *_: None,
        hide=IdentifierHasher(KEY, HASHABLE).hide,
    )
    trace = Trace("Encrypt", encryption_context={"card": "4111-marker"})
    for outcome in ("OK", "DENIED"):
        text = repr(recorder.draft(caller(), trace, outcome=outcome))
        assert "4111-marker" not in text
        assert "spiffe://" not in text
        assert "127.0.0.1" not in text


@pytest.mark.parametrize("content", [KEY.hex().encode(), KEY.hex().encode() + b"\n"])
def test_a_key_is_64_hex_digits(tmp_path: Path, content: bytes):
    """What `openssl rand -hex 32` writes is a key."""
    assert load_identifier_key(key_file(tmp_path, content)) == KEY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        KEY,
        KEY.hex().upper().encode(),
        KEY.hex().encode() + b"\n\n",
        b"ab" * 33,
        b"g" * 64,
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes):
    """A file that is no key refuses the start, with the cure and without its content."""
    with pytest.raises(StartRefusedError, match="openssl rand") as refusal:
        load_identifier_key(key_file(tmp_path, content))
    assert KEY.hex() not in str(refusal.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int):
    """The key is its owner's alone."""
    path = key_file(tmp_path, KEY.hex().encode(), mode)
    with pytest.raises(StartRefusedError, match="chmod 600"):
        load_identifier_key(path)


def test_a_missing_key_is_refused(tmp_path: Path):
    """Nothing is made up in the place of a key that is not there."""
    with pytest.raises(StartRefusedError, match="No such file"):
        load_identifier_key(tmp_path / "none")


@pytest.mark.parametrize(
    "settings",
    [
        {"hash_identifiers": ["peer"]},
        {"identifier_key_file": "key"},
        {"hash_identifiers": ["key"], "identifier_key_file": "key"},
    ],
)
def test_half_a_configuration_is_refused(settings: dict[str, object]):
    """Fields without a key, a key without fields, and fields that are not hashed are mistakes."""
    with pytest.raises(ValueError, match="hash_identifiers"):
        AuditConfig.model_validate(settings)


def test_a_field_that_is_not_hashed_is_a_mistake():
    """The hasher takes no other field."""
    with pytest.raises(ValueError, match="not to be hashed: key"):
        IdentifierHasher(KEY, ["key"])


def test_principals_in_details_are_hashed_like_the_caller():
    """Whom a grant is for, or an explanation is about, is hidden when principals are."""
    details = {"grant": "1", "grantee": "spiffe://a/b", "principal": "spiffe://a/c"}
    draft = make_draft(details=details)
    hidden = IdentifierHasher(KEY, ["principal"]).hide(draft)
    assert hidden.details == {
        "grant": "1",
        "grantee": hashed("spiffe://a/b"),
        "principal": hashed("spiffe://a/c"),
    }
    assert IdentifierHasher(KEY, ["peer"]).hide(draft).details == details
