"""``strongroom keys delete`` and the like: keys that are there, deleted, described, tagged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom_server.cli.keys import Cell, KeyArgument, app, describe_key, describe_version
from strongroom_server.cli.options import ConfigOption, Format, OutputOption, RegionOption

if TYPE_CHECKING:
    from pathlib import Path

    from strongroom_client import Key, KeyVersion, KmsClient

__all__ = ["app"]

VersionOption = Annotated[
    int | None,
    typer.Option("--version", metavar="N", min=1, help="This version only, not the whole key."),
]


@app.command("delete")
def delete(
    key: KeyArgument,
    *,
    version: VersionOption = None,
    days: Annotated[
        int, typer.Option(metavar="DAYS", help="Waiting time, 7 to 30.", min=0, max=30)
    ] = 30,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Stop every use of a key, and have it destroyed when the waiting time is over.

    What it encrypted cannot be decrypted any more then, for ever. Until then `strongroom
    keys cancel-deletion` takes it back.
    """

    def change(client: KmsClient, name: str) -> Key | KeyVersion:
        what = name if version is None else f"{name}/versions/{version}"
        if not yes:
            typer.confirm(
                f"stop every use of {what} now, and destroy it in {days} days?",
                abort=True,
                err=True,
            )
        if version is None:
            return client.schedule_key_deletion(name, pending_days=days)
        return client.schedule_key_version_deletion(what, pending_days=days)

    _change(change, key, region, config, output)


@app.command("cancel-deletion")
def cancel_deletion(
    key: KeyArgument,
    *,
    version: VersionOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take a deletion back.

    The key is disabled then; a version can be used again.
    """

    def change(client: KmsClient, name: str) -> Key | KeyVersion:
        if version is None:
            return client.cancel_key_deletion(name)
        return client.cancel_key_version_deletion(f"{name}/versions/{version}")

    _change(change, key, region, config, output)


@app.command("update")
def update(
    key: KeyArgument,
    *,
    description: Annotated[
        str, typer.Option(metavar="TEXT", help="Words for people; never secrets.")
    ],
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Change the description of a key."""
    _change(
        lambda client, name: client.update_key(name, description=description),
        key,
        region,
        config,
        output,
    )


@app.command("tag")
def tag(
    key: KeyArgument,
    tags: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="Tags to set; never secrets.")
    ],
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Set tags of a key; others stay."""
    from strongroom_server.cli.targets import parse_tags

    given = parse_tags(tags)
    _change(lambda client, name: client.tag_key(name, given), key, region, config, output)


@app.command("untag")
def untag(
    key: KeyArgument,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Tags to take away.")],
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take tags off a key."""
    _change(lambda client, name: client.untag_key(name, names), key, region, config, output)


def _change(
    change: Callable[[KmsClient, str], Key | KeyVersion],
    key: str,
    region: str | None,
    config: Path | None,
    output: Format,
) -> None:
    from strongroom_client import Key, KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    with KmsClient(options) as client:
        changed = change(client, resolve_key(client, target))
    fields: dict[str, Cell] = (
        describe_key(changed) if isinstance(changed, Key) else describe_version(changed)
    )
    fields["receipt"] = " ".join(str(receipt) for receipt in changed.receipts)
    print_fields(fields, output)
