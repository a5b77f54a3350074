"""grpc_server_*: counts and durations of calls, for every process that serves gRPC.

Names and labels are those of go-grpc-prometheus, which dashboards and alerts exist for.
The duration has no label for the code, as there: with it, a scrape would carry 17 times
as many series.

All series exist from the start with the value 0, so that the first error is an increase
(Prometheus: "avoid missing metrics").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

__all__ = ["DURATION_BUCKETS_SECONDS", "BoundRpc", "RpcMetrics"]

DURATION_BUCKETS_SECONDS: Final = (
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
"""From a fast call of a healthy HSM to the longest that a deadline allows."""

# grpc.StatusCode by name, in the order of their numbers; not imported, for the sake of
# processes that only count.
CODES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


@dataclass(frozen=True, slots=True)
class BoundRpc:
    """The series of one RPC, looked up once: counting a call costs a few microseconds."""

    _started: Counter
    _handled: dict[str, Counter]
    _seconds: Histogram

    def start(self) -> None:
        """Count a call that has begun."""
        self._started.inc()

    def end(self, code: str, seconds: float) -> None:
        """Count a call that has ended.

        Args:
            code: Name of the gRPC status code, such as ``"OK"``; others count as UNKNOWN.
            seconds: How long it took.
        """
        self._handled.get(code, self._handled["UNKNOWN"]).inc()
        self._seconds.observe(seconds)


class RpcMetrics:
    """The series of all RPCs of a process.

    Thread safety: complete; the counters have their own locks.
    """

    def __init__(self, registry: CollectorRegistry, services: Iterable[ServiceDescriptor]):
        """Register the metrics and make every series.

        Args:
            registry: The registry of the process.
            services: Descriptors of the services, such as
                ``key_service_pb2.DESCRIPTOR.services_by_name["KeyService"]``.
        """
        labels = ("grpc_type", "grpc_service", "grpc_method")
        self._started = Counter(
            "grpc_server_started_total", "Calls begun.", labels, registry=registry
        )
        self._handled = Counter(
            "grpc_server_handled_total",
            "Calls ended, whatever the outcome.",
            (*labels, "grpc_code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "From the arrival of a call to its end.",
            labels,
            buckets=DURATION_BUCKETS_SECONDS,
            registry=registry,
        )
        # Whatever callers make up in the path falls into one series: a closed set.
        self._unknown = self._bind("unary", "unknown", "unknown")
        self._rpcs = {
            f"/{service.full_name}/{method.name}": self._bind(
                _type_of(client=method.client_streaming, server=method.server_streaming),
                service.full_name,
                method.name,
            )
            for service in services
            for method in service.methods
        }

    def rpc(self, path: str) -> BoundRpc:
        """Return the series of the RPC with `path`, as in ``/package.Service/Method``."""
        return self._rpcs.get(path, self._unknown)

    def _bind(self, kind: str, service: str, method: str) -> BoundRpc:
        labels = (kind, service, method)
        return BoundRpc(
            self._started.labels(*labels),
            {code: self._handled.labels(*labels, code) for code in CODES},
            self._seconds.labels(*labels),
        )


def _type_of(*, client: bool, server: bool) -> str:
    if client:
        return "bidi_stream" if server else "client_stream"
    return "server_stream" if server else "unary"
