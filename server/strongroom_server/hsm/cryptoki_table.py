"""CK_FUNCTION_LIST and the structures of its arguments, for ctypes (PKCS#11 3.1, appendix B).

The table is that of PKCS#11 2.40, which 3.x modules offer as well.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["FUNCTIONS", "CkTokenInfo", "FunctionList", "InitializeArgs"]

_UL: Final = ctypes.c_ulong
_P: Final = ctypes.c_void_p
_B: Final = ctypes.c_char_p

# Index in CK_FUNCTION_LIST behind its version, and the types of the arguments.
FUNCTIONS: Final[dict[str, tuple[int, tuple[type, ...]]]] = {
    "C_Initialize": (0, (_P,)),
    "C_Finalize": (1, (_P,)),
    "C_GetTokenInfo": (6, (_UL, _P)),
    "C_CopyObject": (21, (_UL, _UL, _P, _UL, _P)),
    "C_CreateObject": (20, (_UL, _P, _UL, _P)),
    "C_DestroyObject": (22, (_UL, _UL)),
    "C_GetAttributeValue": (24, (_UL, _UL, _P, _UL)),
    "C_SetAttributeValue": (25, (_UL, _UL, _P, _UL)),
    "C_FindObjectsInit": (26, (_UL, _P, _UL)),
    "C_FindObjects": (27, (_UL, _P, _UL, _P)),
    "C_FindObjectsFinal": (28, (_UL,)),
    "C_EncryptInit": (29, (_UL, _P, _UL)),
    "C_Encrypt": (30, (_UL, _B, _UL, _P, _P)),
    "C_DecryptInit": (33, (_UL, _P, _UL)),
    "C_Decrypt": (34, (_UL, _B, _UL, _P, _P)),
    "C_SignInit": (42, (_UL, _P, _UL)),
    "C_Sign": (43, (_UL, _B, _UL, _P, _P)),
    "C_VerifyInit": (48, (_UL, _P, _UL)),
    "C_Verify": (49, (_UL, _B, _UL, _B, _UL)),
    "C_GenerateKey": (58, (_UL, _P, _P, _UL, _P)),
    "C_GenerateKeyPair": (59, (_UL, _P, _P, _UL, _P, _UL, _P, _P)),
    "C_WrapKey": (60, (_UL, _P, _UL, _UL, _P, _P)),
    "C_UnwrapKey": (61, (_UL, _P, _UL, _B, _UL, _P, _UL, _P)),
    "C_DeriveKey": (62, (_UL, _P, _UL, _P, _UL, _P)),
    "C_GenerateRandom": (64, (_UL, _P, _UL)),
}
_TABLE_LENGTH: Final = 68


class FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", _P * _TABLE_LENGTH))


class InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS, with NSS' LibraryParameters, which other modules call reserved."""

    _fields_ = (
        ("create_mutex", _P),
        ("destroy_mutex", _P),
        ("lock_mutex", _P),
        ("unlock_mutex", _P),
        ("flags", _UL),
        ("parameters", _B),
        ("reserved", _P),
    )


class CkTokenInfo(ctypes.Structure):
    """CK_TOKEN_INFO (PKCS#11 3.1, 3.2), the packed form of every Unix module."""

    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        ("flags", _UL),
        ("max_session_count", _UL),
        ("session_count", _UL),
        ("max_rw_session_count", _UL),
        ("rw_session_count", _UL),
        ("max_pin_length", _UL),
        ("min_pin_length", _UL),
        ("total_public_memory", _UL),
        ("free_public_memory", _UL),
        ("total_private_memory", _UL),
        ("free_private_memory", _UL),
        ("hardware_version", ctypes.c_ubyte * 2),
        ("firmware_version", ctypes.c_ubyte * 2),
        ("utc_time", ctypes.c_char * 16),
    )
