"""Holds the audit log's signing key: one process, one thread, one key pair on a token.

``python -P -m strongroom_server.hsm.log_signer FD``, where FD is this end of a Unix stream
socket pair; `strongroom.log_signer_wire` says what is spoken on it. The audit log starts
it by name, owns it, and starts another when it ends: it shares no code with it but the
frames, and never has the PIN or the key in its memory. It logs in once.

One Ed25519 key pair (PKCS#11 3.1, 6.3.6), the private half SENSITIVE, not EXTRACTABLE, and
of use for signing alone. What a crash leaves: nothing, or the new key pair of an ``--init``,
which the next one finds.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from strongroom.log_signer_wire import (
    FrameKind,
    OpenRequest,
    SignerWireError,
    pack_frame,
    read_frame,
)
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.encodings import public_key_from_attributes
from strongroom_server.hsm.key_kinds import KINDS
from strongroom_server.hsm.key_template import Hardening
from strongroom_server.hsm.process_guard import harden
from strongroom_server.hsm.return_codes import (
    HsmTokenError,
    KeyAbsentError,
    KeyUnsafeError,
    PinRefusedError,
    PolicyRefusedError,
    ReturnCodeError,
)
from strongroom_server.hsm.token import KeyHandle, TokenSession
from strongroom_server.hsm.worker import read_pin

__all__ = ["LogKey", "main"]

_KIND: Final = KINDS[KeySpec.ED25519, KeyUsage.SIGN_VERIFY]
_FULL: Final = Hardening(modifiable=True, copyable=True, allowed_mechanisms=True)
_BARE: Final = Hardening(modifiable=False, copyable=False, allowed_mechanisms=False)
_PROBE: Final = b"strongroom: does this key sign?"  # one line: never the text of a checkpoint

_FINAL: Final = (
    PinRefusedError,
    OSError,  # of the PIN file
    KeyUnsafeError,
    PolicyRefusedError,
)
"""What another process would meet as well. A token, a module or a key may come back."""


class LogKey:
    """The key pair, found and checked. One thread."""

    def __init__(self, session: TokenSession, private: KeyHandle, public_key: Ed25519PublicKey):
        """Take over a key pair; `find` and `create` are the ways to get one."""
        self._session = session
        self._private = private
        self.public_key = public_key

    @classmethod
    def find(cls, session: TokenSession, label: str) -> LogKey | None:
        """Find the key pair with this label, and check it.

        Raises:
            KeyAbsentError: Half of it is there, or there is more than one.
            KeyUnsafeError: Its attributes would let it escape.
            PolicyRefusedError: It does not sign, or not what its public half verifies.
            ReturnCodeError: Token or module failed.
        """
        private, public = (
            session.find({"CLASS": kind, "LABEL": label})
            for kind in (ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY)
        )
        if not private and not public:
            return None
        if len(private) != 1 or len(public) != 1:
            raise KeyAbsentError(
                f"{len(private)} private and {len(public)} public keys with label {label!r}; "
                "expected one of each"
            )
        template = key_template.private_half(_KIND)
        weakness = key_template.find_weakness(
            session.attributes(private[0], template.names), template, hardening=None
        )
        if weakness is not None:
            raise KeyUnsafeError(f"the key {label!r} of the log is not safe: {weakness}")
        shown = session.attributes(public[0], key_template.CHECKED_PUBLIC)
        public_key = load_der_public_key(public_key_from_attributes(_KIND, shown))
        if not isinstance(public_key, Ed25519PublicKey):
            raise PolicyRefusedError(f"the public key {label!r} is not of Ed25519")
        key = cls(session, private[0], public_key)
        try:
            public_key.verify(key.sign(_PROBE), _PROBE)
        except InvalidSignature as exc:
            raise PolicyRefusedError(
                f"the two keys with label {label!r} do not belong together"
            ) from exc
        return key

    @classmethod
    def create(cls, session: TokenSession, label: str) -> LogKey:
        """Make the key pair, then find it.

        Raises:
            ReturnCodeError: The module does not make such a key.
            KeyAbsentError, KeyUnsafeError, PolicyRefusedError: As `find`.
        """
        object_id = hashlib.sha256(label.encode()).digest()[:16]
        private, public = (
            half.named(object_id, label)
            for half in (key_template.private_half(_KIND), key_template.public_half(_KIND))
        )
        mechanism = ck.plain(_KIND.generate)
        try:
            session.generate_key_pair(mechanism, public.to_make(_BARE), private.to_make(_FULL))
        except ReturnCodeError:
            # Not every module takes all of the attributes that harden a key further.
            session.generate_key_pair(mechanism, public.to_make(_BARE), private.to_make(_BARE))
        made = cls.find(session, label)
        if made is None:
            raise KeyAbsentError(f"the key {label!r} was made and is not there")
        return made

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`.

        Raises:
            ReturnCodeError: Token or module failed.
        """
        return self._session.sign(self._private, ck.eddsa(), message)


def main(arguments: list[str]) -> None:
    """Run until the audit log closes the socket; never returns."""
    # A terminal or a service manager may send them to the whole group; the log ends this
    # process when it has signed its last checkpoint.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    harden()
    status = 1
    try:
        with socket.socket(fileno=int(arguments[0])) as connection:
            _run(connection)
        status = 0
    except (ConnectionError, SignerWireError):
        pass  # the log is gone: nobody is left to tell
    finally:
        # Not sys.exit: modules with OpenSSL inside crash in their exit handlers.
        os._exit(status)


def _run(connection: socket.socket) -> None:
    kind, body = read_frame(connection.recv)
    if kind is not FrameKind.OPEN:
        raise SignerWireError("expected OPEN first")
    try:
        key = _open(OpenRequest.from_body(body))
        connection.sendall(pack_frame(FrameKind.READY, key.public_key.public_bytes_raw()))
    except _FINAL as exc:
        connection.sendall(pack_frame(FrameKind.STOPPED, _text_of(exc)))
        return
    except HsmTokenError as exc:
        connection.sendall(pack_frame(FrameKind.FAULT, _text_of(exc)))
        return
    while True:
        try:
            kind, body = read_frame(connection.recv)
        except ConnectionError:
            return  # the log has closed its end: that is how it says goodbye
        if kind is not FrameKind.SIGN:
            raise SignerWireError("expected SIGN")
        try:
            signature = key.sign(body)
        except HsmTokenError as exc:
            # Whatever it is: another process starts clean, with handles of its own.
            connection.sendall(pack_frame(FrameKind.FAULT, _text_of(exc)))
            return
        connection.sendall(pack_frame(FrameKind.SIGNED, signature))


def _open(request: OpenRequest) -> LogKey:
    pin = read_pin(Path(request.pin_file))
    session = TokenSession.open(
        request.module, request.token_label, pin, parameters=request.module_parameters
    )
    key = LogKey.find(session, request.key_label)
    if key is None and request.create:
        key = LogKey.create(session, request.key_label)
    if key is None:
        raise KeyAbsentError(
            f"no key {request.key_label!r} on token {request.token_label!r}; make the log with "
            "`strongroom audit-log --init`, or restore the token"
        )
    return key


def _text_of(exc: Exception) -> bytes:
    return str(exc).encode(errors="replace")[:4096]


if __name__ == "__main__":
    main(sys.argv[1:])
