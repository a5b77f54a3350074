"""Signs checkpoints; `strongroom.tlog.checkpoint` has their form and verifies them."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from strongroom.tlog.checkpoint import (
    Checkpoint,
    VerifierKey,
    checkpoint_body,
    is_key_name,
    note_line,
)
from strongroom.tlog.errors import CheckpointInvalidError

__all__ = ["Signer"]


class Signer:
    """Signs the checkpoints of one origin with one Ed25519 key.

    Whether a size and root may be signed is not decided here: `state` does that.
    """

    def __init__(self, origin: str, private_key: Ed25519PrivateKey):
        if not is_key_name(origin):
            raise CheckpointInvalidError("origin", "empty, or with a space, control or plus sign")
        self._private_key = private_key
        self.verifier_key = VerifierKey(origin, private_key.public_key().public_bytes_raw())

    @property
    def origin(self) -> str:
        """First line of the checkpoints, and name of the key."""
        return self.verifier_key.name

    def sign(self, size: int, root: bytes) -> Checkpoint:
        """Sign the tree of `size` leaves with `root` (32 bytes)."""
        body = checkpoint_body(self.origin, size, root)
        blob = self.verifier_key.key_id + self._private_key.sign(body.encode())
        return Checkpoint(self.origin, size, root, f"{body}\n{note_line(self.origin, blob)}")
