"""Tells one damaged key from an HSM that fails.

Modules have codes that mean anything (CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED). A key whose
object is damaged answers with them for ever, in every process: were that a fault of the
HSM, whoever calls such a key would cost a worker each time, and close the region to all
others by its circuit breaker. So a key that never worked in this process, while the module
passes the checks of a worker's start, is damaged. A key that did work is not suspected:
something has changed, and another process may do better.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from strongroom_server.hsm import key_template
from strongroom_server.hsm.handles import BoundedMap
from strongroom_server.hsm.return_codes import AmbiguousFaultError
from strongroom_server.hsm.ring_errors import MaterialDamagedError
from strongroom_server.hsm.wire_operations import Request

__all__ = ["Suspects"]

T = TypeVar("T")

_MAX_KEYS: Final = 10_000
_WELL_SECONDS: Final = 1.0
"""How long a good check of the module counts: a check takes as long as 100 operations."""


class Suspects:
    """Runs requests; remembers which keys have worked. Thread safety: none; one thread."""

    def __init__(
        self, check_module: Callable[[], None], monotonic: Callable[[], float] = time.monotonic
    ):
        """Suspect nothing.

        Args:
            check_module: Does what is done at a worker's start; raises HsmTokenError.
            monotonic: Seconds.
        """
        self._check_module = check_module
        self._monotonic = monotonic
        self._worked: BoundedMap[tuple[bytes, int, bytes], bool] = BoundedMap(_MAX_KEYS)
        self._well_until = 0.0

    def run(self, request: Request, handler: Callable[[Request], T]) -> T:
        """Return what the handler makes of a request; raises as it does.

        Raises:
            MaterialDamagedError: It fails, twice, and the module is well.
            HsmFaultError: It fails, and so does the module.
        """
        key = (request.key.ref, request.key.root, request.key2.ref)
        try:
            result = handler(request)
        except AmbiguousFaultError:
            if self._worked.get(key):
                raise
            self._ensure_well()
            self._run_again(request, handler)
            raise  # it has passed, and was a fault all the same: the process goes
        self._worked.put(key, True)  # noqa: FBT003 - a value
        return result

    def _run_again(self, request: Request, handler: Callable[[Request], T]) -> None:
        try:
            handler(request)
        except AmbiguousFaultError as exc:
            name = key_template.label_for(request.key.ref)
            if not any(request.key.ref):
                name = key_template.label_for_root(request.key.root)
            raise MaterialDamagedError(
                f"{name} cannot be made or used, though the HSM passes its checks: {exc}; "
                "an object on the token is damaged, or it cannot be written"
            ) from exc

    def _ensure_well(self) -> None:
        now = self._monotonic()
        if now >= self._well_until:
            self._check_module()
            self._well_until = now + _WELL_SECONDS
