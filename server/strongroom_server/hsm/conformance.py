"""What a module must do before a session is used: AES-GCM as SP 800-38D has it.

A known answer, a round trip, the tag's size, and an answer to forged ciphertexts that
`mechanisms` understands. Runs at every worker's start; takes well under a millisecond
on SoftHSM.
"""

from __future__ import annotations

from typing import Final

from strongroom_server.hsm import key_template
from strongroom_server.hsm.mechanisms import (
    IV_BYTES,
    TAG_BYTES,
    Action,
    HsmFaultError,
    ModuleUnusableError,
    ReturnCodeError,
)
from strongroom_server.hsm.token import KeyHandle, TokenSession

__all__ = ["check_module"]

_PROBE_ID: Final = b"strongroom probe"
_TEXT: Final = b"strongroom conformance check"

# McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)", test case 16.
_KNOWN_KEY: Final = bytes.fromhex("feffe9928665731c6d6a8f9467308308") * 2
_KNOWN_IV: Final = bytes.fromhex("cafebabefacedbaddecaf888")
_KNOWN_AAD: Final = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
_KNOWN_PLAINTEXT: Final = bytes.fromhex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
_KNOWN_SEALED: Final = bytes.fromhex(
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
    "76fc6ece0f4e1768cddf8853bb2d551b"
)


def check_module(session: TokenSession) -> KeyHandle:
    """Check AES-GCM; return the private session key used for it, as a probe for later.

    Raises:
        ModuleUnusableError: The module does not do AES-GCM as it should.
        HsmFaultError: Session, token or module failed.
    """
    try:
        _check_known_answer(session)
        return _check_round_trip(session)
    except ReturnCodeError as exc:
        if exc.action is Action.POLICY:
            raise ModuleUnusableError(f"AES-GCM conformance check: {exc}") from exc
        raise HsmFaultError(f"AES-GCM conformance check: {exc}") from exc


def _check_known_answer(session: TokenSession) -> None:
    try:
        key = session.import_session_key(_KNOWN_KEY, key_template.REQUIRED)
    except ReturnCodeError as exc:
        if exc.action is Action.POLICY:
            return  # FIPS mode imports nothing in the clear; the module tested itself
        raise
    sealed = session.encrypt(key, _KNOWN_IV, _KNOWN_PLAINTEXT, _KNOWN_AAD)
    session.destroy(key)
    if sealed != _KNOWN_SEALED:
        raise ModuleUnusableError("AES-GCM fails its known-answer test")


def _check_round_trip(session: TokenSession) -> KeyHandle:
    key = session.generate_aes_key(
        _PROBE_ID, _PROBE_ID.decode(), key_template.REQUIRED, on_token=False, only_gcm=False
    )
    iv = session.random(IV_BYTES)
    sealed = session.encrypt(key, iv, _TEXT, _TEXT)
    if len(sealed) != len(_TEXT) + TAG_BYTES:
        raise ModuleUnusableError("AES-GCM does not append a tag of 16 bytes")
    if session.decrypt(key, iv, sealed, _TEXT) != _TEXT:
        raise ModuleUnusableError("AES-GCM does not return what was encrypted")
    for at in (0, len(sealed) - 1):  # in the ciphertext, in the tag
        forged = bytearray(sealed)
        forged[at] ^= 1
        _check_refused(session, key, iv, bytes(forged), _TEXT)
    _check_refused(session, key, iv, sealed, b"another context")
    return key


def _check_refused(
    session: TokenSession, key: KeyHandle, iv: bytes, forged: bytes, aad: bytes
) -> None:
    try:
        session.decrypt(key, iv, forged, aad)
    except ReturnCodeError as exc:
        if exc.action in {Action.CALLER, Action.AMBIGUOUS}:
            return
        raise ModuleUnusableError(f"AES-GCM answers {exc} to a forged ciphertext") from exc
    raise ModuleUnusableError("AES-GCM accepts a forged ciphertext")
