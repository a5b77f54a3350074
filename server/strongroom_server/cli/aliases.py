"""``strongroom aliases``: second names of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from strongroom_server.cli.keys import KeyArgument
from strongroom_server.cli.options import ConfigOption, Format, OutputOption, RegionOption

if TYPE_CHECKING:
    from strongroom_client import Alias

__all__ = ["app"]

COLUMNS = ("name", "key", "update_time")

app = typer.Typer(
    help="Second names of keys, such as orders/invoices.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
AliasArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="orders/invoices, or regions/REGION/aliases/NAME.")
]


@app.command("create")
def create(
    name: AliasArgument,
    key: KeyArgument,
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Give a key an alias in its own region."""
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import (
        load_client_options,
        resolve_key,
    )
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_alias, parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    # The key says where the alias belongs: a short NAME goes to the key's region.
    alias = parse_alias(name, region=target.region)
    with KmsClient(options) as client:
        made = client.create_alias(
            alias.region, alias_id=alias.alias, key=resolve_key(client, target)
        )
    print_fields(_describe(made), output)


@app.command("show")
def show(
    name: AliasArgument,
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show the key that an alias names."""
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.keys import describe_key
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_alias

    options = load_client_options(config, region)
    alias = parse_alias(name, region=options.regions[0])
    with KmsClient(options) as client:
        key = client.get_key(str(alias))
    print_fields({"alias": str(alias), **describe_key(key)}, output)


@app.command("list")
def list_(
    *,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Those of this key only.")
    ] = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the aliases of a region whose keys you may see, by name."""
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key
    from strongroom_server.cli.output import print_rows
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    home = options.regions[0]
    with KmsClient(options) as client:
        name = ""
        if key is not None:
            target = parse_target(key, region=home)
            home, name = target.region, resolve_key(client, target)
        rows = [_describe(alias) for alias in client.list_aliases(home, key=name)]
    print_rows(rows, COLUMNS, output)


@app.command("update")
def update(
    name: AliasArgument,
    key: KeyArgument,
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Point an alias to another key of its region, of the same spec and usage."""
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_alias, parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    alias = parse_alias(name, region=target.region)
    with KmsClient(options) as client:
        changed = client.update_alias(str(alias), key=resolve_key(client, target))
    print_fields(_describe(changed), output)


@app.command("delete")
def delete(
    name: AliasArgument,
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take an alias away; its key stays."""
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_alias

    options = load_client_options(config, region)
    alias = parse_alias(name, region=options.regions[0])
    with KmsClient(options) as client:
        deleted = client.delete_alias(str(alias))
    print_fields(_describe(deleted), output)


def _describe(alias: Alias) -> dict[str, str]:
    return {
        "name": alias.name,
        "key": alias.key,
        "create_time": alias.create_time.isoformat(),
        "update_time": alias.update_time.isoformat(),
        "receipt": " ".join(str(receipt) for receipt in alias.receipts),
    }
