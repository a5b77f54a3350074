"""``strongroom datakey`` and ``strongroom random``: key material from the HSM.

Plaintext key bytes go to a file of mode 0600 or to a pipe, never to a terminal: its
scroll-back would keep them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strongroom_server.cli.options import (
    ConfigOption,
    ContextOption,
    ForceOption,
    Format,
    OutOption,
    OutputOption,
    RegionOption,
)

__all__ = ["datakey", "random"]


def datakey(
    *,
    key: Annotated[str, typer.Option("--key", metavar="KEY", help="Key that wraps the data key.")],
    context: ContextOption = None,
    number_of_bytes: Annotated[
        int, typer.Option("--bytes", min=1, max=1024, help="Length of the data key.")
    ] = 32,
    out: OutOption = None,
    plaintext_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the data key in the clear too, mode 0600; - is standard output. "
            "Without it nobody sees the data key until it is decrypted.",
        ),
    ] = None,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a data key, wrapped under a key."""
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import note
    from strongroom_server.cli.result_files import Destination
    from strongroom_server.cli.targets import parse_contexts, parse_target

    del output  # errors only: it was noted when it was read
    options = load_client_options(config, region)
    name = str(parse_target(key, region=options.regions[0]))
    pairs = parse_contexts(context or [])
    wrapped_to = Destination.of(out, "a wrapped data key", private=False, force=force)
    plaintext_to = None
    if plaintext_file is not None:
        plaintext_to = Destination.of(plaintext_file, "a data key", private=True, force=force)
        if plaintext_to.is_standard_output and wrapped_to.is_standard_output:
            raise CliError.usage("two results for standard output", "give --out FILE")
    with KmsClient(options) as client:
        if plaintext_to is None:
            wrapped = client.generate_data_key_without_plaintext(
                name, encryption_context=pairs, number_of_bytes=number_of_bytes
            )
            wrapped_to.write(wrapped.wrapped_data_key)
            note(f"wrapped by {wrapped.key_version}")
            return
        made = client.generate_data_key(
            name, encryption_context=pairs, number_of_bytes=number_of_bytes
        )
        with made.plaintext_data_key as plaintext:
            # The wrapped form first: a plaintext key that nothing can unwrap again is
            # data lost later.
            wrapped_to.write(made.wrapped_data_key)
            plaintext_to.write(plaintext)
        note(f"wrapped by {made.key_version}")


def random(
    *,
    number_of_bytes: Annotated[int, typer.Argument(metavar="N", min=1, max=1024)],
    out: OutOption = None,
    as_hex: Annotated[bool, typer.Option("--hex", help="Print hex digits.")] = False,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take random bytes from an HSM.

    1 to 1,024 of them, from the HSM of a region.
    """
    from strongroom_client import KmsClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.result_files import Destination

    del output  # errors only: it was noted when it was read
    options = load_client_options(config, region)
    destination = Destination.of(out, "random bytes", private=True, force=force, is_text=as_hex)
    with KmsClient(options) as client:
        made = client.generate_random(options.regions[0], number_of_bytes)
    with made.random as data:
        destination.write(data.hex().encode() + b"\n" if as_hex else data)
