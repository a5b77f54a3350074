"""Whether keys can be kept outside the token, wrapped, and whether they stay in otherwise."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template, known_answers
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
from strongroom_server.hsm.return_codes import Action, ModuleUnusableError, ReturnCodeError
from strongroom_server.hsm.token import KeyHandle, TokenSession

__all__ = ["Wrapping", "check_wrapping", "unwraps_only_sensitive"]

_AES: Final[KeyKind] = KINDS[(KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)]
_IV: Final = bytes(12)  # under a key that lives for one check
_TEXT: Final = b"strongroom wrap check"


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What was found; `Capabilities` says what each means."""

    refusal: str
    keeps_in: bool
    with_trusted: bool


def check_wrapping(session: TokenSession, mechanisms: Container[int]) -> Wrapping:
    """Wrap and unwrap once as wrapped storage does, with session objects.

    Args:
        session: Logged in.
        mechanisms: Those of its token.

    Raises:
        ModuleUnusableError: AES key wrap gives wrong results, or takes forgeries.
        ReturnCodeError: Session, token or module failed.
    """
    if ck.CKM_AES_KEY_WRAP not in mechanisms:
        return Wrapping("CKM_AES_KEY_WRAP is missing", keeps_in=True, with_trusted=False)
    made: list[KeyHandle] = []
    try:
        _check_known_answer(session, made)
        root = _generate(session, made, _session_object(key_template.root().fixed))
        refusal = _check_round_trip(session, root, made)
        if refusal:
            return Wrapping(refusal, keeps_in=True, with_trusted=False)
        return Wrapping(
            "",
            keeps_in=_is_kept(session, root, made, {"EXTRACTABLE": False}),
            with_trusted=_is_kept(session, root, made, {"WRAP_WITH_TRUSTED": True}),
        )
    finally:
        for key in made:
            session.destroy(key)


def unwraps_only_sensitive(session: TokenSession) -> bool:
    """Say whether CKA_UNWRAP_TEMPLATE of a root is taken and acted upon.

    Then whoever has the PIN and the database cannot unwrap material as a key that can be
    read (SoftHSM acts upon it, NSS takes it and does not).

    Raises:
        ReturnCodeError: Session, token or module failed.
    """
    made: list[KeyHandle] = []
    template = {
        **_session_object(key_template.root().fixed),
        "UNWRAP_TEMPLATE": {"SENSITIVE": True},
    }
    unwrapped = key_template.unwrapped_material(_AES).fixed
    birth = key_template.material_at_birth(_AES, only_for_trusted=False).fixed
    try:
        root = _generate(session, made, template)
        wrapped = session.wrap(root, ck.aes_key_wrap(), _generate(session, made, birth))
        made.append(session.unwrap(root, ck.aes_key_wrap(), wrapped, unwrapped))
        try:
            readable = {**unwrapped, "SENSITIVE": False}
            made.append(session.unwrap(root, ck.aes_key_wrap(), wrapped, readable))
        except ReturnCodeError:
            return True
        return session.attributes(made[-1], ("SENSITIVE",)) == {"SENSITIVE": True}
    except ReturnCodeError as exc:
        if exc.action in {Action.POLICY, Action.AMBIGUOUS}:
            return False
        raise
    finally:
        for key in made:
            session.destroy(key)


def _check_known_answer(session: TokenSession, made: list[KeyHandle]) -> None:
    answer = known_answers.KEY_WRAP
    root = _session_object(key_template.root().fixed)
    try:
        made.append(session.create_object({**root, "VALUE": answer.key}))
        material = {**key_template.material_at_birth(_AES, only_for_trusted=False).fixed}
        made.append(session.create_object({**material, "VALUE": answer.material}))
    except ReturnCodeError as exc:
        if exc.action is Action.POLICY:
            return  # FIPS mode imports nothing in the clear; the module tested itself
        raise
    if session.wrap(made[-2], ck.aes_key_wrap(), made[-1]) != answer.wrapped:
        raise ModuleUnusableError("CKM_AES_KEY_WRAP fails its known-answer test (RFC 3394, 4.6)")


def _check_round_trip(session: TokenSession, root: KeyHandle, made: list[KeyHandle]) -> str:
    """Return why it cannot be used, or nothing."""
    birth = key_template.material_at_birth(_AES, only_for_trusted=False).fixed
    unwrapped = key_template.unwrapped_material(_AES).fixed
    try:
        material = _generate(session, made, birth)
        wrapped = session.wrap(root, ck.aes_key_wrap(), material)
        again = [session.unwrap(root, ck.aes_key_wrap(), wrapped, unwrapped) for _ in range(2)]
    except ReturnCodeError as exc:
        if exc.action is Action.POLICY:
            return f"CKM_AES_KEY_WRAP of a key that is only extractable: {exc}"
        raise
    made.extend(again)
    shown = session.attributes(again[0], ("SENSITIVE", "EXTRACTABLE"))
    if shown != {"SENSITIVE": True, "EXTRACTABLE": False}:
        raise ModuleUnusableError(f"an unwrapped key is not as it was asked for: {shown}")
    # Two unwrapped copies are one key: what the first sealed the second opens.
    sealed = session.encrypt(again[0], ck.aes_gcm(_IV, b""), _TEXT)
    if session.decrypt(again[1], ck.aes_gcm(_IV, b""), sealed) != _TEXT:
        raise ModuleUnusableError("CKM_AES_KEY_WRAP does not give back the key that was wrapped")
    forged = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    try:
        made.append(session.unwrap(root, ck.aes_key_wrap(), forged, unwrapped))
    except ReturnCodeError:
        return ""  # by whichever code: the store is ours, and a bad blob is a fault anyway
    raise ModuleUnusableError("CKM_AES_KEY_WRAP unwraps a forged key (RFC 3394, 2.2.3)")


def _is_kept(
    session: TokenSession,
    root: KeyHandle,
    made: list[KeyHandle],
    attribute: dict[str, AttributeValue],
) -> bool:
    """Say whether a key with `attribute` cannot be wrapped by an untrusted root."""
    birth = key_template.material_at_birth(_AES, only_for_trusted=False).fixed
    try:
        key = _generate(session, made, {**birth, **attribute})
    except ReturnCodeError as exc:
        if exc.action is Action.POLICY:
            return False
        raise
    try:
        session.wrap(root, ck.aes_key_wrap(), key)
    except ReturnCodeError:
        return True  # modules disagree on the code, none of them on the refusal
    return False


def _generate(
    session: TokenSession, made: list[KeyHandle], template: Mapping[str, AttributeValue]
) -> KeyHandle:
    key = session.generate_key(
        ck.plain(ck.CKM_AES_KEY_GEN), {**template, "VALUE_LEN": _AES.key_bytes}
    )
    made.append(key)
    return key


def _session_object(template: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    return {**template, "TOKEN": False}
