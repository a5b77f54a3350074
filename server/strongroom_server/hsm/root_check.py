"""Whether a wrapping root is still the key that it was when it was made.

A root whose stored value was damaged, or that another one has taken the place of (a wrong
backup), wraps and unwraps without complaint. What lies under the true one does not unwrap
under it, which shows; but new material would be wrapped under it, and be lost on the day
that the token is repaired. So each root has a *check* on the token beside it: a key that
can do nothing, whose CKA_ID is a random key wrapped under the root when that was new.
AES key wrap has an integrity check of its own (RFC 3394, 2.2.3), so what unwraps under a
root was wrapped under it.

No secret: the wrapped key is used for nothing else, and is never unwrapped to be used.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.handles import session_objects
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
from strongroom_server.hsm.key_template import Hardening
from strongroom_server.hsm.return_codes import Action, ReturnCodeError
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.token_objects import find_patiently

__all__ = ["CHECK_KIND", "find_checks", "is_same_root", "make_check"]

CHECK_KIND: Final[KeyKind] = KINDS[KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT]
"""What the wrapped key is."""

_NO_HARDENING: Final = Hardening(modifiable=False, copyable=False, allowed_mechanisms=False)


def find_checks(session: TokenSession, number: int) -> list[bytes]:
    """Return what was wrapped under a root when it was new; nothing for an older release's.

    More than one when two processes made the root's check at once: each is good.

    Raises:
        ReturnCodeError: Session, token or module failed.
    """
    label = key_template.label_for_root_check(number)
    return [
        shown
        for handle in find_patiently(session, {"TOKEN": True, "LABEL": label})
        if isinstance(shown := session.attributes(handle, ("ID",)).get("ID"), bytes)
    ]


def make_check(session: TokenSession, number: int, wrapped: bytes, hardening: Hardening) -> None:
    """Keep on the token what was just wrapped under a new root.

    Raises:
        ReturnCodeError: Session, token or module failed; or the token is full.
    """
    template = key_template.root_check().named(wrapped, key_template.label_for_root_check(number))
    session.generate_key(ck.plain(ck.CKM_AES_KEY_GEN), template.to_make(hardening))


def is_same_root(
    session: TokenSession,
    root: KeyHandle,
    checks: Collection[bytes],
    *,
    ambiguous: frozenset[int] = frozenset(),
) -> bool:
    """Say whether a root unwraps one of its checks.

    Args:
        session: Logged in.
        root: The root.
        checks: From `find_checks`, one or more.
        ambiguous: Codes that this module also answers to bad input (`quirks`).

    Raises:
        ReturnCodeError: It is not the check that is bad: the root does not even unwrap what
            it has just wrapped, or session, token or module failed.
    """
    for wrapped in checks:
        # Twice, with proof in between that the root works: a passing fault must not look
        # like another root.
        for is_last in (False, True):
            try:
                _unwrap(session, root, wrapped)
            except ReturnCodeError as exc:
                blames_input = exc.action in {Action.CALLER, Action.AMBIGUOUS}
                if not blames_input and exc.rv not in ambiguous:
                    raise
                if not is_last:
                    _unwrap_fresh(session, root)
            else:
                return True
    return False


def _unwrap_fresh(session: TokenSession, root: KeyHandle) -> None:
    birth = key_template.material_at_birth(CHECK_KIND, only_for_trusted=False)
    with session_objects(session) as objects:
        made = objects.keep(
            session.generate_key(ck.plain(CHECK_KIND.generate), birth.to_make(_NO_HARDENING))
        )
        _unwrap(session, root, session.wrap(root, ck.aes_key_wrap(), made))


def _unwrap(session: TokenSession, root: KeyHandle, wrapped: bytes) -> None:
    template = key_template.passing_material(CHECK_KIND).to_make(_NO_HARDENING)
    with session_objects(session) as objects:
        objects.keep(session.unwrap(root, ck.aes_key_wrap(), wrapped, template))
