"""``strongroom grants``: permission for one principal to use a key, beside its policy."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom_server.cli.keys import KeyArgument
from strongroom_server.cli.options import (
    ConfigOption,
    ContextOption,
    Format,
    OutputOption,
    RegionOption,
)

if TYPE_CHECKING:
    from pathlib import Path

    from strongroom_client import Grant

__all__ = ["app"]

app = typer.Typer(
    help="Permission for one principal to use a key, beside its policy.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
GrantArgument = Annotated[
    str, typer.Argument(metavar="GRANT", help="regions/REGION/keys/UUID/grants/UUID.")
]
Cell = str | int | float | bool | None
COLUMNS = ("name", "grantee_principal", "operations", "constraint", "create_time")


class Match(enum.StrEnum):
    """How the pairs of a constraint are compared, as it is typed."""

    SUBSET = "subset"
    EQUALS = "equals"


@app.command("create")
def create(
    key: KeyArgument,
    grantee: Annotated[
        str, typer.Argument(metavar="SPIFFE-ID", help="The principal that may use the key.")
    ],
    *,
    operation: Annotated[
        list[str],
        typer.Option(
            "--operation",
            metavar="NAME",
            help="Such as Decrypt; may be repeated.",
        ),
    ],
    context: ContextOption = None,
    match: Annotated[
        Match,
        typer.Option(help="Contexts that have at least the pairs of --context, or just these."),
    ] = Match.SUBSET,
    retiring: Annotated[
        str, typer.Option(metavar="SPIFFE-ID", help="Who else may end the grant.")
    ] = "",
    name: Annotated[
        str, typer.Option(metavar="NAME", help="A repeat with it, and all else alike, makes none.")
    ] = "",
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Let a principal use a key.

    It holds at once, everywhere within one second. What the key's policy forbids, no grant
    allows.
    """
    from strongroom_client import ConstraintKind, GrantConstraint, KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_contexts, parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    pairs = parse_contexts(context or [])
    with KmsClient(options) as client:
        grant = client.create_grant(
            resolve_key(client, target),
            grantee_principal=grantee,
            operations=operation,
            constraint=GrantConstraint(ConstraintKind[match.name], pairs) if pairs else None,
            retiring_principal=retiring,
            grant_name=name,
        )
    print_fields(_describe(grant), output)


@app.command("list")
def list_(
    key: KeyArgument,
    *,
    grantee: Annotated[
        str, typer.Option(metavar="SPIFFE-ID", help="Only grants of this principal.")
    ] = "",
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the grants of a key, oldest first."""
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key
    from strongroom_server.cli.output import print_rows
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    with KmsClient(options) as client:
        found = client.list_grants(resolve_key(client, target), grantee_principal=grantee)
        rows = [_describe(grant) for grant in found]
    print_rows(rows, COLUMNS, output)


@app.command("retirable")
def retirable(
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the grants that name you as the one who retires them.

    Those of one region, oldest first.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import print_rows

    options = load_client_options(config, region)
    with KmsClient(options) as client:
        rows = [_describe(grant) for grant in client.list_retirable_grants(options.regions[0])]
    print_rows(rows, COLUMNS, output)


@app.command("retire")
def retire(
    grant: GrantArgument,
    *,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """End a grant that is done with.

    For its retiring principal, and for its grantee when it has RetireGrant.
    """
    _end(grant, config, output, retire=True)


@app.command("revoke")
def revoke(
    grant: GrantArgument,
    *,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take a grant away from its principal.

    For those who may manage the key. Takes effect everywhere within one second.
    """
    _end(grant, config, output, retire=False)


def _end(name: str, config: Path | None, output: Format, *, retire: bool) -> None:
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import print_fields

    with KmsClient(load_client_options(config)) as client:
        ended = client.retire_grant(name) if retire else client.revoke_grant(name)
    print_fields(_describe(ended), output)


def _describe(grant: Grant) -> dict[str, Cell]:
    constraint = grant.constraint
    pairs = "" if constraint is None else " ".join(f"{k}={v}" for k, v in constraint.pairs.items())
    return {
        "name": grant.name,
        "grantee_principal": grant.grantee_principal,
        "operations": " ".join(grant.operations),
        "constraint": "" if constraint is None else f"{constraint.kind.lower()}: {pairs}",
        "retiring_principal": grant.retiring_principal,
        "grant_name": grant.grant_name,
        "issuer": grant.issuer,
        "create_time": grant.create_time.isoformat(),
        "receipt": " ".join(str(receipt) for receipt in grant.receipts),
    }
