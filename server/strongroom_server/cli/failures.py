"""Every way a command can fail, as one plain value that can be shown as text or JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import typer

from strongroom_server.cli.exit_codes import HINTS, ExitCode, exit_code_of
from strongroom_server.errors import StartRefusedError
from strongroom_server.errors import StrongroomError as ServerError

__all__ = ["CliError", "Failure", "describe", "format_failure"]


class CliError(Exception):
    """A command cannot go on; `reason` is in the table of exit_codes.py."""

    def __init__(self, reason: str, message: str, *hints: str):
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hints = hints

    @classmethod
    def usage(cls, message: str, *hints: str) -> CliError:
        """Make the error of a wrong argument."""
        return cls("USAGE", message, *hints)


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told about an error."""

    reason: str
    message: str
    hints: tuple[str, ...]
    exit_code: ExitCode
    receipts: tuple[str, ...] = ()


def describe(error: BaseException) -> Failure | None:
    """Return what to tell about `error`; None when it is a fault of this program."""
    if isinstance(error, CliError):
        return _failure(error.reason, error.message, *error.hints)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _failure("INTERRUPTED", "interrupted")
    if isinstance(error, typer.TyperException):
        return _describe_usage(error)
    if isinstance(error, StartRefusedError):
        return _failure("START_REFUSED", str(error))
    if isinstance(error, OSError) and error.strerror is not None:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _failure("FILE", f"{where}{error.strerror}")
    return _describe_foreign(error)


def _failure(reason: str, message: str, *hints: str) -> Failure:
    common = HINTS.get(reason)
    every = (*hints, common) if common is not None and not hints else hints
    return Failure(reason, message, every, exit_code_of(reason))


def _describe_usage(error: typer.TyperException) -> Failure:
    context = getattr(error, "ctx", None)
    hints = (f"`{context.command_path} --help` explains",) if context is not None else ()
    return _failure("USAGE", error.format_message(), *hints)


def _describe_foreign(error: BaseException) -> Failure | None:
    """Describe an error of the services, the SDK or the audit log, by their own classes."""
    from strongroom.tlog.errors import VerificationError
    from strongroom_auditlog.errors import ArchiveError, EntryArchivedError, LogError
    from strongroom_auditlog.errors import StartRefusedError as LogStartRefusedError
    from strongroom_client.errors import StrongroomError

    if isinstance(error, ServerError):  # of a command that works on a shard by itself
        return _failure(error.reason, error.message)
    if isinstance(error, StrongroomError):
        failure = _failure(error.reason, str(error))
        return replace(failure, receipts=tuple(str(receipt) for receipt in error.receipts))
    for kind, reason in (
        (ArchiveError, "ARCHIVE"),
        (EntryArchivedError, "RECORD_ARCHIVED"),  # before its base, VerificationError
        (VerificationError, "UNVERIFIABLE"),
        (LogStartRefusedError, "START_REFUSED"),
        (LogError, "START_REFUSED"),
    ):
        if isinstance(error, kind):
            return _failure(reason, str(error))
    return None


def format_failure(failure: Failure, *, as_json: bool) -> str:
    """Return the text for standard error, without a final newline."""
    if as_json:
        body: dict[str, object] = {
            "reason": failure.reason,
            "message": failure.message,
            "hints": list(failure.hints),
            "exit_code": int(failure.exit_code),
        }
        if failure.receipts:
            body["receipts"] = list(failure.receipts)
        return json.dumps({"error": body}, ensure_ascii=False)
    lines = [f"error: {failure.reason}: {failure.message}"]
    lines += [f"hint: {hint}" for hint in failure.hints]
    return "\n".join(lines)
