"""The two messages between a shard and the audit log (docs/formats/audit-nats-v1.md).

    SRBATCH 1   shard -> log    region, epoch, first, acknowledged, records
    SRACKNL 1   log -> shard    region, epoch, sequence, wanted, time

A message is sealed with its sender's signature; `open_*` gives nothing out before that
has been verified. Each has exactly one encoding.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom.jetstream.identity import ChainVerifier, SigningIdentity

__all__ = [
    "MAX_BATCH_RECORDS",
    "MAX_MESSAGE_BYTES",
    "MAX_NUMBER",
    "MAX_RECORD_BYTES",
    "RECORD_OVERHEAD_BYTES",
    "Acknowledgement",
    "Batch",
    "MessageInvalidError",
    "open_acknowledgement",
    "open_batch",
    "seal_acknowledgement",
    "seal_batch",
]

MAX_MESSAGE_BYTES: Final = 2**20
MAX_BATCH_RECORDS: Final = 4096
MAX_RECORD_BYTES: Final = 2**16 - 1
MAX_NUMBER: Final = 2**63 - 1  # positions, as everywhere
RECORD_OVERHEAD_BYTES: Final = 2

_BATCH: Final = b"SRBATCH\x01"
_ACKNOWLEDGEMENT: Final = b"SRACKNL\x01"
_MAX_CERTIFICATES: Final = 8
_MAX_CERTIFICATE_BYTES: Final = 8192
_MAX_SIGNATURE_BYTES: Final = 1024
_REGION: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_BATCH_HEAD: Final = struct.Struct(">QQQH")
_ACKNOWLEDGEMENT_HEAD: Final = struct.Struct(">QQQQ")


class MessageInvalidError(Exception):
    """The bytes are no message of this format."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of a shard."""

    region: str
    epoch: int
    first: int
    acknowledged: int
    """Up to where the shard was acknowledged when it sent this; 0 for nothing."""
    records: tuple[bytes, ...]

    @property
    def last(self) -> int:
        """Sequence of the last record."""
        return self.first + len(self.records) - 1


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What the audit log has of a shard, and what it lacks."""

    region: str
    epoch: int
    sequence: int
    """Up to here a published checkpoint covers; 0 for nothing."""
    wanted: int
    """Records are missing from here on; 0 when none are."""
    time_ms: int
    """When it was made, milliseconds since 1970."""


def seal_batch(batch: Batch, identity: SigningIdentity) -> bytes:
    """Return the signed message."""
    body = b"".join(
        (
            _region(batch.region),
            _BATCH_HEAD.pack(batch.epoch, batch.first, batch.acknowledged, len(batch.records)),
            *(len(record).to_bytes(2) + record for record in batch.records),
        )
    )
    return _seal(_BATCH, body, identity)


def open_batch(message: bytes, verifier: ChainVerifier, *, now: datetime) -> tuple[str, Batch]:
    """Return the principal that signed a batch, and the batch.

    Raises:
        MessageInvalidError: It is none.
        SignatureInvalidError: Nobody of the verifier's CA signed it.
    """
    principal, body = _open(_BATCH, message, verifier, now)
    region = body.text(32)
    epoch, first, acknowledged, count = body.unpack(_BATCH_HEAD)
    if not 1 <= count <= MAX_BATCH_RECORDS:
        raise MessageInvalidError(f"{count} records")
    records = tuple(body.take_sized(2, MAX_RECORD_BYTES) for _ in range(count))
    body.end()
    _check(epoch=epoch, first=first)
    _check(at_least=0, acknowledged=acknowledged)
    return principal, Batch(region, epoch, first, acknowledged, records)


def seal_acknowledgement(what: Acknowledgement, identity: SigningIdentity) -> bytes:
    """Return the signed message."""
    head = _ACKNOWLEDGEMENT_HEAD.pack(what.epoch, what.sequence, what.wanted, what.time_ms)
    return _seal(_ACKNOWLEDGEMENT, _region(what.region) + head, identity)


def open_acknowledgement(
    message: bytes, verifier: ChainVerifier, *, now: datetime
) -> tuple[str, Acknowledgement]:
    """Return the principal that signed an acknowledgement, and what it says.

    Raises:
        MessageInvalidError: It is none.
        SignatureInvalidError: Nobody of the verifier's CA signed it.
    """
    principal, body = _open(_ACKNOWLEDGEMENT, message, verifier, now)
    region = body.text(32)
    epoch, sequence, wanted, time_ms = body.unpack(_ACKNOWLEDGEMENT_HEAD)
    body.end()
    _check(epoch=epoch)
    _check(at_least=0, sequence=sequence, wanted=wanted, time=time_ms)
    return principal, Acknowledgement(region, epoch, sequence, wanted, time_ms)


class _Reader:
    """Takes fields from the front of bytes."""

    def __init__(self, data: bytes):
        self._data = data
        self.offset = 0

    def take(self, size: int) -> bytes:
        end = self.offset + size
        if end > len(self._data):
            raise MessageInvalidError("it is cut off")
        part = self._data[self.offset : end]
        self.offset = end
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def take_sized(self, size: int, most: int) -> bytes:
        """Return the bytes behind a length of `size` bytes; 1 to `most` of them."""
        length = self.number(size)
        if not 1 <= length <= most:
            raise MessageInvalidError(f"a field of {length} bytes, it has 1 to {most}")
        return self.take(length)

    def text(self, most: int) -> str:
        try:
            region = self.take_sized(1, most).decode("ascii")
        except UnicodeDecodeError as exc:
            raise MessageInvalidError("the region is not ASCII") from exc
        if _REGION.fullmatch(region) is None:
            raise MessageInvalidError("the region is none")
        return region

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self.take(form.size))

    def end(self) -> None:
        if self.offset != len(self._data):
            raise MessageInvalidError("bytes follow it")


def _region(region: str) -> bytes:
    data = region.encode("ascii")
    return len(data).to_bytes(1) + data


def _check(*, at_least: int = 1, **numbers: int) -> None:
    for name, number in numbers.items():
        if not at_least <= number <= MAX_NUMBER:
            raise MessageInvalidError(f"{name} is {number}, it is {at_least} to 2^63 - 1")


def _seal(magic: bytes, body: bytes, identity: SigningIdentity) -> bytes:
    content = b"".join(
        (
            magic,
            len(identity.chain).to_bytes(1),
            *(len(each).to_bytes(2) + each for each in identity.chain),
            len(body).to_bytes(4),
            body,
        )
    )
    signature = identity.sign(content)
    return content + len(signature).to_bytes(2) + signature


def _open(
    magic: bytes, message: bytes, verifier: ChainVerifier, now: datetime
) -> tuple[str, _Reader]:
    if len(message) > MAX_MESSAGE_BYTES:
        raise MessageInvalidError(f"{len(message)} bytes, it has at most {MAX_MESSAGE_BYTES}")
    reader = _Reader(message)
    if reader.take(len(magic)) != magic:
        raise MessageInvalidError("another magic or version")
    chain = _take_chain(reader)
    body = reader.take(reader.number(4))
    signed = message[: reader.offset]
    signature = reader.take_sized(2, _MAX_SIGNATURE_BYTES)
    reader.end()
    principal = verifier.verify(chain, signed, signature, now=now)
    return principal, _Reader(body)


def _take_chain(reader: _Reader) -> Sequence[bytes]:
    count = reader.number(1)
    if not 1 <= count <= _MAX_CERTIFICATES:
        raise MessageInvalidError(f"{count} certificates")
    return [reader.take_sized(2, _MAX_CERTIFICATE_BYTES) for _ in range(count)]
