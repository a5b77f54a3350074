"""PKCS#11 numbers, and what a return code obliges us to do.

The one table from CK_RV to action. Codes: PKCS#11 3.1, appendix B (pkcs11t.h); meanings:
section 5.1. A worker is one process with one session and one login, so every rung of
recovery above "try once more" is the same step, and the only one that also ends a hung
vendor call: replace the worker.

Imports nothing, so that workers start fast and tests need no module.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = [
    "IV_BYTES",
    "KEY_BYTES",
    "RV_BY_EXCEPTION",
    "TAG_BITS",
    "TAG_BYTES",
    "Action",
    "HsmFaultError",
    "HsmTokenError",
    "KeyAbsentError",
    "KeyUnsafeError",
    "ModuleUnusableError",
    "PinRefusedError",
    "PolicyRefusedError",
    "ReturnCodeError",
    "TamperedError",
    "TokenAbsentError",
    "action_for",
    "name_of",
]

KEY_BYTES: Final = 32
IV_BYTES: Final = 12  # SP 800-38D, 5.2.1.1
TAG_BYTES: Final = 16  # SP 800-38D, 5.2.1.2: nothing shorter; modules accept even 0 bits
TAG_BITS: Final = 8 * TAG_BYTES


class Action(enum.Enum):
    """What a return code obliges us to do."""

    CALLER = "caller"
    """The ciphertext is bad: the caller's fault, no state changes."""
    AMBIGUOUS = "ambiguous"
    """On decryption: bad ciphertext or HSM fault; a canary decides. Elsewhere: REPLACE."""
    RETRY = "retry"
    """Try once more in the same session."""
    REFIND = "refind"
    """The handle went stale: search again, once."""
    REPLACE = "replace"
    """Session, login, module or device is gone: end this process, start another."""
    STOP = "stop"
    """The PIN was refused: never try again, a person must look. Retries lock the token."""
    POLICY = "policy"
    """The module refuses the use or its arguments: trying again changes nothing."""


