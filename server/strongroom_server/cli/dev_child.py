"""How a development deployment starts its processes, so that none outlives it.

    python -m strongroom_server.cli.dev_child PARENT COMMAND...

The child asks the kernel for SIGTERM when its parent dies, then runs the command line.
It does so itself, before anything else: nothing has to run between fork and exec, which
would not be safe in a parent with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

__all__ = ["end_with_parent"]

PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def end_with_parent(parent: int) -> None:
    """Have this process get SIGTERM when its parent, process `parent`, ends.

    Raises:
        SystemExit: The parent has ended already: no signal would ever come.
        OSError: The kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise SystemExit(1)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    from strongroom_server.cli.root import run

    raise SystemExit(run(sys.argv[2:]))
