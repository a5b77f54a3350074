"""What can go wrong in the audit log, without a word of gRPC.

Three families: the log refuses to start or to go on (`StartRefusedError`, `LogError`), a
file does not verify (`VerificationError` of `strongroom.tlog.errors`), and a caller's
request is refused (`RequestError`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from strongroom.tlog.errors import VerificationError

__all__ = [
    "ArchiveError",
    "AuditLogError",
    "EntryArchivedError",
    "EntryInvalidError",
    "FieldViolation",
    "ForkRefusedError",
    "LogError",
    "LogStoppedError",
    "Reason",
    "RecordInvalidError",
    "RequestError",
    "RootMismatchError",
    "SequenceInvalidError",
    "SigningStoppedError",
    "StartRefusedError",
    "TileInvalidError",
]


class AuditLogError(Exception):
    """Base of the errors of this package."""


class StartRefusedError(AuditLogError):
    """The audit log does not start; the message names the cure."""


class LogError(AuditLogError):
    """The log does not take this batch; nothing was changed."""


class LogStoppedError(LogError):
    """The log must not go on; trying again would not help. The process ends."""


class ForkRefusedError(LogStoppedError):
    """State or last checkpoint moved under this signer: signing on would fork the log."""


class SigningStoppedError(LogStoppedError):
    """The signing key is another one now, or the HSM refuses the login."""


class ArchiveError(AuditLogError):
    """Archiving or pruning cannot go on: an archive that is not usable, or of another log."""


class RecordInvalidError(AuditLogError):
    """A record is not what docs/formats/audit-record-v1.md says, or stands elsewhere."""


class EntryInvalidError(VerificationError):
    """An entry bundle is missing, truncated, or holds something that is no record."""


class EntryArchivedError(EntryInvalidError):
    """An entry bundle was pruned; its records are in an archive."""

    def __init__(self, where: str, minimum_index: int, archive: str):
        """Say so: records below leaf `minimum_index` are in `archive`."""
        super().__init__(
            where, f"pruned: records below leaf {minimum_index} are in the archive {archive}"
        )
        self.minimum_index = minimum_index
        self.archive = archive

    def __reduce__(self) -> tuple[type[EntryArchivedError], tuple[str, int, str]]:  # type: ignore[override] # other arguments than its base's
        # Crosses from a worker process to its parent.
        return type(self), (self.where, self.minimum_index, self.archive)


class TileInvalidError(VerificationError):
    """A hash tile is missing, has another size, or is not the hash of what is below it."""


class RootMismatchError(VerificationError):
    """The entries and tiles agree, but lead to another root than the signed one."""


class SequenceInvalidError(VerificationError):
    """The records of a shard have a gap, a repeat, or go back to an older epoch."""


class Reason(enum.StrEnum):
    """Why a call is refused; names of the API's enum ErrorReason."""

    ARGUMENT_INVALID = "ARGUMENT_INVALID"
    POLICY_DENIED = "POLICY_DENIED"
    PEER_UNAUTHENTICATED = "PEER_UNAUTHENTICATED"
    RECORD_NOT_FOUND = "RECORD_NOT_FOUND"
    RECORD_ARCHIVED = "RECORD_ARCHIVED"
    OVERLOADED = "OVERLOADED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field that breaks a rule: its path, the rule's id, and the rule in words."""

    field: str
    rule: str
    description: str


class RequestError(AuditLogError):
    """A call is refused; the message is safe to show to the caller."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        violations: tuple[FieldViolation, ...] = (),
        metadata: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = violations
        self.metadata = dict(metadata or {})
        """For programs: what ErrorInfo.metadata gets."""

    @classmethod
    def invalid(cls, *violations: FieldViolation) -> RequestError:
        """Make the refusal of fields that break their rules."""
        text = "; ".join(
            f"{v.field}: {v.description}" if v.field else v.description for v in violations
        )
        return cls(Reason.ARGUMENT_INVALID, text, violations)
