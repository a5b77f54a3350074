"""From what happens to what is counted: the observers that other floors call."""

from __future__ import annotations

import structlog

from strongroom.rpc_metrics import BoundRpc
from strongroom_server.errors import StrongroomError
from strongroom_server.ops.metrics import Metrics
from strongroom_server.ops.shard_metrics import ShardMetrics
from strongroom_server.services.root_rotation import RewrapProgress

__all__ = ["HsmObserver", "RootObserver", "RpcObserver"]

_log = structlog.stdlib.get_logger("strongroom.hsm")


class HsmObserver:
    """Counts and logs what a session pool tells (its PoolObserver)."""

    def __init__(self, metrics: ShardMetrics) -> None:
        """Take the metrics of the pool's region."""
        self._metrics = metrics

    def operation(self, mechanism: str, seconds: float, category: str) -> None:
        """Count the end of an operation; one that never ran has no duration."""
        if category == "ok":
            self._metrics.hsm_operation(mechanism, seconds)
            return
        self._metrics.hsm_error(category)
        if seconds > 0:
            self._metrics.hsm_operation(mechanism, seconds)

    def worker_started(self, pid: int, seconds: float) -> None:
        """Log that a worker serves."""
        _log.info(
            "worker started",
            region=self._metrics.region,
            worker_pid=pid,
            duration_ms=round(seconds * 1e3, 3),
        )

    def worker_lost(self, pid: int, reason: str) -> None:
        """Count and log that a worker ended or did not come up."""
        self._metrics.worker_replaced()
        _log.warning("worker lost", region=self._metrics.region, worker_pid=pid, reason=reason)

    def worker_retired(self, pid: int, reason: str) -> None:
        """Log that a worn worker has a successor."""
        _log.info("worker retired", region=self._metrics.region, worker_pid=pid, reason=reason)

    def breaker(self, state: str) -> None:
        """Show and log the state of the circuit breaker."""
        self._metrics.set_breaker(state)
        log = _log.info if state == "closed" else _log.warning
        log("hsm breaker", region=self._metrics.region, state=state)

    def alarm(self, category: str, text: str) -> None:
        """Count and log what a person must look at."""
        self._metrics.hsm_alarm(category)
        _log.error("hsm alarm", region=self._metrics.region, category=category, reason=text)


class RootObserver:
    """Counts and logs the rotation of a wrapping root (its RotationObserver)."""

    def __init__(self, metrics: ShardMetrics) -> None:
        """Take the metrics of the shard's region."""
        self._metrics = metrics
        self._stale = 0

    def stepped(self, progress: RewrapProgress) -> None:
        """Count a step; log the first and the last of a rotation."""
        self._metrics.rewrap_step(
            rewrapped=progress.rewrapped, failed=progress.failed, stale=progress.stale
        )
        if (progress.stale == 0) != (self._stale == 0):
            event = "re-wrapping ends" if progress.stale == 0 else "re-wrapping begins"
            _log.info(
                event, region=self._metrics.region, root=progress.root, versions=progress.stale
            )
        self._stale = progress.stale

    def waits(self, problem: StrongroomError) -> None:
        """Log why the work waits."""
        _log.warning("re-wrapping waits", region=self._metrics.region, reason=problem.message)

    def failed(self, fault: Exception) -> None:
        """Log a fault of the program."""
        _log.error("re-wrapping failed", region=self._metrics.region, exc_info=fault)


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
