"""PKCS#11 return codes: what each obliges us to do, and the errors that leave the binding.

The one table from CK_RV to action. Codes: PKCS#11 3.1, appendix B (pkcs11t.h), and those
that 3.2 adds; meanings: section 5.1. `ladder` carries the actions out. A worker is one
process with one login, so every rung above "another session" is the same step, and the
only one that also ends a hung vendor call: replace the worker.

Imports nothing, so that workers start fast and tests need no module.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

__all__ = [
    "RV_BY_EXCEPTION",
    "TABLE",
    "Action",
    "AmbiguousFaultError",
    "HsmFaultError",
    "HsmTokenError",
    "KeyAbsentError",
    "KeyUnsafeError",
    "ModuleUnusableError",
    "PinRefusedError",
    "PolicyRefusedError",
    "ReturnCodeError",
    "Row",
    "TamperedError",
    "TokenAbsentError",
    "TokenFullError",
    "action_for",
    "name_of",
]


class Action(enum.Enum):
    """What a return code obliges us to do."""

    CALLER = "caller"
    """What was put in is bad, and the session is well: the caller's fault, no state changes."""
    AMBIGUOUS = "ambiguous"
    """Bad input or HSM fault; a canary decides. For an operation that has none: REPLACE."""
    RETRY = "retry"
    """Try once more in the same session."""
    REFIND = "refind"
    """The handle went stale: search again, once."""
    REOPEN = "reopen"
    """The session is gone or unusable, the login is not: take another session, once."""
    RELIEVE = "relieve"
    """The token is full. Our session objects may be what fills it: REOPEN frees them. The
    same answer again is the token's own: POLICY, for a full HSM still serves its keys, and
    must not lose its workers to every attempt at creating one more."""
    REPLACE = "replace"
    """Login, module or device is gone: end this process, start another."""
    STOP = "stop"
    """The PIN was refused: never try again, a person must look. Retries lock the token."""
    POLICY = "policy"
    """The module refuses the use or its arguments: trying again changes nothing."""


class Row(NamedTuple):
    """What we know of a code."""

    name: str
    action: Action


