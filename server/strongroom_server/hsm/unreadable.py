"""Objects on the token that the module cannot read, though it is well otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.return_codes import Action, ReturnCodeError
from strongroom_server.hsm.token import KeyHandle, TokenSession

__all__ = ["UnreadableObjects"]

_PAUSE_SECONDS: Final = 0.01
_MAX_OBJECTS: Final = 16
_OF_ONE_OBJECT: Final = frozenset({Action.POLICY, Action.AMBIGUOUS, Action.REFIND})


class UnreadableObjects:
    """Objects whose attributes the module cannot read, and the token is well otherwise.

    One damaged object must not keep a whole region down. It is left out, so a key of ours
    among them is missing until the token is repaired; a person is told.
    """

    def __init__(self, check_health: Callable[[], None]):
        """Take what raises unless token and login are well."""
        self._check_health = check_health
        self.count = 0
        self.first = ""

    def read(
        self, session: TokenSession, handle: KeyHandle, names: Sequence[str]
    ) -> dict[str, AttributeValue] | None:
        """Read an object's attributes; None when that is not to be had.

        Raises:
            ReturnCodeError: It is not this object alone: session, token or module failed,
                or too many objects are like this.
        """
        for is_last in (False, True):
            try:
                return session.attributes(handle, names)
            except ReturnCodeError as exc:
                if exc.action not in _OF_ONE_OBJECT or self.count >= _MAX_OBJECTS:
                    raise
                if is_last:
                    self._check_health()
                    self.count += 1
                    self.first = self.first or str(exc)
                else:
                    time.sleep(_PAUSE_SECONDS)
        return None

    def __str__(self) -> str:
        """Say what was left out; empty when nothing was."""
        if not self.count:
            return ""
        return (
            f"objects on the token that cannot be read: {self.count}, the first with "
            f"{self.first}; a key among them is missing until the token is restored"
        )
