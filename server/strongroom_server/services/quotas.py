"""How much a caller may ask for: `domain/limits.py` with the clock, and somebody who counts."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from strongroom_server.domain.limits import LimitName, Limits, limit_of
from strongroom_server.errors import QuotaExceededError
from strongroom_server.ports import Clock

__all__ = ["Quotas"]


class Quotas:
    """The limits of one server process. Owned by the event loop."""

    def __init__(
        self, limits: Limits, *, clock: Clock, on_refusal: Callable[[LimitName], None]
    ) -> None:
        """Take the limits; `on_refusal` hears of every call that is over one."""
        self._limits = limits
        self._clock = clock
        self._on_refusal = on_refusal

    def take_call(self, principal: str, method: str) -> None:
        """Count a call, before anything is spent on it.

        Raises:
            QuotaExceededError: The caller is over its limit.
        """
        limit = limit_of(method)
        if limit is None:
            return
        name, cost = limit
        try:
            self._limits.take(principal, name, cost, self._now_ns())
        except QuotaExceededError:
            self._on_refusal(name)
            raise

    def take_use(self, principal: str, key_id: uuid.UUID) -> None:
        """Count a use of a key, once it is known that the caller may use it.

        Raises:
            QuotaExceededError: The caller is over its limit for this key.
        """
        try:
            self._limits.take_key(principal, key_id, 1, self._now_ns())
        except QuotaExceededError:
            self._on_refusal(LimitName.KEY)
            raise

    def _now_ns(self) -> int:
        return int(self._clock.monotonic() * 1e9)
