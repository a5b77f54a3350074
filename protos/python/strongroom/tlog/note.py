"""Signed notes (C2SP signed-note): their parts, and the keys that sign them.

    {text}

    — {key name} {base64(key id, 4 bytes || signature)}
    [more signature lines]

A verifier key as text: ``{key name}+{key id, 8 hex digits}+{base64(type || key)}``. The
type says what the signature is over, so each type is a class of its own here: a witness's
key can never stand where a log's is expected, nor the other way round.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from strongroom.tlog.errors import CheckpointInvalidError

__all__ = [
    "CosignerKey",
    "NoteKey",
    "VerifierKey",
    "decode_b64",
    "is_key_name",
    "note_line",
    "signatures_of",
    "split_lines",
    "split_note",
]

MAX_NOTE_BYTES: Final = 2**16
MAX_SIGNATURES: Final = 64  # C2SP signed-note: at least 16
_KEY_ID_BYTES: Final = 4
_KEY_BYTES: Final = 32  # Ed25519, RFC 8032, 5.1.5
_DASH: Final = "\N{EM DASH} "
_WHERE: Final = "checkpoint"


def is_key_name(text: str) -> bool:
    """Whether `text` may name a key: not empty, no spaces, controls or plus signs."""
    return "+" not in text and text.isprintable() and text.split() == [text]


def decode_b64(text: str, what: str) -> bytes:
    """Decode base64 in its only spelling.

    Raises:
        CheckpointInvalidError: It is something else; `what` names it.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CheckpointInvalidError(_WHERE, f"{what} is not base64") from exc
    # One encoding only: base64 has several spellings when the last bits are not zero.
    if base64.b64encode(data).decode() != text:
        raise CheckpointInvalidError(_WHERE, f"{what} is not canonical base64")
    return data


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A key that signs notes: its name and 32 bytes of Ed25519 (RFC 8032)."""

    signature_type: ClassVar[int]
    """C2SP signed-note, "Signature types"."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that signatures of this key begin with."""
        material = self.name.encode() + b"\n" + bytes([self.signature_type]) + self.public_key
        return hashlib.sha256(material).digest()[:_KEY_ID_BYTES]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a key; a newline at its end is allowed.

        Raises:
            CheckpointInvalidError: It is not an Ed25519 key of this signature type.
        """
        parts = text.removesuffix("\n").split("+", 2)
        if len(parts) != 3:  # noqa: PLR2004 - name, id, key
            raise CheckpointInvalidError("verifier key", "expected {name}+{id}+{base64}")
        name, key_id, encoded = parts
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise CheckpointInvalidError("verifier key", "the key is not base64") from exc
        if len(data) != 1 + _KEY_BYTES or data[0] != cls.signature_type:
            raise CheckpointInvalidError(
                "verifier key", f"not an Ed25519 key of type {cls.signature_type:#04x}"
            )
        key = cls(name, data[1:])
        if not is_key_name(name) or str(key) != text.removesuffix("\n"):
            raise CheckpointInvalidError("verifier key", f"key id {key_id} does not match")
        return key

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([self.signature_type]) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"


@dataclass(frozen=True, slots=True)
class VerifierKey(NoteKey):
    """The key of a log; it signs the text of the note itself."""

    signature_type: ClassVar[int] = 0x01

    def __str__(self) -> str:
        return NoteKey.__str__(self)  # a dataclass with slots is made anew: no bare super()


@dataclass(frozen=True, slots=True)
class CosignerKey(NoteKey):
    """The key of a witness (C2SP tlog-cosignature); it signs text and time."""

    signature_type: ClassVar[int] = 0x04

    def __str__(self) -> str:
        return NoteKey.__str__(self)


def note_line(name: str, blob: bytes) -> str:
    """Return the signature line of a note; `blob` is the key id and the signature."""
    return f"{_DASH}{name} {base64.b64encode(blob).decode()}\n"


def split_note(text: str) -> tuple[str, list[tuple[str, bytes]]]:
    """Split a note into the signed text and its signatures (name, key id || signature).

    Raises:
        CheckpointInvalidError: It is no signed note, or longer than 65,536 bytes.
    """
    if len(text) > MAX_NOTE_BYTES:
        raise CheckpointInvalidError(_WHERE, f"longer than {MAX_NOTE_BYTES} characters")
    if any(ord(character) < 0x20 and character != "\n" for character in text):  # noqa: PLR2004 - C2SP signed-note: no controls
        raise CheckpointInvalidError(_WHERE, "a control character")
    head, separator, tail = text.rpartition("\n\n")
    if not separator:
        raise CheckpointInvalidError(_WHERE, "not a signed note: no signatures at its end")
    return head + "\n", split_lines(tail)


def split_lines(tail: str) -> list[tuple[str, bytes]]:
    """Split signature lines, each with its newline, into name and key id || signature.

    Raises:
        CheckpointInvalidError: They are no signature lines, or more than 64.
    """
    if not tail.endswith("\n"):
        raise CheckpointInvalidError(_WHERE, "not a signed note: no signatures at its end")
    lines = tail.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise CheckpointInvalidError(_WHERE, f"more than {MAX_SIGNATURES} signatures")
    blobs: list[tuple[str, bytes]] = []
    for line in lines:
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not space or not is_key_name(name):
            raise CheckpointInvalidError(_WHERE, "a malformed signature line")
        blob = decode_b64(encoded, "a signature")
        if len(blob) <= _KEY_ID_BYTES:
            raise CheckpointInvalidError(_WHERE, "a signature is too short")
        blobs.append((name, blob))
    return blobs


def signatures_of(key: NoteKey, blobs: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """Return the signatures that claim to be of `key`; every one of them must verify."""
    return [
        blob[_KEY_ID_BYTES:]
        for name, blob in blobs
        if name == key.name and hmac.compare_digest(blob[:_KEY_ID_BYTES], key.key_id)
    ]
