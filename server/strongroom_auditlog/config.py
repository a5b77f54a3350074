"""Configuration of `strongroom audit-log`: one frozen object from TOML and environment.

Precedence: environment (``STRONGROOM_AUDITLOG_SERVER__LISTEN`` sets ``[server] listen``),
then the file, then the defaults here. Unknown keys are refused. Secrets are never values,
only paths of files. This is the only module of the package that reads the environment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from strongroom.peers import PeerIdentityError, validate_spiffe_id
from strongroom.tlog.checkpoint import is_key_name
from strongroom_auditlog.errors import StartRefusedError

__all__ = [
    "AccessConfig",
    "Config",
    "LogConfig",
    "OpsConfig",
    "ServerConfig",
    "ShardConfig",
    "TlsConfig",
    "load_config",
]


def _check_principal(text: str) -> str:
    try:
        return validate_spiffe_id(text)
    except PeerIdentityError as exc:
        raise ValueError(str(exc)) from exc


def _check_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 2**16 - 1:
        raise ValueError("expected host:port, port 0 to 65535 (0 takes a free one)")
    return text


def _check_origin(text: str) -> str:
    if not is_key_name(text):
        raise ValueError("expected a name without spaces and plus signs, such as example.org/audit")
    return text


Principal = Annotated[str, AfterValidator(_check_principal)]
Address = Annotated[str, AfterValidator(_check_address)]
Origin = Annotated[str, AfterValidator(_check_origin), Field(min_length=1, max_length=255)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LogConfig(_Section):
    """``[log]``: the log itself."""

    directory: Path = Field(description="directory of tiles, entries and checkpoint, to be served")
    state: Path = Field(
        description="SQLite database of what was signed; outside of directory, and never "
        "restored from a backup that is older than the log"
    )
    origin: Origin = Field(description="name of the log in its checkpoints; can never change")
    private_key_file: Path = Field(
        description="Ed25519 private key that signs checkpoints, PKCS8 PEM, mode 0600"
    )
    verifier_key_file: Path | None = Field(
        None, description="where --init writes the verifier key; log.vkey beside the private key"
    )
    index: Path | None = Field(
        None,
        description="SQLite database that ListRecords finds records by; made anew from the log "
        "when it is missing; index.sqlite3 beside state",
    )
    batch_seconds: float = Field(
        0.15, ge=0.01, le=10, description="how long records are gathered for one checkpoint"
    )
    batch_records: int = Field(
        8192, ge=1, le=65536, description="as many records are appended without waiting longer"
    )


class ServerConfig(_Section):
    """``[server]``: the gRPC port of AuditLogService."""

    listen: Address = Field(
        "127.0.0.1:7450", description="host:port of the gRPC service; always mTLS"
    )
    max_connection_age_seconds: int = Field(
        3600,
        ge=10,
        description="connections are closed after this; bounds the use of a revoked certificate",
    )
    max_concurrent_calls: int = Field(
        200, ge=1, description="calls under way in this process; more are OVERLOADED at once"
    )


class TlsConfig(_Section):
    """``[tls]``: certificate towards callers and shards alike; read again when changed."""

    certificate_file: Path = Field(description="PEM certificate chain with one spiffe:// URI SAN")
    private_key_file: Path = Field(description="PEM private key of the certificate, mode 0600")
    ca_file: Path = Field(description="PEM certificates of the CA of callers and shards")


class OpsConfig(_Section):
    """``[ops]``: plain HTTP port for /metrics, /livez and /readyz, and the process's own log."""

    listen: Address = Field("127.0.0.1:9465", description="host:port; keep it on loopback")
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        "info", description="debug, info, warning or error"
    )


class AccessConfig(_Section):
    """``[access]``: who may read records. Proofs are for every authenticated principal."""

    readers: tuple[Principal, ...] = Field((), description="principals that may list records")


class ShardConfig(_Section):
    """``[[shards]]``: a shard whose records go into the log."""

    region: Annotated[str, Field(pattern="^[a-z][a-z0-9-]{0,31}$")] = Field(
        description="region of the shard; records that claim another one are refused"
    )
    endpoint: Address = Field(description="host:port of the server that hosts the shard")
    server_name: str | None = Field(
        None, min_length=1, description="name in the server's certificate, if not the host"
    )


class Config(BaseSettings):
    """Everything that `strongroom audit-log` is told."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="STRONGROOM_AUDITLOG_", env_nested_delimiter="__"
    )
    _toml_file: ClassVar[Path | None] = None

    log: LogConfig
    server: ServerConfig = Field(default_factory=ServerConfig)
    tls: TlsConfig
    ops: OpsConfig = Field(default_factory=OpsConfig)
    access: AccessConfig = Field(default_factory=AccessConfig)
    shards: Annotated[tuple[ShardConfig, ...], Field(min_length=1)]

    @property
    def verifier_key_file(self) -> Path:
        """Where the verifier key is."""
        return self.log.verifier_key_file or self.log.private_key_file.with_name("log.vkey")

    @property
    def index_file(self) -> Path:
        """Where the record index is."""
        return self.log.index or self.log.state.with_name("index.sqlite3")

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
            out of range. The message lists every mistake.
    """
    if not path.is_file():
        raise StartRefusedError(f"{path}: no such configuration file; see `strongroom dev init`")

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
    except (ValueError, OSError) as exc:  # tomllib.TOMLDecodeError, a file that is not readable
        raise StartRefusedError(f"{path}: {exc}") from exc
    regions = [shard.region for shard in loaded.shards]
    if len(set(regions)) != len(regions):
        raise StartRefusedError(f"{path}: shards: a region is listed twice")
    config = _resolve_paths(loaded, path.parent)
    for name, file in (("state", config.log.state), ("index", config.index_file)):
        if file.resolve().is_relative_to(config.log.directory.resolve()):
            raise StartRefusedError(
                f"{path}: log.{name}: must not lie in log.directory, which is served and copied"
            )
    if config.index_file.resolve() == config.log.state.resolve():
        raise StartRefusedError(f"{path}: log.index: must not be the state")
    return config


def _resolve_paths(config: Config, base: Path) -> Config:
    log, tls = config.log, config.tls
    paths = {name: base / getattr(log, name) for name in ("directory", "state", "private_key_file")}
    if log.verifier_key_file is not None:
        paths["verifier_key_file"] = base / log.verifier_key_file
    if log.index is not None:
        paths["index"] = base / log.index
    names = ("certificate_file", "private_key_file", "ca_file")
    return config.model_copy(
        update={
            "log": log.model_copy(update=paths),
            "tls": tls.model_copy(update={name: base / getattr(tls, name) for name in names}),
        }
    )
