"""Every error of the SDK: one class per reason (protos/strongroom/kms/v1/error_reason.proto).

`reason` says why in one word and never changes; the message is for people. No
`grpc.RpcError`, `ValueError` of a parser or `OSError` of the network comes out of the
SDK: only these, and `OSError` for the files that the caller named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

from strongroom.receipts import Receipt

__all__ = [
    "AliasExistsError",
    "ArgumentInvalidError",
    "AuditUnavailableError",
    "AuditUnverifiedError",
    "ChecksumMismatchError",
    "CiphertextInvalidError",
    "ClientClosedError",
    "DeadlineExceededError",
    "EnvelopeInvalidError",
    "EtagMismatchError",
    "FieldViolation",
    "ForkDetectedError",
    "GrantNotFoundError",
    "HsmUnavailableError",
    "ImportTokenExpiredError",
    "ImportTokenInvalidError",
    "ImportTokenUsedError",
    "InternalError",
    "KeyDisabledError",
    "KeyExhaustedError",
    "KeyMaterialMismatchError",
    "KeyNotFoundError",
    "KeyOriginMismatchError",
    "KeySpecUnsupportedError",
    "KeyStateInvalidError",
    "KeyUsageMismatchError",
    "LimitExceededError",
    "MacInvalidError",
    "NoEndpointError",
    "OptionsError",
    "OverloadedError",
    "PeerUnauthenticatedError",
    "PolicyDeniedError",
    "PolicyInvalidError",
    "QuotaExceededError",
    "RecordArchivedError",
    "RecordNotFoundError",
    "RequestIdReusedError",
    "ResponseInvalidError",
    "ShardUnavailableError",
    "SignatureInvalidError",
    "StrongroomError",
    "UnavailableError",
    "UnexpectedStatusError",
    "UnreachableError",
    "WrongKeyError",
    "WrongRegionError",
    "error_for_reason",
]


class StrongroomError(Exception):
    """Base of every error of the SDK.

    Attributes:
        reason: Why, in one word: the service's ErrorReason without its prefix, or one of
            the SDK's own.
        code: Name of the gRPC status code, such as ``UNAVAILABLE``; also set for errors
            that never left the process, so that callers can sort by it.
        metadata: The service's facts for programs; never secret.
        retry_after_seconds: How long the service asks to be left alone; None if it says nothing.
        receipts: Where the refusal stands in the audit log, when it was recorded.
    """

    reason: ClassVar[str] = "UNKNOWN"
    default_code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
        receipts: tuple[Receipt, ...] = (),
    ):
        super().__init__(message)
        self.code = code or self.default_code
        self.metadata: Mapping[str, str] = MappingProxyType(dict(metadata or {}))
        self.retry_after_seconds = retry_after_seconds
        self.receipts = receipts


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field that breaks a rule: its path, the rule's id, and the rule in words."""

    field: str
    rule: str
    description: str


class ArgumentInvalidError(StrongroomError):
    """An argument breaks its rule; `violations` says which and how."""

    reason = "ARGUMENT_INVALID"
    default_code = "INVALID_ARGUMENT"
    violations: tuple[FieldViolation, ...] = ()

    @classmethod
    def of(cls, field: str, rule: str, description: str) -> ArgumentInvalidError:
        """Make the error of one violation."""
        error = cls(f"{field}: {description}")
        error.violations = (FieldViolation(field, rule, description),)
        return error


class ChecksumMismatchError(StrongroomError):
    """Bytes changed on their way to the service or back, and went on changing on a repeat."""

    reason = "CHECKSUM_MISMATCH"
    default_code = "INVALID_ARGUMENT"


class CiphertextInvalidError(StrongroomError):
    """The ciphertext cannot be decrypted: tag, context or format, nobody is told which."""

    reason = "CIPHERTEXT_INVALID"
    default_code = "INVALID_ARGUMENT"


class WrongKeyError(StrongroomError):
    """The ciphertext was made with another key than the one named."""

    reason = "WRONG_KEY"
    default_code = "INVALID_ARGUMENT"


class SignatureInvalidError(StrongroomError):
    """The signature does not verify with this key."""

    reason = "SIGNATURE_INVALID"
    default_code = "INVALID_ARGUMENT"


class MacInvalidError(StrongroomError):
    """The MAC does not verify with this key."""

    reason = "MAC_INVALID"
    default_code = "INVALID_ARGUMENT"


