"""The metrics of a shard, bound to its region.

Labels come from closed sets; a value outside its set counts as ``other``, for counting
must not be able to fail a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from strongroom.rpc_metrics import DURATION_BUCKETS_SECONDS
from strongroom_server.domain.keys import KeyState
from strongroom_server.errors import Reason

__all__ = [
    "HSM_ALARMS",
    "HSM_BREAKER_STATES",
    "HSM_ERROR_CATEGORIES",
    "HSM_MECHANISMS",
    "OTHER",
    "OUTCOMES",
    "ShardFamilies",
    "ShardMetrics",
]

OTHER: Final = "other"

OUTCOMES: Final = ("OK", *(reason.value for reason in Reason))
"""Outcome of an operation: OK, or the reason in the caller's error."""

HSM_MECHANISMS: Final = (
    "encrypt",
    "decrypt",
    "reencrypt",
    "data_key",
    "sealed_data_key",
    "random",
    "create",
    "load",
    "ping",
    "create_wrapped",
    "create_root",
    "rewrap",
    "public_key",
    "sign",
    "sign_digest",
    "verify",
    "verify_digest",
    "mac",
    "verify_mac",
    "agree",
    "rsa_encrypt",
    "rsa_decrypt",
    "make_transfer_key",
    "destroy_transfer_key",
    "export",
    "import",
    "destroy",
    "import_external",
)
"""What a worker can be asked for: one trip to the HSM, however many PKCS#11 calls."""

HSM_ERROR_CATEGORIES: Final = (
    "tampered",
    "invalid",
    "unsupported",
    "key_absent",
    "damaged",
    "policy",
    "deadline",
    "fault",
    "overloaded",
)
"""How a trip to the HSM fails. The first three are the caller's doing, and no fault."""

HSM_ALARMS: Final = ("pin_refused", "key_absent", "damaged", "policy")
"""What a person must look at."""

HSM_BREAKER_STATES: Final = ("closed", "half_open", "open")
"""States of the circuit breaker; the metric shows the place in this list."""


class ShardFamilies:
    """The metric families that have a label `region`, registered once."""

    def __init__(self, registry: CollectorRegistry):
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ("region", *labels), registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, ("region", *labels), registry=registry)

        self.operations = Counter(
            "strongroom_operations_total",
            "Operations of the key service by outcome (OK or the reason of the refusal).",
            ("operation", "region", "outcome"),
            registry=registry,
        )
        self.hsm_operation = Histogram(
            "strongroom_hsm_operation_seconds",
            "Time in the HSM worker, without waiting for a session.",
            ("region", "mechanism"),
            buckets=DURATION_BUCKETS_SECONDS,
            registry=registry,
        )
        self.hsm_errors = counter(
            "strongroom_hsm_errors_total", "Trips to the HSM that failed.", "category"
        )
        self.hsm_sessions = gauge("strongroom_hsm_sessions", "Sessions that answer.")
        self.hsm_up = gauge("strongroom_hsm_up", "1 when at least one session answers.")
        self.hsm_breaker = gauge(
            "strongroom_hsm_breaker_state",
            "Circuit breaker: 0 closed, 1 half open (one operation as a probe), 2 open.",
        )
        self.workers_replaced = counter(
            "strongroom_hsm_workers_replaced_total",
            "HSM workers that ended or did not come up; the log says why.",
        )
        self.hsm_alarms = counter(
            "strongroom_hsm_alarms_total",
            "Answers of the HSM that a person must look at.",
            "category",
        )
        self.keys = gauge("strongroom_keys", "Keys by state.", "state")
        self.key_versions = gauge("strongroom_key_versions", "Key versions.")
        self.stale_versions = gauge(
            "strongroom_wrapping_root_stale_versions",
            "Wrapped key versions that lie under an older root than the newest.",
        )
        self.rewrapped = counter(
            "strongroom_rewrapped_versions_total",
            "Wrapped key versions that were put under a newer root.",
        )
        self.rewrap_failures = counter(
            "strongroom_rewrap_failures_total",
            "Attempts to put a wrapped key version under a newer root that failed.",
        )
        self.destroyed_versions = counter(
            "strongroom_destroyed_versions_total",
            "Key versions whose material was destroyed for ever.",
        )
        self.destruction_failures = counter(
            "strongroom_destruction_failures_total",
            "Attempts to destroy what is due that failed; they are repeated every minute.",
        )
        self.expired_materials = counter(
            "strongroom_expired_materials_total",
            "Imported materials that came to their end and were destroyed.",
        )
        self.audit_events = counter(
            "strongroom_audit_events_total", "Audit records made durable in the spool."
        )
        self.audit_failures = counter(
            "strongroom_audit_failures_total",
            "Calls refused because their audit record could not be made durable.",
        )
        self.audit_spool_bytes = gauge(
            "strongroom_audit_spool_bytes", "Unacknowledged audit records in the spool."
        )
        self.audit_spool_limit = gauge(
            "strongroom_audit_spool_limit_bytes",
            "Size of the spool at which calls are refused; the shard is not ready from 80 % on.",
        )
        self.audit_publish_errors = counter(
            "strongroom_audit_publish_errors_total",
            "Sessions with NATS that ended in an error; audit records wait in the spool meanwhile.",
        )
        self.audit_spool_limit_seconds = gauge(
            "strongroom_audit_spool_limit_seconds",
            "Age of the oldest unacknowledged record at which calls are refused; not ready from "
            "80 % on.",
        )
        self.audit_waiting_records = gauge(
            "strongroom_audit_waiting_records",
            "Audit records in memory, on their way to the disk; calls of BUFFERED keys may have "
            "been answered.",
        )
        self.audit_unacked_oldest = gauge(
            "strongroom_audit_unacked_oldest_seconds",
            "Age of the oldest audit record that the audit log has not acknowledged.",
        )


