"""Configuration of `strongroom audit-log`: one frozen object from TOML and environment.

Precedence: environment (``STRONGROOM_AUDITLOG_SERVER__LISTEN`` sets ``[server] listen``),
then the file, then the defaults here. Unknown keys are refused. Secrets are never values,
only paths of files. This is the only module of the package that reads the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from strongroom.tlog.cosignature import WitnessPolicy
from strongroom.tlog.note import CosignerKey
from strongroom_auditlog.config_shards import NatsConfig, ShardConfig
from strongroom_auditlog.config_types import (
    Address,
    CosignerKeyText,
    KeyName,
    LogLevel,
    Principal,
    Section,
    Url,
    read_settings,
)
from strongroom_auditlog.errors import StartRefusedError

__all__ = [
    "AccessConfig",
    "ArchiveConfig",
    "Config",
    "HsmConfig",
    "LogConfig",
    "NatsConfig",
    "OpsConfig",
    "ServerConfig",
    "ShardConfig",
    "TlsConfig",
    "WitnessConfig",
    "load_config",
]


class HsmConfig(Section):
    """``[log.hsm]``: the signing key in an HSM token instead of a file."""

    module: Path = Field(description="the vendor's PKCS#11 library")
    module_environment: dict[str, str] = Field(
        default_factory=dict, description="environment of the signer process; never secrets"
    )
    module_parameters: str = Field(
        "", description="LibraryParameters of C_Initialize, which few modules need; never secrets"
    )
    token_label: str = Field(min_length=1, description="label of the token")
    pin_file: Path = Field(description="file with the user PIN and nothing else, mode 0600")
    key_label: str = Field(
        "strongroom-audit-log",
        min_length=1,
        description="CKA_LABEL of the Ed25519 key pair; --init makes it when it is not there",
    )


class LogConfig(Section):
    """``[log]``: the log itself."""

    directory: Path = Field(description="directory of tiles, entries and checkpoint, to be served")
    state: Path = Field(
        description="SQLite database of what was signed; outside of directory, and never "
        "restored from a backup that is older than the log"
    )
    origin: KeyName = Field(description="name of the log in its checkpoints; can never change")
    last_checkpoint: Path | None = Field(
        None,
        description="SQLite database of the last signed checkpoint, best on another disk or volume "
        "than state and directory, and never in the same backup; last-checkpoint.sqlite3 beside "
        "state",
    )
    private_key_file: Path | None = Field(
        None,
        description="Ed25519 private key that signs checkpoints, PKCS8 PEM, mode 0600; this or "
        "[log.hsm]",
    )
    hsm: HsmConfig | None = Field(
        None, description="the signing key in an HSM token; this or private_key_file"
    )
    verifier_key_file: Path | None = Field(
        None,
        description="where --init writes the verifier key; log.vkey beside the private key, or "
        "beside state",
    )
    witness_quorum: int | None = Field(
        None,
        ge=0,
        description="how many of [[witnesses]] must cosign a checkpoint before it is published and "
        "its records are acknowledged; to be said when there are any",
    )
    witness_interval_seconds: float = Field(
        1.0,
        ge=0.1,
        le=60,
        description="between two requests to the same witness, and with witnesses between two "
        "checkpoints; others' witnesses expect at least a second",
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

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        if (self.private_key_file is None) == (self.hsm is None):
            raise ValueError("exactly one of private_key_file and [log.hsm] is needed")
        return self


class ServerConfig(Section):
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


class TlsConfig(Section):
    """``[tls]``: certificate towards callers and shards alike; read again when changed."""

    certificate_file: Path = Field(description="PEM certificate chain with one spiffe:// URI SAN")
    private_key_file: Path = Field(description="PEM private key of the certificate, mode 0600")
    ca_file: Path = Field(description="PEM certificates of the CA of callers and shards")


class OpsConfig(Section):
    """``[ops]``: plain HTTP port for /metrics, /livez and /readyz, and the process's own log."""

    listen: Address = Field("127.0.0.1:9465", description="host:port; keep it on loopback")
    log_level: LogLevel = Field("info", description="debug, info, warning or error")


class AccessConfig(Section):
    """``[access]``: who may read records. Proofs are for every authenticated principal."""

    readers: tuple[Principal, ...] = Field((), description="principals that may list records")


class ArchiveConfig(Section):
    """``[archive]``: where records are kept that leave the log."""

    location: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="directory, or s3://bucket/prefix: what archive, prune and restore-archive "
        "take when they are not told, and where indexes are made anew from",
    )