class PolicyInvalidError(StrongroomError):
    """The policy does not parse, does not fit the schema, or locks everybody out."""

    reason = "POLICY_INVALID"
    default_code = "INVALID_ARGUMENT"


class KeyNotFoundError(StrongroomError):
    """There is no such key or alias, or the caller may not see it."""

    reason = "KEY_NOT_FOUND"
    default_code = "NOT_FOUND"


class RecordNotFoundError(StrongroomError):
    """The audit log has no such record, or not yet."""

    reason = "RECORD_NOT_FOUND"
    default_code = "NOT_FOUND"


class RecordArchivedError(StrongroomError):
    """The record was moved from the audit log to its archive."""

    reason = "RECORD_ARCHIVED"
    default_code = "FAILED_PRECONDITION"


class GrantNotFoundError(StrongroomError):
    """There is no such grant (any more), or it is not for you to end."""

    reason = "GRANT_NOT_FOUND"
    default_code = "NOT_FOUND"


class LimitExceededError(StrongroomError):
    """There are as many of something as there may be; waiting does not help."""

    reason = "LIMIT_EXCEEDED"
    default_code = "FAILED_PRECONDITION"


class AliasExistsError(StrongroomError):
    """The alias exists already."""

    reason = "ALIAS_EXISTS"
    default_code = "ALREADY_EXISTS"


class RequestIdReusedError(StrongroomError):
    """The request id was used before, with another request."""

    reason = "REQUEST_ID_REUSED"
    default_code = "ALREADY_EXISTS"


class KeyDisabledError(StrongroomError):
    """The key is disabled."""

    reason = "KEY_DISABLED"
    default_code = "FAILED_PRECONDITION"


class KeyExhaustedError(StrongroomError):
    """The key version has no encryptions left; rotate the key."""

    reason = "KEY_EXHAUSTED"
    default_code = "FAILED_PRECONDITION"


class KeyStateInvalidError(StrongroomError):
    """The key or key version waits for its deletion, is destroyed, or is in another wrong state."""

    reason = "KEY_STATE_INVALID"
    default_code = "FAILED_PRECONDITION"


class KeySpecUnsupportedError(StrongroomError):
    """The HSM of the region cannot make or use keys of this kind in this way."""

    reason = "KEY_SPEC_UNSUPPORTED"
    default_code = "FAILED_PRECONDITION"


class KeyUsageMismatchError(StrongroomError):
    """The key is of a spec or usage that this call is not for."""

    reason = "KEY_USAGE_MISMATCH"
    default_code = "FAILED_PRECONDITION"


class KeyOriginMismatchError(StrongroomError):
    """The call is not for keys whose material is from where this key's is."""

    reason = "KEY_ORIGIN_MISMATCH"
    default_code = "FAILED_PRECONDITION"


class KeyMaterialMismatchError(StrongroomError):
    """The material to import is not the one that was imported first."""

    reason = "KEY_MATERIAL_MISMATCH"
    default_code = "INVALID_ARGUMENT"


class ImportTokenInvalidError(StrongroomError):
    """Not an import token, one of another key, or one that a later one replaced."""

    reason = "IMPORT_TOKEN_INVALID"
    default_code = "INVALID_ARGUMENT"


class ImportTokenExpiredError(StrongroomError):
    """The import token has ended: get new parameters."""

    reason = "IMPORT_TOKEN_EXPIRED"
    default_code = "FAILED_PRECONDITION"


class ImportTokenUsedError(StrongroomError):
    """The import token was presented before, with or without success: get new parameters."""

    reason = "IMPORT_TOKEN_USED"
    default_code = "FAILED_PRECONDITION"


class WrongRegionError(StrongroomError):
    """The server asked does not host the shard of the name; see `metadata`."""

    reason = "WRONG_REGION"
    default_code = "FAILED_PRECONDITION"


class PolicyDeniedError(StrongroomError):
    """No policy allows it."""

    reason = "POLICY_DENIED"
    default_code = "PERMISSION_DENIED"


class PeerUnauthenticatedError(StrongroomError):
    """The client's certificate does not name exactly one principal."""

    reason = "PEER_UNAUTHENTICATED"
    default_code = "UNAUTHENTICATED"


class OverloadedError(StrongroomError):
    """Too much at once, also after retries."""

    reason = "OVERLOADED"
    default_code = "RESOURCE_EXHAUSTED"


class QuotaExceededError(StrongroomError):
    """This caller asks for more than it may, also after retries.

    `metadata` has `limit` and `rate`; `retry_after_seconds` says when there is room again.
    """

    reason = "QUOTA_EXCEEDED"
    default_code = "RESOURCE_EXHAUSTED"


