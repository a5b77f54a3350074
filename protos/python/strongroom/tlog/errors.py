"""What does not verify."""

from __future__ import annotations

__all__ = [
    "CheckpointInvalidError",
    "ConsistencyInvalidError",
    "ProofInvalidError",
    "ReceiptInvalidError",
    "VerificationError",
    "WitnessesMissingError",
]


class VerificationError(Exception):
    """Something does not verify.

    `where` names it: a path relative to the log, a leaf, a receipt.
    """

    def __init__(self, where: str, what: str):
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what

    def __reduce__(self) -> tuple[type[VerificationError], tuple[str, str]]:
        # Crosses from a worker process to its parent.
        return type(self), (self.where, self.what)


class CheckpointInvalidError(VerificationError):
    """A checkpoint is malformed, or not signed by the key that was given."""


class WitnessesMissingError(CheckpointInvalidError):
    """A checkpoint carries the cosignatures of too few witnesses."""


class ConsistencyInvalidError(VerificationError):
    """An older checkpoint is not a prefix of the log: history was rewritten."""


class ProofInvalidError(VerificationError):
    """A proof is malformed, or does not lead from the leaf to the signed root."""


class ReceiptInvalidError(VerificationError):
    """The record of a receipt is not in the log, or is another one."""
