"""Counts and logs the destruction of keys."""

from __future__ import annotations

import structlog

from strongroom_server.errors import StrongroomError
from strongroom_server.ops.shard_metrics import ShardMetrics

__all__ = ["DeletionObserver"]

_log = structlog.stdlib.get_logger("strongroom.deletion")


class DeletionObserver:
    """What a shard's destruction tells (its DestructionObserver)."""

    def __init__(self, metrics: ShardMetrics) -> None:
        """Take the metrics of the shard's region."""
        self._metrics = metrics

    def destroyed(self, name: str, versions: int) -> None:
        """Count versions, and log what they were of."""
        self._metrics.versions_destroyed(versions)
        _log.warning("destroyed", region=self._metrics.region, key=name, versions=versions)

    def waits(self, name: str, problem: StrongroomError) -> None:
        """Count and log why something that is due is still there."""
        self._metrics.destruction_failed()
        _log.warning(
            "destruction waits", region=self._metrics.region, key=name, reason=problem.message
        )

    def failed(self, fault: Exception) -> None:
        """Count and log a fault of the program."""
        self._metrics.destruction_failed()
        _log.error("destruction failed", region=self._metrics.region, exc_info=fault)
