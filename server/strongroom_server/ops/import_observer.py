"""What the upkeep of imports tells, as metrics and in the log."""

from __future__ import annotations

import structlog

from strongroom_server.errors import StrongroomError
from strongroom_server.ops.shard_metrics import ShardMetrics

__all__ = ["ImportObserver"]

_log = structlog.stdlib.get_logger("strongroom.import")


class ImportObserver:
    """Counts and logs the end of imported material (its UpkeepObserver)."""

    def __init__(self, metrics: ShardMetrics) -> None:
        """Take the metrics of the shard's region."""
        self._metrics = metrics

    def expired(self, name: str) -> None:
        """Count and log that a key has no material any more."""
        self._metrics.material_expired()
        _log.warning("imported material expired", region=self._metrics.region, key=name)

    def waits(self, name: str, problem: StrongroomError) -> None:
        """Log what is not destroyed yet."""
        _log.error(
            "the end of an import waits",
            region=self._metrics.region,
            name=name,
            reason=problem.message,
        )

    def failed(self, fault: Exception) -> None:
        """Log a fault of the program."""
        _log.error("the upkeep of imports failed", region=self._metrics.region, exc_info=fault)
