"""Destroys the token objects of a key version, and makes sure that they are gone."""

from __future__ import annotations

from collections.abc import Callable

from strongroom_server.hsm import key_template
from strongroom_server.hsm.ladder import Ladder
from strongroom_server.hsm.return_codes import PolicyRefusedError
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.token_objects import find_patiently

__all__ = ["destroy_version"]


def destroy_version(
    session: TokenSession, ladder: Ladder, ref: bytes, check_health: Callable[[], None]
) -> None:
    """Destroy every object of this id, both halves of a pair; idempotent.

    Objects of others that happen to carry the id, with another label, are left alone.

    Raises:
        PolicyRefusedError: The module refuses (CKA_DESTROYABLE), or goes on showing one.
        HsmFaultError: Session, token or module failed; some may be gone.
    """

    def destroy_found() -> None:
        for handle in _search(session, ref):
            session.destroy(handle)

    # A handle that went stale between search and call was destroyed by another process:
    # the repetition searches anew.
    ladder.run(destroy_found, what="destroy", refind=lambda: None)
    left = ladder.run(lambda: _search(session, ref), what="find")
    if left:
        check_health()
        raise PolicyRefusedError(
            f"{key_template.label_for(ref)}: destroyed, and {len(left)} objects are still there"
        )


def _search(session: TokenSession, ref: bytes) -> list[KeyHandle]:
    found = []
    for handle in find_patiently(session, {"TOKEN": True, "ID": ref}):
        shown = session.attributes(handle, ("ID", "LABEL"))
        if key_template.key_id_of(shown.get("ID"), shown.get("LABEL")) is not None:
            found.append(handle)
    return found
