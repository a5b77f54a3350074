"""Keys on a real token: what they are, what they refuse, what AES-GCM answers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from tests.support.softhsm import TestToken, new_ref

from strongroom_server.hsm import key_template
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.mechanisms import (
    HsmFaultError,
    KeyAbsentError,
    KeyUnsafeError,
    ModuleUnusableError,
    PinRefusedError,
    ReturnCodeError,
    TamperedError,
    TokenAbsentError,
)
from strongroom_server.hsm.token import TokenSession

pytestmark = pytest.mark.hsm

AAD = b"\x01context"
FLAGS = {"PRIVATE": True, "SENSITIVE": True, "EXTRACTABLE": False, "ENCRYPT": True, "DECRYPT": True}


def _raw_key(session: TokenSession, key_id: bytes) -> Any:
    (key,) = session._session.get_objects({Attribute.ID: key_id})
    return key


def test_round_trip(ring: KeyRing) -> None:
    """What is encrypted comes back, for the smallest and the largest sizes."""
    key_id = new_ref().to_bytes()
    ring.create(key_id)
    for size in (1, 15, 16, 17, 4096):
        for aad in (b"a", bytes(8214)):
            plaintext = os.urandom(size)
            sealed = ring.encrypt(key_id, plaintext, aad)
            assert len(sealed) == 12 + size + 16
            assert ring.decrypt(key_id, sealed, aad) == plaintext


def test_data_key_is_random_and_sealed(ring: KeyRing) -> None:
    """A data key has the asked size, opens from its sealed form, and is never the same."""
    key_id = new_ref().to_bytes()
    ring.create(key_id)
    seen = set()
    for size in (16, 16, 32, 1024):
        plain, sealed = ring.generate_data_key(key_id, size, AAD)
        assert len(plain) == size
        assert ring.decrypt(key_id, sealed, AAD) == plain
        seen |= {plain, sealed[:12]}
    assert len(seen) == 8


def test_every_bit_flip_is_tampering(ring: KeyRing) -> None:
    """Each flipped bit of IV, ciphertext, tag and context gives the one tamper error."""
    key_id = new_ref().to_bytes()
    ring.create(key_id)
    sealed = ring.encrypt(key_id, b"attack at dawn", AAD)
    for bit in range(8 * len(sealed)):
        forged = bytearray(sealed)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError):
            ring.decrypt(key_id, bytes(forged), AAD)
    for bit in range(8 * len(AAD)):
        other = bytearray(AAD)
        other[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError):
            ring.decrypt(key_id, sealed, bytes(other))
    for cut in (sealed[:-1], sealed[:29], sealed + b"\0", sealed[1:]):
        with pytest.raises(TamperedError):
            ring.decrypt(key_id, cut, AAD)
    assert ring.decrypt(key_id, sealed, AAD) == b"attack at dawn"


def test_another_key_does_not_decrypt(ring: KeyRing) -> None:
    """A ciphertext of one version is tampered for another version of the same key."""
    first, second = new_ref(1), new_ref(2)
    for ref in (first, second):
        ring.create(ref.to_bytes())
    sealed = ring.encrypt(first.to_bytes(), b"x", AAD)
    with pytest.raises(TamperedError):
        ring.decrypt(second.to_bytes(), sealed, AAD)


def test_key_attributes_are_explicit(ring: KeyRing, session: TokenSession) -> None:
    """A created key shows every attribute that keeps its material and uses inside."""
    ref = new_ref()
    ring.create(ref.to_bytes())
    key = _raw_key(session, ref.to_bytes())
    shown = key.get_attributes(
        [Attribute[name] for name in key_template.CHECKED] + [Attribute.ALLOWED_MECHANISMS]
    )
    assert {Attribute(number).name: value for number, value in shown.items()} == {
        **key_template.REQUIRED,
        **key_template.HARDENING,
        "TOKEN": True,
        "LOCAL": True,
        "ALWAYS_SENSITIVE": True,
        "NEVER_EXTRACTABLE": True,
        "VALUE_LEN": 32,
        "ALLOWED_MECHANISMS": (Mechanism.AES_GCM,),
    }
    assert key.label == f"strongroom/{ref.key_id}/1"


def test_material_cannot_leave(ring: KeyRing, session: TokenSession) -> None:
    """Reading, wrapping, copying, weakening and other mechanisms are all refused (H8)."""
    key_id = new_ref().to_bytes()
    ring.create(key_id)
    key = _raw_key(session, key_id)
    wrapper: Any = session._session.generate_key(
        KeyType.AES, 256, store=False, template={Attribute.WRAP: True, Attribute.EXTRACTABLE: True}
    )
    with pytest.raises(pkcs11.AttributeSensitive):
        _ = key[Attribute.VALUE]
    with pytest.raises(pkcs11.PKCS11Error):
        wrapper.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)
    with pytest.raises(pkcs11.PKCS11Error):
        key.copy({Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True})
    for attribute, value in (
        (Attribute.EXTRACTABLE, True),
        (Attribute.SENSITIVE, False),
        (Attribute.WRAP, True),
        (Attribute.UNWRAP, True),
        (Attribute.LABEL, "another"),
        (Attribute.MODIFIABLE, True),
    ):
        with pytest.raises(pkcs11.PKCS11Error):
            key[attribute] = value
    with pytest.raises(pkcs11.PKCS11Error):
        key.encrypt(bytes(16), mechanism=Mechanism.AES_ECB)


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
    ],
    ids=lambda weakness: next(iter(weakness)),
)
def test_weak_key_is_refused(
    ring: KeyRing, session: TokenSession, weakness: dict[str, bool]
) -> None:
    """A key of ours with a single weak attribute stops the start, and names it."""
    ring.create(new_ref().to_bytes())
    ring.load_all()
    key_id = new_ref().to_bytes()
    attributes = {**key_template.REQUIRED, **weakness}
    session.generate_aes_key(
        key_id, key_template.label_for(key_id), attributes, on_token=True, only_gcm=False
    )
    with pytest.raises(KeyUnsafeError, match=f"CKA_{next(iter(weakness))}"):
        ring.load_all()


def test_imported_key_is_refused(ring: KeyRing, session: TokenSession) -> None:
    """A key whose material came from outside is not taken for one of ours."""
    key_id = new_ref().to_bytes()
    session._session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.TOKEN: True,
            Attribute.ID: key_id,
            Attribute.LABEL: key_template.label_for(key_id),
            Attribute.VALUE: bytes(32),
            **{Attribute[name]: value for name, value in key_template.REQUIRED.items()},
        }
    )
    with pytest.raises(KeyUnsafeError, match="CKA_LOCAL"):
        ring.load_all()


def test_two_keys_with_one_id_are_refused(ring: KeyRing, session: TokenSession) -> None:
    """Two keys with the same id stop the start: nobody could say which one encrypts."""
    key_id = new_ref().to_bytes()
    ring.create(key_id)
    session.generate_aes_key(
        key_id,
        key_template.label_for(key_id),
        key_template.REQUIRED,
        on_token=True,
        only_gcm=False,
    )
    with pytest.raises(KeyUnsafeError, match="two keys"):
        ring.load_all()
    with pytest.raises(KeyAbsentError, match="2 keys"):
        ring.load(key_id)


def test_foreign_keys_are_left_alone(ring: KeyRing, session: TokenSession) -> None:
    """Keys of others, even with an id as long as ours, are neither checked nor used."""
    key_id = new_ref().to_bytes()
    weak = {**key_template.REQUIRED, "EXTRACTABLE": True}
    session.generate_aes_key(key_id, "somebody else's", weak, on_token=True, only_gcm=False)
    ring.load_all()
    assert ring.key_count == 0
    with pytest.raises(KeyAbsentError):
        ring.encrypt(key_id, b"x", AAD)


def test_create_is_idempotent(ring: KeyRing, session: TokenSession) -> None:
    """Creating a key twice keeps its material and makes one object."""
    key_id = new_ref().to_bytes()
    ring.create(key_id)
    sealed = ring.encrypt(key_id, b"x", AAD)
    ring.create(key_id)
    assert ring.decrypt(key_id, sealed, AAD) == b"x"
    assert len(session.find_aes_keys(key_id=key_id)) == 1


def test_destroyed_key_is_absent(ring: KeyRing, session: TokenSession) -> None:
    """A key that vanished from a healthy token is absent, and the session goes on."""
    key_id, other = new_ref().to_bytes(), new_ref().to_bytes()
    for each in (key_id, other):
        ring.create(each)
    sealed = ring.encrypt(key_id, b"x", AAD)
    _raw_key(session, key_id).destroy()
    with pytest.raises(KeyAbsentError):
        ring.decrypt(key_id, sealed, AAD)
    with pytest.raises(KeyAbsentError):
        ring.encrypt(key_id, b"x", AAD)
    assert ring.encrypt(other, b"x", AAD)


def test_token_gone_is_a_fault(ring: KeyRing, token: TestToken) -> None:
    """With the token away nothing looks like tampering or a missing key."""
    key_id = new_ref().to_bytes()
    ring.create(key_id)
    sealed = ring.encrypt(key_id, b"x", AAD)
    token.tokens.rename(token.directory / "away")
    try:
        with pytest.raises(HsmFaultError):
            ring.decrypt(key_id, sealed, AAD)
        with pytest.raises(HsmFaultError):
            ring.encrypt(key_id, b"x", AAD)
        with pytest.raises(HsmFaultError):
            ring.load(new_ref().to_bytes())
        with pytest.raises(HsmFaultError):
            ring.create(new_ref().to_bytes())
        with pytest.raises(HsmFaultError):
            ring.check_health()
    finally:
        (token.directory / "away").rename(token.tokens)


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
    for group in json.loads(path.read_text())["testGroups"]:
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            continue
        for test in group["tests"]:
            key = session.import_session_key(bytes.fromhex(test["key"]), FLAGS)
            iv, aad = bytes.fromhex(test["iv"]), bytes.fromhex(test["aad"])
            message = bytes.fromhex(test["msg"])
            sealed = bytes.fromhex(test["ct"] + test["tag"])
            if test["result"] == "valid":
                assert session.encrypt(key, iv, message, aad) == sealed, test["tcId"]
                assert session.decrypt(key, iv, sealed, aad) == message, test["tcId"]
            else:
                with pytest.raises(ReturnCodeError):
                    session.decrypt(key, iv, sealed, aad)
            session.destroy(key)
            ran += 1
    assert ran > 50