class UnavailableError(StrongroomError):
    """Base of what may work again soon, also after retries."""

    reason = "UNAVAILABLE"
    default_code = "UNAVAILABLE"


class HsmUnavailableError(UnavailableError):
    """The HSM of the shard does not answer, or does not show a key that it should hold."""

    reason = "HSM_UNAVAILABLE"


class ShardUnavailableError(UnavailableError):
    """The shard is not ready, or its server is stopping."""

    reason = "SHARD_UNAVAILABLE"


class AuditUnavailableError(UnavailableError):
    """The audit record could not be made durable; nothing is answered that is not logged."""

    reason = "AUDIT_UNAVAILABLE"


class UnreachableError(UnavailableError):
    """No answer of the service at all: nobody listens, TLS fails, the connection broke."""

    reason = "UNREACHABLE"


class DeadlineExceededError(StrongroomError):
    """No answer in time. A change may have happened all the same: repeat it with its request id."""

    reason = "DEADLINE_EXCEEDED"
    default_code = "DEADLINE_EXCEEDED"


class EtagMismatchError(StrongroomError):
    """The key changed since it was read."""

    reason = "ETAG_MISMATCH"
    default_code = "ABORTED"


class InternalError(StrongroomError):
    """A fault in the service; its own log says more."""

    reason = "INTERNAL"
    default_code = "INTERNAL"


class UnexpectedStatusError(StrongroomError):
    """The service, or something in front of it, answered with a status it never sends."""

    reason = "UNEXPECTED_STATUS"


class ResponseInvalidError(StrongroomError):
    """The answer breaks the service's contract, such as by naming another key than asked for."""

    reason = "RESPONSE_INVALID"
    default_code = "INTERNAL"


class NoEndpointError(StrongroomError):
    """The options hold no endpoint for a region that is needed."""

    reason = "NO_ENDPOINT"
    default_code = "FAILED_PRECONDITION"


class ClientClosedError(StrongroomError):
    """The client was closed."""

    reason = "CLIENT_CLOSED"
    default_code = "FAILED_PRECONDITION"


class OptionsError(StrongroomError):
    """The options, or the files they name, cannot be used; the message has the cure."""

    reason = "OPTIONS_INVALID"
    default_code = "FAILED_PRECONDITION"


class AuditUnverifiedError(StrongroomError):
    """The audit log does not prove what it should: a proof, a checkpoint, a record is wrong.

    It is evidence: keep the receipt and what the log answered.
    """

    reason = "UNVERIFIABLE"
    default_code = "DATA_LOSS"


class ForkDetectedError(AuditUnverifiedError):
    """The audit log shows another history than it did before: it was rewritten, cut or forked."""

    reason = "FORK_DETECTED"


class EnvelopeInvalidError(StrongroomError):
    """The envelope cannot be opened: format, context, tag or length, nobody is told which."""

    reason = "ENVELOPE_INVALID"
    default_code = "INVALID_ARGUMENT"

    def __init__(self) -> None:
        super().__init__("the envelope is not valid for this encryption context")


_BY_REASON: Final[Mapping[str, type[StrongroomError]]] = MappingProxyType(
    {
        kind.reason: kind
        for kind in (
            AliasExistsError,
            ArgumentInvalidError,
            AuditUnavailableError,
            ChecksumMismatchError,
            CiphertextInvalidError,
            EtagMismatchError,
            HsmUnavailableError,
            InternalError,
            KeyDisabledError,
            KeyExhaustedError,
            KeyNotFoundError,
            KeySpecUnsupportedError,
            KeyStateInvalidError,
            KeyUsageMismatchError,
            KeyOriginMismatchError,
            KeyMaterialMismatchError,
            ImportTokenInvalidError,
            ImportTokenExpiredError,
            ImportTokenUsedError,
            GrantNotFoundError,
            LimitExceededError,
            MacInvalidError,
            OverloadedError,
            PeerUnauthenticatedError,
            PolicyDeniedError,
            PolicyInvalidError,
            QuotaExceededError,
            RecordArchivedError,
            RecordNotFoundError,
            RequestIdReusedError,
            ShardUnavailableError,
            SignatureInvalidError,
            WrongKeyError,
            WrongRegionError,
        )
    }
)


def error_for_reason(reason: str) -> type[StrongroomError] | None:
    """Return the class for a reason that the service sends; None for one this SDK does not know."""
    return _BY_REASON.get(reason)
