"""Each return code does what the table says, injected into the real module (H2)."""

from __future__ import annotations

import pytest
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import new_ref

from strongroom_server.hsm import mechanisms
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.mechanisms import (
    Action,
    HsmFaultError,
    HsmTokenError,
    PolicyRefusedError,
    TamperedError,
)

pytestmark = pytest.mark.hsm

AAD = b"\x01"
CODES = [*sorted(mechanisms._CODES), 0x80000001]

# By action: what an operation gives that meets the code on every call.
ON_DECRYPT: dict[Action, type[HsmTokenError]] = {
    Action.CALLER: TamperedError,
    Action.AMBIGUOUS: HsmFaultError,  # the canary meets it too
    Action.RETRY: HsmFaultError,
    Action.REFIND: HsmFaultError,
    Action.REPLACE: HsmFaultError,
    Action.STOP: HsmFaultError,
    Action.POLICY: PolicyRefusedError,
}
ON_ENCRYPT = {**ON_DECRYPT, Action.CALLER: HsmFaultError}


def test_codes_on_decrypt(faulty_ring: KeyRing, shim: Shim) -> None:
    """Every code, met on every decryption, becomes the error of its action."""
    key_id = new_ref().to_bytes()
    faulty_ring.create(key_id)
    sealed = faulty_ring.encrypt(key_id, b"x", AAD)
    for code in CODES:
        shim.always("C_DecryptInit", code)
        with pytest.raises(ON_DECRYPT[mechanisms.action_for(code)]):
            faulty_ring.decrypt(key_id, sealed, AAD)
        shim.heal()
        assert faulty_ring.decrypt(key_id, sealed, AAD) == b"x", mechanisms.name_of(code)


def test_codes_on_encrypt(faulty_ring: KeyRing, shim: Shim) -> None:
    """Every code, met on every encryption, becomes the error of its action, never tampering."""
    key_id = new_ref().to_bytes()
    faulty_ring.create(key_id)
    for code in CODES:
        shim.always("C_EncryptInit", code)
        with pytest.raises(ON_ENCRYPT[mechanisms.action_for(code)]):
            faulty_ring.encrypt(key_id, b"x", AAD)
        shim.heal()
        assert faulty_ring.encrypt(key_id, b"x", AAD), mechanisms.name_of(code)


def test_passing_faults_heal(faulty_ring: KeyRing, shim: Shim) -> None:
    """A code that one more call cures is not seen by the caller, least of all as tampering."""
    key_id = new_ref().to_bytes()
    faulty_ring.create(key_id)
    sealed = faulty_ring.encrypt(key_id, b"x", AAD)
    curable = {Action.RETRY, Action.REFIND, Action.AMBIGUOUS}
    # BUFFER_TOO_SMALL cannot come from C_DecryptInit, and the library takes it for success.
    codes = [code for code in CODES if code != 0x150]
    for code in codes:
        if mechanisms.action_for(code) not in curable:
            continue
        shim.once("C_DecryptInit", code)
        assert faulty_ring.decrypt(key_id, sealed, AAD) == b"x", mechanisms.name_of(code)
        assert not shim.is_pending("C_DecryptInit")
    for code in codes:
        if mechanisms.action_for(code) not in curable - {Action.AMBIGUOUS}:
            continue
        shim.once("C_EncryptInit", code)
        assert faulty_ring.encrypt(key_id, b"x", AAD), mechanisms.name_of(code)


def test_codes_on_random(faulty_ring: KeyRing, shim: Shim) -> None:
    """A generator that fails is a fault, with no random bytes made up."""
    for code in CODES:
        shim.always("C_GenerateRandom", code)
        with pytest.raises(HsmFaultError):
            faulty_ring.random(32)
        shim.heal()
    assert len(faulty_ring.random(32)) == 32


def test_codes_on_create(faulty_ring: KeyRing, shim: Shim) -> None:
    """A refused generation says so, a failed one is a fault, and both leave no key."""
    for code in CODES:
        key_id = new_ref().to_bytes()
        shim.always("C_GenerateKey", code)
        refused = mechanisms.action_for(code) is Action.POLICY
        with pytest.raises(PolicyRefusedError if refused else HsmFaultError):
            faulty_ring.create(key_id)
        shim.heal()
    faulty_ring.load_all()
    assert faulty_ring.key_count == 0


def test_template_refusal_leaves_hardening_out(faulty_ring: KeyRing, shim: Shim) -> None:
    """A module that does not take the optional attributes gets a key with the required ones."""
    key_id = new_ref().to_bytes()
    shim.once("C_GenerateKey", 0x12)  # CKR_ATTRIBUTE_TYPE_INVALID
    faulty_ring.create(key_id)
    assert not shim.is_pending("C_GenerateKey")
    assert faulty_ring.encrypt(key_id, b"x", AAD)
    faulty_ring.load_all()
    assert faulty_ring.key_count == 1


# The library finishes a failed search once more when it forgets it, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_search_beside_a_generation_is_repeated(faulty_ring: KeyRing, shim: Shim) -> None:
    """GENERAL_ERROR of a search is worth another try; a lasting one is a fault."""
    key_id = new_ref().to_bytes()
    faulty_ring.create(key_id)
    shim.once("C_FindObjectsInit", 0x5)
    faulty_ring.load(key_id)
    assert not shim.is_pending("C_FindObjectsInit")
    shim.always("C_FindObjectsInit", 0x5)
    with pytest.raises(HsmFaultError):
        faulty_ring.load(key_id)


def test_wrong_ciphertext_is_noticed(faulty_ring: KeyRing, shim: Shim) -> None:
    """A ciphertext that the HSM gets wrong silently is never returned."""
    key_id = new_ref().to_bytes()
    faulty_ring.create(key_id)
    shim.always("C_Encrypt", "corrupt")
    with pytest.raises(HsmFaultError, match="verify after encrypt"):
        faulty_ring.encrypt(key_id, b"x" * 32, AAD)
    with pytest.raises(HsmFaultError, match="verify after encrypt"):
        faulty_ring.generate_data_key(key_id, 32, AAD)
