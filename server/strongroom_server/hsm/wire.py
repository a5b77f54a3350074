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
              u16 aad length, u16 aad2 length, 20 bytes key, 20 bytes key2, data, aad, aad2
    ANSWERS   worker to pool, one for each REQUESTS frame, same ids in the same order:
              u16 count, then that many of
              u32 id, u8 status, u32 microseconds in the HSM,
              u16 first length, u16 second length, first, second

An operation uses the fields that `_RULES` gives it; the others are zero and empty. In
answers, `first` is what is secret or random (or a text, when status is not OK), `second`
what is sealed.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

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
MAX_DATA_BYTES: Final = 4096 + 28
MAX_AAD_BYTES: Final = 8214
MAX_NUMBER: Final = 1024
NO_KEY: Final = bytes(20)

_FRAME: Final = struct.Struct(">IB")
_COUNT: Final = struct.Struct(">H")
_REQUEST: Final = struct.Struct(">IBdHHHH20s20s")
_ANSWER: Final = struct.Struct(">IBIHH")
_REPORT: Final = struct.Struct(">BI")


class WireError(ValueError):
    """The other end broke the protocol; the connection is of no use any more."""


class Kind(enum.IntEnum):
    """What a frame holds."""

    SETTINGS = 1
    REPORT = 2
    REQUESTS = 3
    ANSWERS = 4


class Operation(enum.IntEnum):
    """What the worker is asked to do."""

    ENCRYPT = 1
    DECRYPT = 2
    REENCRYPT = 3
    DATA_KEY = 4
    SEALED_DATA_KEY = 5
    RANDOM = 6
    CREATE = 7
    LOAD = 8
    PING = 9


class Status(enum.IntEnum):
    """How an operation ended."""

    OK = 0
    TAMPERED = 1
    KEY_ABSENT = 2
    POLICY = 3
    EXPIRED = 4
    FAULT = 5
    """The worker ends after this frame; this operation may be tried on another."""


class Request(NamedTuple):
    """One operation. See the module's docstring."""

    id: int
    operation: int
    deadline: float
    number: int
    data: bytes
    aad: bytes
    aad2: bytes
    key: bytes
    key2: bytes


class Answer(NamedTuple):
    """The end of one operation."""

    id: int
    status: int
    microseconds: int
    first: bytes
    second: bytes


class _Rule(NamedTuple):
    """Limits of an operation's fields, inclusive."""

    keys: int = 0
    min_number: int = 0
    max_number: int = 0
    min_data: int = 0
    max_data: int = 0
    max_aad: int = 0
    max_aad2: int = 0


_SEALED_MIN: Final = 12 + 1 + 16
_RULES: Final[dict[int, _Rule]] = {
    Operation.ENCRYPT: _Rule(keys=1, min_data=1, max_data=4096, max_aad=MAX_AAD_BYTES),
    Operation.DECRYPT: _Rule(
        keys=1, min_data=_SEALED_MIN, max_data=MAX_DATA_BYTES, max_aad=MAX_AAD_BYTES
    ),
    Operation.REENCRYPT: _Rule(
        keys=2,
        min_data=_SEALED_MIN,
        max_data=MAX_DATA_BYTES,
        max_aad=MAX_AAD_BYTES,
        max_aad2=MAX_AAD_BYTES,
    ),
    Operation.DATA_KEY: _Rule(keys=1, min_number=1, max_number=1024, max_aad=MAX_AAD_BYTES),
    Operation.SEALED_DATA_KEY: _Rule(keys=1, min_number=1, max_number=1024, max_aad=MAX_AAD_BYTES),
    Operation.RANDOM: _Rule(min_number=1, max_number=MAX_NUMBER),
    Operation.CREATE: _Rule(keys=1),
    Operation.LOAD: _Rule(keys=1),
    Operation.PING: _Rule(),
}
_STATUSES: Final = frozenset(int(status) for status in Status)


def check_request(  # noqa: PLR0917 - the hot path: one positional call per operation
    operation: int, number: int, data: bytes, aad: bytes, aad2: bytes, key: bytes, key2: bytes
) -> None:
    """Check the fields of one operation against its rule.

    Raises:
        WireError: A field is out of its limits.
    """
    rule = _RULES.get(operation)
    if (
        rule is None
        or not rule.min_number <= number <= rule.max_number
        or not rule.min_data <= len(data) <= rule.max_data
        or not (rule.max_aad and 1) <= len(aad) <= rule.max_aad
        or not (rule.max_aad2 and 1) <= len(aad2) <= rule.max_aad2
        or (key == NO_KEY) != (rule.keys < 1)
        or (key2 == NO_KEY) != (rule.keys < 2)  # noqa: PLR2004 - two keys
    ):
        raise WireError("request: a field is out of its limits")


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
            if length > MAX_BODY_BYTES or not Kind.SETTINGS <= kind <= Kind.ANSWERS:
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
    head = _REQUEST.pack(
        number_id, operation, deadline, number, len(data), len(aad), len(aad2), key, key2
    )
    return b"".join((head, data, aad, aad2))


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
            (
                number_id,
                operation,
                deadline,
                number,
                data_length,
                aad_length,
                aad2_length,
                key,
                key2,
            ) = _REQUEST.unpack_from(body, at)
            data_at = at + _REQUEST.size
            aad_at = data_at + data_length
            aad2_at = aad_at + aad_length
            at = aad2_at + aad2_length
            data, aad, aad2 = body[data_at:aad_at], body[aad_at:aad2_at], body[aad2_at:at]
            check_request(operation, number, data, aad, aad2, key, key2)
            if not math.isfinite(deadline):
                raise WireError("request: the deadline is not a number")
            requests.append(
                Request(number_id, operation, deadline, number, data, aad, aad2, key, key2)
            )
    except struct.error as exc:
        raise WireError("requests: cut short") from exc
    if at != len(body):
        raise WireError("requests: cut short or too long")
    return requests


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
                or first_length > MAX_DATA_BYTES
                or second_length > MAX_DATA_BYTES
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
