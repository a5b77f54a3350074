"""Between the audit log and the process that holds its signing key in an HSM token.

Frames on a Unix stream socket pair, one request under way at a time:

    u32 length of the body, big-endian; u8 kind; body

    to the signer      OPEN      JSON: module, module_parameters, token_label, pin_file,
                                 key_label, create. Never the PIN itself
                       SIGN      the message, at most 65,535 bytes
    from the signer    READY     the Ed25519 public key, 32 bytes
                       SIGNED    the signature, 64 bytes
                       STOPPED   UTF-8 text: another process would fare no better (the login
                                 was refused, the key is not safe). It has ended
                       FAULT     UTF-8 text: token or module failed. It has ended; another
                                 process may work

The audit log knows nothing of PKCS#11 and the signer nothing of logs, so what they say to
each other is here, in the package that both share.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

__all__ = ["FrameKind", "OpenRequest", "SignerWireError", "pack_frame", "read_frame"]

MAX_BODY_BYTES: Final = 2**16 - 1
_HEAD: Final = struct.Struct(">IB")


class SignerWireError(Exception):
    """A frame is malformed, or is not the one that is due."""


class FrameKind(enum.IntEnum):
    """What a frame is."""

    OPEN = 1
    SIGN = 2
    READY = 3
    SIGNED = 4
    STOPPED = 5
    FAULT = 6


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Which key of which token to use.

    Attributes:
        module: Path of the PKCS#11 library.
        module_parameters: LibraryParameters of C_Initialize.
        token_label: Label of the token.
        pin_file: File with the user PIN; only the signer reads it.
        key_label: CKA_LABEL of the key pair.
        create: Make the key pair when there is none.
    """

    module: str
    module_parameters: str
    token_label: str
    pin_file: str
    key_label: str
    create: bool

    def to_body(self) -> bytes:
        """Return the body of an OPEN frame."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_body(cls, body: bytes) -> OpenRequest:
        """Parse the body of an OPEN frame.

        Raises:
            SignerWireError: It is not exactly what `to_body` makes.
        """
        try:
            request = cls(**json.loads(body))
        except (ValueError, TypeError) as exc:
            raise SignerWireError("an OPEN frame is malformed") from exc
        texts = (
            request.module,
            request.module_parameters,
            request.token_label,
            request.pin_file,
            request.key_label,
        )
        if any(type(text) is not str for text in texts) or type(request.create) is not bool:
            raise SignerWireError("an OPEN frame has a value of another type")
        return request


def pack_frame(kind: FrameKind, body: bytes) -> bytes:
    """Return a frame.

    Raises:
        SignerWireError: The body has more than 65,535 bytes.
    """
    if len(body) > MAX_BODY_BYTES:
        raise SignerWireError("a body is too long")
    return _HEAD.pack(len(body), kind) + body


def read_frame(receive: Callable[[int], bytes]) -> tuple[FrameKind, bytes]:
    """Read one frame.

    Args:
        receive: ``recv`` of the socket.

    Raises:
        SignerWireError: The frame is malformed.
        ConnectionError: The other side is gone.
        OSError: As `receive`; TimeoutError is one of them.
    """
    length, number = _HEAD.unpack(_exactly(receive, _HEAD.size))
    if length > MAX_BODY_BYTES:
        raise SignerWireError("a body is too long")
    try:
        kind = FrameKind(number)
    except ValueError as exc:
        raise SignerWireError("a frame of an unknown kind") from exc
    return kind, _exactly(receive, length)


def _exactly(receive: Callable[[int], bytes], size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = receive(size)
        if not part:
            raise ConnectionError("the other side of the socket is gone")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
