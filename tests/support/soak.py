"""How much longer than usual the tests that have rounds run."""

from __future__ import annotations

import os

__all__ = ["factor", "rounds"]


def factor() -> int:
    """Return STRONGROOM_SOAK_FACTOR, 1 when it is not set."""
    return int(os.environ.get("STRONGROOM_SOAK_FACTOR", "1"))


def rounds(usual: int) -> int:
    """Return how many rounds to run."""
    return usual * factor()
