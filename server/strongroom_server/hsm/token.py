"""One login to one token: the only module that knows python-pkcs11.

python-pkcs11 finds and opens: library, slots, token, login, sessions, mechanisms. What is
done with a session goes through `cryptoki`, which says why. Decides nothing: what an
error obliges us to is `return_codes`' table, and `ladder` acts on it. Every error of the
module leaves here as a `ReturnCodeError`.

A `TokenSession` belongs to one thread of one process (a worker), for two reasons. The
module is told that nobody will use it from several threads (PKCS#11 3.1, 5.4); and a
vendor call that hangs or crashes can only be got rid of together with its process.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NewType, Self, cast

from pkcs11 import PKCS11Error, Session, Slot, Token, _pkcs11
from pkcs11.constants import TokenFlag

from strongroom_server.hsm.ck_attributes import AttributeValue, Template
from strongroom_server.hsm.ck_mechanisms import Mechanism
from strongroom_server.hsm.cryptoki import Cryptoki
from strongroom_server.hsm.return_codes import (
    RV_BY_EXCEPTION,
    Action,
    ModuleUnusableError,
    PinRefusedError,
    ReturnCodeError,
    TokenAbsentError,
)

__all__ = ["KeyHandle", "MechanismInfo", "TokenInfo", "TokenSession"]

_UNMAPPED: Final = re.compile(r"Unmapped error code (0x[0-9a-f]+)")
_BARE: Final = {
    "Buffer was too small": 0x150,
    "Initialisation error (already": 0x191,
    "Initialisation error (not": 0x190,
    "Parallel not supported": 0x0B4,
    "User type invalid": 0x103,
}
_ENDLESS: Final = 0  # CK_EFFECTIVELY_INFINITE
_CKR_USER_ALREADY_LOGGED_IN: Final = 0x100
_UNTOLD: Final = 2**64 - 1  # CK_UNAVAILABLE_INFORMATION

KeyHandle = NewType("KeyHandle", int)
"""CK_OBJECT_HANDLE: of use in this process, while the login lasts."""


@dataclass(frozen=True, slots=True)
class MechanismInfo:
    """CK_MECHANISM_INFO (PKCS#11 3.1, 3.5)."""

    min_key_size: int
    max_key_size: int
    flags: int


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What module and token say of themselves (PKCS#11 3.1, 3.1 and 3.2).

    `max_session_count` is None when the token tells no limit.
    """

    library: str
    library_manufacturer: str
    library_version: tuple[int, int]
    cryptoki_version: tuple[int, int]
    slot: int
    label: str
    manufacturer: str
    model: str
    serial: str
    hardware_version: tuple[int, int]
    firmware_version: tuple[int, int]
    flags: int
    session_count: int | None
    max_session_count: int | None


class TokenSession:
    """A logged-in read-write session.

    Two sessions of the module, in truth: the keeper logs in and is never used or closed,
    because the login ends with the last session (PKCS#11 3.1, 5.6.7); the working one
    can be replaced (`reopen`) without another login.

    Thread safety: none; one thread. Every method raises ReturnCodeError.
    """

    def __init__(self, library: _Library, keeper: Session):
        """Take over a login; `open` is the way to make one."""
        self._library = library
        self._ck = library.cryptoki
        self._keeper = keeper
        self._token: Token = keeper.token
        self._slot: Slot = keeper.token.slot
        self._session = self._open_working()
        self._handle = _handle_of(self._session)

    @classmethod
    def open(cls, module: str, label: str, pin: str, *, parameters: str = "") -> TokenSession:
        """Load the module and log in, with exactly one C_Login, or none.

        Args:
            module: Path of the PKCS#11 library.
            label: Label of the token.
            pin: User PIN.
            parameters: LibraryParameters of C_Initialize, for modules that need them.

        Raises:
            ModuleUnusableError: It does not load or does not initialise.
            TokenAbsentError: No token, or more than one, carries the label.
            PinRefusedError: The login was refused, or was not tried because one more
                failure would lock the token.
            ReturnCodeError: Anything else.
        """
        library = _load(module, parameters)
        token = _find_token(library, label)
        # CK_TOKEN_INFO, PKCS#11 3.1, 3.2: a wrong PIN now would lock everybody out.
        if token.flags & (TokenFlag.USER_PIN_LOCKED | TokenFlag.USER_PIN_FINAL_TRY):
            raise PinRefusedError(
                "the token's user PIN is locked or has one try left; log in once with the "
                "right PIN by the vendor's tool, or have the security officer reset it"
            )
        try:
            keeper = token.open(rw=True, user_pin=pin)
        except PKCS11Error as exc:
            error = _translate(exc)
            if error.action is Action.STOP:
                raise PinRefusedError(f"login refused: {error}") from exc
            if error.rv != _CKR_USER_ALREADY_LOGGED_IN:
                raise error from exc
            # Modules that share one login among processes (PKCS#11 3.1, 5.6.8 knows it per
            # application only): any session is logged in then. The one that python-pkcs11
            # opened before it tried stays open, which keeps the login.
            keeper = _open_session(token)
        return cls(library, keeper)

    def reopen(self) -> None:
        """Take another working session of the same login.

        Handles of token objects stay valid; session objects of the old one are gone.
        """
        old = self._session
        self._session = self._open_working()
        self._handle = _handle_of(self._session)
        with contextlib.suppress(PKCS11Error):  # it is broken: that is why it is replaced
            old.close()

    def close(self) -> None:
        """Finalise the module. May hang when the device is gone."""
        self._ck.finalize()

    def check_present(self) -> None:
        """Ask the slot for its token (C_GetTokenInfo)."""
        self._ck.token_info(self._slot.slot_id)

    def info(self) -> TokenInfo:
        """Return what module and token say of themselves."""
        shown = self._ck.token_info(self._slot.slot_id)
        library: Any = self._library
        return TokenInfo(
            library=library.library_description.strip(),
            library_manufacturer=library.manufacturer_id.strip(),
            library_version=tuple(library.library_version),
            cryptoki_version=tuple(library.cryptoki_version),
            slot=self._slot.slot_id,
            label=_text(shown.label),
            manufacturer=_text(shown.manufacturer),
            model=_text(shown.model),
            serial=_text(shown.serial),
            hardware_version=(shown.hardware_version[0], shown.hardware_version[1]),
            firmware_version=(shown.firmware_version[0], shown.firmware_version[1]),
            flags=shown.flags,
            session_count=None if shown.session_count == _UNTOLD else shown.session_count,
            max_session_count=(
                None if shown.max_session_count in {_ENDLESS, _UNTOLD} else shown.max_session_count
            ),
        )

    def mechanisms(self) -> dict[int, MechanismInfo]:
        """Return the token's mechanisms by number."""
        try:
            found = {}
            for mechanism in self._slot.get_mechanisms():
                info = self._slot.get_mechanism_info(mechanism)
                found[int(mechanism)] = MechanismInfo(
                    info.min_key_length or 0, info.max_key_length or 0, int(info.flags)
                )
        except PKCS11Error as exc:
            raise _translate(exc) from exc
        return found

    def random(self, number_of_bytes: int) -> bytes:
        """Return bytes of the HSM's generator."""
        return self._ck.random(self._handle, number_of_bytes)

    def encrypt(self, key: KeyHandle, mechanism: Mechanism, plaintext: bytes) -> bytes:
        """Encrypt in one part."""
        return self._ck.encrypt(self._handle, key, mechanism, plaintext)

    def decrypt(self, key: KeyHandle, mechanism: Mechanism, ciphertext: bytes) -> bytes:
        """Decrypt in one part."""
        return self._ck.decrypt(self._handle, key, mechanism, ciphertext)

    def sign(self, key: KeyHandle, mechanism: Mechanism, data: bytes) -> bytes:
        """Sign, or make a MAC, in one part."""
        return self._ck.sign(self._handle, key, mechanism, data)

    def verify(self, key: KeyHandle, mechanism: Mechanism, data: bytes, signature: bytes) -> None:
        """Verify a signature or MAC; a bad one is a return code of Action.CALLER."""
        self._ck.verify(self._handle, key, mechanism, data, signature)

    def generate_key(self, mechanism: Mechanism, template: Template) -> KeyHandle:
        """Generate a secret key."""
        return KeyHandle(self._ck.generate_key(self._handle, mechanism, template))

    def generate_key_pair(
        self, mechanism: Mechanism, public: Template, private: Template
    ) -> tuple[KeyHandle, KeyHandle]:
        """Generate a key pair; return the public and the private key."""
        made = self._ck.generate_key_pair(self._handle, mechanism, public, private)
        return KeyHandle(made[0]), KeyHandle(made[1])

    def create_object(self, template: Template) -> KeyHandle:
        """Make an object from known values: public keys, and keys to test the module with."""
        return KeyHandle(self._ck.create_object(self._handle, template))

    def copy(self, key: KeyHandle, template: Template) -> KeyHandle:
        """Copy an object with changed attributes."""
        return KeyHandle(self._ck.copy(self._handle, key, template))

    def set_attributes(self, key: KeyHandle, template: Template) -> None:
        """Change attributes of an object."""
        self._ck.set_attributes(self._handle, key, template)

    def wrap(self, wrapping_key: KeyHandle, mechanism: Mechanism, key: KeyHandle) -> bytes:
        """Wrap a key."""
        return self._ck.wrap(self._handle, wrapping_key, mechanism, key)

    def unwrap(
        self, unwrapping_key: KeyHandle, mechanism: Mechanism, wrapped: bytes, template: Template
    ) -> KeyHandle:
        """Unwrap a key into a new object."""
        made = self._ck.unwrap(self._handle, unwrapping_key, mechanism, wrapped, template)
        return KeyHandle(made)

    def derive(self, base_key: KeyHandle, mechanism: Mechanism, template: Template) -> KeyHandle:
        """Derive a key into a new object."""
        return KeyHandle(self._ck.derive(self._handle, base_key, mechanism, template))

    def find(self, template: Template) -> list[KeyHandle]:
        """Find objects by attributes; reads nothing else of them."""
        return [KeyHandle(handle) for handle in self._ck.find(self._handle, template)]

    def attributes(self, key: KeyHandle, names: Sequence[str]) -> dict[str, AttributeValue]:
        """Read attributes by name; those the token does not show are left out."""
        return self._ck.attributes(self._handle, key, names)

    def destroy(self, key: KeyHandle) -> None:
        """Destroy an object."""
        self._ck.destroy(self._handle, key)

    def count_openable_sessions(self, limit: int) -> int:
        """Open more sessions until one is refused, at most `limit`; close them; count them."""
        opened: list[Session] = []
        try:
            while len(opened) < limit:
                try:
                    opened.append(self._open_working())
                except ReturnCodeError:
                    break
        finally:
            for session in opened:
                with contextlib.suppress(PKCS11Error):  # a count is all that is wanted
                    session.close()
        return len(opened)

    def _open_working(self) -> Session:
        return _open_session(self._token)


class _Library(_pkcs11.lib):
    """python-pkcs11's module, initialised through our table: it has no room for parameters."""

    def __new__(cls, path: str, cryptoki: Cryptoki) -> Self:
        """Load the library (python-pkcs11 does that before `__init__`)."""
        del cryptoki
        new: Callable[..., Self] = super().__new__
        return new(cls, path)

    def __init__(self, path: str, cryptoki: Cryptoki):
        """Ask the module, which is initialised, who it is."""
        self.cryptoki = cryptoki
        super().__init__(path)

    def initialize(self) -> None:
        """Do nothing, in the place of C_Initialize(NULL)."""


_libraries: dict[str, _Library] = {}
"""Loaded modules: a library can be loaded once in a process, and cannot be unloaded."""


def _load(module: str, parameters: str) -> _Library:
    loaded = _libraries.get(module)
    try:
        cryptoki = loaded.cryptoki if loaded else Cryptoki(module)
        cryptoki.initialize(parameters)
    except ReturnCodeError as exc:
        raise ModuleUnusableError(f"{module}: C_Initialize: {exc}") from exc
    if loaded is None:
        try:
            loaded = _libraries[module] = _Library(module, cryptoki)
        except PKCS11Error as exc:
            error = _translate(exc)
            # Without a code this is the loader's text: which file, which missing library.
            raise ModuleUnusableError(f"{module}: {error if error.rv else exc}") from exc
    return loaded


def _find_token(library: _Library, label: str) -> Token:
    """Find the one token with this label.

    Not by `library.get_tokens`, which also asks every slot for its mechanisms and gives
    up when a slot that is none of our business fails.
    """
    get_slots: Callable[..., list[Slot]] = library.get_slots
    try:
        slots = get_slots(token_present=True)
    except PKCS11Error as exc:
        raise _translate(exc) from exc
    found: list[Token] = []
    for slot in slots:
        try:
            token = slot.get_token()
        except PKCS11Error:
            continue  # broken or empty; if it is ours, the label is missed below
        if token.label == label and token.flags & TokenFlag.TOKEN_INITIALIZED:
            found.append(token)
    if len(found) != 1:
        raise TokenAbsentError(
            f"{len(found) or 'no'} initialised tokens with label {label!r} in {len(slots)} slots"
        )
    return found[0]


def _open_session(token: Token) -> Session:
    try:
        return token.open(rw=True)
    except PKCS11Error as exc:
        raise _translate(exc) from exc


def _handle_of(session: Session) -> int:
    return cast("int", cast("Any", session).handle)  # CK_SESSION_HANDLE; the stubs lack it


def _text(padded: bytes) -> str:
    return padded.decode(errors="replace").rstrip()


def _translate(exc: PKCS11Error) -> ReturnCodeError:
    """Find the CK_RV behind an exception; the library drops some, but for the message."""
    known = RV_BY_EXCEPTION.get(type(exc).__name__)
    if known is not None:
        return ReturnCodeError(known)
    text = str(exc)
    unmapped = _UNMAPPED.match(text)
    if unmapped:
        return ReturnCodeError(int(unmapped[1], 16))
    return ReturnCodeError(next((rv for start, rv in _BARE.items() if text.startswith(start)), 0))
