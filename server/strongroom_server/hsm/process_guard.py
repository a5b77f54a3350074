"""What a process that loads a vendor's module does first: keep its memory to itself."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from typing import Final

__all__ = ["harden"]

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_SET_DUMPABLE: Final = 4


def harden() -> None:
    """Keep PIN, plaintexts and the module's memory out of core dumps and debuggers."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        # A call that hangs in the module never reads the end of its socket.
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
