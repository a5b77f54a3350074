"""Which file becomes which: decided for all files before the first one is touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom_server.cli.failures import CliError

__all__ = ["SUFFIX", "Job", "decrypted_name", "encrypted_name", "plan_jobs", "plan_jobs_in_place"]

SUFFIX: Final = ".srm"  # docs/formats/envelope-v1.md
STDIO: Final = Path("-")


@dataclass(frozen=True, slots=True)
class Job:
    """One file to make from another; None is standard input or standard output."""

    source: Path | None
    target: Path | None


def encrypted_name(name: str) -> str:
    """Return the name of the envelope of a file."""
    return name + SUFFIX


def decrypted_name(name: str) -> str:
    """Return the name of the file in an envelope.

    Raises:
        CliError: The name does not say.
    """
    if not name.endswith(SUFFIX) or name == SUFFIX:
        raise CliError.usage(
            f"{name}: does not end in {SUFFIX}, so the name of the result is not known",
            "give --out FILE",
        )
    return name.removesuffix(SUFFIX)


def plan_jobs(
    sources: Sequence[Path],
    rename: Callable[[str], str],
    *,
    out: Path | None,
    output_dir: Path | None,
    force: bool,
) -> list[Job]:
    """Return what to make from what.

    Without `force` nothing that is there now will be replaced. A result is renamed into
    its place: what appears there while the command runs is replaced all the same.

    Raises:
        CliError: The arguments do not go together, a source is not there, two results
            would have one name, or a result exists and `force` is not given.
    """
    if out is not None and output_dir is not None:
        raise CliError.usage("--out and --output-dir exclude each other")
    if len(sources) > 1 and out is not None:
        raise CliError.usage("--out takes one file; use --output-dir for several")
    if len(sources) > 1 and STDIO in sources:
        raise CliError.usage("- cannot be mixed with files")
    if sources[0] == STDIO:
        if output_dir is not None:
            raise CliError.usage("- has no name for --output-dir; use --out FILE")
        jobs = [Job(None, None if out in {None, STDIO} else out)]
    elif out == STDIO:
        jobs = [Job(sources[0], None)]
    else:
        jobs = [Job(source, _target(source, rename, out, output_dir)) for source in sources]
    _check(jobs, force=force)
    return jobs


def plan_jobs_in_place(sources: Sequence[Path]) -> list[Job]:
    """Return jobs that replace each file by its result; - goes to standard output.

    Raises:
        CliError: A source is not there or named twice, or - is mixed with files.
    """
    if list(sources) == [STDIO]:
        return [Job(None, None)]
    if STDIO in sources:
        raise CliError.usage("- cannot be mixed with files")
    for number, source in enumerate(sources):
        if not source.is_file():
            raise CliError.usage(f"{source}: no such file")
        if any(source.samefile(other) for other in sources[:number]):
            raise CliError.usage(f"{source}: named twice")
    return [Job(source, source) for source in sources]


def _target(
    source: Path, rename: Callable[[str], str], out: Path | None, output_dir: Path | None
) -> Path:
    if out is not None:
        return out
    directory = source.parent if output_dir is None else output_dir
    return directory / rename(source.name)


def _check(jobs: Sequence[Job], *, force: bool) -> None:
    origins: dict[Path, Path | None] = {}
    for job in jobs:
        if job.source is not None and not job.source.is_file():
            what = "not a file" if job.source.exists() else "no such file"
            raise CliError.usage(f"{job.source}: {what}")
        if job.target is None:
            continue
        place = job.target.absolute()
        if place in origins:
            raise CliError.usage(f"{job.source} and {origins[place]} would both become {place}")
        origins[place] = job.source
        if job.source is not None and job.target.exists() and job.target.samefile(job.source):
            raise CliError.usage(f"{job.source}: the result would replace its source")
        if job.target.is_dir():
            raise CliError.usage(f"{job.target}: is a directory", "use --output-dir")
        if job.target.exists() and not force:
            raise CliError("FILE_EXISTS", f"{job.target} exists")
