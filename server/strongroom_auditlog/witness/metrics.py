"""Every metric of a witness, in one registry of its own.

Labels come from closed sets only: the origins of the configuration and `Verdict`.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    ProcessCollector,
    generate_latest,
)

from strongroom_auditlog.witness.rules import Accepted, Verdict

__all__ = ["WitnessProcessMetrics"]


class WitnessProcessMetrics:
    """The metrics of one process. Thread safety: complete."""

    def __init__(self, *, origins: Iterable[str], version: str):
        """Make every series with the value 0, so that the first event is an increase."""
        registry = CollectorRegistry()
        self._registry = registry
        requests = Counter(
            "strongroom_witness_requests_total",
            "Requests to cosign a checkpoint, by how they ended.",
            ("verdict",),
            registry=registry,
        )
        self._requests = {verdict: requests.labels(verdict.label) for verdict in Verdict}
        self.forks = Counter(
            "strongroom_witness_forks_total",
            "Checkpoints with another root than was cosigned for the same size.",
            registry=registry,
        )
        sizes = Gauge(
            "strongroom_witness_tree_size",
            "Leaves in the last cosigned checkpoint of a log.",
            ("origin",),
            registry=registry,
        )
        times = Gauge(
            "strongroom_witness_cosignature_timestamp_seconds",
            "When it was cosigned, in seconds of Unix time; 0 before the first since the start.",
            ("origin",),
            registry=registry,
        )
        names = tuple(origins)
        self._sizes = {origin: sizes.labels(origin) for origin in names}
        self._times = {origin: times.labels(origin) for origin in names}
        Gauge("strongroom_build_info", "Always 1.", ("version",), registry=registry).labels(
            version
        ).set(1)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

    def ended(self, verdict: Verdict) -> None:
        """Count a request."""
        self._requests[verdict].inc()

    def cosigned(self, accepted: Accepted) -> None:
        """Note what was cosigned."""
        self._sizes[accepted.origin].set(accepted.size)
        self._times[accepted.origin].set(accepted.cosignature.timestamp)

    def exposition(self) -> bytes:
        """Return all metrics as Prometheus text."""
        return generate_latest(self._registry)
