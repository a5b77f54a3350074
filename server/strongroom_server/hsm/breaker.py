"""The circuit breaker of a shard: when its HSM does nothing but fail, say so at once.

    CLOSED ──5 faults in 10 s without a success between, or no worker serves──→ OPEN
    OPEN ──back-off over, then a health check is passed; or a worker comes up──→ HALF_OPEN
    HALF_OPEN ──one real operation succeeds──→ CLOSED          ──a fault──→ OPEN, twice as long

Only what the HSM itself does wrong counts: a worker that fell away, or kept an operation
beyond its deadline. What callers can bring about never does: ciphertexts that were
tampered with, uses that are refused, a single key that is absent, overload, deadlines
too short. So nobody can close a shard to the others.

Two ways out of OPEN, because there are two ways in. When no worker serves, the next one
that starts has logged in and passed its checks: that is the health check, and there is
nothing to wait for (the pauses between starts are `workforce`'s). When workers start
well and then fail, back-off spares the HSM and callers the repetition.

Pure: decides, and does nothing. Time and chance come in as arguments.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["Breaker", "BreakerState"]

MAX_FAULTS: Final = 5
WINDOW_SECONDS: Final = 10.0
FIRST_BACKOFF_SECONDS: Final = 0.5
LAST_BACKOFF_SECONDS: Final = 30.0
PROBE_SECONDS: Final = 0.2
"""What callers are told to wait while a probe is under way."""


class BreakerState(enum.Enum):
    """Whether operations are let through."""

    CLOSED = "closed"
    """All of them."""
    OPEN = "open"
    """None."""
    HALF_OPEN = "half_open"
    """One, and the others when that has succeeded."""


class Breaker:
    """Decides whether operations are let through.

    Thread safety: none; one event loop.
    """

    def __init__(self, *, jitter: Callable[[], float], on_change: Callable[[BreakerState], None]):
        """Start closed.

        Args:
            jitter: 0 to 1, uniform.
            on_change: Hears each new state.
        """
        self._jitter = jitter
        self._on_change = on_change
        self._state = BreakerState.CLOSED
        self._faults: deque[float] = deque(maxlen=MAX_FAULTS)
        self._backoff = 0.0
        self._probe_at = 0.0
        self._is_probing = False

    @property
    def state(self) -> BreakerState:
        """Whether operations are let through."""
        return self._state

    @property
    def is_ready(self) -> bool:
        """Whether an operation that came now could be let through."""
        return self._state is not BreakerState.OPEN

    @property
    def probe_at(self) -> float:
        """When, while OPEN, the next health check is due."""
        return self._probe_at

    def admit(self) -> bool:
        """Let an operation through, or not.

        In HALF_OPEN it is the probe then, and `release` must be called when it has ended,
        in whatever way.
        """
        if self._state is BreakerState.CLOSED:
            return True
        if self._state is BreakerState.OPEN or self._is_probing:
            return False
        self._is_probing = True
        return True

    def retry_after_seconds(self, now: float) -> float:
        """Say when it is worth coming back, to those who were not let through."""
        if self._state is not BreakerState.OPEN:
            return PROBE_SECONDS
        return max(self._probe_at - now, PROBE_SECONDS)

    def release(self) -> None:
        """Hear that the probe ended. When that proved nothing (its caller went away), the
        next one is let through."""
        self._is_probing = False

    def success(self) -> None:
        """Hear that the HSM answered an operation, with whatever answer of its own."""
        self._faults.clear()
        if self._state is BreakerState.HALF_OPEN:
            self._backoff = 0.0
            self._is_probing = False
            self._set(BreakerState.CLOSED)

    def fault(self, now: float) -> None:
        """Hear that a worker fell away, or kept an operation beyond its deadline."""
        if self._state is BreakerState.OPEN:
            return
        self._faults.append(now)
        is_full = len(self._faults) == MAX_FAULTS and now - self._faults[0] <= WINDOW_SECONDS
        if is_full or self._state is BreakerState.HALF_OPEN:
            self._open(now)

    def no_worker(self, now: float) -> None:
        """Hear that no worker serves."""
        if self._state is not BreakerState.OPEN:
            self._open(now)

    def health_check_passed(self) -> None:
        """Hear that a worker is well: one that just started, or one that was asked."""
        if self._state is BreakerState.OPEN:
            self._is_probing = False
            self._set(BreakerState.HALF_OPEN)

    def health_check_failed(self, now: float) -> None:
        """Hear that the health check failed: the back-off doubles."""
        if self._state is BreakerState.OPEN:
            self._back_off(now)

    def _open(self, now: float) -> None:
        self._faults.clear()
        self._is_probing = False
        self._back_off(now)
        self._set(BreakerState.OPEN)

    def _back_off(self, now: float) -> None:
        self._backoff = min(max(2 * self._backoff, FIRST_BACKOFF_SECONDS), LAST_BACKOFF_SECONDS)
        # Half fixed, half random: the shards of one HSM cluster do not knock together.
        self._probe_at = now + self._backoff * (0.5 + self._jitter() / 2)

    def _set(self, state: BreakerState) -> None:
        self._state = state
        self._on_change(state)