TABLE: Final[dict[int, Row]] = {
    0x001: Row("CKR_CANCEL", Action.RETRY),
    # After a pause (`ladder`): the machine is short of memory, the HSM is well.
    0x002: Row("CKR_HOST_MEMORY", Action.RETRY),
    0x003: Row("CKR_SLOT_ID_INVALID", Action.REPLACE),
    # SoftHSM's answer to a wrong GCM tag; and to anything that breaks.
    0x005: Row("CKR_GENERAL_ERROR", Action.AMBIGUOUS),
    0x006: Row("CKR_FUNCTION_FAILED", Action.AMBIGUOUS),
    0x007: Row("CKR_ARGUMENTS_BAD", Action.POLICY),
    0x008: Row("CKR_NO_EVENT", Action.POLICY),
    0x009: Row("CKR_NEED_TO_CREATE_THREADS", Action.POLICY),
    0x00A: Row("CKR_CANT_LOCK", Action.POLICY),
    0x010: Row("CKR_ATTRIBUTE_READ_ONLY", Action.POLICY),
    0x011: Row("CKR_ATTRIBUTE_SENSITIVE", Action.POLICY),
    0x012: Row("CKR_ATTRIBUTE_TYPE_INVALID", Action.POLICY),
    0x013: Row("CKR_ATTRIBUTE_VALUE_INVALID", Action.POLICY),
    0x01B: Row("CKR_ACTION_PROHIBITED", Action.POLICY),
    # RSA: a value not below the modulus.
    0x020: Row("CKR_DATA_INVALID", Action.CALLER),
    0x021: Row("CKR_DATA_LEN_RANGE", Action.CALLER),
    0x030: Row("CKR_DEVICE_ERROR", Action.REPLACE),
    0x031: Row("CKR_DEVICE_MEMORY", Action.RELIEVE),
    0x032: Row("CKR_DEVICE_REMOVED", Action.REPLACE),
    0x040: Row("CKR_ENCRYPTED_DATA_INVALID", Action.CALLER),
    0x041: Row("CKR_ENCRYPTED_DATA_LEN_RANGE", Action.CALLER),
    0x042: Row("CKR_AEAD_DECRYPT_FAILED", Action.CALLER),
    0x050: Row("CKR_FUNCTION_CANCELED", Action.RETRY),
    0x051: Row("CKR_FUNCTION_NOT_PARALLEL", Action.POLICY),
    0x054: Row("CKR_FUNCTION_NOT_SUPPORTED", Action.POLICY),
    0x060: Row("CKR_KEY_HANDLE_INVALID", Action.REFIND),
    0x062: Row("CKR_KEY_SIZE_RANGE", Action.POLICY),
    0x063: Row("CKR_KEY_TYPE_INCONSISTENT", Action.POLICY),
    0x064: Row("CKR_KEY_NOT_NEEDED", Action.POLICY),
    0x065: Row("CKR_KEY_CHANGED", Action.POLICY),
    0x066: Row("CKR_KEY_NEEDED", Action.POLICY),
    0x067: Row("CKR_KEY_INDIGESTIBLE", Action.POLICY),
    0x068: Row("CKR_KEY_FUNCTION_NOT_PERMITTED", Action.POLICY),
    0x069: Row("CKR_KEY_NOT_WRAPPABLE", Action.POLICY),
    0x06A: Row("CKR_KEY_UNEXTRACTABLE", Action.POLICY),
    0x070: Row("CKR_MECHANISM_INVALID", Action.POLICY),
    0x071: Row("CKR_MECHANISM_PARAM_INVALID", Action.POLICY),
    0x082: Row("CKR_OBJECT_HANDLE_INVALID", Action.REFIND),
    # Left over from a failed call; closing the session ends it (5.6.4).
    0x090: Row("CKR_OPERATION_ACTIVE", Action.REOPEN),
    0x091: Row("CKR_OPERATION_NOT_INITIALIZED", Action.REOPEN),
    0x0A0: Row("CKR_PIN_INCORRECT", Action.STOP),
    0x0A1: Row("CKR_PIN_INVALID", Action.STOP),
    0x0A2: Row("CKR_PIN_LEN_RANGE", Action.STOP),
    0x0A3: Row("CKR_PIN_EXPIRED", Action.STOP),
    0x0A4: Row("CKR_PIN_LOCKED", Action.STOP),
    0x0B0: Row("CKR_SESSION_CLOSED", Action.REOPEN),
    # The other processes must let sessions go first: a pause.
    0x0B1: Row("CKR_SESSION_COUNT", Action.REPLACE),
    0x0B3: Row("CKR_SESSION_HANDLE_INVALID", Action.REOPEN),
    0x0B4: Row("CKR_SESSION_PARALLEL_NOT_SUPPORTED", Action.POLICY),
    0x0B5: Row("CKR_SESSION_READ_ONLY", Action.POLICY),
    0x0B6: Row("CKR_SESSION_EXISTS", Action.REPLACE),
    0x0B7: Row("CKR_SESSION_READ_ONLY_EXISTS", Action.REPLACE),
    0x0B8: Row("CKR_SESSION_READ_WRITE_SO_EXISTS", Action.REPLACE),
    0x0C0: Row("CKR_SIGNATURE_INVALID", Action.CALLER),
    0x0C1: Row("CKR_SIGNATURE_LEN_RANGE", Action.CALLER),
    0x0D0: Row("CKR_TEMPLATE_INCOMPLETE", Action.POLICY),
    0x0D1: Row("CKR_TEMPLATE_INCONSISTENT", Action.POLICY),
    0x0E0: Row("CKR_TOKEN_NOT_PRESENT", Action.REPLACE),
    0x0E1: Row("CKR_TOKEN_NOT_RECOGNIZED", Action.REPLACE),
    0x0E2: Row("CKR_TOKEN_WRITE_PROTECTED", Action.POLICY),
    0x0F0: Row("CKR_UNWRAPPING_KEY_HANDLE_INVALID", Action.REFIND),
    0x0F1: Row("CKR_UNWRAPPING_KEY_SIZE_RANGE", Action.POLICY),
    0x0F2: Row("CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT", Action.POLICY),
    0x100: Row("CKR_USER_ALREADY_LOGGED_IN", Action.REPLACE),
    # The login is lost: a fresh process logs in, once; a refused PIN ends it there.
    0x101: Row("CKR_USER_NOT_LOGGED_IN", Action.REPLACE),
    0x102: Row("CKR_USER_PIN_NOT_INITIALIZED", Action.STOP),
    0x103: Row("CKR_USER_TYPE_INVALID", Action.POLICY),
    0x104: Row("CKR_USER_ANOTHER_ALREADY_LOGGED_IN", Action.REPLACE),
    0x105: Row("CKR_USER_TOO_MANY_TYPES", Action.REPLACE),
    0x110: Row("CKR_WRAPPED_KEY_INVALID", Action.CALLER),
    0x112: Row("CKR_WRAPPED_KEY_LEN_RANGE", Action.CALLER),
    0x113: Row("CKR_WRAPPING_KEY_HANDLE_INVALID", Action.REFIND),
    0x114: Row("CKR_WRAPPING_KEY_SIZE_RANGE", Action.POLICY),
    0x115: Row("CKR_WRAPPING_KEY_TYPE_INCONSISTENT", Action.POLICY),
    0x120: Row("CKR_RANDOM_SEED_NOT_SUPPORTED", Action.POLICY),
    0x121: Row("CKR_RANDOM_NO_RNG", Action.POLICY),
    0x130: Row("CKR_DOMAIN_PARAMS_INVALID", Action.POLICY),
    0x140: Row("CKR_CURVE_NOT_SUPPORTED", Action.POLICY),
    # Does not end the operation (5.2): in the same session the next would meet it.
    0x150: Row("CKR_BUFFER_TOO_SMALL", Action.REOPEN),
    0x160: Row("CKR_SAVED_STATE_INVALID", Action.POLICY),
    0x170: Row("CKR_INFORMATION_SENSITIVE", Action.POLICY),
    0x180: Row("CKR_STATE_UNSAVEABLE", Action.POLICY),
    # Network HSMs after an idle time-out; only another process helps.
    0x190: Row("CKR_CRYPTOKI_NOT_INITIALIZED", Action.REPLACE),
    0x191: Row("CKR_CRYPTOKI_ALREADY_INITIALIZED", Action.REPLACE),
    0x1A0: Row("CKR_MUTEX_BAD", Action.REPLACE),
    0x1A1: Row("CKR_MUTEX_NOT_LOCKED", Action.REPLACE),
    0x1B0: Row("CKR_NEW_PIN_MODE", Action.STOP),
    0x1B1: Row("CKR_NEXT_OTP", Action.STOP),
    # A key generation that found no prime: the next will.
    0x1B5: Row("CKR_EXCEEDED_MAX_ITERATIONS", Action.RETRY),
    0x1B6: Row("CKR_FIPS_SELF_TEST_FAILED", Action.REPLACE),
    0x1B7: Row("CKR_LIBRARY_LOAD_FAILED", Action.REPLACE),
    0x1B8: Row("CKR_PIN_TOO_WEAK", Action.STOP),
    # Key agreement: a point that is not on the curve.
    0x1B9: Row("CKR_PUBLIC_KEY_INVALID", Action.CALLER),
    # A person at the token, or its rules, said no.
    0x200: Row("CKR_FUNCTION_REJECTED", Action.POLICY),
    0x201: Row("CKR_TOKEN_RESOURCE_EXCEEDED", Action.RELIEVE),
    0x202: Row("CKR_OPERATION_CANCEL_FAILED", Action.REOPEN),
    0x203: Row("CKR_KEY_EXHAUSTED", Action.POLICY),
    # PKCS#11 3.2, as all below: an answer to calls that we do not make.
    0x204: Row("CKR_PENDING", Action.REPLACE),
    0x205: Row("CKR_SESSION_ASYNC_NOT_SUPPORTED", Action.POLICY),
    0x206: Row("CKR_SEED_RANDOM_REQUIRED", Action.REPLACE),
    0x207: Row("CKR_OPERATION_NOT_VALIDATED", Action.POLICY),
    0x208: Row("CKR_TOKEN_NOT_INITIALIZED", Action.REPLACE),
    0x209: Row("CKR_PARAMETER_SET_NOT_SUPPORTED", Action.POLICY),
}

