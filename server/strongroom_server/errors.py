"""Domain errors: what can go wrong, without a word of gRPC.

Every error carries a reason (the enum ErrorReason of the API, without prefix) and a
message that is safe to show to the caller. `rpc/status.py` turns reasons into status
codes, in one table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from strongroom.receipts import Receipt

__all__ = [
    "AliasExistsError",
    "ArgumentInvalidError",
    "AuditUnavailableError",
    "ChecksumMismatchError",
    "CiphertextInvalidError",
    "EtagMismatchError",
    "FieldViolation",
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
    "OverloadedError",
    "PeerUnauthenticatedError",
    "PolicyDeniedError",
    "PolicyInvalidError",
    "QuotaExceededError",
    "Reason",
    "RequestIdReusedError",
    "ShardUnavailableError",
    "SignatureInvalidError",
    "StartRefusedError",
    "StrongroomError",
    "WrongKeyError",
    "WrongRegionError",
]


class Reason(enum.StrEnum):
    """Why a call is refused; the names of the API's enum ErrorReason."""

    ARGUMENT_INVALID = "ARGUMENT_INVALID"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    CIPHERTEXT_INVALID = "CIPHERTEXT_INVALID"
    WRONG_KEY = "WRONG_KEY"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    MAC_INVALID = "MAC_INVALID"
    POLICY_INVALID = "POLICY_INVALID"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    GRANT_NOT_FOUND = "GRANT_NOT_FOUND"
    ALIAS_EXISTS = "ALIAS_EXISTS"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    KEY_DISABLED = "KEY_DISABLED"
    KEY_EXHAUSTED = "KEY_EXHAUSTED"
    KEY_SPEC_UNSUPPORTED = "KEY_SPEC_UNSUPPORTED"
    KEY_STATE_INVALID = "KEY_STATE_INVALID"
    KEY_USAGE_MISMATCH = "KEY_USAGE_MISMATCH"
    KEY_ORIGIN_MISMATCH = "KEY_ORIGIN_MISMATCH"
    KEY_MATERIAL_MISMATCH = "KEY_MATERIAL_MISMATCH"
    IMPORT_TOKEN_INVALID = "IMPORT_TOKEN_INVALID"  # noqa: S105 - a reason
    IMPORT_TOKEN_EXPIRED = "IMPORT_TOKEN_EXPIRED"  # noqa: S105 - a reason
    IMPORT_TOKEN_USED = "IMPORT_TOKEN_USED"  # noqa: S105 - a reason
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    WRONG_REGION = "WRONG_REGION"
    POLICY_DENIED = "POLICY_DENIED"
    PEER_UNAUTHENTICATED = "PEER_UNAUTHENTICATED"
    OVERLOADED = "OVERLOADED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    HSM_UNAVAILABLE = "HSM_UNAVAILABLE"
    SHARD_UNAVAILABLE = "SHARD_UNAVAILABLE"
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    INTERNAL = "INTERNAL"


class StrongroomError(Exception):
    """Base of every error that a caller may be told about."""

    reason: ClassVar[Reason] = Reason.INTERNAL

    def __init__(self, message: str, *, retry_after_seconds: float | None = None):
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        #: Receipts of the records that this refusal left, in order.
        self.receipts: tuple[Receipt, ...] = ()

    @property
    def metadata(self) -> dict[str, str]:
        """ErrorInfo metadata: facts for programs, never secrets."""
        return {}


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field that breaks a rule: its path, the rule's id, and the rule in words."""

    field: str
    rule: str
    description: str


class ArgumentInvalidError(StrongroomError):
    """A field of the request breaks its rule."""

    reason = Reason.ARGUMENT_INVALID

    def __init__(self, violations: tuple[FieldViolation, ...]):
        # A rule about several fields, or the whole request, has no field.
        super().__init__(
            "; ".join(
                f"{v.field}: {v.description}" if v.field else v.description for v in violations
            )
        )
        self.violations = violations

    @classmethod
    def of(cls, field: str, rule: str, description: str) -> ArgumentInvalidError:
        """Make an error with a single violation."""
        return cls((FieldViolation(field, rule, description),))


