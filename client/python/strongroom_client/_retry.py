"""When a call is sent again, and when an operation gives up. Pure: time comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from strongroom_client._core import Call, where
from strongroom_client.errors import (
    DeadlineExceededError,
    OverloadedError,
    QuotaExceededError,
    StrongroomError,
    UnavailableError,
)

__all__ = ["Attempts"]

FIRST_DELAY_SECONDS: Final = 0.05
MAX_DELAY_SECONDS: Final = 1.0
LEAST_ATTEMPT_SECONDS: Final = 0.01
"""No attempt is begun that has less time than this."""


class Attempts:
    """The attempts of one call.

    Only UNAVAILABLE and RESOURCE_EXHAUSTED are tried again: the service answers them
    before it has done anything, or the change carries a request id that makes the repeat
    safe. The delay has full jitter, so that clients do not come back all at once.

    They go on until the deadline: a server that is restarted answers again in seconds. Near
    the end the delays halve, so that a last attempt uses the time that is left. Calls do not
    wait for a connection instead (gRPC's wait_for_ready): the caller would be told
    DEADLINE_EXCEEDED and not what is wrong, and nobody would try another region.
    """

    def __init__(
        self,
        call: Call,
        *,
        now: float,
        deadline: float,
        max_attempts: int,
        uniform: Callable[[float, float], float],
    ):
        """Plan the attempts of `call`.

        Args:
            call: What is called.
            now: The clock, in seconds.
            deadline: When the whole operation must be over, on the same clock.
            max_attempts: The client's limit.
            uniform: Returns a random number between two.
        """
        self._region = call.region
        self._deadline = now + (deadline - now) * call.time_share
        self._left = min(max_attempts, call.max_attempts or max_attempts)
        self._uniform = uniform
        self._delay = FIRST_DELAY_SECONDS

    def start(self, now: float) -> float:
        """Begin an attempt; return how many seconds it may take.

        Raises:
            DeadlineExceededError: No time is left.
        """
        self._left -= 1
        remaining = self._deadline - now
        if remaining <= 0:
            raise DeadlineExceededError(f"{where(self._region)}: no time left")
        return remaining

    def delay_after(self, error: StrongroomError, now: float) -> float:
        """Return how many seconds to wait before the next attempt.

        Raises:
            StrongroomError: `error` itself, when there is no next attempt.
        """
        if self._left <= 0 or not isinstance(
            error, (UnavailableError, OverloadedError, QuotaExceededError)
        ):
            raise error
        least = error.retry_after_seconds or 0.0
        spare = self._deadline - now - least
        if spare < LEAST_ATTEMPT_SECONDS:
            raise error
        delay = least + self._uniform(0.0, min(self._delay, spare / 2))
        self._delay = min(2 * self._delay, MAX_DELAY_SECONDS)
        return delay
