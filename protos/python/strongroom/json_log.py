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
import sys
import threading
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
    """The last processor: from an event to a line. One pass, for it runs once a request."""

    def __init__(self, static: Mapping[str, str]):
        self._static = dict(static)

    def __call__(
        self, logger: _Logger, method: str, event: MutableMapping[str, Any]
    ) -> tuple[tuple[bytes], dict[str, Any]]:
        line: dict[str, Any] = {
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": "error" if method == "exception" else method,
            "event": event.pop("event", ""),
            "logger": event.pop("logger", logger.name),
            **self._static,
        }
        exc_info = event.pop("exc_info", None)
        for name, value in event.items():
            line[name] = MASK if name.lower() in SECRET_NAMES else value
        if exc_info:
            line["exception"] = _format_exception(exc_info)
        text = _ENCODER.encode(line)
        # surrogateescape'd file names must not be able to fail a log call
        return ((text + "\n").encode("utf-8", "backslashreplace"),), {}


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
