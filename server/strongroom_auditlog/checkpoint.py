"""Signs checkpoints; `strongroom.tlog.checkpoint` has their form and verifies them."""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from strongroom.tlog.checkpoint import (
    Checkpoint,
    VerifierKey,
    checkpoint_body,
    is_key_name,
    note_line,
)
from strongroom.tlog.errors import CheckpointInvalidError
from strongroom_auditlog.errors import LogError

__all__ = ["Signer", "SigningKey"]


class SigningKey(Protocol):
    """An Ed25519 key: cryptography's own in memory, or one in an HSM token (`hsm_key`)."""

    def public_key(self) -> Ed25519PublicKey:
        """Return the public half."""
        ...

    def sign(self, data: bytes, /) -> bytes:
        """Return the signature of `data`, 64 bytes; may wait for an HSM.

        Raises:
            SigningStoppedError: The key cannot be used any more.
            LogError: It cannot be used now.
        """
        ...


class Signer:
    """Signs the checkpoints of one origin with one Ed25519 key.

    Whether a size and root may be signed is not decided here: `log` does that.
    """

    def __init__(self, origin: str, private_key: SigningKey):
        if not is_key_name(origin):
            raise CheckpointInvalidError("origin", "empty, or with a space, control or plus sign")
        self._private_key = private_key
        self._public_key = private_key.public_key()
        self.verifier_key = VerifierKey(origin, self._public_key.public_bytes_raw())

    @property
    def origin(self) -> str:
        """First line of the checkpoints, and name of the key."""
        return self.verifier_key.name

    def sign(self, size: int, root: bytes) -> Checkpoint:
        """Sign the tree of `size` leaves with `root` (32 bytes).

        Raises:
            SigningStoppedError: The key cannot be used any more.
            LogError: It cannot be used now, or made a signature that does not verify.
        """
        body = checkpoint_body(self.origin, size, root)
        signature = self._private_key.sign(body.encode())
        try:
            # An HSM that fails silently must not make the log unverifiable.
            self._public_key.verify(signature, body.encode())
        except InvalidSignature as exc:
            raise LogError("the signing key made a signature that does not verify") from exc
        line = note_line(self.origin, self.verifier_key.key_id + signature)
        return Checkpoint(self.origin, size, root, f"{body}\n{line}")
