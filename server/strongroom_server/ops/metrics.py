"""Every metric of the server, in one registry of its own.

Labels come from closed sets only (regions of the configuration, enums of the API):
never a key, a caller or a text from outside. What happens often is counted through
objects bound once (`rpcs.rpc(path)`, `shard(region)`); what mirrors state is set by the
hooks of `on_scrape`, right before a scrape. `docs/operations.md` lists all names,
`deploy/prometheus/rules.yml` builds alerts on them.

Thread safety: complete, but `on_scrape` and `refresh` belong to the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    ProcessCollector,
    generate_latest,
)

from strongroom.rpc_metrics import RpcMetrics
from strongroom_server.domain.limits import LimitName
from strongroom_server.ops.shard_metrics import ShardFamilies, ShardMetrics

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

__all__ = ["CERTIFICATES", "DECISIONS", "Metrics"]

DECISIONS: Final = ("allow", "deny")
CERTIFICATES: Final = ("server", "client_ca")


class Metrics:
    """The metrics of one server process."""

    def __init__(
        self,
        *,
        regions: Iterable[str],
        services: Iterable[ServiceDescriptor],
        operations: Iterable[str],
        version: str,
        start_time: datetime,
    ):
        """Make every series, with the value 0.

        Args:
            regions: Regions that this server hosts.
            services: Descriptors of the gRPC services that this server offers.
            operations: RPC names of the key service.
            version: Of Strongroom.
            start_time: When the process started, aware.
        """
        self._registry = CollectorRegistry()
        self._hooks: list[Callable[[], None]] = []
        self.rpcs = RpcMetrics(self._registry, services)
        families = ShardFamilies(self._registry)
        names = tuple(operations)
        self._shards = {region: ShardMetrics(families, region, names) for region in regions}
        decisions = Counter(
            "strongroom_authz_decisions_total",
            "Answers to the question whether a caller may do something.",
            ("decision",),
            registry=self._registry,
        )
        self._decisions = {name: decisions.labels(name) for name in DECISIONS}
        refusals = Counter(
            "strongroom_quota_refusals_total",
            "Calls refused because their caller asks for more than it may, by limit.",
            ("limit",),
            registry=self._registry,
        )
        self._quota_refusals = {name: refusals.labels(name.value) for name in LimitName}
        expiry = Gauge(
            "strongroom_certificate_expiry_timestamp_seconds",
            "When a certificate ends, in seconds of Unix time; 0 before it is loaded.",
            ("cert",),
            registry=self._registry,
        )
        self._expiry = {name: expiry.labels(name) for name in CERTIFICATES}
        Gauge("strongroom_build_info", "Always 1.", ("version",), registry=self._registry).labels(
            version
        ).set(1)
        Gauge(
            "strongroom_start_time_seconds",
            "When the process started, in seconds of Unix time.",
            registry=self._registry,
        ).set(start_time.timestamp())
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def shard(self, region: str) -> ShardMetrics:
        """Return the series of a region that this server hosts.

        Raises:
            KeyError: It hosts no such region; a mistake in the wiring.
        """
        return self._shards[region]

    def decision(self, *, allowed: bool) -> None:
        """Count an authorisation decision."""
        self._decisions["allow" if allowed else "deny"].inc()

    def quota_refusal(self, limit: LimitName) -> None:
        """Count a call that was over a limit of its caller."""
        self._quota_refusals[limit].inc()

    def certificate_expires(self, name: str, when: datetime) -> None:
        """Set the end of a certificate: ``server`` or ``client_ca``, the earliest of the file."""
        self._expiry[name].set(when.timestamp())

    def on_scrape(self, hook: Callable[[], None]) -> None:
        """Run `hook` on the event loop before every scrape; it sets gauges and is quick."""
        self._hooks.append(hook)

    def refresh(self) -> None:
        """Run the hooks."""
        for hook in self._hooks:
            hook()

    def exposition(self) -> bytes:
        """Return all metrics as Prometheus text. Takes milliseconds: not on the event loop."""
        return generate_latest(self._registry)
