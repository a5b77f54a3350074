"""Resident keys on a real token: what they are, what they refuse, what AES-GCM answers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.support.hsm_keys import AES, MAC, new_key, new_resident
from tests.support.softhsm import TestToken, new_ref

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.key_kinds import KINDS
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.key_template import Hardening
from strongroom_server.hsm.return_codes import (
    HsmFaultError,
    KeyAbsentError,
    KeyUnsafeError,
    ModuleUnusableError,
    PinRefusedError,
    PolicyRefusedError,
    ReturnCodeError,
    TamperedError,
    TokenAbsentError,
)
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.wire_operations import WireKey

pytestmark = pytest.mark.hsm

AAD = b"\x01context"
NOTHING = Hardening(modifiable=False, copyable=False, allowed_mechanisms=False)


def _raw_key(session: TokenSession, key: WireKey) -> KeyHandle:
    (handle,) = session.find({"ID": key.ref, "CLASS": ck.CKO_SECRET_KEY})
    return handle


def _plant(session: TokenSession, key: WireKey, label: str, **changes: AttributeValue) -> None:
    """Make an AES key as somebody with the PIN could."""
    template = key_template.resident_secret(KINDS[AES]).named(key.ref, label)
    session.generate_key(ck.plain(ck.CKM_AES_KEY_GEN), {**template.to_make(NOTHING), **changes})


def test_round_trip(ring: KeyRing) -> None:
    """What is encrypted comes back, for the smallest and the largest sizes."""
    key = new_resident(ring)
    for size in (1, 15, 16, 17, 4096):
        for aad in (b"a", bytes(8214)):
            plaintext = os.urandom(size)
            sealed = ring.encrypt(key, plaintext, aad)
            assert len(sealed) == 12 + size + 16
            assert ring.decrypt(key, sealed, aad) == plaintext


def test_data_key_is_random_and_sealed(ring: KeyRing) -> None:
    """A data key has the asked size, opens from its sealed form, and is never the same."""
    key = new_resident(ring)
    seen = set()
    for size in (16, 16, 32, 1024):
        plain, sealed = ring.generate_data_key(key, size, AAD)
        assert len(plain) == size
        assert ring.decrypt(key, sealed, AAD) == plain
        seen |= {plain, sealed[:12]}
    assert len(seen) == 8


def test_every_bit_flip_is_tampering(ring: KeyRing) -> None:
    """Each flipped bit of IV, ciphertext, tag and context gives the one tamper error."""
    key = new_resident(ring)
    sealed = ring.encrypt(key, b"attack at dawn", AAD)
    for bit in range(8 * len(sealed)):
        forged = bytearray(sealed)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError):
            ring.decrypt(key, bytes(forged), AAD)
    for bit in range(8 * len(AAD)):
        other = bytearray(AAD)
        other[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError):
            ring.decrypt(key, sealed, bytes(other))
    for cut in (sealed[:-1], sealed[:29], sealed + b"\0", sealed[1:]):
        with pytest.raises(TamperedError):
            ring.decrypt(key, cut, AAD)
    assert ring.decrypt(key, sealed, AAD) == b"attack at dawn"


def test_another_key_does_not_decrypt(ring: KeyRing) -> None:
    """A ciphertext of one version is tampered for another version of the same key."""
    first = new_resident(ring)
    second = first._replace(ref=first.ref[:16] + b"\0\0\0\2")
    ring.create(second)
    sealed = ring.encrypt(first, b"x", AAD)
    with pytest.raises(TamperedError):
        ring.decrypt(second, sealed, AAD)


def test_key_attributes_are_explicit(ring: KeyRing, session: TokenSession) -> None:
    """A created key shows every attribute that keeps its material and uses inside."""
    ref = new_ref()
    ring.create(new_key(ref=ref))
    shown = session.attributes(
        _raw_key(session, new_key(ref=ref)),
        (*key_template.CHECKED_SECRET, "ALLOWED_MECHANISMS", "LABEL"),
    )
    assert shown == {
        "CLASS": ck.CKO_SECRET_KEY,
        "KEY_TYPE": ck.CKK_AES,
        "TOKEN": True,
        "PRIVATE": True,
        "SENSITIVE": True,
        "EXTRACTABLE": False,
        "ENCRYPT": True,
        "DECRYPT": True,
        "SIGN": False,
        "VERIFY": False,
        "WRAP": False,
        "UNWRAP": False,
        "DERIVE": False,
        "MODIFIABLE": False,
        "COPYABLE": False,
        "LOCAL": True,
        "ALWAYS_SENSITIVE": True,
        "NEVER_EXTRACTABLE": True,
        "TRUSTED": False,
        "VALUE_LEN": 32,
        "ALLOWED_MECHANISMS": (ck.CKM_AES_GCM,),
        "LABEL": f"strongroom/{ref.key_id}/1",
    }


def test_material_cannot_leave(ring: KeyRing, session: TokenSession) -> None:
    """Reading, wrapping, copying, weakening and other mechanisms are all refused (H8)."""
    key = _raw_key(session, new_resident(ring))
    wrapper = session.generate_key(
        ck.plain(ck.CKM_AES_KEY_GEN),
        {
            "CLASS": ck.CKO_SECRET_KEY,
            "KEY_TYPE": ck.CKK_AES,
            "TOKEN": False,
            "VALUE_LEN": 32,
            "WRAP": True,
        },
    )
    assert session.attributes(key, ("VALUE",)) == {}
    with pytest.raises(ReturnCodeError):
        session.wrap(wrapper, ck.aes_key_wrap(), key)
    with pytest.raises(ReturnCodeError):
        session.copy(key, {"SENSITIVE": False, "EXTRACTABLE": True})
    changes: tuple[dict[str, AttributeValue], ...] = (
        {"EXTRACTABLE": True},
        {"SENSITIVE": False},
        {"WRAP": True},
        {"UNWRAP": True},
        {"LABEL": "another"},
        {"MODIFIABLE": True},
    )
    for change in changes:
        with pytest.raises(ReturnCodeError):
            session.set_attributes(key, change)
    with pytest.raises(ReturnCodeError):
        session.encrypt(key, ck.plain(ck.CKM_AES_ECB), bytes(16))


@pytest.mark.parametrize(
    "weakness",
    [
        {"EXTRACTABLE": True},
        {"SENSITIVE": False},
        {"WRAP": True},
        {"UNWRAP": True},
        {"DERIVE": True},
        {"SIGN": True},
        {"PRIVATE": False},
        {"VALUE_LEN": 16},
    ],
    ids=lambda weakness: next(iter(weakness)),
)
def test_weak_key_is_refused(
    ring: KeyRing, session: TokenSession, weakness: dict[str, AttributeValue]
) -> None:
    """A key of ours with a single weak attribute stops the start, and names it."""
    new_resident(ring)
    ring.load_all()
    key = new_key()
    _plant(session, key, key_template.label_for(key.ref), **weakness)
    with pytest.raises(KeyUnsafeError, match=f"CKA_{next(iter(weakness))}"):
        ring.load_all()
    with pytest.raises(PolicyRefusedError, match=f"CKA_{next(iter(weakness))}"):
        ring.encrypt(key, b"x", AAD)


def test_imported_key_is_refused(ring: KeyRing, session: TokenSession) -> None:
    """A key whose material came from outside is not taken for one that was made here."""
    key = new_key()
    session.create_object(
        {
            **key_template.resident_secret(KINDS[AES]).fixed,
            "ID": key.ref,
            "LABEL": key_template.label_for(key.ref),
            "VALUE": bytes(32),
        }
    )
    with pytest.raises(KeyUnsafeError, match="CKA_LOCAL"):
        ring.load_all()


def test_two_keys_with_one_id_are_refused(ring: KeyRing, session: TokenSession) -> None:
    """Two keys with the same id stop the start: nobody could say which one encrypts."""
    key = new_resident(ring)
    _plant(session, key, key_template.label_for(key.ref))
    with pytest.raises(KeyUnsafeError, match="two keys"):
        ring.load_all()
    with pytest.raises(KeyAbsentError, match="2 keys"):
        ring.load(key)


def test_foreign_keys_are_left_alone(ring: KeyRing, session: TokenSession) -> None:
    """Keys of others, even with an id as long as ours, are neither checked nor used."""
    key = new_key()
    _plant(session, key, "somebody else's", EXTRACTABLE=True)
    ring.load_all()
    assert ring.key_count == 0
    with pytest.raises(KeyAbsentError):
        ring.encrypt(key, b"x", AAD)


def test_key_of_another_kind_is_refused(ring: KeyRing) -> None:
    """What the metadata says a key is must be what it is on the token."""
    mac = new_resident(ring, MAC)
    aes = new_key(AES)._replace(ref=mac.ref)
    sha384 = new_key((KeySpec.HMAC_384, KeyUsage.GENERATE_VERIFY_MAC))._replace(ref=mac.ref)
    for key in (aes, sha384):
        with pytest.raises(PolicyRefusedError, match="no key of kind"):
            ring.handle(key)


def test_create_is_idempotent(ring: KeyRing, session: TokenSession) -> None:
    """Creating a key twice keeps its material and makes one object."""
    key = new_resident(ring)
    sealed = ring.encrypt(key, b"x", AAD)
    ring.create(key)
    assert ring.decrypt(key, sealed, AAD) == b"x"
    assert len(session.find({"ID": key.ref})) == 1


def test_destroyed_key_is_absent(ring: KeyRing, session: TokenSession) -> None:
    """A key that vanished from a healthy token is absent, and the session goes on."""
    key, other = new_resident(ring), new_resident(ring)
    sealed = ring.encrypt(key, b"x", AAD)
    session.destroy(_raw_key(session, key))
    with pytest.raises(KeyAbsentError):
        ring.decrypt(key, sealed, AAD)
    with pytest.raises(KeyAbsentError):
        ring.encrypt(key, b"x", AAD)
    assert ring.encrypt(other, b"x", AAD)


def test_token_gone_is_a_fault(ring: KeyRing, token: TestToken) -> None:
    """With the token away nothing looks like tampering or a missing key."""
    key = new_resident(ring)
    sealed = ring.encrypt(key, b"x", AAD)
    token.tokens.rename(token.directory / "away")
    try:
        with pytest.raises(HsmFaultError):
            ring.decrypt(key, sealed, AAD)
        with pytest.raises(HsmFaultError):
            ring.encrypt(key, b"x", AAD)
        with pytest.raises(HsmFaultError):
            ring.load(new_key())
        with pytest.raises(HsmFaultError):
            ring.create(new_key())
        with pytest.raises(HsmFaultError):
            ring.check_health()
    finally:
        (token.directory / "away").rename(token.tokens)


def test_a_new_session_goes_on(ring: KeyRing, session: TokenSession) -> None:
    """With the working session replaced, keys work, and so does the health check."""
    key = new_resident(ring)
    sealed = ring.encrypt(key, b"x", AAD)
    session.reopen()
    ring._on_reopened()
    ring.check_health()
    assert ring.decrypt(key, sealed, AAD) == b"x"


def test_open_says_what_is_missing(token: TestToken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Module, token and PIN each have their own refusal, and the PIN is not in it."""
    for name, value in token.settings.module_environment.items():
        monkeypatch.setenv(name, value)
    module, label = str(token.settings.module), token.settings.token_label
    with pytest.raises(ModuleUnusableError, match="no-such-module"):
        TokenSession.open("/no-such-module.so", label, token.pin)
    with pytest.raises(TokenAbsentError, match="another"):
        TokenSession.open(module, "another", token.pin)
    with pytest.raises(PinRefusedError, match="CKR_PIN_INCORRECT") as refusal:
        TokenSession.open(module, label, "not the PIN")
    assert "not the PIN" not in str(refusal.value)
    TokenSession.open(module, label, token.pin).close()


