"""From the options of a command to a client of the service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from strongroom_server.cli.failures import CliError

if TYPE_CHECKING:
    from strongroom.resource_names import AliasName, KeyName
    from strongroom_client import ClientOptions, KmsClient

__all__ = ["find_config", "load_client_options", "resolve_key"]

MAX_ATTEMPTS: Final = 5


def find_config(given: Path | None, *, environment: Mapping[str, str], here: Path) -> Path:
    """Return the client configuration: the one given, the user's, or ``dev/client.toml``.

    `given` already includes the environment's STRONGROOM_CONFIG.

    Raises:
        CliError: There is none.
    """
    if given is not None:
        return given
    # XDG Base Directory Specification: an empty or relative value counts as unset.
    base = environment.get("XDG_CONFIG_HOME", "")
    home = Path(base) if base.startswith("/") else Path(environment.get("HOME", "/")) / ".config"
    for candidate in (home / "strongroom" / "client.toml", here / "dev" / "client.toml"):
        if candidate.is_file():
            return candidate
    raise CliError(
        "CONFIGURATION",
        "no client configuration",
        "give --config FILE or set STRONGROOM_CONFIG",
        "`strongroom dev up` makes and runs a development deployment",
    )


def load_client_options(config: Path | None, region: str | None = None) -> ClientOptions:
    """Load the options; `region` replaces the default region.

    Raises:
        CliError: There is no configuration.
        strongroom_client.OptionsError: It cannot be used.
    """
    from strongroom_client import load_options

    path = find_config(config, environment=os.environ, here=Path.cwd())
    options = load_options(path)
    # Somebody sits and waits: whether there is a server at all is told in a second or two.
    options = replace(options, max_attempts=min(options.max_attempts, MAX_ATTEMPTS))
    return options if region is None else replace(options, region=region)


def resolve_key(client: KmsClient, target: KeyName | AliasName) -> str:
    """Return the name of the key that `target` is or names.

    Calls that change a key take its own name only: an alias that somebody points elsewhere
    must not silently choose another key to disable.
    """
    from strongroom.resource_names import KeyName

    if isinstance(target, KeyName):
        return str(target)
    return client.get_key(str(target)).name
