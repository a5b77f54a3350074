"""Initialise a PKCS#11 token; a program of its own, because modules keep what they were told.

    python hsm_token_init.py < ORDER

ORDER is a JSON object: module, parameters (LibraryParameters of C_Initialize), slot
(number, or null for the first), label, so_pin, pin, init_token (false for modules whose
token is there from the start, such as NSS' database: then `so_pin` is the one it has).
PINs come over standard input, because arguments show in process lists.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

_UL = ctypes.c_ulong
_OS_LOCKING_OK = 2
_RW_SERIAL = 6  # CKF_RW_SESSION | CKF_SERIAL_SESSION
_CKU_SO = 0
# Index in CK_FUNCTION_LIST behind its version (PKCS#11 3.1, appendix B).
_INDEX = {
    "C_Initialize": 0,
    "C_Finalize": 1,
    "C_GetSlotList": 4,
    "C_InitToken": 9,
    "C_InitPIN": 10,
    "C_OpenSession": 12,
    "C_CloseSession": 13,
    "C_Login": 18,
    "C_Logout": 19,
}


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * 68))


class _InitializeArgs(ctypes.Structure):
    _fields_ = (
        ("callbacks", ctypes.c_void_p * 4),
        ("flags", _UL),
        ("parameters", ctypes.c_char_p),
        ("reserved", ctypes.c_void_p),
    )


class _Module:
    def __init__(self, path: str):
        library = ctypes.CDLL(path)
        table = ctypes.POINTER(_FunctionList)()
        library.C_GetFunctionList.restype = _UL
        self._check("C_GetFunctionList", library.C_GetFunctionList(ctypes.byref(table)))
        self._functions = table.contents.functions

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; anything but CKR_OK ends this program."""
        function = ctypes.CFUNCTYPE(_UL, *(type(each) for each in arguments))(
            self._functions[_INDEX[name]]
        )
        self._check(name, function(*arguments))

    @staticmethod
    def _check(name: str, rv: int) -> None:
        if rv:
            raise SystemExit(f"{name}: CK_RV 0x{rv:X}")


def main(order: dict[str, Any]) -> None:
    """Do what the order says."""
    module = _Module(order["module"])
    arguments = ctypes.c_void_p()
    if order["parameters"]:
        structure = _InitializeArgs(
            flags=_OS_LOCKING_OK, parameters=order["parameters"].encode(), reserved=None
        )
        arguments = ctypes.c_void_p(ctypes.addressof(structure))
    module.call("C_Initialize", arguments)
    slot = order["slot"]
    if slot is None:
        slots, count = (_UL * 8)(), _UL(8)
        module.call("C_GetSlotList", ctypes.c_ubyte(0), slots, ctypes.pointer(count))
        slot = slots[0]
    so_pin, pin = order["so_pin"].encode(), order["pin"].encode()
    if order["init_token"]:
        label = order["label"].encode().ljust(32)
        module.call(
            "C_InitToken",
            _UL(slot),
            ctypes.c_char_p(so_pin),
            _UL(len(so_pin)),
            ctypes.c_char_p(label),
        )
    session = _UL()
    module.call(
        "C_OpenSession",
        _UL(slot),
        _UL(_RW_SERIAL),
        ctypes.c_void_p(),
        ctypes.c_void_p(),
        ctypes.pointer(session),
    )
    module.call("C_Login", session, _UL(_CKU_SO), ctypes.c_char_p(so_pin), _UL(len(so_pin)))
    module.call("C_InitPIN", session, ctypes.c_char_p(pin), _UL(len(pin)))
    module.call("C_Logout", session)
    module.call("C_CloseSession", session)
    module.call("C_Finalize", ctypes.c_void_p())


if __name__ == "__main__":
    main(json.load(sys.stdin))
