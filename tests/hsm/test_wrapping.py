"""Wrapped storage on a real token: roots, birth, use, re-wrapping, what is refused."""

from __future__ import annotations

import os

import pytest
from tests.support.hsm_keys import AES, MAC, new_key, new_resident, new_wrapped

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.conformance import check_module
from strongroom_server.hsm.key_kinds import KINDS
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.key_template import Hardening
from strongroom_server.hsm.return_codes import (
    KeyAbsentError,
    KeyUnsafeError,
    PolicyRefusedError,
    ReturnCodeError,
)
from strongroom_server.hsm.ring_errors import MaterialDamagedError, UnsupportedError
from strongroom_server.hsm.token import KeyHandle, TokenSession

pytestmark = pytest.mark.hsm

AAD = b"\x01context"
AES_KIND = KINDS[(KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)]
NOTHING = Hardening(modifiable=False, copyable=False, allowed_mechanisms=False)


def _root(session: TokenSession, number: int = 1) -> KeyHandle:
    (handle,) = session.find({"ID": key_template.root_id(number), "TOKEN": True})
    return handle


def test_round_trip(ring: KeyRing) -> None:
    """Material is 40 bytes outside, different each time, and encrypts inside."""
    first, second = new_wrapped(ring), new_wrapped(ring)
    assert {len(first.wrapped), len(second.wrapped)} == {40}
    assert first.wrapped != second.wrapped
    sealed = ring.encrypt(first, b"hello", AAD)
    assert ring.decrypt(first, sealed, AAD) == b"hello"
    data_key, sealed = ring.generate_data_key(second, 32, AAD)
    assert ring.decrypt(second, sealed, AAD) == data_key


@pytest.mark.parametrize("bits", [256, 384, 512])
def test_mac_keys_are_wrapped_too(ring: KeyRing, bits: int) -> None:
    """HMAC material is n + 8 bytes outside, and gives the same MAC each time it is unwrapped."""
    kind = (KeySpec[f"HMAC_{bits}"], KeyUsage.GENERATE_VERIFY_MAC)
    algorithm = Algorithm[f"HMAC_SHA_{bits}"]
    key = new_wrapped(ring, kind)
    assert len(key.wrapped) == bits // 8 + 8
    mac = ring.mac(key, algorithm, b"x")
    ring.wrapping.on_reopened()
    assert ring.mac(key, algorithm, b"x") == mac


def test_what_key_wrap_does_not_take_is_unsupported(ring: KeyRing) -> None:
    """28 bytes are no multiple of 8: a clear refusal, not a padded form of its own."""
    ring.wrapping.create_root(1)
    with pytest.raises(UnsupportedError, match="HMAC_224"):
        ring.create_wrapped(new_key((KeySpec.HMAC_224, KeyUsage.GENERATE_VERIFY_MAC), root=1))


def test_the_root_wraps_and_does_nothing_else(ring: KeyRing, session: TokenSession) -> None:
    """The root shows what it is, cannot decrypt what it wraps, and cannot get out (H8)."""
    key = new_wrapped(ring)
    root = _root(session)
    shown = session.attributes(root, (*key_template.CHECKED_SECRET, "LABEL"))
    assert {name: shown[name] for name in ("WRAP", "UNWRAP", "ENCRYPT", "DECRYPT", "SIGN")} == {
        "WRAP": True,
        "UNWRAP": True,
        "ENCRYPT": False,
        "DECRYPT": False,
        "SIGN": False,
    }
    assert shown["LABEL"] == "strongroom-root/1"
    assert (shown["SENSITIVE"], shown["EXTRACTABLE"], shown["MODIFIABLE"]) == (True, False, False)
    for mechanism in (ck.plain(ck.CKM_AES_ECB), ck.aes_gcm(bytes(12), AAD)):
        with pytest.raises(ReturnCodeError):
            session.decrypt(root, mechanism, key.wrapped[:32])
        with pytest.raises(ReturnCodeError):
            session.encrypt(root, mechanism, key.wrapped[:32])
    with pytest.raises(ReturnCodeError):
        session.wrap(root, ck.aes_key_wrap(), root)
    changes: tuple[dict[str, AttributeValue], ...] = (
        {"DECRYPT": True},
        {"EXTRACTABLE": True},
        {"SENSITIVE": False},
        {"TRUSTED": True},
    )
    for change in changes:
        with pytest.raises(ReturnCodeError):
            session.set_attributes(root, change)
    with pytest.raises(ReturnCodeError):
        session.copy(root, {"DECRYPT": True})


