"""Configuration of `strongroom serve`: one frozen object from TOML and environment.

Precedence: environment (``STRONGROOM_SERVER__LISTEN`` sets ``[server] listen``), then the
file, then the defaults here. Unknown keys are refused. Secrets are never values, only
paths of files. This is the only module of the server that reads the environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from strongroom_server.config_audit import AuditConfig
from strongroom_server.config_limits import LimitsConfig, PrincipalLimitsConfig
from strongroom_server.config_nats import NatsConfig
from strongroom_server.config_types import Principal, Section
from strongroom_server.errors import StartRefusedError

__all__ = [
    "AccessConfig",
    "Config",
    "LifecycleConfig",
    "LimitsConfig",
    "LogConfig",
    "NatsConfig",
    "OpsConfig",
    "PrincipalLimitsConfig",
    "ServerConfig",
    "ShardConfig",
    "TlsConfig",
    "load_config",
]


_ENV_PREFIX: Final = "STRONGROOM_"
_AUDIT_LOG_ENV_PREFIX: Final = "STRONGROOM_AUDITLOG_"  # another program's


def _check_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 2**16 - 1:
        raise ValueError("expected host:port, port 0 to 65535 (0 takes a free one)")
    return text


Address = Annotated[str, AfterValidator(_check_address)]


class ServerConfig(Section):
    """``[server]``: the gRPC port."""

    listen: Address = Field(
        "127.0.0.1:7443", description="host:port of the gRPC service; always mTLS"
    )
    reflection: bool = Field(
        default=False, description="serve gRPC reflection; for development only"
    )
    default_deadline_seconds: float = Field(
        5.0, gt=0, le=60, description="deadline of a call whose caller sets none or a longer one"
    )
    drain_seconds: float = Field(
        10.0, ge=0, le=300, description="on SIGTERM, how long calls under way may take to end"
    )
    max_connection_age_seconds: int = Field(
        3600,
        ge=10,
        description="connections are closed after this; bounds the use of a revoked certificate",
    )
    max_concurrent_calls: int = Field(
        1000, ge=1, description="calls under way in this process; more are OVERLOADED at once"
    )


class TlsConfig(Section):
    """``[tls]``: this server's certificate and the CA of its callers; read again when changed."""

    certificate_file: Path = Field(description="PEM certificate chain of this server")
    private_key_file: Path = Field(description="PEM private key of this server, mode 0600")
    client_ca_file: Path = Field(description="PEM certificates of the CA that callers come from")


class OpsConfig(Section):
    """``[ops]``: the plain HTTP port for /metrics, /livez and /readyz. Keep it on loopback."""

    listen: Address = Field("127.0.0.1:9464", description="host:port of the ops port")


class AccessConfig(Section):
    """``[access]``: who may do what before any key policy speaks."""

    administrators: tuple[Principal, ...] = Field(
        (), description='principals in Role::"administrator" of every key policy'
    )
    key_creators: tuple[Principal, ...] = Field(
        (), description="principals that may create keys; administrators always may"
    )
    audit_consumers: tuple[Principal, ...] = Field(
        (), description="principals that may read and acknowledge the audit spools"
    )


class LifecycleConfig(Section):
    """``[lifecycle]``: what all keys of this server have in common."""

    minimum_deletion_days: int = Field(
        7,
        ge=7,
        le=30,
        description="shortest waiting time of ScheduleKeyDeletion and ScheduleKeyVersionDeletion",
    )


class LogConfig(Section):
    """``[log]``: the server's own log, JSON lines on standard output."""

    level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        "info", description="debug, info, warning or error"
    )


class ShardConfig(Section):
    """``[[shards]]``: one region: its token and session pool, its store, its spool."""

    region: Annotated[str, Field(pattern="^[a-z][a-z0-9-]{0,31}$")] = Field(
        description="region, as in regions/{region}"
    )
    module: Path = Field(description="the vendor's PKCS#11 library")
    module_environment: dict[str, str] = Field(
        default_factory=dict,
        description="environment of the HSM workers, such as SOFTHSM2_CONF; never secrets",
    )
    module_parameters: Annotated[str, Field(max_length=1024, pattern=r"^[\x20-\x7e]*$")] = Field(
        "",
        description="LibraryParameters of C_Initialize, which few modules need (NSS does); "
        "never secrets",
    )
    token_label: Annotated[str, Field(min_length=1, max_length=32)] = Field(
        description="label of the token (CKA_LABEL of the slot's token, at most 32 characters)"
    )
    pin_file: Path = Field(description="file with the user PIN and nothing else, mode 0600")
    sessions: int = Field(2, ge=1, le=64, description="HSM worker processes, one session each")
    recycle_after_unwraps: int = Field(
        100_000,
        ge=0,
        description="a worker is replaced after so many unwraps, for modules that leak; 0: never",
    )
    default_storage: Literal["resident", "wrapped"] = Field(
        "resident",
        description="where the material of new keys is kept when CreateKey does not say: resident, "
        "an object in the HSM for each version; wrapped, in the store, wrapped by a root in the "
        "HSM (formats/wrapped-material-v1.md)",
    )
    unwrapped_keys: int = Field(
        1000,
        ge=16,
        le=100_000,
        description="wrapped keys that one worker keeps unwrapped in the HSM, those used last; "
        "they are session objects: see what the HSM has room for",
    )
    store: Path = Field(description="SQLite database of the shard's metadata")
    key_cache_keys: int = Field(
        10_000,
        ge=100,
        description="keys whose metadata is kept in memory, those used last; the others are read "
        "from the store",
    )
    spool: Path = Field(description="directory of the shard's audit spool")
    spool_limit_bytes: int = Field(
        256 * 2**20,
        ge=2**17,
        description="unacknowledged audit records; at the limit the shard refuses calls",
    )
    spool_limit_seconds: float = Field(
        3600.0,
        ge=10,
        description="age of the oldest unacknowledged audit record at which the shard refuses "
        "calls: a log that does not collect is noticed also where little happens",
    )
    buffered_records: int = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="audit records that a crash may lose of keys in audit mode BUFFERED "
        "(formats/audit-spool-v1.md); 0: such keys are recorded as all others",
    )
    buffered_seconds: float = Field(
        0.25,
        ge=0.01,
        le=60,
        description="age up to which it may lose them: they are on disk before",
    )
    transport: Literal["direct", "nats"] = Field(
        "direct",
        description="how audit records reach the audit log: direct, it fetches them over gRPC; "
        "nats, they are published through [nats]",
    )
    verify_after_encrypt: bool = Field(
        default=True,
        description="decrypt what was encrypted before answering; a silent HSM fault loses data",
    )