class ChecksumMismatchError(StrongroomError):
    """A CRC32C in the request does not match its field."""

    reason = Reason.CHECKSUM_MISMATCH

    def __init__(self, field: str):
        super().__init__(f"{field}: the CRC32C does not match; send the request again")


class CiphertextInvalidError(StrongroomError):
    """The ciphertext cannot be decrypted: tag, context or format, nobody is told which."""

    reason = Reason.CIPHERTEXT_INVALID

    def __init__(self) -> None:
        super().__init__("the ciphertext is not valid for this key and encryption context")


class WrongKeyError(StrongroomError):
    """The ciphertext was made with another key than the one named."""

    reason = Reason.WRONG_KEY

    def __init__(self) -> None:
        super().__init__("the ciphertext was made with another key than the one named")


class PolicyInvalidError(StrongroomError):
    """The policy does not parse, does not fit the schema, or locks everybody out."""

    reason = Reason.POLICY_INVALID


class KeyNotFoundError(StrongroomError):
    """There is no such key, or the caller may not see it: the same answer for both.

    `hidden` tells the audit record, never the caller, that the key is there, and
    `policy_id` which policy decided so.
    """

    reason = Reason.KEY_NOT_FOUND

    def __init__(self, name: str = "", *, hidden: bool = False, policy_id: str = ""):
        super().__init__(
            f"no key {name}, or you may not see it"
            if name
            else "no key that made this ciphertext, or you may not see it"
        )
        self.hidden = hidden
        self.policy_id = policy_id


class GrantNotFoundError(StrongroomError):
    """There is no such grant, any more or for this caller: the same answer for all."""

    reason = Reason.GRANT_NOT_FOUND

    def __init__(self, name: str):
        super().__init__(f"no grant {name}, or it is not for you to end")


class LimitExceededError(StrongroomError):
    """There are as many of something as there may be; waiting does not help."""

    reason = Reason.LIMIT_EXCEEDED


class AliasExistsError(StrongroomError):
    """The alias exists already."""

    reason = Reason.ALIAS_EXISTS


class RequestIdReusedError(StrongroomError):
    """The request id was used before, with another request."""

    reason = Reason.REQUEST_ID_REUSED

    def __init__(self) -> None:
        super().__init__("request_id was used before with a different request")


class KeyDisabledError(StrongroomError):
    """The key is disabled."""

    reason = Reason.KEY_DISABLED

    def __init__(self, name: str):
        super().__init__(f"{name} is disabled")


class KeyStateInvalidError(StrongroomError):
    """The state of a key or key version does not allow the operation."""

    reason = Reason.KEY_STATE_INVALID

    def __init__(self, name: str, state: str, operation: str):
        super().__init__(f"{name} is {state}, which does not allow {operation}")


class KeySpecUnsupportedError(StrongroomError):
    """The shard's HSM cannot make or use keys of this kind in this way."""

    reason = Reason.KEY_SPEC_UNSUPPORTED

    def __init__(self, region: str, what: str):
        super().__init__(
            f"region {region}: its HSM does not support {what}; "
            "`strongroom hsm doctor` shows what it supports"
        )


class KeyUsageMismatchError(StrongroomError):
    """Keys of this spec and usage do not take part in this call."""

    reason = Reason.KEY_USAGE_MISMATCH

    def __init__(self, name: str, kind: str, call: str):
        super().__init__(f"{name} is a key of {kind}; {call} is not for such keys")


class KeyOriginMismatchError(StrongroomError):
    """The call is not for keys whose material is from where this key's is."""

    reason = Reason.KEY_ORIGIN_MISMATCH

    def __init__(self, name: str, origin: str, call: str):
        super().__init__(f"{name} has material of origin {origin}; {call} is not for such keys")


class KeyMaterialMismatchError(StrongroomError):
    """Material to import is not what was imported first."""

    reason = Reason.KEY_MATERIAL_MISMATCH

    def __init__(self, name: str):
        super().__init__(f"{name} takes only the material that was imported first")


class ImportTokenInvalidError(StrongroomError):
    """Not an import token, one of another key, or one that a later one replaced."""

    reason = Reason.IMPORT_TOKEN_INVALID

    def __init__(self) -> None:
        super().__init__("not the import token that this key has open; get new parameters")


