"""Each return code does what the table says, injected into the real module (H2)."""

from __future__ import annotations

import pytest
from tests.support.hsm_keys import new_key, new_resident, new_wrapped
from tests.support.pkcs11_shim import Shim

from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.return_codes import (
    TABLE,
    Action,
    HsmFaultError,
    HsmTokenError,
    PolicyRefusedError,
    TamperedError,
    action_for,
    name_of,
)
from strongroom_server.hsm.ring_errors import MaterialDamagedError

pytestmark = pytest.mark.hsm

AAD = b"\x01"
CODES = [*sorted(TABLE), 0x80000001]
BUFFER_TOO_SMALL = 0x150

# By action: what an operation gives that meets the code on every call.
ON_DECRYPT: dict[Action, type[HsmTokenError]] = {
    Action.CALLER: TamperedError,
    Action.AMBIGUOUS: HsmFaultError,  # the canary meets it too
    Action.RETRY: HsmFaultError,
    Action.REFIND: HsmFaultError,
    Action.REOPEN: HsmFaultError,
    Action.RELIEVE: PolicyRefusedError,
    Action.REPLACE: HsmFaultError,
    Action.STOP: HsmFaultError,
    Action.POLICY: PolicyRefusedError,
}
ON_ENCRYPT = {**ON_DECRYPT, Action.CALLER: PolicyRefusedError}
ON_UNWRAP = {**ON_DECRYPT, Action.CALLER: HsmFaultError}  # the root's canary meets it too


def test_codes_on_decrypt(faulty_ring: KeyRing, shim: Shim) -> None:
    """Every code, met on every decryption, becomes the error of its action."""
    key = new_resident(faulty_ring)
    sealed = faulty_ring.encrypt(key, b"x", AAD)
    for code in CODES:
        shim.always("C_DecryptInit", code)
        with pytest.raises(ON_DECRYPT[action_for(code)]):
            faulty_ring.decrypt(key, sealed, AAD)
        shim.heal()
        assert faulty_ring.decrypt(key, sealed, AAD) == b"x", name_of(code)


def test_codes_on_encrypt(faulty_ring: KeyRing, shim: Shim) -> None:
    """Every code, met on every encryption, becomes the error of its action, never tampering."""
    key = new_resident(faulty_ring)
    for code in CODES:
        shim.always("C_EncryptInit", code)
        with pytest.raises(ON_ENCRYPT[action_for(code)]):
            faulty_ring.encrypt(key, b"x", AAD)
        shim.heal()
        assert faulty_ring.encrypt(key, b"x", AAD), name_of(code)


def test_codes_on_unwrap(faulty_ring: KeyRing, shim: Shim) -> None:
    """No code that the root meets as well makes a record look damaged."""
    key = new_wrapped(faulty_ring)
    sealed = faulty_ring.encrypt(key, b"x", AAD)
    for code in CODES:
        faulty_ring.wrapping.forget(key)
        shim.always("C_UnwrapKey", code)
        expected = ON_UNWRAP[action_for(code)]
        with pytest.raises((expected, PolicyRefusedError)):
            faulty_ring.decrypt(key, sealed, AAD)
        shim.heal()
        assert faulty_ring.decrypt(key, sealed, AAD) == b"x", name_of(code)


def test_a_damaged_record_is_told_from_a_fault(faulty_ring: KeyRing, shim: Shim) -> None:
    """A code that only this record meets means damage; one that heals means nothing."""
    key = new_wrapped(faulty_ring)
    sealed = faulty_ring.encrypt(key, b"x", AAD)
    faulty_ring.wrapping.check_root(1)
    for code in (0x110, 0x112, 0x40):
        faulty_ring.wrapping.forget(key)
        shim.once("C_UnwrapKey", code)
        with pytest.raises(MaterialDamagedError):
            faulty_ring.decrypt(key, sealed, AAD)
    for code in (0x5, 0x6, 0x2, 0xB3, 0x90, 0xF0):
        faulty_ring.wrapping.forget(key)
        shim.once("C_UnwrapKey", code)
        assert faulty_ring.decrypt(key, sealed, AAD) == b"x", name_of(code)
        assert not shim.is_pending("C_UnwrapKey")