class Config(BaseSettings):
    """Everything that `strongroom serve` is told."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=_ENV_PREFIX, env_nested_delimiter="__"
    )
    _toml_file: ClassVar[Path | None] = None

    server: ServerConfig = Field(default_factory=ServerConfig)
    tls: TlsConfig
    ops: OpsConfig = Field(default_factory=OpsConfig)
    access: AccessConfig = Field(default_factory=AccessConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)
    lifecycle: LifecycleConfig = Field(default_factory=LifecycleConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    nats: NatsConfig | None = None
    shards: Annotated[tuple[ShardConfig, ...], Field(min_length=1)]

    def digest(self) -> str:
        """Return the SHA-256 of all settings, hex (audit-record-v1.md, Other methods).

        No setting is a secret: those are in files, whose paths are digested.
        """
        settings = self.model_dump(mode="json")
        text = json.dumps(settings, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; no .env files and no secrets directories."""
        del dotenv_settings, file_secret_settings
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, cls._toml_file),
        )


def load_config(path: Path) -> Config:
    """Load the configuration; relative paths in it are relative to the file's directory.

    Raises:
        StartRefusedError: The file cannot be read, is not TOML, has unknown keys or values
            out of range, or two shards share a region, store or spool; or the environment
            names a section that is not there. The message lists every mistake.
    """
    if not path.is_file():
        raise StartRefusedError(f"{path}: no such configuration file; see `strongroom dev init`")
    _check_environment(os.environ)

    class _FileConfig(Config):
        _toml_file = path

    try:
        loaded = _FileConfig()
    except ValidationError as exc:
        lines = [
            f"  {'.'.join(str(part) for part in error['loc']) or '(file)'}: {error['msg']}"
            for error in exc.errors(include_input=False, include_url=False)
        ]
        raise StartRefusedError(
            f"{path}: mistakes in the configuration:\n" + "\n".join(lines)
        ) from exc
    except (OSError, ValueError) as exc:  # not readable; tomllib.TOMLDecodeError
        raise StartRefusedError(f"{path}: {exc}") from exc
    config = _resolve_paths(loaded, path.parent)
    _check_shards(path, config)
    principals = [each.principal for each in config.limits.principals]
    if len(set(principals)) != len(principals):
        raise StartRefusedError(f"{path}: limits.principals: a principal is listed twice")
    if any(shard.transport == "nats" for shard in config.shards):
        if config.nats is None:
            raise StartRefusedError(f"{path}: shards: transport nats needs the section [nats]")
        if not config.access.audit_consumers:
            raise StartRefusedError(
                f"{path}: access.audit_consumers: transport nats needs the audit log's principal, "
                "whose acknowledgements are believed"
            )
    return config


def _check_shards(path: Path, config: Config) -> None:
    """Refuse shards that share what each needs for itself."""
    # Two shards in one database or one spool would write over each other.
    for name in ("region", "store", "spool"):
        values = [str(getattr(shard, name)) for shard in config.shards]
        if len(set(values)) != len(values):
            raise StartRefusedError(f"{path}: shards: a {name} is listed twice")
    # On one token, the keys of one look like orphans of the other (`hsm reconcile --apply`),
    # and their wrapping roots have the same names.
    tokens = [
        (
            shard.module,
            shard.module_parameters,
            sorted(shard.module_environment.items()),
            shard.token_label,
        )
        for shard in config.shards
    ]
    if any(token in tokens[:at] for at, token in enumerate(tokens)):
        raise StartRefusedError(
            f"{path}: shards: a token is listed twice; each region needs its own"
        )


def _check_environment(names: Iterable[str]) -> None:
    """Refuse settings of sections that are not there; pydantic would pass over them."""
    sections = {name.upper() for name in Config.model_fields}
    for name in map(str.upper, names):
        if not name.startswith(_ENV_PREFIX) or name.startswith(_AUDIT_LOG_ENV_PREFIX):
            continue
        section, divider, _ = name.removeprefix(_ENV_PREFIX).partition("__")
        if divider and section not in sections:
            raise StartRefusedError(f"environment: {name}: no section [{section.lower()}]")


def _resolve_paths(config: Config, base: Path) -> Config:
    tls, audit = config.tls, config.audit
    key_file = audit.identifier_key_file
    return config.model_copy(
        update={
            "audit": audit.model_copy(
                update={"identifier_key_file": None if key_file is None else base / key_file}
            ),
            "tls": tls.model_copy(
                update={
                    name: base / getattr(tls, name)
                    for name in ("certificate_file", "private_key_file", "client_ca_file")
                }
            ),
            "nats": config.nats and config.nats.relative_to(base),
            "shards": tuple(
                shard.model_copy(
                    update={
                        name: base / getattr(shard, name)
                        for name in ("module", "pin_file", "store", "spool")
                    }
                )
                for shard in config.shards
            ),
        }
    )
