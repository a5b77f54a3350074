"""Carries out planned jobs, one after the other, over one connection and one data-key cache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeAlias

import typer

from strongroom_client import DataKeyCache, EnvelopeClient, EnvelopeInvalidError, KmsClient
from strongroom_client.stream import StreamReport
from strongroom_server.cli.connection import load_client_options
from strongroom_server.cli.exit_codes import ExitCode
from strongroom_server.cli.failures import describe, format_failure
from strongroom_server.cli.file_plan import Job
from strongroom_server.cli.options import Format
from strongroom_server.cli.output import binary_input, binary_output, note, print_rows, printable
from strongroom_server.cli.progress import sized
from strongroom_server.cli.result_files import replacing
from strongroom_server.cli.targets import parse_target

__all__ = ["Work", "run_jobs"]

Advance: TypeAlias = Callable[[int], None]
OfFile: TypeAlias = Callable[[EnvelopeClient, Path, Path, Advance], StreamReport]
OfStream: TypeAlias = Callable[[EnvelopeClient, BinaryIO, BinaryIO, Advance], StreamReport]
COLUMNS = ("source", "target", "bytes")


@dataclass(frozen=True, slots=True)
class Work:
    """What is done to each file: in words, file to file, and stream to stream."""

    what: str
    of_file: OfFile
    of_stream: OfStream
    shows_context: bool


def run_jobs(
    jobs: Sequence[Job],
    work: Work,
    *,
    keys: Sequence[str],
    config: Path | None,
    region: str | None,
    force: bool,
    output: Format,
) -> None:
    """Do `work` for every job.

    A file that cannot be read, written or opened is told and left out; trouble with the
    service or a key ends the command, since it would meet every further file too.

    Raises:
        typer.Exit: Some files were left out; with the exit code of the first.
        CliError: Nothing was done: an argument cannot be used.
        StrongroomError: The service refuses or cannot be reached.
    """
    if any(job.target is None for job in jobs):
        binary_output(work.what)
    options = load_client_options(config, region)
    names = [str(parse_target(key, region=options.regions[0])) for key in keys]
    reports: list[dict[str, str | int | float | bool | None]] = []
    first_failure: ExitCode | None = None
    with ExitStack() as stack:
        client = stack.enter_context(KmsClient(options))
        envelopes = EnvelopeClient(client, keys=names, cache=DataKeyCache())
        advance = stack.enter_context(sized(_total_bytes(jobs)))
        for job in jobs:
            try:
                report = _run_job(job, work, envelopes, _advance_of(job, advance), force=force)
            except (EnvelopeInvalidError, OSError) as exc:
                failure = describe(exc)
                if failure is None or isinstance(exc, BrokenPipeError) or len(jobs) == 1:
                    raise
                told = replace(failure, message=f"{_name(job.source)}: {failure.message}")
                note(format_failure(told, as_json=output is Format.JSON))
                first_failure = first_failure or failure.exit_code
                continue
            if work.shows_context:
                note(f"{_name(job.source)}: {_context_text(report.encryption_context)}")
            reports.append(
                {
                    "source": _name(job.source),
                    "target": _name(job.target),
                    "bytes": report.body_bytes,
                }
            )
    if output is Format.JSON and all(job.target is not None for job in jobs):
        print_rows(reports, COLUMNS, output)
    if first_failure is not None:
        if output is not Format.JSON:
            note(f"{len(jobs) - len(reports)} of {len(jobs)} files left out")
        raise typer.Exit(first_failure)


def _run_job(
    job: Job, work: Work, envelopes: EnvelopeClient, advance: Advance, *, force: bool
) -> StreamReport:
    if job.target is not None:
        job.target.parent.mkdir(parents=True, exist_ok=True)
    if job.source is not None and job.target is not None:
        return work.of_file(envelopes, job.source, job.target, advance)
    with ExitStack() as stack:
        source = (
            binary_input() if job.source is None else stack.enter_context(job.source.open("rb"))
        )
        if job.target is not None:
            sink = stack.enter_context(replacing(job.target, mode=0o600, force=force))
            return work.of_stream(envelopes, source, sink, advance)
        report = work.of_stream(envelopes, source, sys.stdout.buffer, advance)
        sys.stdout.buffer.flush()
        return report


def _total_bytes(jobs: Sequence[Job]) -> int | None:
    if any(job.source is None for job in jobs):
        return None
    return sum(job.source.stat().st_size for job in jobs if job.source is not None)


def _advance_of(job: Job, advance: Callable[[str, int], None] | None) -> Advance:
    name = _name(job.source)

    def count(more: int) -> None:
        if advance is not None:
            advance(name, more)

    return count


def _name(path: Path | None) -> str:
    return "-" if path is None else str(path)


def _context_text(context: Mapping[str, str]) -> str:
    if not context:
        return "no encryption context"
    pairs = ", ".join(f"{key}={value}" for key, value in sorted(context.items()))
    return printable(f"encryption context {pairs}")
