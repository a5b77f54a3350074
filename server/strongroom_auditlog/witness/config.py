"""Configuration of `strongroom audit-witness`: one frozen object from TOML and environment.

Precedence: environment (``STRONGROOM_WITNESS_SERVER__LISTEN`` sets ``[server] listen``),
then the file, then the defaults here. Unknown keys are refused. This is the only module of
the witness that reads the environment.
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

from strongroom.tlog.note import VerifierKey
from strongroom_auditlog.config_types import (
    Address,
    KeyName,
    LogLevel,
    Section,
    VerifierKeyText,
    read_settings,
)

__all__ = ["WitnessSettings", "load_witness_config"]


class IdentityConfig(Section):
    """``[witness]``: who it is, and what it remembers."""

    name: KeyName = Field(
        description="name of the witness's key, such as witness.example.org/w1; can never change"
    )
    private_key_file: Path = Field(
        description="Ed25519 private key that cosigns, PKCS8 PEM, mode 0600; of no other use"
    )
    verifier_key_file: Path | None = Field(
        None,
        description="where --init writes the verifier key; witness.vkey beside the private key",
    )
    state: Path = Field(
        description="SQLite database of the last cosigned checkpoint of each log; never restored "
        "from a backup, for the witness would cosign a second history"
    )


class HttpConfig(Section):
    """``[server]``: the port that logs ask."""

    listen: Address = Field("127.0.0.1:7460", description="host:port of the HTTP service")
    certificate_file: Path | None = Field(
        None,
        description="PEM certificate chain; with private_key_file the port is HTTPS. The protocol "
        "needs no secrecy, both sides sign",
    )
    private_key_file: Path | None = Field(None, description="PEM private key of the certificate")

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.certificate_file is None) != (self.private_key_file is None):
            raise ValueError("certificate_file and private_key_file: both or neither")
        return self


class WitnessOpsConfig(Section):
    """``[ops]``: plain HTTP port for /metrics, /livez and /readyz, and the process's own log."""

    listen: Address = Field("127.0.0.1:9466", description="host:port; keep it on loopback")
    log_level: LogLevel = Field("info", description="debug, info, warning or error")


class WitnessedLogConfig(Section):
    """``[[logs]]``: a log whose checkpoints are cosigned."""

    verifier_key: VerifierKeyText = Field(
        description="verifier key of the log, got out of band (log.vkey)"
    )
    origin: KeyName | None = Field(
        None, description="first line of its checkpoints, if it is not the name of the key"
    )

    @property
    def key(self) -> VerifierKey:
        """The log's key."""
        return VerifierKey.parse(self.verifier_key)


class WitnessSettings(BaseSettings):
    """Everything that `strongroom audit-witness` is told."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="STRONGROOM_WITNESS_", env_nested_delimiter="__"
    )
    _toml_file: ClassVar[Path | None] = None

    witness: IdentityConfig
    server: HttpConfig = Field(default_factory=HttpConfig)
    ops: WitnessOpsConfig = Field(default_factory=WitnessOpsConfig)
    logs: Annotated[tuple[WitnessedLogConfig, ...], Field(min_length=1)]

    @property
    def verifier_key_file(self) -> Path:
        """Where the verifier key is."""
        return self.witness.verifier_key_file or self.witness.private_key_file.with_name(
            "witness.vkey"
        )

    @property
    def keys_by_origin(self) -> dict[str, tuple[VerifierKey, ...]]:
        """Origin -> the keys that sign for it; a log that changes its key has two."""
        found: dict[str, tuple[VerifierKey, ...]] = {}
        for log in self.logs:
            origin = log.origin or log.key.name
            found[origin] = (*found.get(origin, ()), log.key)
        return found

    @model_validator(mode="after")
    def _check_logs(self) -> Self:
        if len({log.verifier_key for log in self.logs}) != len(self.logs):
            raise ValueError("logs: a key is listed twice")
        return self

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


def load_witness_config(path: Path) -> WitnessSettings:
    """Load the configuration; relative paths in it are relative to the file's directory.

    Raises:
        StartRefusedError: The file cannot be read, is not TOML, has unknown keys or values
            out of range. The message lists every mistake.
    """
    loaded = read_settings(WitnessSettings, path)
    base = path.parent

    def resolved(section: Section, *names: str) -> dict[str, Path]:
        values = {name: getattr(section, name) for name in names}
        return {name: base / value for name, value in values.items() if value is not None}

    identity = resolved(loaded.witness, "private_key_file", "verifier_key_file", "state")
    server = resolved(loaded.server, "certificate_file", "private_key_file")
    return loaded.model_copy(
        update={
            "witness": loaded.witness.model_copy(update=identity),
            "server": loaded.server.model_copy(update=server),
        }
    )
