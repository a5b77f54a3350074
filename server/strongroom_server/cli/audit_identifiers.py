"""``strongroom audit hash-identifier``: what stands in records for a hashed value."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["hash_identifier"]


def hash_identifier(
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE",
            help="An address such as ipv4:192.0.2.1, a principal, a context's value; - reads "
            "values from standard input, one a line.",
        ),
    ],
    *,
    key_file: Annotated[
        Path,
        typer.Option("--key-file", metavar="FILE", help="The server's identifier_key_file."),
    ],
) -> None:
    """Hash a value as a server does that hides identifiers (`[audit] hash_identifiers`).

    For --principal of `audit search`, or to look for in what it prints. The key's id goes
    to standard error: records name it as identifier_key.
    """
    from strongroom_server.audit.identifiers import IdentifierHasher, load_identifier_key
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import note
    from strongroom_server.errors import StartRefusedError

    try:
        hasher = IdentifierHasher(load_identifier_key(key_file), ())
    except StartRefusedError as exc:
        raise CliError("FILE", str(exc)) from exc
    note(f"identifier_key {hasher.key_id}")
    values = (line.rstrip("\n") for line in sys.stdin) if value == "-" else [value]
    for each in values:
        print(hasher.hash(each))
