"""What commands sign or look at: a file or standard input, read within bounds."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer

from strongroom_server.cli.failures import CliError
from strongroom_server.cli.output import binary_input

if TYPE_CHECKING:
    from strongroom_client import Algorithm, KmsClient

__all__ = ["MessageArgument", "read_bounded", "read_message", "read_to_sign"]

MAX_MESSAGE_BYTES: Final = 4096
_PART_BYTES: Final = 1 << 20

MessageArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="The message; - or nothing is standard input."),
]


def read_message(path: Path | None) -> bytes:
    """Return a message of at most 4,096 bytes.

    Raises:
        CliError: It is longer.
    """
    data = read_bounded(path, MAX_MESSAGE_BYTES)
    if data is None:
        raise CliError.usage(
            f"the message has more than {MAX_MESSAGE_BYTES:,} bytes", "make the MAC of its digest"
        )
    return data


def read_to_sign(
    client: KmsClient, key: str, path: Path | None, algorithm: Algorithm | None
) -> tuple[bytes, Algorithm | None, bool]:
    """Return what to sign or verify of a file of any length.

    What is longer than 4,096 bytes is hashed here, by the algorithm's hash.

    Returns:
        The message or its digest, the algorithm, and whether it is a digest.

    Raises:
        CliError: It is longer, and the key signs messages only.
    """
    with _opened(path) as source:
        first = source.read(MAX_MESSAGE_BYTES + 1)
        if len(first) <= MAX_MESSAGE_BYTES:
            return first, algorithm, False
        if algorithm is None:
            takes = client.get_public_key(key).algorithms
            if len(takes) != 1:
                raise CliError.usage(f"this key needs --algorithm, one of {', '.join(takes)}")
            algorithm = takes[0]
        _, has_hash, bits = algorithm.rpartition("_SHA_")
        if not has_hash:
            raise CliError.usage(
                f"{algorithm} signs messages of at most {MAX_MESSAGE_BYTES:,} bytes"
            )
        digest = hashlib.new(f"sha{bits}", first)
        while part := source.read(_PART_BYTES):
            digest.update(part)
        return digest.digest(), algorithm, True


def read_bounded(path: Path | None, most: int) -> bytes | None:
    """Return a file's bytes, or standard input's; None when there are more than `most`."""
    with _opened(path) as source:
        data = source.read(most + 1)
    return None if len(data) > most else data


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    if path is None or path == Path("-"):
        yield binary_input()
        return
    with path.open("rb") as file:
        yield file
