"""The sans-I/O core: operations say what to call and judge the answers.

An operation is a generator. It yields a `Call`, is sent the `Reply` or has the
StrongroomError of the call thrown in, and returns its result. The sync and the asyncio
client drive the same operations (_drivers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import google_crc32c
from google.protobuf.message import Message

from strongroom import encryption_context as contexts
from strongroom import resource_names
from strongroom.receipts import Receipt
from strongroom.resource_names import AliasName, KeyName, RegionName
from strongroom_client.errors import (
    ArgumentInvalidError,
    ChecksumMismatchError,
    ResponseInvalidError,
)

__all__ = [
    "AUDIT_LOG",
    "Call",
    "Operation",
    "Reply",
    "ask",
    "ask_checked",
    "check_bytes",
    "check_crc32c",
    "check_key_version",
    "check_range",
    "check_verified",
    "crc32c",
    "encode_context",
    "parse_key_name",
    "parse_name",
    "parse_region",
    "where",
]

T = TypeVar("T")
R = TypeVar("R", bound=Message)

#: A flipped bit on the way is rare; three in a row are a broken machine.
MAX_CORRUPT_ANSWERS: Final = 3
AUDIT_LOG: Final = ""
"""In the place of a region: the call is one of AuditLogService."""


def where(region: str) -> str:
    """Say whose endpoint `region` is, for messages."""
    return f"region {region}" if region else "audit log"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of KeyService, or of AuditLogService.

    Attributes:
        region: Whose endpoint to ask; `AUDIT_LOG` for the audit log's.
        method: Name of the RPC.
        request: Its request.
        max_attempts: Fewer attempts than the client's option, when there is somewhere else to go.
        time_share: The part of the remaining time that it may take, more than 0, at most 1.
    """

    region: str
    method: str
    request: Message
    max_attempts: int | None = None
    time_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the receipts that came with it."""

    message: Message
    receipts: tuple[Receipt, ...]


Operation: TypeAlias = Generator[Call, Reply, T]


def ask(call: Call, answer: type[R]) -> Operation[tuple[R, tuple[Receipt, ...]]]:
    """Make one call and return its typed answer."""
    reply = yield call
    if not isinstance(reply.message, answer):
        raise ResponseInvalidError(f"{call.method}: the answer has another type")
    return reply.message, reply.receipts


def ask_checked(
    call: Call, answer: type[R], verify: Callable[[R], None]
) -> Operation[tuple[R, tuple[Receipt, ...]]]:
    """Make a call until its bytes come through unchanged, at most three times.

    Only for calls that may be repeated: those that change nothing.

    Args:
        call: The call; its request carries a CRC32C for every bytes field.
        answer: Type of the answer.
        verify: Raises ChecksumMismatchError when a checksum of the answer does not fit.

    Raises:
        ChecksumMismatchError: It never did.
    """
    for _ in range(MAX_CORRUPT_ANSWERS - 1):
        try:
            message, receipts = yield from ask(call, answer)
            verify(message)
        except ChecksumMismatchError:
            continue
        return message, receipts
    message, receipts = yield from ask(call, answer)
    verify(message)
    return message, receipts


def crc32c(data: bytes) -> int:
    """Return the CRC32C (Castagnoli) of `data`."""
    return int(google_crc32c.value(data))


def check_crc32c(field: str, data: bytes, expected: int) -> None:
    """Compare the checksum of a field of an answer.

    Raises:
        ChecksumMismatchError: It is another one.
    """
    if crc32c(data) != expected:
        raise ChecksumMismatchError(f"{field}: the bytes changed on their way here")


def check_verified(field: str, *, verified: bool) -> None:
    """Require that the service checked the checksum of a field of the request.

    Raises:
        ChecksumMismatchError: It says that it did not: the checksum itself was lost.
    """
    if not verified:
        raise ChecksumMismatchError(f"{field}: the service did not see its checksum")


def check_key_version(name: str, asked: KeyName | AliasName) -> None:
    """Require that the version used belongs to the key that was asked for.

    Raises:
        ResponseInvalidError: It does not: the data may be under a key that the caller
            never chose.
    """
    try:
        version = resource_names.KeyVersionName.parse(name)
    except resource_names.ResourceNameError as exc:
        raise ResponseInvalidError("the answer does not name a key version") from exc
    if isinstance(asked, KeyName):
        if version.key != asked:
            raise ResponseInvalidError(f"asked for {asked}, the answer used {version}")
    elif version.region != asked.region:
        # Where an alias points is the service's knowledge; its region is not.
        raise ResponseInvalidError(f"asked for {asked}, the answer used {version}")


def parse_name(field: str, text: str) -> KeyName | AliasName:
    """Parse the name of a key or alias given by the caller.

    Raises:
        ArgumentInvalidError: It is neither.
    """
    try:
        return resource_names.parse_key_or_alias(text)
    except resource_names.ResourceNameError as exc:
        raise ArgumentInvalidError.of(field, "string.pattern", str(exc)) from exc


def parse_key_name(field: str, text: str) -> KeyName:
    """Parse the name of a key given by the caller; aliases are not taken.

    Raises:
        ArgumentInvalidError: It is not one.
    """
    try:
        return KeyName.parse(text)
    except resource_names.ResourceNameError as exc:
        raise ArgumentInvalidError.of(field, "string.pattern", str(exc)) from exc


def parse_region(region: str) -> RegionName:
    """Parse a region given by the caller, without the prefix ``regions/``.

    Raises:
        ArgumentInvalidError: It is not one.
    """
    try:
        return RegionName.parse(f"regions/{region}")
    except resource_names.ResourceNameError as exc:
        raise ArgumentInvalidError.of("region", "string.pattern", "not a region") from exc


def check_bytes(field: str, data: bytes, most: int) -> bytes:
    """Require 1 to `most` bytes; return them as `bytes`.

    Raises:
        ArgumentInvalidError: There are more or fewer.
    """
    if not 1 <= len(data) <= most:
        raise ArgumentInvalidError.of(
            field, "bytes.len", f"{len(data)} bytes, it takes 1 to {most:,} bytes"
        )
    return bytes(data)


def check_range(field: str, value: int, most: int) -> int:
    """Require a number from 1 to `most`.

    Raises:
        ArgumentInvalidError: It is another one.
    """
    if not 1 <= value <= most:
        raise ArgumentInvalidError.of(field, "uint32.range", f"{value}, it takes 1 to {most:,}")
    return value


def encode_context(field: str, context: Mapping[str, str]) -> bytes:
    """Return the canonical bytes of an encryption context given by the caller.

    Raises:
        ArgumentInvalidError: It breaks a rule of encryption-context-v1.md.
    """
    try:
        return contexts.encode(context)
    except contexts.EncryptionContextError as exc:
        raise ArgumentInvalidError.of(field, "encryption_context", str(exc)) from exc
