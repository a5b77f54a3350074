"""Whose configuration is this file, and is it right?"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom_server.cli.failures import CliError
from strongroom_server.errors import StartRefusedError

if TYPE_CHECKING:
    from strongroom_auditlog.config import Config as AuditLogConfig
    from strongroom_auditlog.witness.config import WitnessSettings
    from strongroom_server.config import Config as ServerConfig

__all__ = [
    "check_config",
    "kind_of",
    "load_audit_log_config",
    "load_server_config",
    "load_witness_config",
]


def kind_of(document: Mapping[str, object]) -> str:
    """Say whose configuration a document is: server, audit log, witness or client."""
    if "endpoints" in document:
        return "client"
    if "witness" in document:
        return "witness"
    log = document.get("log")
    # Both processes have [log]: the audit log's names its directory, the server's a level.
    if isinstance(log, dict) and not set(log) <= {"level"}:
        return "audit log"
    return "server" if "shards" in document else "client"


def load_server_config(path: Path) -> ServerConfig:
    """Load the configuration of a server.

    Raises:
        CliError: CONFIGURATION, with every mistake.
    """
    from strongroom_server.config import load_config

    try:
        return load_config(path)
    except StartRefusedError as exc:
        raise CliError("CONFIGURATION", str(exc)) from exc


def load_audit_log_config(path: Path) -> AuditLogConfig:
    """Load the configuration of an audit log.

    Raises:
        CliError: CONFIGURATION, with every mistake.
    """
    from strongroom_auditlog.config import load_config
    from strongroom_auditlog.errors import StartRefusedError as LogStartRefusedError

    try:
        return load_config(path)
    except LogStartRefusedError as exc:
        raise CliError("CONFIGURATION", str(exc)) from exc


def load_witness_config(path: Path) -> WitnessSettings:
    """Load the configuration of a witness.

    Raises:
        CliError: CONFIGURATION, with every mistake.
    """
    from strongroom_auditlog.errors import StartRefusedError as LogStartRefusedError
    from strongroom_auditlog.witness import config

    try:
        return config.load_witness_config(path)
    except LogStartRefusedError as exc:
        raise CliError("CONFIGURATION", str(exc)) from exc


def check_config(path: Path) -> str:
    """Read a configuration as its process would; return its kind.

    Raises:
        CliError: CONFIGURATION, with every mistake that the process would name.
    """
    from strongroom_client import OptionsError, load_options

    try:
        with path.open("rb") as stream:
            kind = kind_of(tomllib.load(stream))
        if kind == "server":
            load_server_config(path)
        elif kind == "audit log":
            load_audit_log_config(path)
        elif kind == "witness":
            load_witness_config(path)
        else:
            load_options(path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise CliError("CONFIGURATION", f"{path}: {exc}") from exc
    except OptionsError as exc:
        raise CliError("CONFIGURATION", str(exc)) from exc
    return kind