def test_material_cannot_be_unwrapped_to_be_read(ring: KeyRing, session: TokenSession) -> None:
    """With the PIN and the database nobody unwraps material as a key that shows its value.

    Also with the root as it is found again, from the token's own files.
    """
    key = new_wrapped(ring)
    readable: dict[str, AttributeValue] = {
        **key_template.unwrapped_material(AES_KIND).fixed,
        "SENSITIVE": False,
        "EXTRACTABLE": True,
    }
    session.reopen()
    with pytest.raises(ReturnCodeError):
        session.unwrap(_root(session), ck.aes_key_wrap(), key.wrapped, readable)


def test_unwrapped_material_cannot_leave(ring: KeyRing, session: TokenSession) -> None:
    """In use, material is a private session object that is not extractable and wraps nothing."""
    key = new_wrapped(ring)
    handle = ring.handle(key)
    shown = session.attributes(handle, key_template.unwrapped_material(KINDS[AES]).names)
    assert shown == dict(key_template.unwrapped_material(KINDS[AES]).fixed)
    assert session.attributes(handle, ("VALUE",)) == {}
    with pytest.raises(ReturnCodeError):
        session.wrap(_root(session), ck.aes_key_wrap(), handle)
    with pytest.raises(ReturnCodeError):
        session.set_attributes(handle, {"EXTRACTABLE": True})


def test_birth_leaves_nothing_behind(ring: KeyRing, session: TokenSession) -> None:
    """New and re-wrapped material is gone from the HSM when the call returns."""
    ring.wrapping.create_root(1)
    ring.wrapping.create_root(2)
    before = session.find({"TOKEN": False})
    key = new_wrapped(ring)
    ring.wrapping.rewrap(key, 2)
    assert session.find({"TOKEN": False}) == before


def test_material_at_birth_can_do_nothing(ring: KeyRing, session: TokenSession) -> None:
    """What is extractable, for the length of a call, neither encrypts nor shows its value."""
    template = key_template.material_at_birth(KINDS[AES], only_for_trusted=True)
    handle = session.generate_key(ck.plain(ck.CKM_AES_KEY_GEN), template.to_make(NOTHING))
    assert session.attributes(handle, ("VALUE",)) == {}
    with pytest.raises(ReturnCodeError):
        session.encrypt(handle, ck.aes_gcm(bytes(12), AAD), b"x")
    ring.wrapping.create_root(1)
    # The security officer has not said that this root may have it (WRAP_WITH_TRUSTED).
    with pytest.raises(ReturnCodeError):
        session.wrap(_root(session), ck.aes_key_wrap(), handle)


def test_rewrapped_material_is_the_same(ring: KeyRing) -> None:
    """Under another root the same material decrypts what it encrypted before."""
    key = new_wrapped(ring)
    sealed = ring.encrypt(key, b"x", AAD)
    ring.wrapping.create_root(2)
    moved = key._replace(root=2, wrapped=ring.wrapping.rewrap(key, 2))
    assert moved.wrapped != key.wrapped
    assert ring.decrypt(moved, sealed, AAD) == b"x"
    assert ring.decrypt(key, sealed, AAD) == b"x"


def test_every_damage_is_told_as_such(ring: KeyRing) -> None:
    """Any bit flipped, any byte cut or added, another root: damaged, never a fault or a key."""
    key = new_wrapped(ring)
    sealed = ring.encrypt(key, b"x", AAD)
    ring.wrapping.create_root(2)
    flipped = []
    for bit in range(8 * len(key.wrapped)):
        changed = bytearray(key.wrapped)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(changed))
    lengths = [key.wrapped[:-8], key.wrapped[:-1], key.wrapped + bytes(8), key.wrapped[:8]]
    for wrapped in (*flipped, *lengths, os.urandom(40)):
        with pytest.raises(MaterialDamagedError):
            ring.decrypt(key._replace(wrapped=wrapped), sealed, AAD)
    with pytest.raises(MaterialDamagedError):
        ring.decrypt(key._replace(root=2), sealed, AAD)
    with pytest.raises(MaterialDamagedError):
        ring.wrapping.rewrap(key._replace(root=2), 1)
    ring.check_health()
    assert ring.decrypt(key, sealed, AAD) == b"x"


def test_a_missing_root_is_absent(ring: KeyRing, session: TokenSession) -> None:
    """A root that the metadata names and the token does not show is no damage: it is absent."""
    key = new_wrapped(ring)
    with pytest.raises(KeyAbsentError, match="strongroom-root/7"):
        ring.encrypt(key._replace(root=7), b"x", AAD)
    with pytest.raises(KeyAbsentError, match="strongroom-root/7"):
        ring.create_wrapped(new_key(root=7))
    session.destroy(_root(session))
    ring.wrapping.on_reopened()
    with pytest.raises(KeyAbsentError, match="strongroom-root/1"):
        ring.encrypt(key, b"x", AAD)
    ring.check_health()