_CODES: Final[dict[int, tuple[str, Action]]] = {
    0x002: ("CKR_HOST_MEMORY", Action.RETRY),
    0x003: ("CKR_SLOT_ID_INVALID", Action.REPLACE),
    0x005: ("CKR_GENERAL_ERROR", Action.AMBIGUOUS),
    0x006: ("CKR_FUNCTION_FAILED", Action.AMBIGUOUS),
    0x007: ("CKR_ARGUMENTS_BAD", Action.POLICY),
    0x010: ("CKR_ATTRIBUTE_READ_ONLY", Action.POLICY),
    0x011: ("CKR_ATTRIBUTE_SENSITIVE", Action.POLICY),
    0x012: ("CKR_ATTRIBUTE_TYPE_INVALID", Action.POLICY),
    0x013: ("CKR_ATTRIBUTE_VALUE_INVALID", Action.POLICY),
    0x01B: ("CKR_ACTION_PROHIBITED", Action.POLICY),
    0x020: ("CKR_DATA_INVALID", Action.POLICY),
    0x021: ("CKR_DATA_LEN_RANGE", Action.CALLER),
    0x030: ("CKR_DEVICE_ERROR", Action.REPLACE),
    0x031: ("CKR_DEVICE_MEMORY", Action.REPLACE),
    0x032: ("CKR_DEVICE_REMOVED", Action.REPLACE),
    0x040: ("CKR_ENCRYPTED_DATA_INVALID", Action.CALLER),
    0x041: ("CKR_ENCRYPTED_DATA_LEN_RANGE", Action.CALLER),
    0x042: ("CKR_AEAD_DECRYPT_FAILED", Action.CALLER),
    0x050: ("CKR_FUNCTION_CANCELED", Action.RETRY),
    0x054: ("CKR_FUNCTION_NOT_SUPPORTED", Action.POLICY),
    0x060: ("CKR_KEY_HANDLE_INVALID", Action.REFIND),
    0x062: ("CKR_KEY_SIZE_RANGE", Action.POLICY),
    0x063: ("CKR_KEY_TYPE_INCONSISTENT", Action.POLICY),
    0x064: ("CKR_KEY_NOT_NEEDED", Action.POLICY),
    0x066: ("CKR_KEY_NEEDED", Action.POLICY),
    0x067: ("CKR_KEY_INDIGESTIBLE", Action.POLICY),
    0x068: ("CKR_KEY_FUNCTION_NOT_PERMITTED", Action.POLICY),
    0x069: ("CKR_KEY_NOT_WRAPPABLE", Action.POLICY),
    0x06A: ("CKR_KEY_UNEXTRACTABLE", Action.POLICY),
    0x070: ("CKR_MECHANISM_INVALID", Action.POLICY),
    0x071: ("CKR_MECHANISM_PARAM_INVALID", Action.POLICY),
    0x082: ("CKR_OBJECT_HANDLE_INVALID", Action.REFIND),
    0x090: ("CKR_OPERATION_ACTIVE", Action.REPLACE),
    0x091: ("CKR_OPERATION_NOT_INITIALIZED", Action.REPLACE),
    0x0A0: ("CKR_PIN_INCORRECT", Action.STOP),
    0x0A1: ("CKR_PIN_INVALID", Action.STOP),
    0x0A2: ("CKR_PIN_LEN_RANGE", Action.STOP),
    0x0A3: ("CKR_PIN_EXPIRED", Action.STOP),
    0x0A4: ("CKR_PIN_LOCKED", Action.STOP),
    0x0B0: ("CKR_SESSION_CLOSED", Action.REPLACE),
    0x0B1: ("CKR_SESSION_COUNT", Action.REPLACE),
    0x0B3: ("CKR_SESSION_HANDLE_INVALID", Action.REPLACE),
    0x0B5: ("CKR_SESSION_READ_ONLY", Action.POLICY),
    0x0B6: ("CKR_SESSION_EXISTS", Action.REPLACE),
    0x0B7: ("CKR_SESSION_READ_ONLY_EXISTS", Action.REPLACE),
    0x0B8: ("CKR_SESSION_READ_WRITE_SO_EXISTS", Action.REPLACE),
    0x0C0: ("CKR_SIGNATURE_INVALID", Action.CALLER),
    0x0C1: ("CKR_SIGNATURE_LEN_RANGE", Action.CALLER),
    0x0D0: ("CKR_TEMPLATE_INCOMPLETE", Action.POLICY),
    0x0D1: ("CKR_TEMPLATE_INCONSISTENT", Action.POLICY),
    0x0E0: ("CKR_TOKEN_NOT_PRESENT", Action.REPLACE),
    0x0E1: ("CKR_TOKEN_NOT_RECOGNIZED", Action.REPLACE),
    0x0E2: ("CKR_TOKEN_WRITE_PROTECTED", Action.POLICY),
    0x100: ("CKR_USER_ALREADY_LOGGED_IN", Action.REPLACE),
    0x101: ("CKR_USER_NOT_LOGGED_IN", Action.REPLACE),
    0x102: ("CKR_USER_PIN_NOT_INITIALIZED", Action.STOP),
    0x103: ("CKR_USER_TYPE_INVALID", Action.POLICY),
    0x104: ("CKR_USER_ANOTHER_ALREADY_LOGGED_IN", Action.REPLACE),
    0x105: ("CKR_USER_TOO_MANY_TYPES", Action.REPLACE),
    0x110: ("CKR_WRAPPED_KEY_INVALID", Action.CALLER),
    0x112: ("CKR_WRAPPED_KEY_LEN_RANGE", Action.CALLER),
    0x121: ("CKR_RANDOM_NO_RNG", Action.POLICY),
    0x150: ("CKR_BUFFER_TOO_SMALL", Action.RETRY),
    0x190: ("CKR_CRYPTOKI_NOT_INITIALIZED", Action.REPLACE),
    0x191: ("CKR_CRYPTOKI_ALREADY_INITIALIZED", Action.REPLACE),
    0x1C1: ("CKR_FIPS_SELF_TEST_FAILED", Action.REPLACE),
    0x1C3: ("CKR_PIN_TOO_WEAK", Action.STOP),
    0x200: ("CKR_FUNCTION_REJECTED", Action.POLICY),
    0x201: ("CKR_TOKEN_RESOURCE_EXCEEDED", Action.POLICY),
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
    "ExceededMaxIterations": 0x1C0,
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
    "PinTooWeak": 0x1C3,
    "PublicKeyInvalid": 0x1C4,
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
    """Return what `rv` obliges us to do; a code nobody told us about is a fault."""
    known = _CODES.get(rv)
    return known[1] if known else Action.REPLACE


def name_of(rv: int) -> str:
    """Return ``CKR_... (0x...)``, for logs."""
    known = _CODES.get(rv)
    return f"{known[0]} (0x{rv:X})" if known else f"CK_RV 0x{rv:X}"


class HsmTokenError(Exception):
    """Base of what `token` and `key_ring` raise. Messages hold no secrets."""


class ReturnCodeError(HsmTokenError):
    """A call returned `rv`; 0 when the library did not keep the number."""

    def __init__(self, rv: int):
        super().__init__(name_of(rv) if rv else "an error without a return code")
        self.rv = rv
        self.action = action_for(rv)


class TamperedError(HsmTokenError):
    """The tag does not match, and the HSM is well."""


class KeyAbsentError(HsmTokenError):
    """The token is well and shows no such key: a fault of the shard, never "not found"."""


class PolicyRefusedError(HsmTokenError):
    """The module refuses the operation as such; another session would do the same."""


class HsmFaultError(HsmTokenError):
    """Session, token or module failed; this process cannot go on."""


class PinRefusedError(HsmTokenError):
    """The login was refused. Nobody may try again with this PIN."""


class TokenAbsentError(HsmTokenError):
    """No token, or more than one, carries the label."""


class ModuleUnusableError(HsmTokenError):
    """The module does not load, does not initialise, or fails the conformance check."""


class KeyUnsafeError(HsmTokenError):
    """A key on the token has attributes that would let its material or uses escape."""