RV_BY_EXCEPTION: Final[dict[str, int]] = {
    "AnotherUserAlreadyLoggedIn": 0x104,
    "ArgumentsBad": 0x007,
    "AttributeReadOnly": 0x010,
    "AttributeSensitive": 0x011,
    "AttributeTypeInvalid": 0x012,
    "AttributeValueInvalid": 0x013,
    "DataInvalid": 0x020,
    "DataLenRange": 0x021,
    "DeviceError": 0x030,
    "DeviceMemory": 0x031,
    "DeviceRemoved": 0x032,
    "DomainParamsInvalid": 0x130,
    "EncryptedDataInvalid": 0x040,
    "EncryptedDataLenRange": 0x041,
    "ExceededMaxIterations": 0x1B5,
    "FunctionCancelled": 0x050,
    "FunctionFailed": 0x006,
    "FunctionNotSupported": 0x054,
    "FunctionRejected": 0x200,
    "GeneralError": 0x005,
    "HostMemory": 0x002,
    "KeyHandleInvalid": 0x060,
    "KeyIndigestible": 0x067,
    "KeyNeeded": 0x066,
    "KeyNotNeeded": 0x064,
    "KeyNotWrappable": 0x069,
    "KeySizeRange": 0x062,
    "KeyTypeInconsistent": 0x063,
    "KeyUnextractable": 0x06A,
    "MechanismInvalid": 0x070,
    "MechanismParamInvalid": 0x071,
    "NoEvent": 0x008,
    "ObjectHandleInvalid": 0x082,
    "OperationActive": 0x090,
    "OperationNotInitialized": 0x091,
    "PinExpired": 0x0A3,
    "PinIncorrect": 0x0A0,
    "PinInvalid": 0x0A1,
    "PinLenRange": 0x0A2,
    "PinLocked": 0x0A4,
    "PinTooWeak": 0x1B8,
    "PublicKeyInvalid": 0x1B9,
    "RandomNoRNG": 0x121,
    "RandomSeedNotSupported": 0x120,
    "SessionClosed": 0x0B0,
    "SessionCount": 0x0B1,
    "SessionExists": 0x0B6,
    "SessionHandleInvalid": 0x0B3,
    "SessionReadOnly": 0x0B5,
    "SessionReadOnlyExists": 0x0B7,
    "SessionReadWriteSOExists": 0x0B8,
    "SignatureInvalid": 0x0C0,
    "SignatureLenRange": 0x0C1,
    "SlotIDInvalid": 0x003,
    "TemplateIncomplete": 0x0D0,
    "TemplateInconsistent": 0x0D1,
    "TokenNotPresent": 0x0E0,
    "TokenNotRecognised": 0x0E1,
    "TokenWriteProtected": 0x0E2,
    "UnwrappingKeyHandleInvalid": 0x0F0,
    "UnwrappingKeySizeRange": 0x0F1,
    "UnwrappingKeyTypeInconsistent": 0x0F2,
    "UserAlreadyLoggedIn": 0x100,
    "UserNotLoggedIn": 0x101,
    "UserPinNotInitialized": 0x102,
    "UserTooManyTypes": 0x105,
    "WrappedKeyInvalid": 0x110,
    "WrappedKeyLenRange": 0x112,
    "WrappingKeyHandleInvalid": 0x113,
    "WrappingKeySizeRange": 0x114,
    "WrappingKeyTypeInconsistent": 0x115,
}
"""The code behind each exception class of python-pkcs11, which keeps no number."""


