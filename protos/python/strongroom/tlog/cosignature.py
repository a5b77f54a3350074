"""Cosignatures of witnesses on checkpoints (C2SP tlog-cosignature, Ed25519).

A signature line of the note whose blob is

    key id (4) || timestamp (u64, big-endian, seconds of Unix time) || Ed25519 signature (64)

over

    cosignature/v1
    time {timestamp}
    {the note's text: origin, size, root, extension lines}

It says: at that time this was the largest tree of the log that the witness had seen, and
every earlier one that it cosigned was a prefix of it. An operator who shows one history to
some and another to others finds no witness for the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from strongroom.tlog.errors import CheckpointInvalidError, WitnessesMissingError
from strongroom.tlog.note import CosignerKey, note_line, signatures_of

__all__ = ["NO_WITNESSES", "Cosignature", "WitnessPolicy", "cosigned_message", "open_cosignature"]

MAX_TIMESTAMP: Final = 2**63 - 1
TIMESTAMP_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64
_WHERE: Final = "checkpoint"


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A cosignature that was verified."""

    key: CosignerKey
    timestamp: int
    """When the witness says that it signed, in seconds of Unix time."""
    signature: bytes
    """The Ed25519 signature, 64 bytes."""

    @property
    def line(self) -> str:
        """The signature line, as it stands in the note."""
        blob = self.key.key_id + self.timestamp.to_bytes(TIMESTAMP_BYTES, "big") + self.signature
        return note_line(self.key.name, blob)


def cosigned_message(body: str, timestamp: int) -> bytes:
    """Return what a witness signs for the text `body` of a checkpoint."""
    return f"cosignature/v1\ntime {timestamp}\n{body}".encode()


def open_cosignature(
    key: CosignerKey, body: str, blobs: Sequence[tuple[str, bytes]]
) -> Cosignature | None:
    """Verify the cosignature of `key` among the signatures of a note.

    Args:
        key: The witness's key.
        body: The note's text.
        blobs: The note's signatures, as `note.split_note` gives them.

    Returns:
        The newest one; None when there is none of `key`.

    Raises:
        CheckpointInvalidError: One claims to be of `key` and does not verify (C2SP
            signed-note, "Signatures": the whole note is to be refused).
    """
    found = [_open(key, body, signature) for signature in signatures_of(key, blobs)]
    return max(found, key=lambda cosignature: cosignature.timestamp, default=None)


def _open(key: CosignerKey, body: str, signature: bytes) -> Cosignature:
    timestamp = int.from_bytes(signature[:TIMESTAMP_BYTES], "big")
    wrong = CheckpointInvalidError(_WHERE, f"the cosignature of {key} is wrong")
    # A checkpoint's cosignature has a time (C2SP tlog-witness, "add-checkpoint").
    if len(signature) != TIMESTAMP_BYTES + _SIGNATURE_BYTES or not 0 < timestamp <= MAX_TIMESTAMP:
        raise wrong
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(
            signature[TIMESTAMP_BYTES:], cosigned_message(body, timestamp)
        )
    except InvalidSignature as exc:
        raise wrong from exc
    return Cosignature(key, timestamp, signature[TIMESTAMP_BYTES:])


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """Which witnesses count, and how many of them a checkpoint needs.

    Raises:
        ValueError: A key is there twice, under whatever name, or `required` is not 0 to
            the number of keys.
    """

    keys: tuple[CosignerKey, ...]
    required: int

    def __post_init__(self) -> None:
        # One key under two names would count as two witnesses (C2SP tlog-policy).
        if len({key.public_key for key in self.keys}) != len(self.keys):
            raise ValueError("a witness's key is given twice")
        if not 0 <= self.required <= len(self.keys):
            raise ValueError(
                f"{self.required} witnesses required, of {len(self.keys)} whose keys are given"
            )

    @classmethod
    def parse(cls, keys: Sequence[str], required: int | None = None) -> WitnessPolicy:
        """Make a policy from verifier keys of type 0x04; all are required by default.

        Raises:
            CheckpointInvalidError: A key is malformed.
            ValueError: As the class.
        """
        parsed = tuple(CosignerKey.parse(text) for text in keys)
        return cls(parsed, len(parsed) if required is None else required)

    def check(self, body: str, blobs: Sequence[tuple[str, bytes]]) -> tuple[Cosignature, ...]:
        """Verify every cosignature of a known witness, and that there are enough.

        Cosignatures of others are ignored.

        Raises:
            CheckpointInvalidError: One of a known witness does not verify.
            WitnessesMissingError: There are fewer than `required`.
        """
        opened = [open_cosignature(key, body, blobs) for key in self.keys]
        found = tuple(cosignature for cosignature in opened if cosignature is not None)
        if len(found) < self.required:
            raise WitnessesMissingError(
                _WHERE,
                f"cosigned by {len(found)} of the {len(self.keys)} given witnesses, "
                f"{self.required} are required",
            )
        return found


NO_WITNESSES: Final = WitnessPolicy((), 0)
"""Trust in the log's operator alone."""
