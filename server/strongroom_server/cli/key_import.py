"""``strongroom keys import`` and the like: a caller's own material brought into a key."""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from strongroom_server.cli.key_lifecycle import app
from strongroom_server.cli.keys import Cell, KeyArgument, describe_key
from strongroom_server.cli.options import (
    ConfigOption,
    ForceOption,
    Format,
    OutputOption,
    RegionOption,
)

if TYPE_CHECKING:
    from strongroom_client import ImportParameters, Key, KmsClient

__all__ = ["app"]

Change: TypeAlias = "Callable[[KmsClient, str], Key]"

MAX_MATERIAL_BYTES: Final = 64
MAX_WRAPPED_BYTES: Final = 1024
MAX_TOKEN_BYTES: Final = 256


class Wrapping(enum.StrEnum):
    """How material is wrapped, as it is typed."""

    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"
    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    RSA_AES_KW_SHA_256 = "RSA_AES_KW_SHA_256"
    RSA_AES_KW_SHA_1 = "RSA_AES_KW_SHA_1"


WrappingOption = Annotated[
    Wrapping | None,
    typer.Option(
        case_sensitive=False, help="How it is wrapped. Default: the best that the HSM takes."
    ),
]


@app.command("import-parameters")
def import_parameters(
    key: KeyArgument,
    *,
    public_key_file: Annotated[
        Path, typer.Option(metavar="FILE", help="Write the public key to wrap under, PEM.")
    ],
    token_file: Annotated[Path, typer.Option(metavar="FILE", help="Write the import token.")],
    wrapping_algorithm: WrappingOption = None,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Fetch what material is wrapped with elsewhere, on a machine without a network.

    Good for 24 hours and one import; what the key had of this before ends at once.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.result_files import Destination
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    public = Destination.of(public_key_file, "a public key", private=False, force=force)
    token = Destination.of(token_file, "an import token", private=True, force=force)
    with KmsClient(options) as client:
        made = _parameters(client, resolve_key(client, target), wrapping_algorithm)
    public.write(_pem(made.public_key))
    token.write(made.import_token)
    fields: dict[str, Cell] = {
        "key_version": made.key_version,
        "wrapping_algorithm": str(made.wrapping_algorithm),
        "material_bytes": made.material_bytes,
        "expire_time": made.expire_time.isoformat(),
        "receipt": " ".join(str(receipt) for receipt in made.receipts),
    }
    print_fields(fields, output)


@app.command("import")
def import_(
    key: KeyArgument,
    *,
    material_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The material in the clear, raw bytes, in a file of mode 0600."
        ),
    ] = None,
    wrapped_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Or the material as it was wrapped elsewhere."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --wrapped-file: the import token.")
    ] = None,
    wrapping_algorithm: WrappingOption = None,
    valid_days: Annotated[
        int | None,
        typer.Option(
            metavar="DAYS", min=1, max=365, help="Destroy it after so long. Default: never."
        ),
    ] = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Bring your own material into a key of origin EXTERNAL.

    It is wrapped in this process, under a key of the HSM, and unwrapped inside the HSM. The
    first material is the only one that the key ever takes: keep it as long as what the key
    encrypts. Destroy the file afterwards; this command does not.
    """
    from strongroom_server.cli.failures import CliError

    ends = None if valid_days is None else datetime.now(UTC) + timedelta(days=valid_days)
    if (material_file is None) == (wrapped_file is None):
        raise CliError.usage("give --material-file, or --wrapped-file with --token-file")
    if (wrapped_file is None) != (token_file is None):
        raise CliError.usage("--token-file goes with --wrapped-file")
    if material_file is not None:
        bring = _wrapping(material_file, wrapping_algorithm, ends)
    elif wrapped_file is not None and token_file is not None:
        if wrapping_algorithm is not None:
            raise CliError.usage("--wrapping-algorithm: the token says how it was wrapped")
        bring = _sending(wrapped_file, token_file, ends)
    _change(bring, key, region, config, output)


@app.command("delete-material")
def delete_material(
    key: KeyArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Destroy the material that was brought into a key.

    Nothing can be encrypted or decrypted with the key until the same material is imported
    again.
    """

    def change(client: KmsClient, name: str) -> Key:
        if not yes:
            typer.confirm(f"destroy the material of {name} now?", abort=True, err=True)
        return client.delete_imported_key_material(name)

    _change(change, key, region, config, output)


def _wrapping(file: Path, algorithm: Wrapping | None, ends: datetime | None) -> Change:
    """Return what wraps the material in a file, and brings it."""
    material = _read_private(file)

    def bring(client: KmsClient, name: str) -> Key:
        from strongroom_client import wrap_key_material

        made = _parameters(client, name, algorithm)
        return client.import_key_material(
            name,
            import_token=made.import_token,
            encrypted_material=wrap_key_material(made, material),
            valid_to=ends,
        )

    return bring


def _sending(wrapped_file: Path, token_file: Path, ends: datetime | None) -> Change:
    """Return what brings material that was wrapped elsewhere."""
    wrapped = _read(wrapped_file, MAX_WRAPPED_BYTES)
    token = _read(token_file, MAX_TOKEN_BYTES)

    def bring(client: KmsClient, name: str) -> Key:
        return client.import_key_material(
            name, import_token=token, encrypted_material=wrapped, valid_to=ends
        )

    return bring


def _parameters(client: KmsClient, name: str, algorithm: Wrapping | None) -> ImportParameters:
    from strongroom_client import WrappingAlgorithm

    asked = None if algorithm is None else WrappingAlgorithm[algorithm.name]
    return client.get_import_parameters(name, wrapping_algorithm=asked)


def _pem(public_key: bytes) -> bytes:
    """Return a DER SubjectPublicKeyInfo as PEM (RFC 7468, 13): what tools read."""
    import base64

    text = base64.b64encode(public_key).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(
        ("-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", "")
    ).encode()


def _read_private(path: Path) -> bytes:
    """Read material in the clear; from a file that nobody else may read, and from no other.

    Never from the command line, which every process of the machine can see.

    Raises:
        CliError: Others may read or write the file, or it is no regular file.
    """
    from strongroom_server.cli.failures import CliError

    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CliError.usage(f"{path} is no regular file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise CliError.usage(f"{path}: mode {mode:04o} lets others in", "use chmod 0600")
        material = file.read(MAX_MATERIAL_BYTES + 1)
    if not 1 <= len(material) <= MAX_MATERIAL_BYTES:
        raise CliError.usage(f"{path}: expected 1 to {MAX_MATERIAL_BYTES} raw bytes")
    return material


def _read(path: Path, limit: int) -> bytes:
    from strongroom_server.cli.failures import CliError

    with path.open("rb") as file:
        content = file.read(limit + 1)
    if not 1 <= len(content) <= limit:
        raise CliError.usage(f"{path}: expected 1 to {limit:,} bytes")
    return content


def _change(
    change: Change, key: str, region: str | None, config: Path | None, output: Format
) -> None:
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options, resolve_key
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    target = parse_target(key, region=options.regions[0])
    with KmsClient(options) as client:
        changed = change(client, resolve_key(client, target))
    print_fields(describe_key(changed), output)
