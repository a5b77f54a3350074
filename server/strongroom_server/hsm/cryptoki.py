"""A PKCS#11 module's function table, called with whole buffers and raw return codes.

Why not through python-pkcs11, which opens the module and the sessions (`token`): it asks
every operation for its output's length first and passes that length on, which fails with
modules whose answer is an estimate (NSS says 32 for an AES-GCM result of 48 bytes), and
keeps no number of the codes it has no class for. One call with a buffer that is large
enough is allowed (PKCS#11 3.1, 5.2), works everywhere, and is quicker
(docs/adr/0010-pkcs11-binding.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from strongroom_server.hsm.ck_attributes import (
    AttributeValue,
    CkAttribute,
    Template,
    fixed_size,
    number_of,
    pack,
    unpack,
)
from strongroom_server.hsm.ck_mechanisms import Mechanism
from strongroom_server.hsm.cryptoki_table import (
    FUNCTIONS,
    CkTokenInfo,
    FunctionList,
    InitializeArgs,
)
from strongroom_server.hsm.return_codes import ModuleUnusableError, ReturnCodeError

__all__ = ["Cryptoki"]

_UL: Final = ctypes.c_ulong

_CKF_OS_LOCKING_OK: Final = 2
CKR_OK: Final = 0x000
CKR_ATTRIBUTE_SENSITIVE: Final = 0x011
CKR_ATTRIBUTE_TYPE_INVALID: Final = 0x012
CKR_BUFFER_TOO_SMALL: Final = 0x150
CKR_CRYPTOKI_ALREADY_INITIALIZED: Final = 0x191

_CAPACITY: Final = 16 * 1024
_FOUND: Final = 256
_UNAVAILABLE: Final = _UL(-1).value  # CK_UNAVAILABLE_INFORMATION
_MAX_ATTRIBUTE_BYTES: Final = 64 * 1024


_FixedRead: TypeAlias = tuple[ctypes.Array[CkAttribute], ctypes.Array[ctypes.c_uint64], list[int]]


class Cryptoki:
    """The functions of one loaded module.

    Every method raises ReturnCodeError with the module's own code. Handles are numbers.

    Thread safety: none; one thread, since results go through one buffer.
    """

    def __init__(self, path: str):
        """Load the library, or find it loaded.

        Raises:
            ModuleUnusableError: It cannot be loaded, or is no PKCS#11 module.
        """
        try:
            library = ctypes.CDLL(path)
            get_list = library.C_GetFunctionList
        except (OSError, AttributeError) as exc:
            raise ModuleUnusableError(f"{path}: {exc}") from exc
        table = ctypes.POINTER(FunctionList)()
        get_list.restype = _UL
        get_list.argtypes = (ctypes.c_void_p,)
        rv = get_list(ctypes.byref(table))
        if rv != CKR_OK:
            raise ModuleUnusableError(f"{path}: C_GetFunctionList: {ReturnCodeError(rv)}")
        functions = table.contents.functions
        self._call: dict[str, Callable[..., int]] = {}
        for name, (index, arguments) in FUNCTIONS.items():
            address = functions[index]
            if not address:
                raise ModuleUnusableError(f"{path}: has no {name}")
            self._call[name] = ctypes.CFUNCTYPE(_UL, *arguments)(address)
        self._buffer = ctypes.create_string_buffer(_CAPACITY)
        self._buffer_at = ctypes.addressof(self._buffer)
        self._length = _UL()
        self._fixed_reads: dict[tuple[str, ...], _FixedRead] = {}
        self._length_at = ctypes.addressof(self._length)

    def initialize(self, parameters: str) -> None:
        """Initialise the module; nothing when it is.

        Args:
            parameters: LibraryParameters for modules that have them (NSS). Without any,
                the module gets NULL: it will be used by one thread (PKCS#11 3.1, 5.4).
        """
        arguments = None
        if parameters:
            structure = InitializeArgs(
                None, None, None, None, _CKF_OS_LOCKING_OK, parameters.encode(), None
            )
            arguments = ctypes.addressof(structure)
        rv = self._call["C_Initialize"](arguments)
        if rv not in {CKR_OK, CKR_CRYPTOKI_ALREADY_INITIALIZED}:
            raise ReturnCodeError(rv)

    def finalize(self) -> None:
        """Finalise the module. May hang when the device is gone."""
        self._do("C_Finalize", None)

    def token_info(self, slot: int) -> CkTokenInfo:
        """Ask a slot for its token."""
        info = CkTokenInfo()
        self._do("C_GetTokenInfo", slot, ctypes.addressof(info))
        return info

    def random(self, session: int, number_of_bytes: int) -> bytes:
        """Return bytes of the module's generator, at most 16 KiB."""
        if number_of_bytes > _CAPACITY:
            raise ValueError(f"{number_of_bytes} random bytes at once")
        self._do("C_GenerateRandom", session, self._buffer_at, number_of_bytes)
        return self._take(number_of_bytes)

    def encrypt(self, session: int, key: int, mechanism: Mechanism, plaintext: bytes) -> bytes:
        """Encrypt in one part."""
        self._do("C_EncryptInit", session, mechanism.address, key)
        return self._transform("C_Encrypt", session, plaintext)

    def decrypt(self, session: int, key: int, mechanism: Mechanism, ciphertext: bytes) -> bytes:
        """Decrypt in one part."""
        self._do("C_DecryptInit", session, mechanism.address, key)
        return self._transform("C_Decrypt", session, ciphertext)

    def sign(self, session: int, key: int, mechanism: Mechanism, data: bytes) -> bytes:
        """Sign, or make a MAC, in one part."""
        self._do("C_SignInit", session, mechanism.address, key)
        return self._transform("C_Sign", session, data)

    def verify(
        self, session: int, key: int, mechanism: Mechanism, data: bytes, signature: bytes
    ) -> None:
        """Verify a signature or MAC in one part; a bad one is a return code."""
        self._do("C_VerifyInit", session, mechanism.address, key)
        self._do("C_Verify", session, data, len(data), signature, len(signature))

    def generate_key(self, session: int, mechanism: Mechanism, template: Template) -> int:
        """Generate a secret key."""
        packed = pack(template)
        made = _UL()
        self._do(
            "C_GenerateKey",
            session,
            mechanism.address,
            packed.array,
            packed.count,
            ctypes.addressof(made),
        )
        return made.value

    def generate_key_pair(
        self, session: int, mechanism: Mechanism, public: Template, private: Template
    ) -> tuple[int, int]:
        """Generate a key pair; return the public and the private key."""
        packed_public, packed_private = pack(public), pack(private)
        made_public, made_private = _UL(), _UL()
        self._do(
            "C_GenerateKeyPair",
            session,
            mechanism.address,
            packed_public.array,
            packed_public.count,
            packed_private.array,
            packed_private.count,
            ctypes.addressof(made_public),
            ctypes.addressof(made_private),
        )
        return made_public.value, made_private.value

    def create_object(self, session: int, template: Template) -> int:
        """Create an object from known values, which are overwritten in memory afterwards."""
        packed = pack(template)
        made = _UL()
        try:
            self._do("C_CreateObject", session, packed.array, packed.count, ctypes.addressof(made))
        finally:
            packed.wipe()
        return made.value

    def copy(self, session: int, key: int, template: Template) -> int:
        """Copy an object with changed attributes."""
        packed = pack(template)
        made = _UL()
        self._do("C_CopyObject", session, key, packed.array, packed.count, ctypes.addressof(made))
        return made.value

    def destroy(self, session: int, key: int) -> None:
        """Destroy an object."""
        self._do("C_DestroyObject", session, key)

    def wrap(self, session: int, wrapping_key: int, mechanism: Mechanism, key: int) -> bytes:
        """Wrap a key."""
        self._length.value = _CAPACITY
        self._do(
            "C_WrapKey",
            session,
            mechanism.address,
            wrapping_key,
            key,
            self._buffer_at,
            self._length_at,
        )
        return self._take(self._length.value)

    def unwrap(
        self,
        session: int,
        unwrapping_key: int,
        mechanism: Mechanism,
        wrapped: bytes,
        template: Template,
    ) -> int:
        """Unwrap a key into a new object."""
        packed = pack(template)
        made = _UL()
        self._do(
            "C_UnwrapKey",
            session,
            mechanism.address,
            unwrapping_key,
            wrapped,
            len(wrapped),
            packed.array,
            packed.count,
            ctypes.addressof(made),
        )
        return made.value

    def derive(self, session: int, base_key: int, mechanism: Mechanism, template: Template) -> int:
        """Derive a key into a new object."""
        packed = pack(template)
        made = _UL()
        self._do(
            "C_DeriveKey",
            session,
            mechanism.address,
            base_key,
            packed.array,
            packed.count,
            ctypes.addressof(made),
        )
        return made.value

    def find(self, session: int, template: Template) -> list[int]:
        """Find objects, to the end: an unfinished search blocks the session."""
        packed = pack(template)
        found: list[int] = []
        chunk = (_UL * _FOUND)()
        try:
            # Also when this fails: SoftHSM, for one, leaves the search begun when it cannot
            # read an object, and answers CKR_OPERATION_ACTIVE from then on.
            self._do("C_FindObjectsInit", session, packed.array, packed.count)
            while True:
                self._do(
                    "C_FindObjects",
                    session,
                    ctypes.addressof(chunk),
                    _FOUND,
                    self._length_at,
                )
                number = self._length.value
                if not number:
                    break
                found.extend(chunk[:number])
        except ReturnCodeError:
            # The search's own error is what counts; this only unblocks the session.
            self._call["C_FindObjectsFinal"](session)
            raise
        self._do("C_FindObjectsFinal", session)
        return found

    def attributes(self, session: int, key: int, names: Sequence[str]) -> dict[str, AttributeValue]:
        """Read attributes by name; those that the module does not show are left out.

        One call when all have values of a fixed length; otherwise two, lengths and values,
        for all names together (PKCS#11 3.1, 5.7.5).
        """
        shown = self._fixed_attributes(session, key, tuple(names))
        if shown is not None:
            return shown
        count = len(names)
        array = (CkAttribute * count)(*(CkAttribute(number_of(name), None, 0) for name in names))
        self._get_attributes(session, key, array, count)
        buffers = []
        for entry in array:
            size = 0 if entry.length == _UNAVAILABLE else entry.length
            if size > _MAX_ATTRIBUTE_BYTES:
                raise ReturnCodeError(CKR_BUFFER_TOO_SMALL)
            buffer = ctypes.create_string_buffer(max(size, 1))
            buffers.append(buffer)
            if size:
                entry.value = ctypes.addressof(buffer)
        self._get_attributes(session, key, array, count)
        shown = {}
        for entry, buffer in zip(array, buffers, strict=True):
            if entry.length == _UNAVAILABLE or entry.length > len(buffer):
                continue
            try:
                name, value = unpack(entry.type, buffer.raw[: entry.length])
            except ValueError:
                continue  # malformed is not shown, which counts as wrong
            shown[name] = value
        return shown

    def _fixed_attributes(
        self, session: int, key: int, names: tuple[str, ...]
    ) -> dict[str, AttributeValue] | None:
        """Read attributes of fixed length, in one call; None when that is not to be had."""
        prepared = self._fixed_reads.get(names)
        if prepared is None:
            if not all(map(fixed_size, names)):
                return None
            prepared = self._prepare_fixed(names)
        array, values, sizes = prepared
        ctypes.memset(values, 0, ctypes.sizeof(values))
        for entry, size in zip(array, sizes, strict=True):
            entry.length = size  # the last call has written here
        if self._call["C_GetAttributeValue"](session, key, array, len(names)) != CKR_OK:
            return None  # the two calls say which
        raw = bytes(values)
        shown = {}
        for at, (name, entry, size) in enumerate(zip(names, array, sizes, strict=True)):
            if entry.length != size:
                return None
            shown[name] = unpack(entry.type, raw[8 * at : 8 * at + size])[1]
        return shown

    def _prepare_fixed(self, names: tuple[str, ...]) -> _FixedRead:
        values = (ctypes.c_uint64 * len(names))()
        at = ctypes.addressof(values)
        array = (CkAttribute * len(names))(
            *(CkAttribute(number_of(name), at + 8 * index, 0) for index, name in enumerate(names))
        )
        made = self._fixed_reads[names] = (array, values, [fixed_size(name) for name in names])
        return made

    def set_attributes(self, session: int, key: int, template: Template) -> None:
        """Change attributes of an object."""
        packed = pack(template)
        self._do("C_SetAttributeValue", session, key, packed.array, packed.count)

    def _get_attributes(self, session: int, key: int, array: object, count: int) -> None:
        rv = self._call["C_GetAttributeValue"](session, key, array, count)
        if rv not in {CKR_OK, CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID}:
            raise ReturnCodeError(rv)

    def _transform(self, name: str, session: int, data: bytes) -> bytes:
        """Run a one-part operation into the buffer, and return what it left there."""
        self._length.value = _CAPACITY
        rv = self._call[name](session, data, len(data), self._buffer_at, self._length_at)
        if rv != CKR_OK:
            raise ReturnCodeError(rv)
        return self._take(self._length.value)

    def _take(self, length: int) -> bytes:
        """Return what is in the buffer; plaintexts and data keys do not stay there.

        The module says how much that is: never believed beyond the buffer's end.
        """
        if length > _CAPACITY:
            raise ReturnCodeError(CKR_BUFFER_TOO_SMALL)
        result = ctypes.string_at(self._buffer_at, length)
        ctypes.memset(self._buffer_at, 0, length)
        return result

    def _do(self, name: str, *arguments: object) -> None:
        rv = self._call[name](*arguments)
        if rv != CKR_OK:
            raise ReturnCodeError(rv)
