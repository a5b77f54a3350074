"""What the configurations of this package have in common: values, sections, reading a file."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings

from strongroom.peers import PeerIdentityError, validate_spiffe_id
from strongroom.tlog.errors import CheckpointInvalidError
from strongroom.tlog.note import CosignerKey, VerifierKey, is_key_name
from strongroom_auditlog.errors import StartRefusedError

__all__ = [
    "Address",
    "CosignerKeyText",
    "KeyName",
    "LogLevel",
    "Principal",
    "Section",
    "Url",
    "VerifierKeyText",
    "read_settings",
]

_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_Settings = TypeVar("_Settings", bound=BaseSettings)


def _check_principal(text: str) -> str:
    try:
        return validate_spiffe_id(text)
    except PeerIdentityError as exc:
        raise ValueError(str(exc)) from exc


def _check_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not _PORT.fullmatch(port) or int(port) > 2**16 - 1:
        raise ValueError("expected host:port, port 0 to 65535 (0 takes a free one)")
    return text


def _check_key_name(text: str) -> str:
    if not is_key_name(text):
        raise ValueError("expected a name without spaces and plus signs, such as example.org/audit")
    return text


def _check_url(text: str) -> str:
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected http(s)://host[:port][/prefix]")
    return text


def _check_key(parse: Callable[[str], Any]) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            parse(text)
        except CheckpointInvalidError as exc:
            raise ValueError(str(exc)) from exc
        return text

    return check


Principal = Annotated[str, AfterValidator(_check_principal)]
Address = Annotated[str, AfterValidator(_check_address)]
KeyName = Annotated[str, AfterValidator(_check_key_name), Field(min_length=1, max_length=255)]
Url = Annotated[str, AfterValidator(_check_url)]
VerifierKeyText = Annotated[str, AfterValidator(_check_key(VerifierKey.parse))]
CosignerKeyText = Annotated[str, AfterValidator(_check_key(CosignerKey.parse))]
LogLevel = Annotated[str, Field(pattern="^(debug|info|warning|error)$")]


class Section(BaseModel):
    """A table of a configuration file: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_settings(settings: type[_Settings], path: Path) -> _Settings:
    """Read a configuration from `path` and the environment.

    `settings` has a class variable ``_toml_file``, which its sources read.

    Raises:
        StartRefusedError: The file cannot be read, is not TOML, has unknown keys or values
            out of range. The message lists every mistake.
    """
    if not path.is_file():
        raise StartRefusedError(f"{path}: no such configuration file; see `strongroom dev init`")
    bound: type[_Settings] = type(f"File{settings.__name__}", (settings,), {"_toml_file": path})
    try:
        return bound()
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