def test_roots_are_found_at_the_start(ring: KeyRing, session: TokenSession) -> None:
    """A new ring over the same token unwraps what an earlier one wrapped."""
    key = new_wrapped(ring)
    sealed = ring.encrypt(key, b"x", AAD)
    other = KeyRing(session, *check_module(session), verify_after_encrypt=True)
    other.load_all()
    assert other.key_count == 0  # a root is no key of anybody's
    assert other.decrypt(key, sealed, AAD) == b"x"


def test_create_root_is_idempotent(ring: KeyRing, session: TokenSession) -> None:
    """Making a root twice keeps the first: everything wrapped under it depends on it."""
    key = new_wrapped(ring)
    ring.wrapping.create_root(1)
    assert len(session.find({"ID": key_template.root_id(1)})) == 1
    assert ring.encrypt(key, b"x", AAD)


@pytest.mark.parametrize("name", ["DECRYPT", "ENCRYPT", "EXTRACTABLE", "SIGN", "DERIVE"])
def test_a_weak_root_stops_the_start(ring: KeyRing, session: TokenSession, name: str) -> None:
    """A root that could decrypt, or get out, is refused at the start and when it is used."""
    template = key_template.root().named(key_template.root_id(3), "strongroom-root/3")
    session.generate_key(ck.plain(ck.CKM_AES_KEY_GEN), {**template.to_make(NOTHING), name: True})
    with pytest.raises(KeyUnsafeError, match=f"CKA_{name}"):
        ring.load_all()
    with pytest.raises(PolicyRefusedError, match=f"CKA_{name}"):
        ring.create_wrapped(new_key(root=3))


def test_the_same_bytes_as_another_kind_are_another_object(ring: KeyRing) -> None:
    """Material that a record calls an HMAC key does not get the handle of an AES key."""
    key = new_wrapped(ring)
    as_mac = new_key(MAC)._replace(ref=key.ref, root=1, wrapped=key.wrapped)
    handle = ring.handle(key)
    assert ring.handle(as_mac) != handle
    with pytest.raises(PolicyRefusedError):
        ring.encrypt(as_mac, b"x", AAD)
    with pytest.raises(PolicyRefusedError):
        ring.run(key, lambda: ring.session.sign(handle, ck.hmac("sha256"), b"x"), what="mac")


def test_unwrapped_keys_are_bounded(ring: KeyRing, session: TokenSession) -> None:
    """The keys used last stay unwrapped; no more of them than the bound, here 16."""
    keys = [new_wrapped(ring) for _ in range(40)]
    before = len(session.find({"TOKEN": False}))
    sealed = [ring.encrypt(key, b"x", AAD) for key in keys]
    assert ring.wrapping.unwrapped == 16
    assert len(session.find({"TOKEN": False})) == before + 16
    unwraps = ring.wrapping.unwraps
    for key, each in zip(keys[-16:], sealed[-16:], strict=True):
        assert ring.decrypt(key, each, AAD) == b"x"
    assert ring.wrapping.unwraps == unwraps
    for key, each in zip(keys, sealed, strict=True):
        assert ring.decrypt(key, each, AAD) == b"x"
    assert len(session.find({"TOKEN": False})) == before + 16


def test_a_ring_is_worn_by_unwraps(session: TokenSession) -> None:
    """After so many unwraps a ring says that its process should go; 0 means never."""
    made = check_module(session)
    worn = KeyRing(session, *made, verify_after_encrypt=True, recycle_after_unwraps=3)
    for _ in range(3):
        assert not worn.is_worn
        worn.encrypt(new_wrapped(worn), b"x", AAD)
    assert worn.is_worn
    never = KeyRing(session, *made, verify_after_encrypt=True, recycle_after_unwraps=0)
    never.encrypt(new_wrapped(never), b"x", AAD)
    assert not never.is_worn


def test_wrapped_and_resident_live_side_by_side(ring: KeyRing) -> None:
    """The same ref, resident and wrapped, is two materials."""
    resident = new_resident(ring)
    wrapped = new_wrapped(ring)._replace(ref=resident.ref)
    sealed = ring.encrypt(resident, b"x", AAD)
    assert ring.decrypt(resident, sealed, AAD) == b"x"
    assert ring.encrypt(wrapped, b"x", AAD)
