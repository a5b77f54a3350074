"""Checkpoints (C2SP tlog-checkpoint) in signed notes (C2SP signed-note), Ed25519.

    {origin}
    {size, decimal}
    {root, base64}
    [extension lines]

    — {key name} {base64(key id, 4 bytes || signature, 64 bytes)}

The audit log's key has the origin as its name. Cosignatures of witnesses that the reader
does not know are ignored; a signature that claims to be of a known key must verify.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from strongroom.tlog.cosignature import NO_WITNESSES, Cosignature, WitnessPolicy
from strongroom.tlog.errors import CheckpointInvalidError
from strongroom.tlog.merkle import HASH_BYTES
from strongroom.tlog.note import (
    VerifierKey,
    decode_b64,
    is_key_name,
    note_line,
    signatures_of,
    split_note,
)

__all__ = [
    "Checkpoint",
    "VerifierKey",
    "checkpoint_body",
    "is_key_name",
    "note_line",
    "open_checkpoint",
    "parse_body",
]

MAX_SIZE: Final = 2**63 - 1
_BODY_LINES: Final = 3
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_WHERE: Final = "checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Size and root of a log; `text` is the signed note that says so."""

    origin: str
    size: int
    root: bytes
    text: str
    cosignatures: tuple[Cosignature, ...] = ()
    """Of the witnesses that whoever opened it knows."""

    def __str__(self) -> str:
        return self.text


def checkpoint_body(origin: str, size: int, root: bytes) -> str:
    """Return the text that is signed (C2SP tlog-checkpoint), without extension lines."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def open_checkpoint(
    text: str, key: VerifierKey, witnesses: WitnessPolicy = NO_WITNESSES
) -> Checkpoint:
    """Parse a checkpoint and check that `key`, and enough `witnesses`, signed it.

    Raises:
        CheckpointInvalidError: The note is malformed, is of another origin, has no
            signature of `key`, or one of `key` or a known witness that does not verify.
        WitnessesMissingError: Too few witnesses cosigned it.
    """
    body, blobs = split_note(text)
    matching = signatures_of(key, blobs)
    if not matching:
        raise CheckpointInvalidError(_WHERE, f"not signed by {key}")
    public_key = Ed25519PublicKey.from_public_bytes(key.public_key)
    for signature in matching:
        try:
            public_key.verify(signature, body.encode())
        except InvalidSignature as exc:
            raise CheckpointInvalidError(_WHERE, f"the signature of {key} is wrong") from exc
    size, root = parse_body(body, key.name)
    return Checkpoint(key.name, size, root, text, witnesses.check(body, blobs))


def parse_body(body: str, origin: str) -> tuple[int, bytes]:
    """Return size and root from the text of a checkpoint of `origin`.

    Raises:
        CheckpointInvalidError: It is malformed, or of another log.
    """
    lines = body.removesuffix("\n").split("\n")
    if len(lines) < _BODY_LINES or not all(lines):
        raise CheckpointInvalidError(_WHERE, "expected origin, size and root, a line each")
    if lines[0] != origin:
        raise CheckpointInvalidError(_WHERE, f"of another log; expected origin {origin}")
    if _SIZE.fullmatch(lines[1]) is None or int(lines[1]) > MAX_SIZE:
        raise CheckpointInvalidError(_WHERE, "the size is not a decimal number of 63 bits")
    root = decode_b64(lines[2], "the root")
    if len(root) != HASH_BYTES:
        raise CheckpointInvalidError(_WHERE, f"the root has not {HASH_BYTES} bytes")
    return int(lines[1]), root
