"""One login to one token: the only module that knows python-pkcs11.

Translates, and decides nothing: what an error obliges us to is `mechanisms`' table, and
`key_ring` acts on it. Every error of the module leaves here as a `ReturnCodeError`.

A `TokenSession` belongs to one thread of one process (a worker), for two reasons.
python-pkcs11 calls C_Initialize(NULL), which tells the module that nobody will use it
from several threads (PKCS#11 3.1, 5.4); and a vendor call that hangs or crashes can only
be got rid of together with its process.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any, Final, NewType, Protocol, cast

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, ObjectClass, PKCS11Error
from pkcs11.attributes import AttributeMapper
from pkcs11.constants import TokenFlag

from strongroom_server.hsm.key_template import AttributeValues
from strongroom_server.hsm.mechanisms import (
    KEY_BYTES,
    RV_BY_EXCEPTION,
    TAG_BITS,
    Action,
    ModuleUnusableError,
    PinRefusedError,
    ReturnCodeError,
    TokenAbsentError,
)

__all__ = ["KeyHandle", "TokenSession"]

_UNMAPPED: Final = re.compile(r"Unmapped error code (0x[0-9a-f]+)")
_BARE: Final = {
    "Buffer was too small": 0x150,
    "Initialisation error (already": 0x191,
    "Initialisation error (not": 0x190,
    "Parallel not supported": 0x0B4,
    "User type invalid": 0x103,
}


class _Key(Protocol):
    """What this module uses of a python-pkcs11 key object; its types say less."""

    def encrypt(self, data: bytes, **kwargs: object) -> bytes: ...
    def decrypt(self, data: bytes, **kwargs: object) -> bytes: ...
    def get_attributes(self, keys: list[Attribute]) -> dict[int, object]: ...
    def destroy(self) -> None: ...


KeyHandle = NewType("KeyHandle", object)
"""A key object; opaque outside this module."""


class TokenSession:
    """A logged-in read-write session.

    Thread safety: none; one thread. Every method raises ReturnCodeError.
    """

    def __init__(self, library: Any, session: pkcs11.Session):
        self._library = library
        self._session = session

    @classmethod
    def open(cls, module: str, label: str, pin: str) -> TokenSession:
        """Load the module and log in, with exactly one C_Login, or none.

        Raises:
            ModuleUnusableError: It does not load or does not initialise.
            TokenAbsentError: No token, or more than one, carries the label.
            PinRefusedError: The login was refused, or was not tried because one more
                failure would lock the token.
            ReturnCodeError: Anything else.
        """
        library = _load(module)
        token = _find_token(library, label)
        # CK_TOKEN_INFO, PKCS#11 3.1, 3.2: a wrong PIN now would lock everybody out.
        if token.flags & (TokenFlag.USER_PIN_LOCKED | TokenFlag.USER_PIN_FINAL_TRY):
            raise PinRefusedError(
                "the token's user PIN is locked or has one try left; log in once with the "
                "right PIN by the vendor's tool, or have the security officer reset it"
            )
        mapper = AttributeMapper()
        # The library has no handler for this array attribute (PKCS#11 3.1, 4.8).
        mapper.register_handler(
            Attribute.ALLOWED_MECHANISMS,
            lambda values: struct.pack(f"{len(values)}L", *values),
            lambda raw: struct.unpack(f"{len(raw) // struct.calcsize('L')}L", raw),
        )
        try:
            session = token.open(rw=True, user_pin=pin, attribute_mapper=mapper)
        except PKCS11Error as exc:
            error = _translate(exc)
            if error.action is Action.STOP:
                raise PinRefusedError(f"login refused: {error}") from exc
            raise error from exc
        return cls(library, session)

    def close(self) -> None:
        """Finalise the module. May hang when the device is gone."""
        try:
            self._library.finalize()
        except PKCS11Error as exc:
            raise _translate(exc) from exc

    def random(self, number_of_bytes: int) -> bytes:
        """Return bytes of the HSM's generator."""
        try:
            return self._session.generate_random(8 * number_of_bytes)
        except PKCS11Error as exc:
            raise _translate(exc) from exc

    def encrypt(self, key: KeyHandle, iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Return ciphertext || tag. `iv` has 12 bytes; the tag has 128 bits, always."""
        try:
            return _key(key).encrypt(
                plaintext,
                mechanism=Mechanism.AES_GCM,
                mechanism_param=GCMParams(iv, aad, TAG_BITS),
            )
        except PKCS11Error as exc:
            raise _translate(exc) from exc

    def decrypt(self, key: KeyHandle, iv: bytes, sealed: bytes, aad: bytes) -> bytes:
        """Return the plaintext of ciphertext || tag."""
        try:
            return _key(key).decrypt(
                sealed,
                mechanism=Mechanism.AES_GCM,
                mechanism_param=GCMParams(iv, aad, TAG_BITS),
            )
        except PKCS11Error as exc:
            raise _translate(exc) from exc

    def find_aes_keys(self, *, key_id: bytes | None = None) -> list[KeyHandle]:
        """Find the AES keys on the token, all or those with this CKA_ID.

        To the end of the search: an unfinished one blocks the session (OPERATION_ACTIVE).
        """
        template: dict[Attribute, object] = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.TOKEN: True,
        }
        if key_id is not None:
            template[Attribute.ID] = key_id
        try:
            return cast("list[KeyHandle]", list(self._session.get_objects(template)))
        except PKCS11Error as exc:
            raise _translate(exc) from exc

    def generate_aes_key(
        self,
        key_id: bytes,
        label: str,
        attributes: Mapping[str, bool],
        *,
        on_token: bool,
        only_gcm: bool,
    ) -> KeyHandle:
        """Generate an AES-256 key; `attributes` are by name, without ``CKA_``.

        Args:
            key_id: CKA_ID.
            label: CKA_LABEL.
            attributes: Everything else, in full.
            on_token: A token object (kept) or a session object (gone with this session).
            only_gcm: Set CKA_ALLOWED_MECHANISMS.
        """
        template: dict[Attribute, object] = {
            Attribute[name]: value for name, value in attributes.items()
        }
        if only_gcm:
            template[Attribute.ALLOWED_MECHANISMS] = (Mechanism.AES_GCM,)
        try:
            made = self._session.generate_key(
                KeyType.AES,
                8 * KEY_BYTES,
                id=key_id,
                label=label,
                store=on_token,
                template=template,
            )
        except PKCS11Error as exc:
            raise _translate(exc) from exc
        return cast("KeyHandle", made)

    def import_session_key(self, material: bytes, attributes: Mapping[str, bool]) -> KeyHandle:
        """Make a session object from known material, to test the module with."""
        template: dict[Attribute, object] = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.TOKEN: False,
            **{Attribute[name]: value for name, value in attributes.items()},
            Attribute.VALUE: material,
        }
        try:
            return cast("KeyHandle", self._session.create_object(template))
        except PKCS11Error as exc:
            raise _translate(exc) from exc

    def destroy(self, key: KeyHandle) -> None:
        """Destroy a key."""
        try:
            _key(key).destroy()
        except PKCS11Error as exc:
            raise _translate(exc) from exc

    def attributes(self, key: KeyHandle, names: tuple[str, ...]) -> AttributeValues:
        """Read attributes by name; those the token does not show are left out."""
        try:
            shown = _key(key).get_attributes([Attribute[name] for name in names])
        except PKCS11Error as exc:
            raise _translate(exc) from exc
        return {Attribute(number).name: value for number, value in shown.items()}

    def check_present(self) -> None:
        """Ask the slot for its token (C_GetTokenInfo)."""
        try:
            self._session.token.slot.get_token()
        except PKCS11Error as exc:
            raise _translate(exc) from exc


def _key(handle: KeyHandle) -> _Key:
    return cast("_Key", handle)


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


def _load(module: str) -> Any:
    try:
        return pkcs11.lib(module)
    except PKCS11Error as exc:
        error = _translate(exc)
        # Without a code this is the loader's text: which file, which missing library.
        raise ModuleUnusableError(f"{module}: {error if error.rv else exc}") from exc


def _find_token(library: Any, label: str) -> pkcs11.Token:
    """Find the one token with this label.

    Not by `library.get_tokens`, which also asks every slot for its mechanisms and gives
    up when a slot that is none of our business fails.
    """
    try:
        slots = library.get_slots(token_present=True)
    except PKCS11Error as exc:
        raise _translate(exc) from exc
    found: list[pkcs11.Token] = []
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
