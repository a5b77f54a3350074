"""Checkpoints (C2SP tlog-checkpoint) in signed notes (C2SP signed-note), Ed25519.

    {origin}
    {size, decimal}
    {root, base64}
    [extension lines]

    — {key name} {base64(key id, 4 bytes || signature, 64 bytes)}

The verifier key, as text: ``{key name}+{key id, 8 hex digits}+{base64(0x01 || key)}``.
The audit log's has the origin as its key name. Signatures of unknown keys (witnesses) are ignored;
one that claims to be of the known key must verify.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from strongroom.tlog.errors import CheckpointInvalidError
from strongroom.tlog.merkle import HASH_BYTES

__all__ = [
    "Checkpoint",
    "VerifierKey",
    "checkpoint_body",
    "is_key_name",
    "note_line",
    "open_checkpoint",
]

MAX_NOTE_BYTES: Final = 2**16
MAX_SIGNATURES: Final = 64  # C2SP signed-note: at least 16
MAX_SIZE: Final = 2**63 - 1
_ED25519: Final = 0x01  # C2SP signed-note, "Signature types"
_KEY_ID_BYTES: Final = 4
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_BODY_LINES: Final = 3
_DASH: Final = "\N{EM DASH} "
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_WHERE: Final = "checkpoint"


def is_key_name(text: str) -> bool:
    """Whether `text` may name a key: not empty, no spaces, controls or plus signs."""
    return "+" not in text and text.isprintable() and text.split() == [text]


def _decode_b64(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CheckpointInvalidError(_WHERE, f"{what} is not base64") from exc
    # One encoding only: base64 has several spellings when the last bits are not zero.
    if base64.b64encode(data).decode() != text:
        raise CheckpointInvalidError(_WHERE, f"{what} is not canonical base64")
    return data


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A note's public key: its name and 32 bytes of Ed25519 (RFC 8032)."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that signatures of this key begin with."""
        material = self.name.encode() + b"\n" + bytes([_ED25519]) + self.public_key
        return hashlib.sha256(material).digest()[:_KEY_ID_BYTES]

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Parse the text of a verifier key; a newline at its end is allowed.

        Raises:
            CheckpointInvalidError: It is not an Ed25519 verifier key.
        """
        parts = text.removesuffix("\n").split("+", 2)
        if len(parts) != 3:  # noqa: PLR2004 - name, id, key
            raise CheckpointInvalidError("verifier key", "expected {name}+{id}+{base64}")
        name, key_id, encoded = parts
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise CheckpointInvalidError("verifier key", "the key is not base64") from exc
        if len(data) != 1 + _KEY_BYTES or data[0] != _ED25519:
            raise CheckpointInvalidError("verifier key", "not an Ed25519 key (type 0x01)")
        key = cls(name, data[1:])
        if not is_key_name(name) or str(key) != text.removesuffix("\n"):
            raise CheckpointInvalidError("verifier key", f"key id {key_id} does not match")
        return key

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([_ED25519]) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Size and root of a log; `text` is the signed note that says so."""

    origin: str
    size: int
    root: bytes
    text: str

    def __str__(self) -> str:
        return self.text


def checkpoint_body(origin: str, size: int, root: bytes) -> str:
    """Return the text that is signed (C2SP tlog-checkpoint), without extension lines."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def note_line(name: str, blob: bytes) -> str:
    """Return the signature line of a note; `blob` is the key id and the signature."""
    return f"{_DASH}{name} {base64.b64encode(blob).decode()}\n"


def open_checkpoint(text: str, key: VerifierKey) -> Checkpoint:
    """Parse a checkpoint and check that `key` signed it.

    Raises:
        CheckpointInvalidError: The note is malformed, is of another origin, has no
            signature of `key`, or one that does not verify.
    """
    body, blobs = _split_note(text)
    matching = [
        blob[_KEY_ID_BYTES:]
        for name, blob in blobs
        if name == key.name and hmac.compare_digest(blob[:_KEY_ID_BYTES], key.key_id)
    ]
    if not matching:
        raise CheckpointInvalidError(_WHERE, f"not signed by {key}")
    public_key = Ed25519PublicKey.from_public_bytes(key.public_key)
    for signature in matching:
        try:
            public_key.verify(signature, body.encode())
        except InvalidSignature as exc:
            raise CheckpointInvalidError(_WHERE, f"the signature of {key} is wrong") from exc
    return _parse_body(body, key.name, text)


def _split_note(text: str) -> tuple[str, list[tuple[str, bytes]]]:
    """Split a note into the signed text and its signatures (name, key id || signature)."""
    if len(text) > MAX_NOTE_BYTES:
        raise CheckpointInvalidError(_WHERE, f"longer than {MAX_NOTE_BYTES} characters")
    if any(ord(character) < 0x20 and character != "\n" for character in text):  # noqa: PLR2004 - C2SP signed-note: no controls
        raise CheckpointInvalidError(_WHERE, "a control character")
    head, separator, tail = text.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise CheckpointInvalidError(_WHERE, "not a signed note: no signatures at its end")
    lines = tail.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise CheckpointInvalidError(_WHERE, f"more than {MAX_SIGNATURES} signatures")
    blobs: list[tuple[str, bytes]] = []
    for line in lines:
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not space or not is_key_name(name):
            raise CheckpointInvalidError(_WHERE, "a malformed signature line")
        blob = _decode_b64(encoded, "a signature")
        if len(blob) <= _KEY_ID_BYTES:
            raise CheckpointInvalidError(_WHERE, "a signature is too short")
        blobs.append((name, blob))
    return head + "\n", blobs


def _parse_body(body: str, origin: str, text: str) -> Checkpoint:
    lines = body.removesuffix("\n").split("\n")
    if len(lines) < _BODY_LINES or not all(lines):
        raise CheckpointInvalidError(_WHERE, "expected origin, size and root, a line each")
    if lines[0] != origin:
        raise CheckpointInvalidError(_WHERE, f"of another log; expected origin {origin}")
    if _SIZE.fullmatch(lines[1]) is None or int(lines[1]) > MAX_SIZE:
        raise CheckpointInvalidError(_WHERE, "the size is not a decimal number of 63 bits")
    root = _decode_b64(lines[2], "the root")
    if len(root) != HASH_BYTES:
        raise CheckpointInvalidError(_WHERE, f"the root has not {HASH_BYTES} bytes")
    return Checkpoint(origin, int(lines[1]), root, text)
