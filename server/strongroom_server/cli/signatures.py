"""``strongroom sign``, ``verify``, ``mac``, ``verify-mac``, ``public-key``: keys that vouch.

What does not verify ends with exit code 6 and the reason; there is no other answer for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strongroom_server.cli.key_choices import AlgorithmOption, chosen_algorithm
from strongroom_server.cli.messages import MessageArgument, read_bounded, read_message, read_to_sign
from strongroom_server.cli.options import (
    ConfigOption,
    ForceOption,
    Format,
    OutOption,
    OutputOption,
    RegionOption,
)

__all__ = ["mac", "public_key", "sign", "verify", "verify_mac"]

MAX_SIGNATURE_BYTES = 6144

_KeyOption = Annotated[str, typer.Option("--key", metavar="KEY", help="Key, or its alias.")]


def sign(
    message: MessageArgument = None,
    *,
    key: _KeyOption,
    algorithm: AlgorithmOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Sign a file, inside the HSM.

    What is longer than 4,096 bytes is hashed here and its digest signed.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import note
    from strongroom_server.cli.result_files import Destination
    from strongroom_server.cli.targets import parse_target

    del output  # errors only: it was noted when it was read
    options = load_client_options(config, region)
    name = str(parse_target(key, region=options.regions[0]))
    destination = Destination.of(out, "a signature", private=False, force=force)
    with KmsClient(options) as client:
        data, chosen, is_digest = read_to_sign(client, name, message, chosen_algorithm(algorithm))
        made = client.sign(name, data, algorithm=chosen, is_digest=is_digest)
    destination.write(made.signature)
    note(f"signed by {made.key_version}, {made.algorithm}")


def verify(
    message: MessageArgument = None,
    *,
    key: _KeyOption,
    signature: Annotated[Path, typer.Option(metavar="FILE", help="What `sign` wrote.")],
    algorithm: AlgorithmOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Verify a signature of a file, inside the HSM.

    Exit code 6 when it does not verify.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    name = str(parse_target(key, region=options.regions[0]))
    claimed = _read_claim("--signature", signature)
    with KmsClient(options) as client:
        data, chosen, is_digest = read_to_sign(client, name, message, chosen_algorithm(algorithm))
        verified = client.verify(name, data, claimed, algorithm=chosen, is_digest=is_digest)
    print_fields(
        {"verified_by": verified.key_version, "algorithm": str(verified.algorithm)}, output
    )


def mac(
    message: MessageArgument = None,
    *,
    key: _KeyOption,
    out: OutOption = None,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make the HMAC of a message of at most 4,096 bytes, inside the HSM."""
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import note
    from strongroom_server.cli.result_files import Destination
    from strongroom_server.cli.targets import parse_target

    del output  # errors only: it was noted when it was read
    options = load_client_options(config, region)
    name = str(parse_target(key, region=options.regions[0]))
    destination = Destination.of(out, "a MAC", private=False, force=force)
    data = read_message(message)
    with KmsClient(options) as client:
        made = client.generate_mac(name, data)
    destination.write(made.mac)
    note(f"made by {made.key_version}, {made.algorithm}")


def verify_mac(
    message: MessageArgument = None,
    *,
    key: _KeyOption,
    mac: Annotated[Path, typer.Option(metavar="FILE", help="What `mac` wrote.")],
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Verify the HMAC of a message, inside the HSM.

    Exit code 6 when it does not verify.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.targets import parse_target

    options = load_client_options(config, region)
    name = str(parse_target(key, region=options.regions[0]))
    claimed, data = _read_claim("--mac", mac), read_message(message)
    with KmsClient(options) as client:
        verified = client.verify_mac(name, data, claimed)
    print_fields(
        {"verified_by": verified.key_version, "algorithm": str(verified.algorithm)}, output
    )


def public_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Key pair, or its alias.")],
    *,
    der: Annotated[bool, typer.Option("--der", help="DER instead of PEM.")] = False,
    out: OutOption = None,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show the public key of a key pair.

    PEM or DER, a SubjectPublicKeyInfo: what OpenSSL and everybody else reads.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import note
    from strongroom_server.cli.result_files import Destination
    from strongroom_server.cli.targets import parse_target

    del output  # errors only: it was noted when it was read
    options = load_client_options(config, region)
    name = str(parse_target(key, region=options.regions[0]))
    destination = Destination.of(
        out, "a public key in DER", private=False, force=force, is_text=not der
    )
    with KmsClient(options) as client:
        found = client.get_public_key(name)
    destination.write(found.public_key if der else found.pem.encode())
    note(f"{found.key_version}: {found.spec} for {found.usage}, {', '.join(found.algorithms)}")


def _read_claim(option: str, path: Path) -> bytes:
    from strongroom_server.cli.failures import CliError

    claimed = read_bounded(path, MAX_SIGNATURE_BYTES)
    if not claimed:
        raise CliError.usage(f"{option} {path}: empty, or no signature or MAC by its length")
    return claimed
