"""One call on its way through the RPC floor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc

from strongroom.receipts import Receipt
from strongroom_server.services.caller import Caller

__all__ = ["Call"]


@dataclass(slots=True)
class Call:
    """What the stages learn about a call, and what the servicer leaves behind.

    `key`, `region` and `reason` are for the log line; `receipts` go into the trailing metadata.
    """

    service: str
    method: str
    context: grpc.aio.ServicerContext[Any, Any]
    peer: str
    request_id: str
    deadline: float
    hsm_deadline: float
    principal: str = ""
    key: str = ""
    reason: str = ""
    code: str = "OK"
    receipts: list[Receipt] = field(default_factory=list)

    def caller(self, request_id: str = "") -> Caller:
        """Return the caller as services see it.

        Args:
            request_id: The request's own id, which wins over the call's.
        """
        return Caller(
            principal=self.principal,
            peer=self.peer,
            request_id=request_id or self.request_id,
            deadline=self.deadline,
            hsm_deadline=self.hsm_deadline,
        )