class WitnessConfig(Section):
    """``[[witnesses]]``: a witness that is asked to cosign checkpoints."""

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")] = Field(
        description="name in metrics and log"
    )
    url: Url = Field(description="submission prefix; /add-checkpoint is appended")
    verifier_key: CosignerKeyText = Field(
        description="verifier key of the witness, name+id+base64, signature type 0x04"
    )
    ca_file: Path | None = Field(
        None, description="PEM certificates of the CA of an https witness; the system's otherwise"
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
    archive: ArchiveConfig = Field(default_factory=ArchiveConfig)
    nats: NatsConfig | None = None
    shards: Annotated[tuple[ShardConfig, ...], Field(min_length=1)]
    witnesses: tuple[WitnessConfig, ...] = ()

    @model_validator(mode="after")
    def _check_witnesses(self) -> Self:
        quorum = self.log.witness_quorum
        if self.witnesses and quorum is None:
            raise ValueError(
                f"log.witness_quorum: say how many of the {len(self.witnesses)} witnesses must "
                "cosign; 0 publishes without waiting for them"
            )
        keys = tuple(CosignerKey.parse(witness.verifier_key) for witness in self.witnesses)
        WitnessPolicy(keys, quorum or 0)  # a key twice, or a quorum that cannot be reached
        if len({witness.name for witness in self.witnesses}) != len(self.witnesses):
            raise ValueError("witnesses: a name is used twice")
        return self

    @model_validator(mode="after")
    def _check_nats(self) -> Self:
        if self.nats is None and any(shard.transport == "nats" for shard in self.shards):
            raise ValueError("shards: transport nats needs the section [nats]")
        return self

    @property
    def verifier_key_file(self) -> Path:
        """Where the verifier key is."""
        beside = self.log.private_key_file or self.log.state
        return self.log.verifier_key_file or beside.with_name("log.vkey")

    @property
    def last_checkpoint_file(self) -> Path:
        """Where the last checkpoint is."""
        return self.log.last_checkpoint or self.log.state.with_name("last-checkpoint.sqlite3")

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
    loaded = read_settings(Config, path)
    regions = [shard.region for shard in loaded.shards]
    if len(set(regions)) != len(regions):
        raise StartRefusedError(f"{path}: shards: a region is listed twice")
    config = _resolve_paths(loaded, path.parent)
    for name, file in (
        ("state", config.log.state),
        ("index", config.index_file),
        ("last_checkpoint", config.last_checkpoint_file),
    ):
        if file.resolve().is_relative_to(config.log.directory.resolve()):
            raise StartRefusedError(
                f"{path}: log.{name}: must not lie in log.directory, which is served and copied"
            )
    databases = (config.log.state, config.index_file, config.last_checkpoint_file)
    if len({file.resolve() for file in databases}) != len(databases):
        raise StartRefusedError(
            f"{path}: log: state, index and last_checkpoint must be different files"
        )
    return config


def _resolve_paths(config: Config, base: Path) -> Config:
    log, tls = config.log, config.tls
    optional = ("private_key_file", "verifier_key_file", "index", "last_checkpoint")
    paths: dict[str, object] = {
        name: base / getattr(log, name)
        for name in ("directory", "state", *optional)
        if getattr(log, name) is not None
    }
    if log.hsm is not None:
        hsm = {"module": base / log.hsm.module, "pin_file": base / log.hsm.pin_file}
        paths["hsm"] = log.hsm.model_copy(update=hsm)
    witnesses = tuple(
        witness.model_copy(update={"ca_file": witness.ca_file and base / witness.ca_file})
        for witness in config.witnesses
    )
    names = ("certificate_file", "private_key_file", "ca_file")
    nats = config.nats and config.nats.model_copy(
        update={
            name: base / path
            for name in ("certificate_file", "private_key_file", "ca_file")
            if (path := getattr(config.nats, name)) is not None
        }
    )
    archive = config.archive
    if archive.location is not None and "://" not in archive.location:
        archive = archive.model_copy(update={"location": str(base / archive.location)})
    return config.model_copy(
        update={
            "log": log.model_copy(update=paths),
            "archive": archive,
            "nats": nats,
            "witnesses": witnesses,
            "tls": tls.model_copy(update={name: base / getattr(tls, name) for name in names}),
        }
    )