class ShardMetrics:
    """The series of one region. Every series exists from the start with the value 0."""

    def __init__(self, families: ShardFamilies, region: str, operations: Iterable[str]):
        self.region = region
        self._operations = {
            operation: {
                outcome: families.operations.labels(operation, region, outcome)
                for outcome in (*OUTCOMES, OTHER)
            }
            for operation in (*operations, OTHER)
        }
        self._hsm_operation = {
            mechanism: families.hsm_operation.labels(region, mechanism)
            for mechanism in (*HSM_MECHANISMS, OTHER)
        }
        self._hsm_errors = _children(families.hsm_errors, region, HSM_ERROR_CATEGORIES)
        self._alarms = _children(families.hsm_alarms, region, HSM_ALARMS)
        self._replaced = families.workers_replaced.labels(region)
        self._sessions = families.hsm_sessions.labels(region)
        self._up = families.hsm_up.labels(region)
        self._breaker = families.hsm_breaker.labels(region)
        self._keys = {state: families.keys.labels(region, state.value) for state in KeyState}
        self._key_versions = families.key_versions.labels(region)
        self._stale_versions = families.stale_versions.labels(region)
        self._rewrapped = families.rewrapped.labels(region)
        self._rewrap_failures = families.rewrap_failures.labels(region)
        self._destroyed_versions = families.destroyed_versions.labels(region)
        self._destruction_failures = families.destruction_failures.labels(region)
        self._expired_materials = families.expired_materials.labels(region)
        self._audit_events = families.audit_events.labels(region)
        self._audit_failures = families.audit_failures.labels(region)
        self._audit_spool_bytes = families.audit_spool_bytes.labels(region)
        self._audit_spool_limit = families.audit_spool_limit.labels(region)
        self._audit_publish_errors = families.audit_publish_errors.labels(region)
        self._audit_spool_limit_seconds = families.audit_spool_limit_seconds.labels(region)
        self._audit_waiting_records = families.audit_waiting_records.labels(region)
        self._audit_unacked_oldest = families.audit_unacked_oldest.labels(region)

    def operation(self, operation: str, outcome: str) -> None:
        """Count an operation of the key service, such as ``Encrypt``, by its outcome."""
        if outcome == Reason.AUDIT_UNAVAILABLE:
            self._audit_failures.inc()
        outcomes = self._operations.get(operation) or self._operations[OTHER]
        (outcomes.get(outcome) or outcomes[OTHER]).inc()

    def hsm_operation(self, mechanism: str, seconds: float) -> None:
        """Count a trip to the HSM, such as ``encrypt``, and its time in the worker."""
        (self._hsm_operation.get(mechanism) or self._hsm_operation[OTHER]).observe(seconds)

    def hsm_error(self, category: str) -> None:
        """Count a failed trip to the HSM."""
        (self._hsm_errors.get(category) or self._hsm_errors[OTHER]).inc()

    def hsm_alarm(self, category: str) -> None:
        """Count an answer of the HSM that a person must look at."""
        (self._alarms.get(category) or self._alarms[OTHER]).inc()

    def worker_replaced(self) -> None:
        """Count an HSM worker that ended or did not come up."""
        self._replaced.inc()

    def set_sessions(self, answering: int) -> None:
        """Set how many HSM sessions answer; the HSM is up when one does."""
        self._sessions.set(answering)
        self._up.set(1 if answering else 0)

    def set_breaker(self, state: str) -> None:
        """Set the state of the circuit breaker, one of HSM_BREAKER_STATES."""
        self._breaker.set(HSM_BREAKER_STATES.index(state))

    def set_keys(self, by_state: Mapping[KeyState, int], versions: int) -> None:
        """Set how many keys and versions the store has."""
        for state, child in self._keys.items():
            child.set(by_state.get(state, 0))
        self._key_versions.set(versions)

    def rewrap_step(self, *, rewrapped: int, failed: int, stale: int) -> None:
        """Count a step of re-wrapping, and set how many versions are left."""
        self._rewrapped.inc(rewrapped)
        self._rewrap_failures.inc(failed)
        self._stale_versions.set(stale)

    def versions_destroyed(self, versions: int) -> None:
        """Count key versions whose material is gone."""
        self._destroyed_versions.inc(versions)

    def destruction_failed(self) -> None:
        """Count a failed attempt to destroy what is due."""
        self._destruction_failures.inc()

    def material_expired(self) -> None:
        """Count imported material that came to its end."""
        self._expired_materials.inc()

    def audit_recorded(self, records: int = 1) -> None:
        """Count audit records that became durable."""
        self._audit_events.inc(records)

    def audit_publish_failed(self) -> None:
        """Count a session with NATS that ended in an error."""
        self._audit_publish_errors.inc()

    def set_spool_limits(self, limit_bytes: int, limit_seconds: float) -> None:
        """Set the configured limits of the spool."""
        self._audit_spool_limit.set(limit_bytes)
        self._audit_spool_limit_seconds.set(limit_seconds)

    def set_spool(self, unacked_bytes: int, oldest_seconds: float, waiting_records: int) -> None:
        """Set what waits: for the audit log its size, and the age of the oldest record (or 0).

        Args:
            unacked_bytes: What the audit log has not acknowledged.
            oldest_seconds: How old the oldest record of that is.
            waiting_records: What is not on disk yet.
        """
        self._audit_spool_bytes.set(unacked_bytes)
        self._audit_unacked_oldest.set(oldest_seconds)
        self._audit_waiting_records.set(waiting_records)


def _children(family: Counter, region: str, values: Iterable[str]) -> dict[str, Counter]:
    return {value: family.labels(region, value) for value in (*values, OTHER)}
