"""``strongroom audit archive``, ``prune`` and ``restore-archive``: retention of the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom_server.cli.options import ForceOption, Format, OutOption, OutputOption

if TYPE_CHECKING:
    from strongroom.tlog.checkpoint import VerifierKey
    from strongroom_auditlog.config import Config
    from strongroom_auditlog.retention.bounds import Bound

__all__ = ["archive", "prune", "restore_archive"]

LogConfigOption = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="Configuration of the audit log.")
]
ARCHIVE_HELP = "Directory, or s3://bucket/prefix; without it [archive] location."
BeforeOption = Annotated[
    str | None,
    typer.Option("--before", metavar="DATE", help="Records from before a date, or a time."),
]
BeforeLeafOption = Annotated[
    int | None, typer.Option("--before-leaf", min=1, metavar="N", help="Records below a leaf.")
]
OlderThanOption = Annotated[
    str | None,
    typer.Option("--older-than", metavar="AGE", help="Records older than 90d, 12w or 36h."),
]


def archive(
    *,
    config: LogConfigOption,
    to: Annotated[str | None, typer.Option("--to", metavar="ARCHIVE", help=ARCHIVE_HELP)] = None,
    before: BeforeOption = None,
    before_leaf: BeforeLeafOption = None,
    older_than: OlderThanOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Copy the log's records to an archive.

    What is copied is read again and followed up to the signed root. The log goes on
    meanwhile; an archiving that was interrupted is taken up by the next one.
    """
    from strongroom_auditlog.retention.archiving import archive_log
    from strongroom_auditlog.retention.store import open_store
    from strongroom_auditlog.tiles import LogFiles
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.progress import counted

    loaded, location = _configured(config, to, "--to")
    bound = _bound(before, before_leaf, older_than)
    store = open_store(location)
    with counted("archiving", "bundles of 256 records") as progress:
        done = archive_log(
            LogFiles(loaded.log.directory),
            _verifier_key(loaded),
            store,
            bound=bound,
            progress=progress,
        )
    print_fields(
        {
            "archive": store.location,
            "archived_records": done.records,
            "new_records": done.new_records,
            "log_records": done.checkpoint.size,
            "root": done.checkpoint.root.hex(),
        },
        output,
    )


