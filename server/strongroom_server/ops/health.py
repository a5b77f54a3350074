"""The server's ops port: its metrics and its readiness on `strongroom.ops_http`."""

from __future__ import annotations

from collections.abc import Mapping

from strongroom.ops_http import OpsServer, ReadinessCheck, build_ops_app
from strongroom_server.errors import StartRefusedError
from strongroom_server.ops.metrics import Metrics

__all__ = ["OpsServer", "ReadinessCheck", "build_ops_server"]


def build_ops_server(
    *, listen: str, metrics: Metrics, checks: Mapping[str, ReadinessCheck]
) -> OpsServer:
    """Bind the ops port; `start` it when there is something to tell.

    Args:
        listen: ``host:port`` of the configuration.
        metrics: What /metrics shows.
        checks: What /readyz asks, by name; read anew by every probe.

    Raises:
        StartRefusedError: The address cannot be bound.
    """
    app = build_ops_app(exposition=metrics.exposition, refresh=metrics.refresh, checks=checks)
    try:
        return OpsServer(listen=listen, app=app)
    except OSError as exc:
        raise StartRefusedError(f"[ops] listen {listen}: {exc.strerror or exc}") from exc
