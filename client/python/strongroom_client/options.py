"""What a client is told: endpoints, TLS files, time limits. One frozen object.

    [tls]
    certificate_file = "orders.pem"      this client's certificate chain
    private_key_file = "orders.key"      its private key, mode 0600
    ca_file = "ca.pem"                   the CA of the servers
    [endpoints]
    eu-1 = "127.0.0.1:7443"              region = "host:port", in order of preference
    us-1 = "127.0.0.1:7444"
    [audit_log]
    endpoint = "127.0.0.1:7450"          optional; for client.audit
    [defaults]
    region = "eu-1"                      optional; preferred region, the first endpoint otherwise
    timeout_seconds = 20.0               optional
    max_attempts = 100                   optional

Relative paths are relative to the file. Unknown keys are refused.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.resource_names import RegionName, ResourceNameError
from strongroom_client.errors import NoEndpointError, OptionsError

__all__ = ["ClientOptions", "Endpoint", "TlsFiles", "load_options"]

DEFAULT_TIMEOUT_SECONDS: Final = 20.0  # a server is restarted within it
DEFAULT_MAX_ATTEMPTS: Final = 100  # more than fit into it: the time ends them

_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for mutual TLS. Read when the client connects first, not again.

    Attributes:
        certificate_file: This client's certificate chain; its URI SAN is the principal.
        private_key_file: Its private key; keep it at mode 0600.
        ca_file: Certificates of the CA that the servers' certificates come from.
    """

    certificate_file: Path
    private_key_file: Path
    ca_file: Path


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the shard of a region is served: `address` is host:port."""

    region: str
    address: str

    def __post_init__(self) -> None:
        try:
            RegionName.parse(f"regions/{self.region}")
        except ResourceNameError as exc:
            raise OptionsError(f"endpoint {self.region!r}: not the name of a region") from exc
        match = _ADDRESS.fullmatch(self.address)
        if match is None or not 1 <= int(match["port"]) <= 2**16 - 1:
            raise OptionsError(f"endpoint {self.region}: expected host:port, got {self.address!r}")


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Everything that a client is told.

    Attributes:
        tls: Files for mutual TLS; there is no way to connect without.
        endpoints: One or more, each region once, in order of preference.
        region: Region to prefer, for decrypting envelopes; the first endpoint's when None.
        timeout_seconds: Limit of one operation with all its retries. More than 0.
        max_attempts: How often a call is sent at most, 1 for no retries. Only calls that were
            answered with UNAVAILABLE or RESOURCE_EXHAUSTED are sent again, with pauses of up
            to a second or as long as the service says. The default leaves it to the time
            limit, which bridges a restart of the server.
        audit_log_endpoint: host:port of the audit log, for `client.audit`.
    """

    tls: TlsFiles
    endpoints: tuple[Endpoint, ...]
    region: str | None = None
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    audit_log_endpoint: str | None = None

    def __post_init__(self) -> None:
        regions = [endpoint.region for endpoint in self.endpoints]
        if not regions:
            raise OptionsError("no endpoints: name at least one region and its host:port")
        if len(set(regions)) != len(regions):
            raise OptionsError("endpoints: a region is listed twice")
        if self.region is not None and self.region not in regions:
            raise OptionsError(f"region {self.region} has no endpoint")
        if not 0 < self.timeout_seconds < float("inf"):
            raise OptionsError("timeout_seconds must be more than 0")
        if self.max_attempts < 1:
            raise OptionsError("max_attempts must be 1 or more")

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions with endpoints, the preferred one first."""
        regions = tuple(endpoint.region for endpoint in self.endpoints)
        if self.region is None:
            return regions
        return (self.region, *(region for region in regions if region != self.region))

    def endpoint(self, region: str) -> Endpoint:
        """Return the endpoint of `region`.

        Raises:
            NoEndpointError: There is none.
        """
        for endpoint in self.endpoints:
            if endpoint.region == region:
                return endpoint
        raise NoEndpointError(
            f"no endpoint for region {region}; the options have {', '.join(self.regions)}"
        )


def load_options(path: Path | str) -> ClientOptions:
    """Load options from a TOML file.

    Raises:
        OptionsError: The file cannot be read, is not TOML, lacks something, or says
            something unknown. The message names it.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as exc:
        raise OptionsError(f"{path}: {exc.strerror or exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise OptionsError(f"{path}: {exc}") from exc
    try:
        return _from_document(document, path.parent)
    except OptionsError as exc:
        raise OptionsError(f"{path}: {exc}") from exc


def _from_document(document: Mapping[str, object], base: Path) -> ClientOptions:
    _refuse_unknown(document, "", {"tls", "endpoints", "audit_log", "defaults"})
    tls = _table(document, "tls")
    names = ("certificate_file", "private_key_file", "ca_file")
    _refuse_unknown(tls, "tls.", set(names))
    certificate_file, private_key_file, ca_file = (base / _text(tls, "tls.", n) for n in names)
    endpoints = _table(document, "endpoints")
    audit_log = _table(document, "audit_log") if "audit_log" in document else {}
    _refuse_unknown(audit_log, "audit_log.", {"endpoint"})
    defaults = _table(document, "defaults") if "defaults" in document else {}
    _refuse_unknown(defaults, "defaults.", {"region", "timeout_seconds", "max_attempts"})
    return ClientOptions(
        tls=TlsFiles(certificate_file, private_key_file, ca_file),
        endpoints=tuple(
            Endpoint(region, _text(endpoints, "endpoints.", region)) for region in endpoints
        ),
        region=_text(defaults, "defaults.", "region") if "region" in defaults else None,
        timeout_seconds=_number(defaults, "timeout_seconds", DEFAULT_TIMEOUT_SECONDS),
        max_attempts=_integer(defaults, "max_attempts", DEFAULT_MAX_ATTEMPTS),
        audit_log_endpoint=(
            _text(audit_log, "audit_log.", "endpoint") if "endpoint" in audit_log else None
        ),
    )


def _refuse_unknown(table: Mapping[str, object], prefix: str, known: set[str]) -> None:
    for name in table:
        if name not in known:
            raise OptionsError(f"{prefix}{name}: unknown; known are {', '.join(sorted(known))}")


def _table(document: Mapping[str, object], name: str) -> dict[str, object]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise OptionsError(f"[{name}]: this table is needed")
    return value


def _text(table: Mapping[str, object], prefix: str, name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value:
        raise OptionsError(f"{prefix}{name}: expected a text")
    return value


def _number(table: Mapping[str, object], name: str, default: float) -> float:
    value = table.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise OptionsError(f"defaults.{name}: expected a number")
    return float(value)


def _integer(table: Mapping[str, object], name: str, default: int) -> int:
    value = table.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionsError(f"defaults.{name}: expected a whole number")
    return value
