"""Which wrapped key to try next, and what to say when none works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from strongroom_client.errors import (
    ChecksumMismatchError,
    CiphertextInvalidError,
    DeadlineExceededError,
    EnvelopeInvalidError,
    InternalError,
    KeyDisabledError,
    KeyNotFoundError,
    OverloadedError,
    PeerUnauthenticatedError,
    PolicyDeniedError,
    QuotaExceededError,
    ResponseInvalidError,
    StrongroomError,
    UnavailableError,
    UnexpectedStatusError,
    WrongKeyError,
    WrongRegionError,
)

__all__ = ["NEXT_KEY", "RegionHealth", "most_telling"]

#: How long a region that was unavailable is asked last.
AVOID_SECONDS: Final = 5.0
#: Errors of one wrapped key after which the next one is tried, the most telling first:
#: what may work on a repeat, then what somebody can put right, then the message itself.
NEXT_KEY: Final[tuple[type[StrongroomError], ...]] = (
    UnavailableError,
    OverloadedError,
    QuotaExceededError,
    DeadlineExceededError,
    InternalError,
    UnexpectedStatusError,
    ResponseInvalidError,
    ChecksumMismatchError,
    KeyDisabledError,
    PolicyDeniedError,
    PeerUnauthenticatedError,
    WrongRegionError,
    KeyNotFoundError,
    CiphertextInvalidError,
    WrongKeyError,
)


class RegionHealth:
    """Remembers for a few seconds which regions were unavailable.

    Thread safety: any number of threads.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic):
        self._monotonic = monotonic
        # Guards the field below: when each region is to be preferred again.
        self._lock = threading.Lock()
        self._avoid_until: dict[str, float] = {}

    def note(self, region: str, error: StrongroomError | None) -> None:
        """Take note of how a call of `region` ended."""
        with self._lock:
            if isinstance(error, (UnavailableError, DeadlineExceededError)):
                self._avoid_until[region] = self._monotonic() + AVOID_SECONDS
            elif error is None:
                self._avoid_until.pop(region, None)

    def is_avoided(self, region: str) -> bool:
        """Say whether `region` was unavailable just now."""
        with self._lock:
            return self._avoid_until.get(region, 0.0) > self._monotonic()


def most_telling(failures: list[StrongroomError], keys: list[str]) -> StrongroomError:
    """Return the error to raise when no wrapped key worked, with notes about all."""

    def rank(error: StrongroomError) -> int:
        return next(i for i, kind in enumerate(NEXT_KEY) if isinstance(error, kind))

    best = min(failures, key=rank)
    if isinstance(best, (CiphertextInvalidError, WrongKeyError)):
        return EnvelopeInvalidError()
    for key, error in zip(keys, failures, strict=True):
        best.add_note(f"{key}: {error.reason}")
    return best
