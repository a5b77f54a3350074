"""The frames between the audit log and the process that holds its key."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from strongroom.log_signer_wire import (
    FrameKind,
    OpenRequest,
    SignerWireError,
    pack_frame,
    read_frame,
)

REQUEST = OpenRequest(
    module="/usr/lib/module.so",
    module_parameters="",
    token_label="token",  # noqa: S106 - a name, not a secret
    pin_file="/etc/pin",
    key_label="log",
    create=False,
)


def receiver(data: bytes, chunk: int = 3):
    """Return a `recv` that gives a few bytes at a time."""
    rest = bytearray(data)

    def receive(size: int) -> bytes:
        part = bytes(rest[: min(size, chunk)])
        del rest[: len(part)]
        return part

    return receive


@pytest.mark.parametrize("kind", FrameKind)
@pytest.mark.parametrize("body", [b"", b"x", bytes(65535)])
def test_frames_come_out_as_they_went_in(kind: FrameKind, body: bytes) -> None:
    """Every kind, empty, small and at the limit, in whatever pieces."""
    assert read_frame(receiver(pack_frame(kind, body), 1000)) == (kind, body)


def test_malformed_frames_are_one_error() -> None:
    """Too long, of an unknown kind; an end in the middle is a lost connection."""
    with pytest.raises(SignerWireError):
        pack_frame(FrameKind.SIGN, bytes(65536))
    for data in (b"\xff\xff\xff\xff\x01", b"\0\1\0\0\1", b"\0\0\0\0\0", b"\0\0\0\0\x63"):
        with pytest.raises(SignerWireError):
            read_frame(receiver(data))
    whole = pack_frame(FrameKind.SIGN, b"abc")
    for length in range(len(whole)):
        with pytest.raises(ConnectionError):
            read_frame(receiver(whole[:length]))


def test_an_open_request_has_exactly_its_members() -> None:
    """Missing, additional and mistyped members are refused."""
    assert OpenRequest.from_body(REQUEST.to_body()) == REQUEST
    good = asdict(REQUEST)
    others: list[object] = [
        {**good, "create": 1},
        {**good, "module": None},
        {**good, "pin": "1234"},
        {name: value for name, value in good.items() if name != "create"},
        [],
        "text",
    ]
    for wrong in others:
        with pytest.raises(SignerWireError):
            OpenRequest.from_body(json.dumps(wrong).encode())
    with pytest.raises(SignerWireError):
        OpenRequest.from_body(b"\xff")
