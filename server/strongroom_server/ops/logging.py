"""The server's log: `strongroom.json_log` under the server's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from strongroom import json_log

__all__ = ["configure_logging"]


def configure_logging(
    level: str, stream: BinaryIO, *, service_version: str, regions: Sequence[str]
) -> None:
    """Send the server's log to `stream` as JSON lines. Called once, by `app`.

    Args:
        level: ``[log] level`` of the configuration.
        stream: Where lines go, such as ``sys.stdout.buffer``.
        service_version: Version of Strongroom.
        regions: Regions that this server hosts; the field ``region`` of every line that
            does not name its own, when there is exactly one.
    """
    json_log.configure_logging(
        level,
        stream,
        service_name="strongroom-server",
        service_version=service_version,
        fields={"region": regions[0]} if len(regions) == 1 else None,
    )
