"""``strongroom keys``: make keys and change their state."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom_server.cli.key_choices import Spec, Usage
from strongroom_server.cli.options import ConfigOption, Format, OutputOption, RegionOption

if TYPE_CHECKING:
    from strongroom_client import Key, KeyVersion

__all__ = ["app"]

app = typer.Typer(
    help="Make keys and change their state.", no_args_is_help=True, rich_markup_mode=None
)

KeyArgument = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="regions/REGION/keys/UUID, regions/REGION/aliases/NAME, UUID, or NAME of an alias.",
    ),
]


class Recording(enum.StrEnum):
    """How the uses of a new key are recorded, as it is typed."""

    REQUIRED = "required"
    BUFFERED = "buffered"


class State(enum.StrEnum):
    """States of keys, as they are typed."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    PENDING_DELETION = "pending-deletion"
    DESTROYED = "destroyed"
    PENDING_IMPORT = "pending-import"


class Origin(enum.StrEnum):
    """Where the material of a new key is made, as it is typed."""

    HSM = "hsm"
    EXTERNAL = "external"


class Storage(enum.StrEnum):
    """Where the material of a new key is kept, as it is typed."""

    RESIDENT = "resident"
    WRAPPED = "wrapped"


Cell = str | int | float | bool | None
LIST_COLUMNS = (
    "name",
    "state",
    "spec",
    "usage",
    "storage",
    "primary_version",
    "create_time",
    "description",
)
VERSION_COLUMNS = ("number", "is_primary", "state", "create_time", "reserved_uses")


@app.command("create")
def create(
    *,
    region: RegionOption = None,
    description: Annotated[
        str, typer.Option(metavar="TEXT", help="Words for people; never secrets.")
    ] = "",
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Cedar policy set of the key.")
    ] = None,
    alias: Annotated[
        str | None, typer.Option(metavar="NAME", help="Give the key this alias at once.")
    ] = None,
    spec: Annotated[
        Spec, typer.Option(case_sensitive=False, help="What its material is.")
    ] = Spec.AES_256,
    usage: Annotated[
        Usage | None,
        typer.Option(case_sensitive=False, help="What it is for; needed with all but AES_256."),
    ] = None,
    storage: Annotated[
        Storage | None,
        typer.Option(
            help="Where its material is kept: in the HSM, or in the region's database, wrapped "
            "by a root in the HSM. Default: the region's."
        ),
    ] = None,
    origin: Annotated[
        Origin,
        typer.Option(help="Where its material is made; external: you bring it, `keys import`."),
    ] = Origin.HSM,
    audit_mode: Annotated[
        Recording,
        typer.Option(
            help="Whether its uses are on record before they are answered, or, for a key that is "
            "used very often, within the region's bound after."
        ),
    ] = Recording.REQUIRED,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a key in the HSM of a region.

    Without a policy its creator and the administrators may use it, nobody else.
    """
    from strongroom_client import (
        AuditMode,
        KeyOrigin,
        KeySpec,
        KeyStorage,
        KeyUsage,
        KmsClient,
        StrongroomError,
    )
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_alias

    options = load_client_options(config, region)
    home = options.regions[0]
    # Whatever can be refused here is refused before there is a key that nobody wanted.
    alias_name = None if alias is None else parse_alias(alias, region=home)
    if alias_name is not None and alias_name.region != home:
        raise CliError.usage(f"--alias: the key will live in {home}, not in {alias_name.region}")
    text = "" if policy is None else policy.read_text(encoding="utf-8")
    with KmsClient(options) as client:
        key = client.create_key(
            home,
            description=description,
            policy=text,
            spec=KeySpec[spec.name],
            usage=None if usage is None else KeyUsage[usage.name],
            storage=None if storage is None else KeyStorage[storage.name],
            audit_mode=AuditMode[audit_mode.name],
            origin=KeyOrigin[origin.name],
        )
        fields = describe_key(key)
        if alias_name is not None:
            try:
                made = client.create_alias(home, alias_id=alias_name.alias, key=key.name)
            except StrongroomError as exc:
                raise CliError(
                    exc.reason, f"{exc}; the key {key.name} was made, without the alias"
                ) from exc
            fields["alias"] = made.name
    print_fields(fields, output)


@app.command("list")
def list_(
    *,
    state: Annotated[
        list[State] | None,
        typer.Option(help="Those in this state; may be repeated. Default: all but destroyed."),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Those with this tag; may be repeated."),
    ] = None,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="Else the oldest come first.")
    ] = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the keys that you may see.

    Those of one region, by age.
    """
    from strongroom_client import KeyState, KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import print_rows
    from strongroom_server.cli.targets import parse_tags

    options = load_client_options(config, region)
    with KmsClient(options) as client:
        found = client.list_keys(
            options.regions[0],
            states=[KeyState[each.name] for each in state or ()],
            tags=parse_tags(tag or []),
            newest_first=newest_first,
        )
        rows = [describe_key(key) for key in found]
    if output is Format.TABLE:
        for row in rows:
            row["primary_version"] = str(row["primary_version"]).rpartition("/")[2]
    print_rows(rows, LIST_COLUMNS, output)


