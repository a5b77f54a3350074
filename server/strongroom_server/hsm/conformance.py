"""What a module must do before a session is used, and what else it can do: the short form.

Runs at every worker's start, in a few milliseconds on SoftHSM, with session objects only:
known answers, round trips, and whether what must be refused is refused. The long form is
`strongroom hsm doctor` (`doctor`). What the server cannot do without and the module lacks
is a ModuleUnusableError that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template, known_answers, quirks
from strongroom_server.hsm.capabilities import Capabilities
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
from strongroom_server.hsm.key_template import Hardening
from strongroom_server.hsm.mechanisms import IV_BYTES, TAG_BYTES
from strongroom_server.hsm.return_codes import (
    Action,
    HsmFaultError,
    ModuleUnusableError,
    ReturnCodeError,
)
from strongroom_server.hsm.supported_kinds import find_kinds
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.wrap_check import check_wrapping, unwraps_only_sensitive

__all__ = ["AES", "check_module"]

_PROBE_ID: Final = b"strongroom probe"
_TEXT: Final = b"strongroom conformance check"
_ORIGIN: Final = ("LOCAL", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE")

AES: Final[KeyKind] = KINDS[(KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)]


def check_module(
    session: TokenSession, *, needs_wrap: bool = False
) -> tuple[Capabilities, KeyHandle]:
    """Check the module behind a session.

    Args:
        session: Logged in.
        needs_wrap: New keys are to be wrapped: then a module that cannot is of no use.

    Returns:
        What it can do, and a private session key that does AES-GCM, as a probe for later.

    Raises:
        ModuleUnusableError: It lacks what the server needs; the message has the cure.
        HsmFaultError: Session, token or module failed.
    """
    try:
        _check_known_answer(session)
        probe, untold = _check_round_trip(session)
        known = quirks.quirks_of(session.info())
        mechanisms = session.mechanisms()
        wrapping = check_wrapping(session, mechanisms)
        kinds, algorithms = find_kinds(session, mechanisms)
        hardening = _find_hardening(session, can_wrap=not wrapping.refusal)
    except ReturnCodeError as exc:
        if exc.action is Action.POLICY:
            raise ModuleUnusableError(f"conformance check: {exc}") from exc
        raise HsmFaultError(f"conformance check: {exc}") from exc
    if not wrapping.keeps_in and not any(quirk.lets_keys_out for quirk in known):
        raise ModuleUnusableError(
            "the module wraps a key that is not CKA_EXTRACTABLE: whoever has the PIN can take "
            "keys out, and this is no module known to be for development; use another, or its "
            "FIPS mode (`strongroom hsm doctor` shows more)"
        )
    if needs_wrap and wrapping.refusal:
        raise ModuleUnusableError(
            f"storage wrapped is not possible with this module: {wrapping.refusal}; set "
            'default_storage = "resident", or use a module with CKM_AES_KEY_WRAP'
        )
    return (
        Capabilities(
            hardening=hardening,
            untold_origin=untold,
            keeps_in=wrapping.keeps_in,
            wrap_refusal=wrapping.refusal,
            wrap_with_trusted=wrapping.with_trusted,
            kinds=kinds,
            algorithms=algorithms,
            ambiguous=frozenset(code for quirk in known for code in quirk.ambiguous),
            quirks=tuple(quirk.id for quirk in known),
        ),
        probe,
    )


def _check_known_answer(session: TokenSession) -> None:
    answer = known_answers.GCM
    try:
        key = session.create_object({**_session_secret(), "VALUE": answer.key})
    except ReturnCodeError as exc:
        if exc.action is Action.POLICY:
            return  # FIPS mode imports nothing in the clear; the module tested itself
        raise
    sealed = session.encrypt(key, ck.aes_gcm(answer.iv, answer.aad), answer.plaintext)
    session.destroy(key)
    if sealed != answer.sealed:
        raise ModuleUnusableError(
            "AES-GCM fails its known-answer test: the module is broken, or chooses the IV "
            "itself, which is not supported"
        )


def _check_round_trip(session: TokenSession) -> tuple[KeyHandle, frozenset[str]]:
    template = {**_session_secret(), "ID": _PROBE_ID, "VALUE_LEN": AES.key_bytes}
    key = session.generate_key(ck.plain(AES.generate), template)
    shown = session.attributes(key, (*template, *_ORIGIN))
    weak = [name for name, value in _session_secret().items() if shown.get(name) != value]
    if weak:
        raise ModuleUnusableError(
            f"a key shows other attributes than it was made with: CKA_{', CKA_'.join(weak)}"
        )
    iv = session.random(IV_BYTES)
    sealed = session.encrypt(key, ck.aes_gcm(iv, _TEXT), _TEXT)
    if len(sealed) != len(_TEXT) + TAG_BYTES:
        raise ModuleUnusableError("AES-GCM does not append a tag of 16 bytes")
    if session.decrypt(key, ck.aes_gcm(iv, _TEXT), sealed) != _TEXT:
        raise ModuleUnusableError(
            "AES-GCM does not return what was encrypted: a module that chooses the IV itself "
            "is not supported"
        )
    for at in (0, len(sealed) - 1):  # in the ciphertext, in the tag
        forged = bytearray(sealed)
        forged[at] ^= 1
        _check_refused(session, key, iv, bytes(forged), _TEXT)
    _check_refused(session, key, iv, sealed, b"another context")
    return key, frozenset(name for name in _ORIGIN if shown.get(name) is not True)


def _check_refused(
    session: TokenSession, key: KeyHandle, iv: bytes, forged: bytes, aad: bytes
) -> None:
    try:
        session.decrypt(key, ck.aes_gcm(iv, aad), forged)
    except ReturnCodeError as exc:
        if exc.action in {Action.CALLER, Action.AMBIGUOUS}:
            return
        raise ModuleUnusableError(f"AES-GCM answers {exc} to a forged ciphertext") from exc
    raise ModuleUnusableError("AES-GCM accepts a forged ciphertext")


def _find_hardening(session: TokenSession, *, can_wrap: bool) -> Hardening:
    """Find which attributes the module takes and acts upon, one key for each."""
    return Hardening(
        modifiable=_is_refused(
            session,
            {"MODIFIABLE": False},
            lambda key: session.set_attributes(key, {"LABEL": "changed"}),
        ),
        copyable=_is_refused(
            session,
            {"COPYABLE": False},
            lambda key: session.destroy(session.copy(key, {"LABEL": "copy"})),
        ),
        allowed_mechanisms=_is_refused(
            session,
            {"ALLOWED_MECHANISMS": AES.mechanisms},
            lambda key: session.encrypt(key, ck.plain(ck.CKM_AES_ECB), bytes(16)),
        ),
        unwrap_template=unwraps_only_sensitive(session) if can_wrap else False,
    )


def _is_refused(
    session: TokenSession,
    attribute: dict[str, AttributeValue],
    act: Callable[[KeyHandle], object],
) -> bool:
    """Say whether a key with `attribute` can be made, and then refuses `act`."""
    template = {**_session_secret(), "VALUE_LEN": AES.key_bytes, **attribute}
    try:
        key = session.generate_key(ck.plain(AES.generate), template)
    except ReturnCodeError as exc:
        if exc.action in {Action.POLICY, Action.AMBIGUOUS}:
            return False
        raise
    try:
        act(key)
    except ReturnCodeError as exc:
        if exc.action is Action.POLICY:
            return True
        raise
    finally:
        session.destroy(key)
    return False


def _session_secret() -> dict[str, AttributeValue]:
    return {**key_template.resident_secret(AES).fixed, "TOKEN": False}
