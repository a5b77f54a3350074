"""How an errand to an HSM can end, as errors of the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from strongroom_server.cli.failures import CliError
from strongroom_server.hsm.errand import CrashedError, FailedError, SilentError

__all__ = ["answering"]

_REASONS = {
    "pin": "PIN_REFUSED",
    "pin-file": "CONFIGURATION",
    "token": "CONFIGURATION",
    "module": "HSM_UNFIT",
}


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Turn what goes wrong in the block into a CliError."""
    try:
        yield
    except FailedError as exc:
        raise CliError(_REASONS.get(exc.kind, "HSM_UNAVAILABLE"), str(exc)) from exc
    except CrashedError as exc:
        raise CliError("HSM_UNAVAILABLE", f"the module {exc}") from exc
    except SilentError as exc:
        raise CliError("HSM_UNAVAILABLE", f"the module gave {exc}") from exc
