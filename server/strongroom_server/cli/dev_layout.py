"""Where things lie in a development deployment, which ports it takes, who is who."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom_server.cli.failures import CliError

__all__ = ["CLIENTS", "OPERATOR", "Endpoint", "Layout", "Ports", "check_regions"]

TRUST_DOMAIN: Final = "spiffe://strongroom.dev"
OPERATOR: Final = "operator"
CLIENTS: Final = ("orders", "payments")
MAX_REGIONS: Final = 6  # the seventh port of each row belongs to the audit log
DEFAULT_PORT_BASE: Final = 7443
OPS_OFFSET: Final = 9464 - DEFAULT_PORT_BASE
AUDIT_LOG_OFFSET: Final = 7450 - DEFAULT_PORT_BASE
AUDIT_LOG_OPS_OFFSET: Final = 9470 - DEFAULT_PORT_BASE

_REGION: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of a deployment under `root`."""

    root: Path

    @property
    def ca(self) -> Path:
        """Directory of ca.pem and ca.key."""
        return self.root / "ca"

    @property
    def tls(self) -> Path:
        """Directory of every certificate and its key."""
        return self.root / "tls"

    @property
    def audit_log(self) -> Path:
        """Directory of the audit log's data."""
        return self.root / "audit-log"

    @property
    def logs(self) -> Path:
        """Directory of what the processes print."""
        return self.root / "logs"

    @property
    def audit_log_config(self) -> Path:
        """Configuration of the audit log."""
        return self.root / "audit-log.toml"

    @property
    def client_config(self) -> Path:
        """The operator's configuration. Written last: it marks a complete deployment."""
        return self.root / "client.toml"

    def client_config_of(self, client: str) -> Path:
        """Return the configuration of one of the example services."""
        return self.root / f"client-{client}.toml"

    def shard(self, region: str) -> Path:
        """Return the directory of a shard: its token, PIN, store and spool."""
        return self.root / "shards" / region

    def server_config(self, region: str) -> Path:
        """Return the configuration of the server of a region."""
        return self.root / f"server-{region}.toml"

    def server_configs(self) -> dict[str, Path]:
        """Return the configuration of each region's server, as found on disk."""
        return {
            path.stem.removeprefix("server-"): path
            for path in sorted(self.root.glob("server-*.toml"))
        }

    @property
    def is_complete(self) -> bool:
        """Whether `dev init` has finished here."""
        return self.client_config.is_file()


def principal(*path: str) -> str:
    """Return the SPIFFE ID of somebody in a development deployment."""
    return "/".join((TRUST_DOMAIN, *path))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The two loopback ports of one process."""

    port: int
    ops_port: int


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a deployment."""

    servers: dict[str, Endpoint]
    audit_log: Endpoint

    @classmethod
    def from_base(cls, regions: Sequence[str], base: int) -> Ports:
        """Lay the ports out from `base`: servers, then the audit log seven further."""
        return cls(
            {
                region: Endpoint(base + number, base + OPS_OFFSET + number)
                for number, region in enumerate(regions)
            },
            Endpoint(base + AUDIT_LOG_OFFSET, base + AUDIT_LOG_OPS_OFFSET),
        )

    @classmethod
    def free(cls, regions: Sequence[str]) -> Ports:
        """Take ports that nobody listens on now."""
        with ExitStack() as stack:
            numbers = []
            # All are held until the last is known, so that no number comes twice.
            for _ in range(2 * len(regions) + 2):
                held = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                held.bind(("127.0.0.1", 0))
                numbers.append(held.getsockname()[1])
        endpoints = [Endpoint(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
        return cls(dict(zip(regions, endpoints, strict=False)), endpoints[-1])


def check_regions(regions: Sequence[str]) -> None:
    """Refuse regions that cannot be laid out.

    Raises:
        CliError: There are none, too many, one twice, or one is not a region's name.
    """
    if not 1 <= len(regions) <= MAX_REGIONS:
        raise CliError.usage(f"--region: 1 to {MAX_REGIONS} regions")
    if len(set(regions)) != len(regions):
        raise CliError.usage("--region: a region is given twice")
    for region in regions:
        if not _REGION.fullmatch(region):
            raise CliError.usage(
                f"--region {region!r}: expected a lower-case letter, then up to 31 lower-case "
                "letters, digits or hyphens"
            )
