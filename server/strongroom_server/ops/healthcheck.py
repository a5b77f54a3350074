"""Ask a process on its ops port whether it is ready: exit 0 when it is, 1 otherwise.

    python -m strongroom_server.ops.healthcheck [host:port]

For the image's HEALTHCHECK and for exec probes: no shell, nothing imported that is slow.
Without an argument it asks where STRONGROOM_OPS__LISTEN says, the variable that sets
``[ops] listen`` of the server, or at that setting's default.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

__all__ = ["main"]

VARIABLE: Final = "STRONGROOM_OPS__LISTEN"
DEFAULT_ADDRESS: Final = "127.0.0.1:9464"
TIMEOUT_SECONDS: Final = 3.0


def main(arguments: Sequence[str], environment: Mapping[str, str], output: TextIO) -> int:
    """Return the exit status; say on `output` why the process is not ready."""
    address = arguments[0] if arguments else environment.get(VARIABLE, DEFAULT_ADDRESS)
    try:
        with contextlib.closing(
            http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        ) as connection:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as exc:
        output.write(f"{address}: {exc}\n")
        return 1
    if response.status != http.client.OK:
        output.write(text)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, sys.stderr))
