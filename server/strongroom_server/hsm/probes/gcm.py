"""AES-GCM: known answer, IVs, tags, and the answer to what was tampered with (SP 800-38D)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import known_answers
from strongroom_server.hsm.mechanisms import IV_BYTES, TAG_BYTES
from strongroom_server.hsm.probes.probe import (
    Finding,
    Probe,
    Scratch,
    missing,
    quirk,
    refusal_of,
    works,
)
from strongroom_server.hsm.return_codes import Action, ReturnCodeError

__all__ = ["PROBES"]

_GROUP: Final = "AES-GCM"
_REFUSED: Final = "refuses to start"
_TEXT: Final = b"strongroom doctor"
_AAD: Final = b"context"
_LARGEST_PLAINTEXT: Final = 4096  # docs/formats/ciphertext-blob-v1.md
_LARGEST_AAD: Final = 8214
_SHORT_TAG_BITS: Final = (0, 32, 64, 96, 104, 112, 120)
_OTHER_IVS: Final = (0, 1, 8, 13, 16, 32)


def _known_answer(scratch: Scratch) -> Finding:
    answer = known_answers.GCM
    try:
        key = scratch.imported(answer.key)
    except ReturnCodeError as exc:
        if exc.action is not Action.POLICY:
            raise
        return quirk(f"no key can be imported to test it: {exc}", "used; relies on its self-test")
    sealed = scratch.session.encrypt(key, ck.aes_gcm(answer.iv, answer.aad), answer.plaintext)
    if sealed != answer.sealed:
        return missing("another result than McGrew and Viega's test case 16", _REFUSED)
    return works("McGrew and Viega, test case 16")


def _largest(scratch: Scratch) -> Finding:
    key, aad = scratch.aes(), bytes(_LARGEST_AAD)
    iv, plaintext = scratch.session.random(IV_BYTES), bytes(range(256)) * 16
    sealed = scratch.session.encrypt(key, ck.aes_gcm(iv, aad), plaintext)
    if len(sealed) != len(plaintext) + TAG_BYTES:
        return missing(f"{len(sealed)} bytes from {len(plaintext)}", _REFUSED)
    if scratch.session.decrypt(key, ck.aes_gcm(iv, aad), sealed) != plaintext:
        return missing("decrypts to something else", _REFUSED)
    return works(f"{_LARGEST_PLAINTEXT:,} bytes with {_LARGEST_AAD:,} bytes of context")


def _iv_choice(scratch: Scratch) -> Finding:
    key = scratch.aes()
    first, second = (
        scratch.session.encrypt(key, ck.aes_gcm(bytes(IV_BYTES), _AAD), _TEXT) for _ in range(2)
    )
    if first != second:
        return missing("the module chooses the IV itself", _REFUSED)
    return works("the caller's IV is used", "12 bytes from the HSM's generator, never reused")


def _other_ivs(scratch: Scratch) -> Finding:
    key = scratch.aes()
    taken = [
        size
        for size in _OTHER_IVS
        if not refusal_of(
            lambda size=size: scratch.session.encrypt(key, ck.aes_gcm(bytes(size), _AAD), _TEXT)  # type: ignore[misc]  # bound per round
        )
    ]
    detail = f"takes IVs of {', '.join(map(str, taken))} bytes" if taken else "takes 12 bytes only"
    # SP 800-38D, 5.2.1.1: 1 to 2^64 - 1 bits.
    return quirk(detail, "12 bytes, always") if 0 in taken else works(detail, "12 bytes, always")


def _short_tags(scratch: Scratch) -> Finding:
    key, iv = scratch.aes(), scratch.session.random(IV_BYTES)
    made = [
        bits
        for bits in _SHORT_TAG_BITS
        if not refusal_of(
            lambda bits=bits: scratch.session.encrypt(  # type: ignore[misc]  # bound per round
                key, ck.aes_gcm(iv, _AAD, tag_bits=bits), _TEXT
            )
        )
    ]
    # SP 800-38D, 5.2.1.2: 96 bits and more, or 32 and 64 for few uses.
    allowed = [bits for bits in made if bits >= 96]  # noqa: PLR2004 - the clause above
    if made == allowed:
        return works("no tags below 96 bits", "128 bits, always")
    return quirk(f"makes tags of {', '.join(map(str, made))} bits", "128 bits, always")


def _refuses(change: Callable[[bytes], bytes], aad: bytes = _AAD) -> Callable[[Scratch], Finding]:
    def run(scratch: Scratch) -> Finding:
        key, iv = scratch.aes(), scratch.session.random(IV_BYTES)
        sealed = scratch.session.encrypt(key, ck.aes_gcm(iv, _AAD), _TEXT)
        refusal = refusal_of(
            lambda: scratch.session.decrypt(key, ck.aes_gcm(iv, aad), change(sealed))
        )
        if refusal is None:
            return missing("accepted", _REFUSED)
        if refusal.action is Action.CALLER:
            return works(str(refusal), "the caller's fault")
        if refusal.action is Action.AMBIGUOUS:
            return quirk(str(refusal), "a canary tells it from a fault")
        return missing(f"answers {refusal}", _REFUSED)

    return run


def _flip(at: int) -> Callable[[bytes], bytes]:
    def change(sealed: bytes) -> bytes:
        forged = bytearray(sealed)
        forged[at] ^= 1
        return bytes(forged)

    return change


PROBES: Final = (
    Probe("gcm-known-answer", _GROUP, _known_answer, _REFUSED, is_needed=True),
    Probe("gcm-largest", _GROUP, _largest, _REFUSED, is_needed=True),
    Probe("gcm-iv-choice", _GROUP, _iv_choice, _REFUSED, is_needed=True),
    Probe("gcm-other-iv", _GROUP, _other_ivs, "12 bytes, always"),
    Probe("gcm-short-tags", _GROUP, _short_tags, "128 bits, always"),
    Probe("gcm-tamper-ciphertext", _GROUP, _refuses(_flip(0)), _REFUSED, is_needed=True),
    Probe("gcm-tamper-tag", _GROUP, _refuses(_flip(-1)), _REFUSED, is_needed=True),
    Probe(
        "gcm-tamper-aad",
        _GROUP,
        _refuses(lambda sealed: sealed, b"other"),
        _REFUSED,
        is_needed=True,
    ),
    Probe("gcm-cut", _GROUP, _refuses(lambda sealed: sealed[:8]), _REFUSED, is_needed=True),
)
