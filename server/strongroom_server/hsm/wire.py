"""The protocol between the session pool and an HSM worker, over a Unix stream socket.

Both ends run the same version of this file on the same machine, so there is no
negotiation; the parser is strict all the same, since the other end holds foreign code
(the vendor's module) that may write anywhere. Integers are big-endian.

    frame     u32 length of the body (0 to 4 MiB), u8 kind, body

    SETTINGS  pool to worker, the first frame and only that (`handshake`)
    REPORT    worker to pool, its first frame and only that (`handshake`)
    REQUESTS  pool to worker: u16 count (1 to 64), then that many of
              u32 id, u8 operation, f64 deadline (seconds of CLOCK_MONOTONIC, which all
              processes of a machine share), u16 number, u16 data length,
              u16 aad length, u16 aad2 length, key, key2, data, aad, aad2
    ANSWERS   worker to pool, one for each REQUESTS frame, same ids in the same order:
              u16 count, then that many of
              u32 id, u8 status, u32 microseconds in the HSM,
              u16 first length, u16 second length, first, second
    WORN      worker to pool, at most once, no body: replace me when it suits you

    key       20 bytes ref (key id, version), u8 spec, u8 usage, u8 origin, u32 root,
              u8 length, wrapped material; an absent key is all zero

An operation uses the fields that `wire_operations` gives it; the others are zero and empty. In
answers, `first` is what is secret or random (or a text, when status is not OK), `second`
what is sealed or public.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Sequence
from typing import Final

from strongroom_server.hsm.wire_operations import (
    MAX_FIELD_BYTES,
    NO_KEY,
    Answer,
    Operation,
    Request,
    Status,
    WireError,
    WireKey,
    check_request,
)

__all__ = [
    "MAX_BATCH",
    "NO_KEY",
    "Answer",
    "Frames",
    "Kind",
    "Operation",
    "Request",
    "Status",
    "WireError",
    "WireKey",
    "check_request",
    "pack_answer",
    "pack_answers",
    "pack_frame",
    "pack_request",
    "pack_requests",
    "parse_answers",
    "parse_requests",
]

MAX_BATCH: Final = 64
MAX_BODY_BYTES: Final = 4 * 2**20  # 64 of the largest requests are 1.3 MiB

_FRAME: Final = struct.Struct(">IB")
_COUNT: Final = struct.Struct(">H")
_REQUEST: Final = struct.Struct(">IBdHHHH20sBBBIB20sBBBIB")
_ANSWER: Final = struct.Struct(">IBIHH")
_STATUSES: Final = frozenset(int(status) for status in Status)


class Kind(enum.IntEnum):
    """What a frame holds."""

    SETTINGS = 1
    REPORT = 2
    REQUESTS = 3
    ANSWERS = 4
    WORN = 5


def pack_frame(kind: Kind, body: bytes) -> bytes:
    """Put a body into a frame."""
    return _FRAME.pack(len(body), kind) + body


class Frames:
    """Cuts a stream of bytes into frames. Not thread safe."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes from the stream; return the frames they complete, as (kind, body).

        Raises:
            WireError: A frame is longer than allowed or of an unknown kind.
        """
        if self._rest:
            data = self._rest + data
        frames = []
        start = 0
        while len(data) - start >= _FRAME.size:
            length, kind = _FRAME.unpack_from(data, start)
            if length > MAX_BODY_BYTES or not Kind.SETTINGS <= kind <= Kind.WORN:
                raise WireError("frame: bad length or kind")
            end = start + _FRAME.size + length
            if end > len(data):
                break
            frames.append((kind, data[start + _FRAME.size : end]))
            start = end
        self._rest = data[start:] if start else data
        return frames


def pack_request(request: Request) -> bytes:
    """Encode one request; its fields have been checked."""
    number_id, operation, deadline, number, data, aad, aad2, key, key2 = request
    ref, spec, usage, root, wrapped, origin = key
    ref2, spec2, usage2, root2, wrapped2, origin2 = key2
    head = _REQUEST.pack(
        number_id,
        operation,
        deadline,
        number,
        len(data),
        len(aad),
        len(aad2),
        ref,
        spec,
        usage,
        origin,
        root,
        len(wrapped),
        ref2,
        spec2,
        usage2,
        origin2,
        root2,
        len(wrapped2),
    )
    return b"".join((head, wrapped, wrapped2, data, aad, aad2))


def pack_requests(packed: Sequence[bytes]) -> bytes:
    """Make a frame of 1 to 64 packed requests."""
    return pack_frame(Kind.REQUESTS, _COUNT.pack(len(packed)) + b"".join(packed))


def parse_requests(body: bytes) -> list[Request]:
    """Parse the body of a REQUESTS frame.

    Raises:
        WireError: Anything but exactly what `pack_requests` makes.
    """
    count, at = _parse_count(body)
    requests = []
    try:
        for _ in range(count):
            request, at = _parse_request(body, at)
            requests.append(request)
    except struct.error as exc:
        raise WireError("requests: cut short") from exc
    if at != len(body):
        raise WireError("requests: cut short or too long")
    return requests


def _parse_request(body: bytes, at: int) -> tuple[Request, int]:
    (
        number_id,
        operation,
        deadline,
        number,
        data_length,
        aad_length,
        aad2_length,
        ref,
        spec,
        usage,
        origin,
        root,
        wrapped_length,
        ref2,
        spec2,
        usage2,
        origin2,
        root2,
        wrapped2_length,
    ) = _REQUEST.unpack_from(body, at)
    wrapped_at = at + _REQUEST.size
    wrapped2_at = wrapped_at + wrapped_length
    data_at = wrapped2_at + wrapped2_length
    aad_at = data_at + data_length
    aad2_at = aad_at + aad_length
    end = aad2_at + aad2_length
    if end > len(body):
        raise WireError("requests: cut short")
    request = Request(
        number_id,
        operation,
        deadline,
        number,
        body[data_at:aad_at],
        body[aad_at:aad2_at],
        body[aad2_at:end],
        WireKey(ref, spec, usage, root, body[wrapped_at:wrapped2_at], origin),
        WireKey(ref2, spec2, usage2, root2, body[wrapped2_at:data_at], origin2),
    )
    check_request(
        operation, number, request.data, request.aad, request.aad2, request.key, request.key2
    )
    if not math.isfinite(deadline):
        raise WireError("request: the deadline is not a number")
    return request, end


def pack_answer(answer: Answer) -> bytes:
    """Encode one answer."""
    number_id, status, microseconds, first, second = answer
    head = _ANSWER.pack(number_id, status, microseconds, len(first), len(second))
    return b"".join((head, first, second))


def pack_answers(packed: Sequence[bytes]) -> bytes:
    """Make a frame of 1 to 64 packed answers."""
    return pack_frame(Kind.ANSWERS, _COUNT.pack(len(packed)) + b"".join(packed))


def parse_answers(body: bytes) -> list[Answer]:
    """Parse the body of an ANSWERS frame.

    Raises:
        WireError: Anything but exactly what `pack_answers` makes.
    """
    count, at = _parse_count(body)
    answers = []
    try:
        for _ in range(count):
            number_id, status, microseconds, first_length, second_length = _ANSWER.unpack_from(
                body, at
            )
            first_at = at + _ANSWER.size
            second_at = first_at + first_length
            at = second_at + second_length
            if (
                status not in _STATUSES
                or first_length > MAX_FIELD_BYTES
                or second_length > MAX_FIELD_BYTES
            ):
                raise WireError("answer: a field is out of its limits")
            answers.append(
                Answer(
                    number_id, status, microseconds, body[first_at:second_at], body[second_at:at]
                )
            )
    except struct.error as exc:
        raise WireError("answers: cut short") from exc
    if at != len(body):
        raise WireError("answers: cut short or too long")
    return answers


def _parse_count(body: bytes) -> tuple[int, int]:
    if len(body) < _COUNT.size:
        raise WireError("batch: cut short")
    (count,) = _COUNT.unpack_from(body)
    if not 1 <= count <= MAX_BATCH:
        raise WireError("batch: bad count")
    return count, _COUNT.size