def action_for(rv: int) -> Action:
    """Return what `rv` obliges us to do.

    Vendors' own codes (from 0x80000000 on), and any other that nobody told us about, are
    a fault: nobody guesses what they mean.
    """
    known = TABLE.get(rv)
    return known.action if known else Action.REPLACE


def name_of(rv: int) -> str:
    """Return ``CKR_... (0x...)``, for logs."""
    known = TABLE.get(rv)
    return f"{known.name} (0x{rv:X})" if known else f"CK_RV 0x{rv:X}"


class HsmTokenError(Exception):
    """Base of what `token` and `key_ring` raise. Messages hold no secrets."""


class ReturnCodeError(HsmTokenError):
    """A call returned `rv`; 0 when the library did not keep the number."""

    def __init__(self, rv: int):
        super().__init__(name_of(rv) if rv else "an error without a return code")
        self.rv = rv
        self.action = action_for(rv)


class TamperedError(HsmTokenError):
    """What was to be decrypted, verified or unwrapped is bad, and the HSM is well."""


class KeyAbsentError(HsmTokenError):
    """The token is well and shows no such key: a fault of the shard, never "not found"."""


class PolicyRefusedError(HsmTokenError):
    """The module refuses the operation as such; another session would do the same."""


class TokenFullError(PolicyRefusedError):
    """The token has no room, and our session objects were not what filled it."""


class HsmFaultError(HsmTokenError):
    """Session, token or module failed; this process cannot go on."""


class AmbiguousFaultError(HsmFaultError):
    """A fault by codes that may as well mean one damaged key; `key_ring` finds out which."""


class PinRefusedError(HsmTokenError):
    """The login was refused. Nobody may try again with this PIN."""


class TokenAbsentError(HsmTokenError):
    """No token, or more than one, carries the label."""


class ModuleUnusableError(HsmTokenError):
    """The module does not load, does not initialise, or fails the conformance check."""


class KeyUnsafeError(HsmTokenError):
    """A key on the token has attributes that would let its material or uses escape."""
