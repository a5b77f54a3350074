"""``strongroom aliases``: second names of keys."""

from __future__ import annotations

from typing import Annotated

import typer

from strongroom_server.cli.keys import KeyArgument
from strongroom_server.cli.options import ConfigOption, Format, OutputOption, RegionOption

__all__ = ["app"]

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
    print_fields(
        {
            "name": made.name,
            "key": made.key,
            "create_time": made.create_time.isoformat(),
            "receipt": " ".join(str(receipt) for receipt in made.receipts),
        },
        output,
    )


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
