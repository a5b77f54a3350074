"""From what happens to what is counted: the observers that other floors call."""

from __future__ import annotations

from strongroom.rpc_metrics import BoundRpc
from strongroom_server.ops.metrics import Metrics

__all__ = ["RpcObserver"]


class RpcObserver:
    """Counts calls in the grpc_server_* metrics."""

    def __init__(self, metrics: Metrics) -> None:
        """Take the metrics of the process."""
        self._metrics = metrics
        self._rpcs: dict[tuple[str, str], BoundRpc] = {}

    def started(self, service: str, method: str) -> None:
        """Note that a call began."""
        self._rpc(service, method).start()

    def handled(self, service: str, method: str, code: str, seconds: float) -> None:
        """Note how a call ended."""
        self._rpc(service, method).end(code, seconds)

    def _rpc(self, service: str, method: str) -> BoundRpc:
        # Both names come from our own descriptors: a closed set.
        rpc = self._rpcs.get((service, method))
        if rpc is None:
            rpc = self._metrics.rpcs.rpc(f"/{service}/{method}")
            self._rpcs[service, method] = rpc
        return rpc
