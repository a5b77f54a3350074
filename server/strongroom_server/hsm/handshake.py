"""The first frame each way between the session pool and an HSM worker (`wire` has the rest).

    SETTINGS  u8 flags (1 verify_after_encrypt, 2 needs_wrap), u32 unwrapped keys, u32 unwraps
              after which the worker is worn, four times (u16 length, UTF-8): module path,
              module parameters, token label, PIN file path. Never the PIN itself.
    REPORT    u8 start status, u32 keys on the token, u16 length, UTF-8 text

A text has at most 4,096 bytes.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from strongroom_server.hsm.wire import Kind, WireError, pack_frame

__all__ = [
    "Report",
    "StartStatus",
    "WorkerSettings",
    "pack_report",
    "pack_settings",
    "parse_report",
    "parse_settings",
]

MAX_TEXT_BYTES: Final = 4096
_LENGTH: Final = struct.Struct(">H")
_SETTINGS: Final = struct.Struct(">BII")
_VERIFY: Final = 1
_NEEDS_WRAP: Final = 2
_REPORT: Final = struct.Struct(">BI")


class StartStatus(enum.IntEnum):
    """How a worker's start ended."""

    READY = 0
    PIN_REFUSED = 1
    PIN_FILE_UNUSABLE = 2
    TOKEN_ABSENT = 3
    MODULE_UNUSABLE = 4
    KEY_UNSAFE = 5
    FAULT = 6


class WorkerSettings(NamedTuple):
    """What a worker is told; `SessionPoolSettings` says what each means."""

    module: str
    module_parameters: str
    token_label: str
    pin_file: str
    verify_after_encrypt: bool
    unwrapped_keys: int
    recycle_after_unwraps: int
    needs_wrap: bool = False


class Report(NamedTuple):
    """What a worker tells of its start; with READY, a text is what a person must look at."""

    status: StartStatus
    keys: int
    text: str


def pack_settings(settings: WorkerSettings) -> bytes:
    """Make the SETTINGS frame."""
    head = _SETTINGS.pack(
        _VERIFY * settings.verify_after_encrypt + _NEEDS_WRAP * settings.needs_wrap,
        settings.unwrapped_keys,
        settings.recycle_after_unwraps,
    )
    texts = (
        settings.module,
        settings.module_parameters,
        settings.token_label,
        settings.pin_file,
    )
    return pack_frame(Kind.SETTINGS, head + b"".join(_pack_text(text) for text in texts))


def parse_settings(body: bytes) -> WorkerSettings:
    """Parse the body of a SETTINGS frame.

    Raises:
        WireError: Anything but exactly what `pack_settings` makes.
    """
    if len(body) < _SETTINGS.size:
        raise WireError("settings: cut short")
    flags, unwrapped_keys, recycle_after_unwraps = _SETTINGS.unpack_from(body)
    if flags & ~(_VERIFY | _NEEDS_WRAP):
        raise WireError("settings: bad flag")
    module, at = _parse_text(body, _SETTINGS.size)
    module_parameters, at = _parse_text(body, at)
    token_label, at = _parse_text(body, at)
    pin_file, at = _parse_text(body, at)
    if at != len(body):
        raise WireError("settings: too long")
    return WorkerSettings(
        module,
        module_parameters,
        token_label,
        pin_file,
        bool(flags & _VERIFY),
        unwrapped_keys,
        recycle_after_unwraps,
        bool(flags & _NEEDS_WRAP),
    )


def pack_report(report: Report) -> bytes:
    """Make the REPORT frame; a text too long is cut."""
    text = report.text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")
    return pack_frame(Kind.REPORT, _REPORT.pack(report.status, report.keys) + _pack_text(text))


def parse_report(body: bytes) -> Report:
    """Parse the body of a REPORT frame.

    Raises:
        WireError: Anything but exactly what `pack_report` makes.
    """
    if len(body) < _REPORT.size:
        raise WireError("report: cut short")
    status, keys = _REPORT.unpack_from(body)
    text, at = _parse_text(body, _REPORT.size)
    if at != len(body):
        raise WireError("report: too long")
    try:
        return Report(StartStatus(status), keys, text)
    except ValueError as exc:
        raise WireError("report: unknown status") from exc


def _pack_text(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > MAX_TEXT_BYTES:
        raise WireError("text: too long")
    return _LENGTH.pack(len(encoded)) + encoded


def _parse_text(body: bytes, at: int) -> tuple[str, int]:
    if at + _LENGTH.size > len(body):
        raise WireError("text: cut short")
    (length,) = _LENGTH.unpack_from(body, at)
    start = at + _LENGTH.size
    end = start + length
    if length > MAX_TEXT_BYTES or end > len(body):
        raise WireError("text: cut short or too long")
    try:
        return body[start:end].decode(), end
    except UnicodeDecodeError as exc:
        raise WireError("text: not UTF-8") from exc
