"""Who is calling, and until when the answer is of use."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Caller"]


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