class ImportTokenExpiredError(StrongroomError):
    """The import token has ended."""

    reason = Reason.IMPORT_TOKEN_EXPIRED

    def __init__(self) -> None:
        super().__init__("the import token has ended; get new parameters")


class ImportTokenUsedError(StrongroomError):
    """The import token was presented before, with or without success."""

    reason = Reason.IMPORT_TOKEN_USED

    def __init__(self) -> None:
        super().__init__("the import token was presented before; get new parameters")


class SignatureInvalidError(StrongroomError):
    """A signature does not verify. The text tells nothing more, on purpose."""

    reason = Reason.SIGNATURE_INVALID

    def __init__(self) -> None:
        super().__init__("the signature does not verify with this key")


class MacInvalidError(StrongroomError):
    """A MAC does not verify. The text tells nothing more, on purpose."""

    reason = Reason.MAC_INVALID

    def __init__(self) -> None:
        super().__init__("the MAC does not verify with this key")


class KeyExhaustedError(StrongroomError):
    """The key version has been used 2^32 times (SP 800-38D, 8.3)."""

    reason = Reason.KEY_EXHAUSTED

    def __init__(self, name: str):
        super().__init__(f"{name} has no encryptions left; rotate the key")


class WrongRegionError(StrongroomError):
    """This server does not host the shard that the name asks for."""

    reason = Reason.WRONG_REGION

    def __init__(self, region: str, hosted: tuple[str, ...]):
        super().__init__(
            f"region {region} is not hosted here; this server hosts {', '.join(hosted)}"
        )
        self.region = region
        self.hosted = hosted

    @property
    def metadata(self) -> dict[str, str]:
        return {"region": self.region, "hostedRegions": ",".join(self.hosted)}


class PolicyDeniedError(StrongroomError):
    """The caller may see the key, but no policy allows this.

    `policy_id` tells the audit record which policy decided so.
    """

    reason = Reason.POLICY_DENIED

    def __init__(self, action: str, name: str, *, policy_id: str = ""):
        super().__init__(f"no policy allows {action} on {name}")
        self.policy_id = policy_id


class PeerUnauthenticatedError(StrongroomError):
    """The peer's certificate does not name exactly one principal."""

    reason = Reason.PEER_UNAUTHENTICATED


class OverloadedError(StrongroomError):
    """Too much at once."""

    reason = Reason.OVERLOADED


class QuotaExceededError(StrongroomError):
    """The caller asks for more than it may; `limit` and `rate` say of what."""

    reason = Reason.QUOTA_EXCEEDED

    def __init__(self, limit: str, rate: str, *, retry_after_seconds: float):
        super().__init__(
            f"more than {rate}: the limit `{limit}` of this caller",
            retry_after_seconds=retry_after_seconds,
        )
        self.limit = limit
        self.rate = rate

    @property
    def metadata(self) -> dict[str, str]:
        return {"limit": self.limit, "rate": self.rate}


class HsmUnavailableError(StrongroomError):
    """The HSM of a shard does not answer, or does not show a key it should hold."""

    reason = Reason.HSM_UNAVAILABLE

    def __init__(self, region: str, message: str, *, retry_after_seconds: float = 1.0):
        super().__init__(f"region {region}: {message}", retry_after_seconds=retry_after_seconds)
        self.region = region

    @property
    def metadata(self) -> dict[str, str]:
        return {"region": self.region}


class ShardUnavailableError(HsmUnavailableError):
    """The shard is not ready, its store fails, or the server is stopping."""

    reason = Reason.SHARD_UNAVAILABLE


class AuditUnavailableError(HsmUnavailableError):
    """The audit record cannot be made durable: nothing is answered unlogged."""

    reason = Reason.AUDIT_UNAVAILABLE


class EtagMismatchError(StrongroomError):
    """The resource changed since it was read."""

    reason = Reason.ETAG_MISMATCH

    def __init__(self, name: str):
        super().__init__(f"{name} changed since it was read; read it again")


class InternalError(StrongroomError):
    """A fault in the service itself."""

    reason = Reason.INTERNAL

    def __init__(self) -> None:
        super().__init__("internal error; the server's log has it under the request id")


class StartRefusedError(Exception):
    """The server must not start; the message says what is wrong and the cure."""
