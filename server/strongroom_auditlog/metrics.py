"""Every metric of the audit log, in one registry of its own.

Labels come from closed sets only: regions and witnesses of the configuration, and enums.
"""

from __future__ import annotations

import enum
import math
import shutil
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    ProcessCollector,
    generate_latest,
)

from strongroom.audit.v1 import audit_log_service_pb2
from strongroom.rpc_metrics import RpcMetrics
from strongroom.tlog.errors import VerificationError
from strongroom_auditlog.tiles import LogFiles
from strongroom_auditlog.witness_client import Outcome

__all__ = ["ErrorKind", "Metrics", "WitnessMetrics"]


class ErrorKind(enum.StrEnum):
    """What can go wrong with the records of a shard."""

    GAP = "gap"  # records between what the log has and what the shard sends are missing
    FORGED = "forged"  # a record says another position than the shard claims for it
    MALFORMED = "malformed"  # a batch or a record breaks the format
    CONFLICT = "conflict"  # another record than the log has at the same position
    EPOCH = "epoch"  # the shard went back to an older spool
    ROLLED_BACK = "rolled_back"  # the spool lost records that the log has
    RPC = "rpc"  # the shard does not answer, or refuses; tried again
    COMMIT = "commit"  # the log could not be written; tried again
    IMPOSTOR = "impostor"  # a message on NATS that the shard did not sign; dropped
    MISSING = "missing"  # records are missing before a batch from NATS; asked for again


class WitnessMetrics:
    """What comes of asking witnesses. Thread safety: complete."""

    def __init__(self, registry: CollectorRegistry, witnesses: Iterable[str]):
        """Make every series with the value 0."""
        requests = Counter(
            "strongroom_audit_witness_requests_total",
            "Requests to witnesses, by how they ended.",
            ("witness", "outcome"),
            registry=registry,
        )
        self._requests = {
            (witness, outcome): requests.labels(witness, outcome)
            for witness in witnesses
            for outcome in Outcome
        }
        self._cosignatures = Gauge(
            "strongroom_audit_checkpoint_cosignatures",
            "Cosignatures that the newest signed checkpoint has got.",
            registry=registry,
        )
        self._missing = Gauge(
            "strongroom_audit_quorum_missing",
            "1 when the newest signed checkpoint waits for cosignatures and is not published.",
            registry=registry,
        )

    def request(self, witness: str, outcome: Outcome) -> None:
        """Count a request."""
        self._requests[witness, outcome].inc()

    def cosigned(self, cosignatures: int, *, enough: bool) -> None:
        """Note how many cosignatures a checkpoint has got."""
        self._cosignatures.set(cosignatures)
        self._missing.set(0 if enough else 1)


class Metrics:
    """The metrics of one process. Thread safety: complete."""

    def __init__(self, *, regions: Iterable[str], version: str, witnesses: Iterable[str] = ()):
        """Make every series with the value 0, so that the first error is an increase."""
        registry = CollectorRegistry()
        self._registry = registry
        self.rpcs = RpcMetrics(
            registry, [audit_log_service_pb2.DESCRIPTOR.services_by_name["AuditLogService"]]
        )
        self.tree_size = Gauge(
            "strongroom_audit_tree_size", "Leaves in the last checkpoint.", registry=registry
        )
        self.checkpoint_timestamp = Gauge(
            "strongroom_audit_checkpoint_timestamp_seconds",
            "When the last checkpoint was published, in seconds of Unix time; 0 before the first.",
            registry=registry,
        )
        ingested = Counter(
            "strongroom_audit_ingested_records_total",
            "Records that a checkpoint has come to cover.",
            ("region",),
            registry=registry,
        )
        errors = Counter(
            "strongroom_audit_ingest_errors_total",
            "Errors of ingestion; all kinds but rpc, commit, impostor and missing stop the shard.",
            ("region", "kind"),
            registry=registry,
        )
        stopped = Gauge(
            "strongroom_audit_shard_stopped",
            "1 when the ingestion of a shard has stopped and needs an operator.",
            ("region",),
            registry=registry,
        )
        self.index_leaves = Gauge(
            "strongroom_audit_index_leaves",
            "Leaves in the index that ListRecords finds records by; the others are read.",
            registry=registry,
        )
        self.index_rebuilds = Counter(
            "strongroom_audit_index_rebuilds_total",
            "How often the index was made anew from the log's entries.",
            registry=registry,
        )
        self._minimum_index = Gauge(
            "strongroom_audit_minimum_index",
            "Leaf below which records were pruned from the log; 0 when none were.",
            registry=registry,
        )
        self._disk_free = Gauge(
            "strongroom_audit_disk_free_bytes",
            "Free bytes of the volume of the log's directory.",
            registry=registry,
        )
        self._disk_size = Gauge(
            "strongroom_audit_disk_size_bytes",
            "Bytes of the volume of the log's directory.",
            registry=registry,
        )
        self.witnesses = WitnessMetrics(registry, witnesses)
        names = tuple(regions)
        self.ingested = {region: ingested.labels(region) for region in names}
        self.stopped = {region: stopped.labels(region) for region in names}
        self._errors = {
            (region, kind): errors.labels(region, kind) for region in names for kind in ErrorKind
        }
        Gauge("strongroom_build_info", "Always 1.", ("version",), registry=registry).labels(
            version
        ).set(1)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

    def watch(self, files: LogFiles) -> None:
        """Look at the log's volume and mark whenever the metrics are asked for."""

        def look(what: Callable[[], int]) -> Callable[[], float]:
            def value() -> float:
                try:
                    return what()
                except (OSError, VerificationError):
                    return math.nan  # not known; the other metrics are

            return value

        directory = files.directory
        self._minimum_index.set_function(look(lambda: files.read_mark().minimum_index))
        self._disk_free.set_function(look(lambda: shutil.disk_usage(directory).free))
        self._disk_size.set_function(look(lambda: shutil.disk_usage(directory).total))

    def error(self, region: str, kind: ErrorKind) -> None:
        """Count an error of ingestion."""
        self._errors[region, kind].inc()

    def exposition(self) -> bytes:
        """Return all metrics as Prometheus text."""
        return generate_latest(self._registry)
