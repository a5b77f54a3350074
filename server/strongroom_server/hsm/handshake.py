"""The first frame each way between the session pool and an HSM worker (`wire` has the rest).

    SETTINGS  u8 verify_after_encrypt (0/1), three times (u16 length, UTF-8):
              module path, token label, PIN file path. Never the PIN itself.
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
    """What a worker is told."""

    module: str
    token_label: str
    pin_file: str
    verify_after_encrypt: bool


class Report(NamedTuple):
    """What a worker tells of its start."""

    status: StartStatus
    keys: int
    text: str


def pack_settings(settings: WorkerSettings) -> bytes:
    """Make the SETTINGS frame."""
    texts = (settings.module, settings.token_label, settings.pin_file)
    body = bytes([settings.verify_after_encrypt]) + b"".join(_pack_text(text) for text in texts)
    return pack_frame(Kind.SETTINGS, body)


def parse_settings(body: bytes) -> WorkerSettings:
    """Parse the body of a SETTINGS frame.

    Raises:
        WireError: Anything but exactly what `pack_settings` makes.
    """
    if body[:1] not in {b"\0", b"\1"}:
        raise WireError("settings: bad flag")
    module, at = _parse_text(body, 1)
    token_label, at = _parse_text(body, at)
    pin_file, at = _parse_text(body, at)
    if at != len(body):
        raise WireError("settings: too long")
    return WorkerSettings(module, token_label, pin_file, body[0] == 1)


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
