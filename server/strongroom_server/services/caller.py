"""Who is calling, and until when the answer is of use."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

__all__ = ["PRINCIPAL", "Caller"]

PRINCIPAL: Final = ContextVar("strongroom_principal", default="")
"""For whom the current task works; empty for the service itself.

Decides whose turn it is before the HSM, and nothing else: what is allowed and what is
recorded go by `Caller.principal`. In the context, and not an argument of every operation,
so that none can forget to say it.
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """One call's caller.

    `deadline` is absolute, in seconds of the event loop's clock; `hsm_deadline` comes a
    little earlier, so that a refusal by the HSM can still be recorded and answered.
    """

    principal: str
    peer: str
    request_id: str
    deadline: float
    hsm_deadline: float
