"""The error ladder: from a return code to what is done about it, one rung at a time.

    caller's fault      → TamperedError; nothing is repeated
    ambiguous           → a canary in the same session; good: once more, then TamperedError
    passing             → once more
    stale handle        → search again, once more
    broken session      → another session, once more
    refused as such     → PolicyRefusedError
    anything else       → HsmFaultError: the worker ends, the pool repeats it elsewhere

At most one more call, whatever happens: the next rung is another process, which starts
clean. Which code is on which rung is `return_codes`' table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from strongroom_server.hsm.return_codes import (
    Action,
    AmbiguousFaultError,
    HsmFaultError,
    PolicyRefusedError,
    ReturnCodeError,
    TamperedError,
    TokenFullError,
)

__all__ = ["Ladder", "Reopenable"]

T = TypeVar("T")

_CKR_HOST_MEMORY: Final = 0x002
_MEMORY_PAUSE_SECONDS: Final = 0.05


class Reopenable(Protocol):
    """What the ladder asks of a session."""

    def reopen(self) -> None:
        """Take another working session of the same login."""
        ...


class Ladder:
    """Runs calls of one session, and recovers.

    Thread safety: none; one thread.
    """

    def __init__(
        self,
        session: Reopenable,
        *,
        on_reopened: Callable[[], None],
        ambiguous: frozenset[int] = frozenset(),
        pause: Callable[[float], None] = time.sleep,
    ):
        """Take a session.

        Args:
            session: The session that the calls use.
            on_reopened: Makes good what went with the old session: its session objects.
                May use the session; runs before the call is repeated.
            ambiguous: Codes that this module, against the table, also answers to bad
                input (`quirks`).
            pause: Waits so many seconds.
        """
        self._session = session
        self._on_reopened = on_reopened
        self._ambiguous = ambiguous
        self._pause = pause

    def run(
        self,
        call: Callable[[], T],
        *,
        what: str,
        canary: Callable[[], None] | None = None,
        refind: Callable[[], None] | None = None,
    ) -> T:
        """Return what `call` returns, after at most one repetition.

        Args:
            call: The operation. Looks its handles up itself, so that after `refind`, or
                in another session, it uses the new ones. Other errors than
                ReturnCodeError pass through.
            what: Its name, for messages.
            canary: For operations on input that may be bad (decryption, verification,
                unwrapping): does the like with input that is known to be good, in the
                same session and with the same key; raises ReturnCodeError or
                HsmFaultError when that fails. Without one, no code blames the input.
            refind: Searches for the key again and keeps the handle; raises KeyAbsentError
                when the token is well and shows no such key. Without one, a stale handle
                is a fault.

        Raises:
            TamperedError: The input is bad, and the HSM is well.
            PolicyRefusedError: The module refuses as such; the session is well.
            TokenFullError: It has no room.
            KeyAbsentError: From `refind`.
            AmbiguousFaultError: The HSM or one key of it failed.
            HsmFaultError: Anything else; neither the session nor this process is of any
                more use.
        """
        try:
            return call()
        except ReturnCodeError as exc:
            first = exc
        self._prepare(first, what, canary, refind)
        try:
            return call()
        except ReturnCodeError as exc:
            raise self._last_word(first, exc, what, canary) from exc

    def _prepare(
        self,
        error: ReturnCodeError,
        what: str,
        canary: Callable[[], None] | None,
        refind: Callable[[], None] | None,
    ) -> None:
        """Do what `error` obliges us to before the call is repeated; or raise what it means."""
        try:
            match self._action_of(error):
                case Action.CALLER if canary is not None:
                    raise TamperedError from error
                case Action.CALLER | Action.POLICY:
                    raise PolicyRefusedError(f"{what}: {error}") from error
                case Action.AMBIGUOUS if canary is not None:
                    # Good: once more all the same, for a passing fault must not look
                    # like tampering.
                    canary()
                case Action.RETRY:
                    if error.rv == _CKR_HOST_MEMORY:
                        self._pause(_MEMORY_PAUSE_SECONDS)
                case Action.REFIND if refind is not None:
                    refind()
                case Action.REOPEN | Action.RELIEVE:
                    self._session.reopen()
                    self._on_reopened()
                case _:
                    raise self._fault(f"{what}: {error}", error) from error
        except ReturnCodeError as exc:
            text = f"{what}: {error}, then in recovery {exc}"
            raise self._fault(text, error, exc) from exc

    def _fault(self, text: str, *errors: ReturnCodeError) -> HsmFaultError:
        if all(self._action_of(error) is Action.AMBIGUOUS for error in errors):
            return AmbiguousFaultError(text)
        return HsmFaultError(text)

    def _last_word(
        self,
        first: ReturnCodeError,
        second: ReturnCodeError,
        what: str,
        canary: Callable[[], None] | None,
    ) -> TamperedError | PolicyRefusedError | HsmFaultError:
        """Return what two failures of the same call mean."""
        text = f"{what}: {first}, then {second}"
        before, after = self._action_of(first), self._action_of(second)
        if after is Action.CALLER and canary is not None:
            return TamperedError()
        # Ambiguous twice, with a good canary between. Ambiguous once, after another fault,
        # proves nothing.
        if after is before is Action.AMBIGUOUS:
            return TamperedError()
        if after in {Action.CALLER, Action.POLICY}:
            return PolicyRefusedError(text)
        if after is before is Action.RELIEVE:
            return TokenFullError(text)
        return HsmFaultError(text)

    def _action_of(self, error: ReturnCodeError) -> Action:
        return Action.AMBIGUOUS if error.rv in self._ambiguous else error.action
