"""What the session pool tells, on record as well as counted (audit-record-v1.md, Other methods)."""

from __future__ import annotations

from strongroom_server.ops.observers import HsmObserver
from strongroom_server.ops.shard_metrics import ShardMetrics
from strongroom_server.services.events import ShardEvents

__all__ = ["RecordingHsmObserver"]

MAX_CAUSE_CHARACTERS = 500


class RecordingHsmObserver(HsmObserver):
    """Records replacements of workers and changes of the breaker; counts and logs all."""

    def __init__(self, metrics: ShardMetrics, events: ShardEvents) -> None:
        """Take the metrics and the events of the pool's region."""
        super().__init__(metrics)
        self._events = events

    def worker_lost(self, pid: int, reason: str) -> None:
        """Count, log and record that a worker ended or did not come up."""
        super().worker_lost(pid, reason)
        self._replaced(pid, reason, outcome="FAILED")

    def worker_retired(self, pid: int, reason: str) -> None:
        """Log and record that a worn worker has a successor."""
        super().worker_retired(pid, reason)
        self._replaced(pid, reason, outcome="OK")

    def breaker(self, state: str) -> None:
        """Show, log and record the state of the circuit breaker."""
        super().breaker(state)
        self._events.happened("HsmBreakerChanged", details={"state": state})

    def _replaced(self, pid: int, reason: str, *, outcome: str) -> None:
        # Texts of the pool hold return codes, labels and paths, no secrets.
        details = {"worker_pid": str(pid), "cause": reason[:MAX_CAUSE_CHARACTERS]}
        self._events.happened("HsmWorkerReplaced", outcome=outcome, details=details)