def test_passing_faults_heal(faulty_ring: KeyRing, shim: Shim) -> None:
    """A code that one more call cures is not seen by the caller, least of all as tampering."""
    resident, wrapped = new_resident(faulty_ring), new_wrapped(faulty_ring)
    curable = {Action.RETRY, Action.REFIND, Action.REOPEN, Action.RELIEVE}
    for key in (resident, wrapped):
        sealed = faulty_ring.encrypt(key, b"x", AAD)
        for code in CODES:
            if action_for(code) in {*curable, Action.AMBIGUOUS}:
                shim.once("C_DecryptInit", code)
                assert faulty_ring.decrypt(key, sealed, AAD) == b"x", name_of(code)
                assert not shim.is_pending("C_DecryptInit")
            if action_for(code) in curable:
                shim.once("C_EncryptInit", code)
                assert faulty_ring.encrypt(key, b"x", AAD), name_of(code)


def test_lost_sessions_are_replaced(faulty_ring: KeyRing, shim: Shim) -> None:
    """With its sessions closed behind its back, a ring goes on, unwrapped keys and all (H7)."""
    resident, wrapped = new_resident(faulty_ring), new_wrapped(faulty_ring)
    sealed = {key: faulty_ring.encrypt(key, b"x", AAD) for key in (resident, wrapped)}
    for key in (resident, wrapped):
        shim.once("C_DecryptInit", "drop-sessions 2")  # the working one; the keeper is first
        assert faulty_ring.decrypt(key, sealed[key], AAD) == b"x"
    faulty_ring.check_health()
    assert faulty_ring.create_wrapped(wrapped._replace(wrapped=b""))


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
    refusals = {Action.POLICY, Action.CALLER, Action.RELIEVE}
    for code in CODES:
        shim.always("C_GenerateKey", code)
        refused = action_for(code) in refusals
        with pytest.raises(PolicyRefusedError if refused else HsmFaultError):
            faulty_ring.create(new_key())
        shim.heal()
    faulty_ring.load_all()
    assert faulty_ring.key_count == 0


def test_search_beside_a_generation_is_repeated(faulty_ring: KeyRing, shim: Shim) -> None:
    """GENERAL_ERROR of a search is worth another try; a lasting one is a fault."""
    key = new_resident(faulty_ring)
    shim.once("C_FindObjectsInit", 0x5)
    faulty_ring.load(key)
    assert not shim.is_pending("C_FindObjectsInit")
    shim.always("C_FindObjectsInit", 0x5)
    with pytest.raises(HsmFaultError):
        faulty_ring.load(key)


def test_hidden_keys_are_absent_and_never_damaged(faulty_ring: KeyRing, shim: Shim) -> None:
    """A token that hides a key, or a root, is well and shows none: a fault of the shard."""
    key = new_wrapped(faulty_ring)
    sealed = faulty_ring.encrypt(key, b"x", AAD)
    faulty_ring.wrapping.forget(key)
    shim.once("C_UnwrapKey", 0xF0)  # CKR_UNWRAPPING_KEY_HANDLE_INVALID
    shim.always("C_FindObjects", "hide-objects")
    with pytest.raises(HsmTokenError, match="strongroom-root/1"):
        faulty_ring.decrypt(key, sealed, AAD)
    shim.heal()
    assert faulty_ring.decrypt(key, sealed, AAD) == b"x"


def test_wrong_ciphertext_is_noticed(faulty_ring: KeyRing, shim: Shim) -> None:
    """A ciphertext that the HSM gets wrong silently is never returned."""
    key = new_resident(faulty_ring)
    shim.always("C_Encrypt", "corrupt")
    with pytest.raises(HsmFaultError, match="verify after encrypt"):
        faulty_ring.encrypt(key, b"x" * 32, AAD)
    with pytest.raises(HsmFaultError, match="verify after encrypt"):
        faulty_ring.generate_data_key(key, 32, AAD)


def test_buffer_too_small_is_no_success(faulty_ring: KeyRing, shim: Shim) -> None:
    """A module that wants a larger buffer for no reason gets one more call, and no belief."""
    key = new_resident(faulty_ring)
    shim.always("C_Encrypt", BUFFER_TOO_SMALL)
    with pytest.raises(HsmFaultError):
        faulty_ring.encrypt(key, b"x", AAD)