@app.command("show")
def show(
    key: KeyArgument,
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show one key."""
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    with KmsClient(options) as client:
        print_fields(describe_key(client.get_key(str(target))), output)


@app.command("rotate")
def rotate(
    key: KeyArgument,
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a new primary version of a key.

    Older versions go on decrypting.
    """
    _change("rotate", key, region, config, output)


@app.command("enable")
def enable(
    key: KeyArgument,
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Let a disabled key be used again."""
    _change("enable", key, region, config, output)


@app.command("disable")
def disable(
    key: KeyArgument,
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Stop every use of a key.

    Takes effect everywhere within one second.
    """
    _change("disable", key, region, config, output)


@app.command("versions")
def versions(
    key: KeyArgument,
    *,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the versions of a key, oldest first."""
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import (
        load_client_options,
        resolve_key,
    )
    from strongroom_server.cli.output import print_rows
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    with KmsClient(options) as client:
        found = [describe_version(v) for v in client.list_key_versions(resolve_key(client, target))]
    print_rows(found, VERSION_COLUMNS, output)


def _change(verb: str, key: str, region: str | None, config: Path | None, output: Format) -> None:
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import (
        load_client_options,
        resolve_key,
    )
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    with KmsClient(options) as client:
        name = resolve_key(client, target)
        if verb == "rotate":
            rotated = client.rotate_key(name)
            changed = rotated.key
            receipts = rotated.receipts
        else:
            changed = client.enable_key(name) if verb == "enable" else client.disable_key(name)
            receipts = changed.receipts
    fields = describe_key(changed)
    fields["receipt"] = " ".join(str(receipt) for receipt in receipts)
    print_fields(fields, output)


def describe_key(key: Key) -> dict[str, Cell]:
    """Return what is printed of a key."""
    return {
        "name": key.name,
        "state": str(key.state),
        "spec": str(key.spec),
        "usage": str(key.usage),
        "algorithms": " ".join(key.algorithms),
        "storage": str(key.storage),
        "origin": str(key.origin),
        "import_time": None if key.import_time is None else key.import_time.isoformat(),
        "material_expire_time": None
        if key.material_expire_time is None
        else key.material_expire_time.isoformat(),
        "audit_mode": str(key.audit_mode),
        "primary_version": key.primary_version,
        "description": key.description,
        "creator": key.creator,
        "create_time": key.create_time.isoformat(),
        "update_time": key.update_time.isoformat(),
        "deletion_time": None if key.deletion_time is None else key.deletion_time.isoformat(),
        "destroy_time": None if key.destroy_time is None else key.destroy_time.isoformat(),
        "tags": " ".join(f"{name}={value}" for name, value in sorted(key.tags.items())),
        "etag": key.etag,
        "receipt": " ".join(str(receipt) for receipt in key.receipts),
    }


def describe_version(version: KeyVersion) -> dict[str, Cell]:
    """Return what is printed of a key version."""
    return {
        "name": version.name,
        "number": version.number,
        "is_primary": version.is_primary,
        "state": str(version.state),
        "create_time": version.create_time.isoformat(),
        "reserved_uses": version.reserved_uses,
        "deletion_time": None
        if version.deletion_time is None
        else version.deletion_time.isoformat(),
        "destroy_time": None if version.destroy_time is None else version.destroy_time.isoformat(),
    }
