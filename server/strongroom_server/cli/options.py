"""The options that many commands share."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ConfigOption",
    "ContextOption",
    "ForceOption",
    "Format",
    "Invocation",
    "OutOption",
    "OutputOption",
    "RegionOption",
]


class Format(enum.StrEnum):
    """How results and errors are printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(slots=True)
class Invocation:
    """What one run of the program knows about itself; made and read by `root.run`."""

    output: Format = Format.TABLE


def _remember(context: typer.Context, value: Format) -> Format:
    """Tell `root.run` the format before anything else can fail."""
    if isinstance(context.obj, Invocation):
        context.obj.output = value
    return value


OutputOption = Annotated[
    Format,
    typer.Option(
        "--output",
        "-o",
        envvar="STRONGROOM_OUTPUT",
        callback=_remember,
        is_eager=True,
        help="How results and errors are printed.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="STRONGROOM_CONFIG",
        help="Client configuration. Default: $XDG_CONFIG_HOME/strongroom/client.toml, "
        "else ./dev/client.toml when it exists.",
    ),
]
RegionOption = Annotated[
    str | None,
    typer.Option("--region", metavar="REGION", help="Region of names that do not say one."),
]
ContextOption = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        metavar="KEY=VALUE",
        help="Pair of the encryption context; may be repeated. Not secret: it is logged.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="File to write; - is standard output.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