def _vectors() -> Path:
    configured = os.environ.get("STRONGROOM_VECTORS")
    return Path(configured) if configured else Path(__file__).parents[3] / "shared" / "vectors"


def test_wycheproof_aes_gcm(session: TokenSession) -> None:
    """Every Wycheproof vector of our parameters gives its answer inside the module."""
    path = _vectors() / "aes_gcm_test.json"
    if not path.is_file():
        pytest.skip(f"{path}: no test vectors; set STRONGROOM_VECTORS")
    ran = 0
    flags = {**key_template.resident_secret(KINDS[AES]).fixed, "TOKEN": False}
    for group in json.loads(path.read_text())["testGroups"]:
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            continue
        for test in group["tests"]:
            key = session.create_object({**flags, "VALUE": bytes.fromhex(test["key"])})
            iv, aad = bytes.fromhex(test["iv"]), bytes.fromhex(test["aad"])
            message = bytes.fromhex(test["msg"])
            sealed = bytes.fromhex(test["ct"] + test["tag"])
            if test["result"] == "valid":
                assert session.encrypt(key, ck.aes_gcm(iv, aad), message) == sealed, test["tcId"]
                assert session.decrypt(key, ck.aes_gcm(iv, aad), sealed) == message, test["tcId"]
            else:
                with pytest.raises(ReturnCodeError):
                    session.decrypt(key, ck.aes_gcm(iv, aad), sealed)
            session.destroy(key)
            ran += 1
    assert ran > 50
