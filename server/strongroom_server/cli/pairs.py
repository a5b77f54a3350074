"""``strongroom derive`` and ``strongroom datakey-pair``: shared secrets and private keys.

Both go to a file of mode 0600 or to a pipe, never to a terminal and never on a command line.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Annotated, Final

import typer

from strongroom_server.cli.key_choices import PairSpec
from strongroom_server.cli.messages import read_bounded
from strongroom_server.cli.options import (
    ConfigOption,
    ContextOption,
    ForceOption,
    Format,
    OutOption,
    OutputOption,
    RegionOption,
)

__all__ = ["datakey_pair", "derive"]

MAX_PUBLIC_KEY_FILE_BYTES: Final = 8192
_PEM: Final = re.compile(
    rb"\s*-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*"
)


def derive(
    *,
    key: Annotated[str, typer.Option("--key", metavar="KEY", help="Key for KEY_AGREEMENT.")],
    peer: Annotated[
        Path, typer.Option(metavar="FILE", help="The other side's public key, PEM or DER.")
    ],
    out: OutOption = None,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Agree with another's public key (ECDH), inside the HSM.

    Writes the shared secret, mode 0600: no key yet, derive keys from it.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.output import note
    from strongroom_server.cli.result_files import Destination
    from strongroom_server.cli.targets import parse_target

    del output  # errors only: it was noted when it was read
    options = load_client_options(config, region)
    name = str(parse_target(key, region=options.regions[0]))
    destination = Destination.of(out, "a shared secret", private=True, force=force)
    other = _read_public_key(peer)
    with KmsClient(options) as client:
        made = client.derive_shared_secret(name, other)
    with made.shared_secret as secret:
        destination.write(secret)
    note(f"derived by {made.key_version}")


def datakey_pair(
    *,
    key: Annotated[
        str, typer.Option("--key", metavar="KEY", help="Key that wraps the private key.")
    ],
    spec: Annotated[PairSpec, typer.Option(case_sensitive=False, help="What kind of pair.")],
    public: Annotated[Path, typer.Option(metavar="FILE", help="File for the public key, PEM.")],
    context: ContextOption = None,
    out: OutOption = None,
    plaintext_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the private key in the clear too, PKCS#8 in DER, mode 0600; - is "
            "standard output. Without it nobody sees it until it is decrypted.",
        ),
    ] = None,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a key pair for use outside, its private key wrapped under a key."""
    from strongroom_client import DataKeyPairSpec, KmsClient
    from strongroom_client.pair_results import to_pem
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import note
    from strongroom_server.cli.result_files import Destination
    from strongroom_server.cli.targets import parse_contexts, parse_target

    del output  # errors only: it was noted when it was read
    options = load_client_options(config, region)
    name = str(parse_target(key, region=options.regions[0]))
    pairs = parse_contexts(context or [])
    wanted = DataKeyPairSpec[spec.name]
    wrapped_to = Destination.of(out, "a wrapped private key", private=False, force=force)
    public_to = Destination.of(public, "a public key", private=False, force=force, is_text=True)
    plaintext_to = None
    if plaintext_file is not None:
        plaintext_to = Destination.of(plaintext_file, "a private key", private=True, force=force)
    streams = [to for to in (wrapped_to, public_to, plaintext_to) if to and to.is_standard_output]
    if len(streams) > 1:
        raise CliError.usage("two results for standard output", "give --out FILE")
    with KmsClient(options) as client:
        if plaintext_to is None:
            blind = client.generate_data_key_pair_without_plaintext(
                name, wanted, encryption_context=pairs
            )
            wrapped_to.write(blind.wrapped_private_key)
            public_to.write(to_pem(blind.public_key).encode())
            note(f"wrapped by {blind.key_version}")
            return
        made = client.generate_data_key_pair(name, wanted, encryption_context=pairs)
    with made.plaintext_private_key as private:
        # The wrapped form first: what is encrypted to a key that nothing can bring back is lost.
        wrapped_to.write(made.wrapped_private_key)
        public_to.write(to_pem(made.public_key).encode())
        plaintext_to.write(private)
    note(f"wrapped by {made.key_version}")


def _read_public_key(path: Path) -> bytes:
    """Return DER from a file in PEM or DER; the service looks at the rest."""
    from strongroom_server.cli.failures import CliError

    data = read_bounded(path, MAX_PUBLIC_KEY_FILE_BYTES)
    if not data:
        raise CliError.usage(f"--peer {path}: no public key by its length")
    if b"-----" not in data:
        return data
    match = _PEM.fullmatch(data)
    try:
        if match is None:
            raise CliError.usage(f"--peer {path}: not one PUBLIC KEY in PEM")
        return base64.b64decode(b"".join(match[1].split()), validate=True)
    except binascii.Error as exc:
        raise CliError.usage(f"--peer {path}: not base64") from exc
