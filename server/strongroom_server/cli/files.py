"""``strongroom encrypt``, ``decrypt``, ``rekey``: files and streams."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strongroom_server.cli.options import (
    ConfigOption,
    ContextOption,
    ForceOption,
    Format,
    OutOption,
    OutputOption,
    RegionOption,
)

__all__ = ["decrypt", "encrypt", "rekey"]

FilesArgument = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="Files; - is standard input.")
]
KeysOption = Annotated[
    list[str],
    typer.Option(
        "--key",
        metavar="KEY",
        help="Key or alias; repeat it for keys of several regions: any one of them opens.",
    ),
]
OutputDirOption = Annotated[
    Path | None,
    typer.Option(
        "--output-dir", metavar="DIR", help="Directory of the results; made when missing."
    ),
]


def encrypt(
    files: FilesArgument,
    *,
    key: KeysOption,
    context: ContextOption = None,
    out: OutOption = None,
    output_dir: OutputDirOption = None,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Encrypt files; FILE becomes FILE.srm.

    Files of one command share a data key. An envelope appears only when it is complete.
    """
    from strongroom_client import stream
    from strongroom_server.cli.file_jobs import Work, run_jobs
    from strongroom_server.cli.file_plan import encrypted_name, plan_jobs
    from strongroom_server.cli.targets import parse_contexts

    pairs = parse_contexts(context or [])
    jobs = plan_jobs(files, encrypted_name, out=out, output_dir=output_dir, force=force)
    work = Work(
        what="an envelope",
        of_file=lambda client, source, target, progress: stream.encrypt_file(
            client, source, target, encryption_context=pairs, progress=progress
        ),
        of_stream=lambda client, source, sink, progress: stream.encrypt_stream(
            client, source, sink, encryption_context=pairs, progress=progress
        ),
        shows_context=False,
    )
    run_jobs(jobs, work, keys=key, config=config, region=region, force=force, output=output)


def decrypt(
    files: FilesArgument,
    *,
    context: ContextOption = None,
    out: OutOption = None,
    output_dir: OutputDirOption = None,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Decrypt files; FILE.srm becomes FILE.

    With --context the envelope must have been made with exactly that context. Without it
    the envelope's own is taken and printed on standard error. Files are readable by you
    alone and appear only when the whole envelope was authenticated.
    """
    from strongroom_client import ANY_CONTEXT, stream
    from strongroom_server.cli.file_jobs import Work, run_jobs
    from strongroom_server.cli.file_plan import decrypted_name, plan_jobs
    from strongroom_server.cli.targets import parse_contexts

    expected = ANY_CONTEXT if context is None else parse_contexts(context)
    jobs = plan_jobs(files, decrypted_name, out=out, output_dir=output_dir, force=force)
    work = Work(
        what="a decrypted file",
        of_file=lambda client, source, target, progress: stream.decrypt_file(
            client, source, target, encryption_context=expected, progress=progress
        ),
        of_stream=lambda client, source, sink, progress: stream.decrypt_stream(
            client, source, sink, encryption_context=expected, progress=progress
        ),
        shows_context=context is None,
    )
    run_jobs(jobs, work, keys=[], config=config, region=region, force=force, output=output)


def rekey(
    files: FilesArgument,
    *,
    key: KeysOption,
    context: ContextOption = None,
    out: OutOption = None,
    output_dir: OutputDirOption = None,
    force: ForceOption = False,
    region: RegionOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Wrap the data keys of envelopes anew.

    In place, under the keys named. The body is not touched: use it after
    `keys rotate`, or to add or drop a region.
    """
    from strongroom_client import ANY_CONTEXT, stream
    from strongroom_server.cli.file_jobs import Work, run_jobs
    from strongroom_server.cli.file_plan import plan_jobs, plan_jobs_in_place
    from strongroom_server.cli.targets import parse_contexts

    expected = ANY_CONTEXT if context is None else parse_contexts(context)
    if out is None and output_dir is None:
        jobs = plan_jobs_in_place(files)
    else:
        jobs = plan_jobs(files, str, out=out, output_dir=output_dir, force=force)
    work = Work(
        what="an envelope",
        of_file=lambda client, source, target, progress: stream.rekey_file(
            client, source, target, encryption_context=expected, progress=progress
        ),
        of_stream=lambda client, source, sink, progress: stream.rekey_stream(
            client, source, sink, encryption_context=expected, progress=progress
        ),
        shows_context=False,
    )
    run_jobs(jobs, work, keys=key, config=config, region=region, force=force, output=output)