def prune(
    *,
    config: LogConfigOption,
    archived_in: Annotated[
        str | None, typer.Option("--archived-in", metavar="ARCHIVE", help=ARCHIVE_HELP)
    ] = None,
    before: BeforeOption = None,
    before_leaf: BeforeLeafOption = None,
    older_than: OlderThanOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Remove records from the log that an archive provably has.

    Each bundle is fetched from the archive and compared with the signed tree first.
    Hashes and checkpoints stay, so every proof stays valid. The log goes on meanwhile.
    """
    from strongroom_auditlog.retention.pruning import prune_log
    from strongroom_auditlog.retention.store import open_store
    from strongroom_auditlog.tiles import LogFiles
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import print_fields
    from strongroom_server.cli.progress import counted

    loaded, location = _configured(config, archived_in, "--archived-in")
    bound = _bound(before, before_leaf, older_than)
    if bound is None:
        raise CliError.usage("say what may go: --older-than, --before or --before-leaf")
    store = open_store(location)
    with counted("pruning", "bundles of 256 records") as progress:
        done = prune_log(
            LogFiles(loaded.log.directory),
            _verifier_key(loaded),
            store,
            bound=bound,
            progress=progress,
        )
    print_fields(
        {
            "archive": store.location,
            "minimum_index": done.minimum_index,
            "removed_records": done.removed_records,
            "freed_bytes": done.freed_bytes,
        },
        output,
    )


def restore_archive(
    *,
    archived_in: Annotated[
        str | None, typer.Option("--from", metavar="ARCHIVE", help=ARCHIVE_HELP)
    ] = None,
    leaf: Annotated[
        int | None, typer.Option("--leaf", min=0, metavar="N", help="The record of a leaf.")
    ] = None,
    receipt: Annotated[
        str | None, typer.Option("--receipt", help="The record of a receipt.")
    ] = None,
    vkey: Annotated[
        Path | None,
        typer.Option(
            "--vkey", metavar="FILE", help="Verifier key, got out of band; without --config."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Configuration of the audit log: the proof then leads to the log's newest "
            "checkpoint instead of the archive's own.",
        ),
    ] = None,
    out: OutOption = None,
    proof_file: Annotated[
        Path | None, typer.Option("--proof", metavar="FILE", help="Write the proof too.")
    ] = None,
    force: ForceOption = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Fetch a record from an archive and prove it.

    Writes the record's exact bytes, once they are proven to be in the log; --proof adds a
    C2SP tlog-proof, which `audit check-proof` checks.
    """
    from strongroom_auditlog.keys import load_verifier_key
    from strongroom_auditlog.retention.restoring import restore_leaf, restore_receipt
    from strongroom_auditlog.retention.store import open_store
    from strongroom_auditlog.tiles import LogFiles
    from strongroom_server.cli.audit_receipts import parse_receipt
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import note
    from strongroom_server.cli.result_files import Destination

    del output  # errors only: it was noted when it was read
    if (leaf is None) == (receipt is None):
        raise CliError.usage("one of --leaf and --receipt")
    if (vkey is None) == (config is None):
        raise CliError.usage("one of --vkey and --config")
    wanted = None if receipt is None else parse_receipt(receipt)
    log = None
    if config is not None:
        loaded, location = _configured(config, archived_in, "--from")
        key, log = _verifier_key(loaded), LogFiles(loaded.log.directory)
    elif archived_in is None or vkey is None:
        raise CliError.usage("with --vkey, --from says where the archive is")
    else:
        key, location = load_verifier_key(vkey), archived_in
    # Records name callers and keys.
    record_to = Destination.of(out, "a record", private=True, force=force, is_text=True)
    proof_to = None
    if proof_file is not None:
        proof_to = Destination.of(proof_file, "a proof", private=False, force=force, is_text=True)
    store = open_store(location)
    if wanted is not None:
        restored = restore_receipt(store, key, wanted, log=log)
    else:
        restored = restore_leaf(store, key, leaf or 0, log=log)
    record_to.write(restored.record)
    if proof_to is not None:
        proof_to.write(str(restored.proof).encode())
    note(f"record {restored.leaf} of the log, proven in {restored.checkpoint.size} records")


def _configured(path: Path, location: str | None, option: str) -> tuple[Config, str]:
    """Return the configuration, and where the archive is.

    Raises:
        CliError: Nothing says where.
    """
    from strongroom_server.cli.config_kinds import load_audit_log_config
    from strongroom_server.cli.failures import CliError

    loaded = load_audit_log_config(path)
    location = location or loaded.archive.location
    if location is None:
        raise CliError.usage(f"say where the archive is: {option}, or [archive] location")
    return loaded, location


def _verifier_key(config: Config) -> VerifierKey:
    from strongroom_auditlog.keys import load_verifier_key

    return load_verifier_key(config.verifier_key_file)


def _bound(before: str | None, before_leaf: int | None, older_than: str | None) -> Bound | None:
    """Return the bound that the options say; None when there is none of them.

    Raises:
        CliError: More than one is given, or one is malformed.
    """
    import datetime as dt

    from strongroom_auditlog.retention.bounds import Bound, parse_age, parse_moment
    from strongroom_server.cli.failures import CliError

    if sum(option is not None for option in (before, before_leaf, older_than)) > 1:
        raise CliError.usage("only one of --before, --before-leaf and --older-than")
    try:
        if before is not None:
            return Bound.before(parse_moment(before))
        if older_than is not None:
            return Bound.before(dt.datetime.now(dt.UTC) - parse_age(older_than))
    except (ValueError, OverflowError) as exc:
        raise CliError.usage(str(exc)) from exc
    return None if before_leaf is None else Bound(before_leaf=before_leaf)
