"""The options of the commands that ask the audit log for records."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom_server.cli.options import Format, Invocation

if TYPE_CHECKING:
    from strongroom_auditlog.record_filter import RecordFilter

__all__ = [
    "AuditFormat",
    "AuditOutputOption",
    "KeyFilterOption",
    "LogOption",
    "LogVkeyOption",
    "MethodFilterOption",
    "OutcomeFilterOption",
    "PrincipalFilterOption",
    "ReasonFilterOption",
    "RegionFilterOption",
    "SinceOption",
    "UntilOption",
    "build_filter",
]


class AuditFormat(enum.StrEnum):
    """How records are printed (docs/formats/audit-exports.md)."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CLOUDTRAIL = "cloudtrail"
    OCSF = "ocsf"


class Outcome(enum.StrEnum):
    """Outcomes of calls (docs/formats/audit-record-v1.md)."""

    OK = "OK"
    DENIED = "DENIED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"


def _remember(context: typer.Context, value: AuditFormat) -> AuditFormat:
    """Tell `root.run` how errors are printed."""
    if isinstance(context.obj, Invocation):
        context.obj.output = Format.TABLE if value is AuditFormat.TABLE else Format.JSON
    return value


AuditOutputOption = Annotated[
    AuditFormat,
    typer.Option(
        "--output",
        "-o",
        envvar="STRONGROOM_OUTPUT",
        callback=_remember,
        is_eager=True,
        help="How records are printed; all but table and json are one record a line.",
    ),
]
KeyFilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="Key, as a name or a UUID (in any region); an alias is looked up. May be repeated.",
    ),
]
PrincipalFilterOption = Annotated[
    list[str] | None,
    typer.Option("--principal", metavar="SPIFFE-ID", help="Who asked; may be repeated."),
]
MethodFilterOption = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="METHOD", help="Such as Decrypt; may be repeated."),
]
OutcomeFilterOption = Annotated[
    list[Outcome] | None,
    typer.Option("--outcome", case_sensitive=False, help="How it ended; may be repeated."),
]
ReasonFilterOption = Annotated[
    list[str] | None,
    typer.Option("--reason", metavar="REASON", help="Such as KEY_DISABLED; may be repeated."),
]
RegionFilterOption = Annotated[
    list[str] | None,
    typer.Option("--in-region", metavar="REGION", help="Region of the shard; may be repeated."),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Not before: 2026-01-02, an RFC 3339 time, or 15m, 2h, 7d."
    ),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Before; as --since.")
]
LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log",
        metavar="DIR",
        help="Read a copy of the log's directory instead of asking the audit log; all of it is "
        "verified first, with --vkey.",
    ),
]
LogVkeyOption = Annotated[
    Path | None,
    typer.Option(
        "--vkey",
        "--verifier-key",
        metavar="FILE",
        help="With --log: verifier key, got out of band.",
    ),
]


def build_filter(
    *,
    key: list[str] | None = None,
    principal: list[str] | None = None,
    method: list[str] | None = None,
    outcome: list[Outcome] | None = None,
    reason: list[str] | None = None,
    region: list[str] | None = None,
    since: str | None = None,
    until: str | None = None,
    config: Path | None = None,
    offline: bool = False,
) -> RecordFilter:
    """Make the filter that the options ask for.

    Raises:
        CliError: A key or a time cannot be parsed, or an alias cannot be looked up offline.
        strongroom_client.StrongroomError: The key service does not say what an alias names.
    """
    from strongroom_auditlog.record_filter import RecordFilter
    from strongroom_server.cli.audit_times import parse_time

    now = datetime.now(UTC)
    return RecordFilter(
        keys=frozenset(_key(text, config, offline=offline) for text in key or []),
        principals=frozenset(principal or []),
        methods=frozenset(method or []),
        outcomes=frozenset(item.value for item in outcome or []),
        reasons=frozenset(reason or []),
        regions=frozenset(region or []),
        since=parse_time("--since", since, now=now),
        until=parse_time("--until", until, now=now),
    )


def _key(text: str, config: Path | None, *, offline: bool) -> str:
    """Return a key as records name it, or its bare id."""
    from strongroom.resource_names import KeyName
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.targets import is_key_id, parse_target

    bare = text.removeprefix("keys/")
    if is_key_id(bare):
        return bare
    if offline:
        target = parse_target(text, region="x")
        if isinstance(target, KeyName) and text.startswith("regions/"):
            return str(target)
        raise CliError.usage(f"--key {text!r}: records name keys, and an alias cannot be looked up")
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key

    options = load_client_options(config)
    target = parse_target(text, region=options.regions[0])
    if isinstance(target, KeyName):
        return str(target)
    with KmsClient(options) as client:
        return resolve_key(client, target)
