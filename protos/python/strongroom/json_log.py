"""The log of a process: JSON lines, one event a line, made with structlog.

    {"timestamp":"2026-01-02T03:04:05.678901Z","level":"info","event":"call",
     "logger":"strongroom_server.rpc","service.name":"strongroom-server", …}

Libraries that log through the standard library come out the same way. This is the
operators' log; the audit log is another thing, with its own format.

Nothing secret is given to a logger in the first place. Behind that rule stand two nets:
values under the names of SECRET_NAMES are masked, and bytes and objects of unknown types
are shown by size or type only, so that no payload gets in through a `repr`.

Structlog comes with the extras `server` and `auditlog`; only those processes import this.
"""

from __future__ import annotations

import enum
import json
import logging
import math
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, BinaryIO, Final

import structlog

__all__ = ["LEVELS", "SECRET_NAMES", "configure_logging"]

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

SECRET_NAMES: Final = frozenset(
    {
        "ciphertext",
        "context",
        "data_key",
        "encryption_context",
        "key_material",
        "passphrase",
        "password",
        "pin",
        "plaintext",
        "plaintext_data_key",
        "private_key",
        "sealed",
        "secret",
        "so_pin",
        "user_pin",
        "wrapped_data_key",
    }
)
MASK: Final = "[masked]"
MAX_NAMES: Final = 1024

_quote: Final = json.encoder.encode_basestring  # as JSONEncoder does, with ensure_ascii=False


def configure_logging(
    level: str,
    stream: BinaryIO,
    *,
    service_name: str,
    service_version: str,
    fields: Mapping[str, str] | None = None,
) -> None:
    """Send every log event of this process to `stream`, as JSON lines.

    Called once, by the module that wires the process, before anything logs.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``; less is dropped.
        stream: Where lines go, such as ``sys.stdout.buffer``; each is written and flushed
            whole. A stream that fails loses lines, it never fails a call.
        service_name: ``service.name`` in every line.
        service_version: ``service.version`` in every line.
        fields: What else every line carries, such as the region.
    """
    number = LEVELS[level]
    lines = _Lines(stream)
    static = {"service.name": service_name, "service.version": service_version, **(fields or {})}
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _Shape(static)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *names: _Logger(lines, names[0] if names else ""),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(number, logging.INFO), handlers=[_Bridge()], force=True)
    # Their own information is about themselves, one line a connection or more.
    for chatty in ("uvicorn", "asyncio", "alembic", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))


class _Lines:
    """Whole lines to a stream. Thread safety: complete."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        try:
            with self._lock:
                self._stream.write(line)
                self._stream.flush()
        except (OSError, ValueError):
            # The reader of the log is gone, or the stream is closed: a service that
            # stopped for that would turn a full log disk into an outage.
            return


class _Logger:
    """What structlog hands finished lines to; knows its name."""

    __slots__ = ("_lines", "name")

    def __init__(self, lines: _Lines, name: str):
        self._lines = lines
        self.name = name

    def msg(self, line: bytes) -> None:
        self._lines.write(line)

    debug = info = warning = error = critical = exception = msg


class _Shape:
    """The last processor: from an event to a line.

    It runs once a request, so the usual line, texts and numbers under names of its own, is
    put together by hand: three times as fast as `json` does it, with the same result.

    Thread safety: complete; what is kept is replaced whole.
    """

    def __init__(self, static: Mapping[str, str]):
        self._static = dict(static)
        self._static_members = "".join(f",{_quote(n)}:{_quote(v)}" for n, v in static.items())
        self._reserved = frozenset({"timestamp", "level", *static})
        self._second = (0, "")
        # By name, how a member begins, and whether its value is masked. Names are written
        # in the code, not sent by callers; the bound is for those who would do so.
        self._members: dict[str, tuple[str, bool]] = {}

    def __call__(
        self, logger: _Logger, method: str, event: MutableMapping[str, Any]
    ) -> tuple[tuple[bytes], dict[str, Any]]:
        level = "error" if method == "exception" else method
        name, source = event.pop("event", ""), event.pop("logger", logger.name)
        exc_info = event.pop("exc_info", None)
        if exc_info or not self._reserved.isdisjoint(event):
            text = self._unusual(level, name, source, event, exc_info)
        else:
            head = f'{{"timestamp":"{self._now()}","level":{_value(level)},"event":{_value(name)}'
            members = [head, f',"logger":{_value(source)}{self._static_members}']
            for member, value in event.items():
                beginning, is_secret = self._members.get(member) or self._member(member)
                members.append(beginning + _value(MASK if is_secret else value))
            members.append("}\n")
            text = "".join(members)
        # surrogateescape'd file names must not be able to fail a log call
        return (text.encode("utf-8", "backslashreplace"),), {}

    def _unusual(
        self,
        level: str,
        name: object,
        source: object,
        event: Mapping[str, Any],
        exc_info: object,
    ) -> str:
        line: dict[str, Any] = {
            "timestamp": self._now(),
            "level": level,
            "event": name,
            "logger": source,
            **self._static,
        }
        for member, value in event.items():
            line[member] = MASK if member.lower() in SECRET_NAMES else value
        if exc_info:
            line["exception"] = _format_exception(exc_info)
        return _ENCODER.encode(line) + "\n"

    def _now(self) -> str:
        """Return the time (UTC, microseconds); the text of a second is made once."""
        second, rest = divmod(time.time_ns(), 10**9)
        known, text = self._second
        if known != second:
            text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = (second, text)
        return f"{text}.{rest // 1000:06d}Z"

    def _member(self, name: str) -> tuple[str, bool]:
        made = (f",{_quote(name)}:", name.lower() in SECRET_NAMES)
        if len(self._members) < MAX_NAMES:
            self._members[name] = made
        return made


def _value(value: object) -> str:
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, float) and math.isfinite(value):
        return float.__repr__(value)
    return str(value) if type(value) is int else _ENCODER.encode(value)


def _format_exception(exc_info: object) -> str:
    """Return a traceback without local variables: they hold what must not be logged."""
    if isinstance(exc_info, BaseException):
        exc: BaseException | None = exc_info
    elif isinstance(exc_info, tuple):
        exc = exc_info[1]
    else:
        exc = sys.exc_info()[1]
    return "".join(traceback.format_exception(exc)) if exc is not None else ""


def _show(value: object) -> object:
    """Show what JSON has no form for."""
    match value:
        case bytes() | bytearray() | memoryview():
            return f"[{len(value)} bytes]"
        case uuid.UUID() | PurePath() | datetime():
            return str(value)
        case enum.Enum():
            return value.name
        case set() | frozenset():
            return sorted(map(str, value))
        case BaseException():
            return f"{type(value).__name__}: {value}"
        case _:
            return f"[{type(value).__name__}]"


_ENCODER: Final = json.JSONEncoder(
    default=_show, ensure_ascii=False, separators=(",", ":"), skipkeys=True
)


class _Bridge(logging.Handler):
    """Standard library records as events."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        level = min(record.levelno, logging.ERROR)
        logger.log(level, record.getMessage(), exc_info=record.exc_info)
