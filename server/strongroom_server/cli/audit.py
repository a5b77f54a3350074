"""``strongroom audit``: read the audit log, prove and verify it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom_server.cli import (
    audit_check,
    audit_export,
    audit_identifiers,
    audit_retention,
    audit_search,
    audit_summary,
)
from strongroom_server.cli.audit_witnesses import (
    WitnessesRequiredOption,
    WitnessOption,
    cosigned_fields,
    witness_policy,
)
from strongroom_server.cli.options import (
    ConfigOption,
    ForceOption,
    Format,
    OutOption,
    OutputOption,
)

if TYPE_CHECKING:
    from strongroom.receipts import Receipt
    from strongroom.tlog.proof import TlogProof
    from strongroom_server.cli.audit_remote import AuditLogClient

__all__ = ["app"]

app = typer.Typer(
    help="Read the audit log, prove and verify it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("tail")(audit_search.tail)
app.command("search")(audit_search.search)
app.command("export")(audit_export.export)
app.command("summary")(audit_summary.summary)
app.command("check-receipts")(audit_check.check_receipts)
app.command("hash-identifier")(audit_identifiers.hash_identifier)
app.command("archive")(audit_retention.archive)
app.command("prune")(audit_retention.prune)
app.command("restore-archive")(audit_retention.restore_archive)
FOLLOW_SECONDS = 0.5

VkeyOption = Annotated[
    Path, typer.Option("--vkey", metavar="FILE", help="Verifier key, got out of band (log.vkey).")
]
ReceiptArgument = Annotated[
    str, typer.Argument(metavar="RECEIPT", help="v1:REGION:EPOCH:SEQUENCE:SHA256")
]


@app.command("verify")
def verify(
    *,
    log: Annotated[Path, typer.Option("--log", metavar="DIR", help="The log, or a copy of it.")],
    vkey: VkeyOption,
    receipt: Annotated[
        list[str] | None,
        typer.Option("--receipt", help="Receipt whose record must be in the log; may be repeated."),
    ] = None,
    receipts: Annotated[
        Path | None, typer.Option("--receipts", metavar="FILE", help="Receipts, one a line.")
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Older checkpoint that the log must have grown from; may be repeated.",
        ),
    ] = None,
    witness: WitnessOption = None,
    witnesses_required: WitnessesRequiredOption = None,
    archive: Annotated[
        str | None,
        typer.Option(
            "--archive",
            metavar="ARCHIVE",
            help="Where the records are that were pruned: directory, or s3://bucket/prefix.",
        ),
    ] = None,
    complete: Annotated[
        bool,
        typer.Option(
            "--complete", help="Fail when records were pruned and --archive is not given."
        ),
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Verify a whole log offline.

    From its files and the verifier key alone; with --witness the checkpoint must carry the
    cosignatures of witnesses too. Of a pruned log, the records below the mark
    are read from --archive; without it only their hashes are verified, and the answer says
    so.
    """
    from strongroom_auditlog.errors import EntryArchivedError
    from strongroom_auditlog.keys import load_verifier_key
    from strongroom_auditlog.retention.store import open_store
    from strongroom_auditlog.tiles import LogFiles
    from strongroom_auditlog.verify import verify_log
    from strongroom_server.cli.audit_receipts import parse_receipt, read_receipts
    from strongroom_server.cli.output import note, print_fields
    from strongroom_server.cli.progress import counted

    wanted = [parse_receipt(text) for text in receipt or []]
    if receipts is not None:
        wanted += read_receipts(receipts)
    older = [path.read_text(encoding="utf-8") for path in checkpoint or []]
    with counted("verifying", "records") as progress:
        verified = verify_log(
            log,
            load_verifier_key(vkey),
            receipts=wanted,
            older_checkpoints=older,
            witnesses=witness_policy(witness, witnesses_required),
            archive=None if archive is None else open_store(archive),
            progress=progress,
        )
    if verified.unread and complete:
        raise EntryArchivedError("log", verified.unread, LogFiles(log).read_mark().archive)
    print_fields(
        {
            "verified": True,
            "origin": verified.checkpoint.origin,
            "records": verified.checkpoint.size,
            "root": verified.checkpoint.root.hex(),
            "records_read": verified.checkpoint.size - verified.unread,
            "hashes_alone": verified.unread,
            **{
                f"shard {region}": f"sequence 1 to {sequence} of epoch {epoch}"
                for region, (epoch, sequence) in sorted(verified.shards.items())
            },
            "receipts": len(verified.receipts),
            "older_checkpoints": len(older),
            **cosigned_fields(verified.checkpoint),
        },
        output,
    )
    if verified.unread:
        note(
            f"the records below leaf {verified.unread} were pruned: their hashes verified, they "
            "themselves were not seen; --archive reads them"
        )


@app.command("prove")
def prove(
    receipt: ReceiptArgument,
    *,
    out: OutOption = None,
    record_file: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="FILE",
            help="Write the record's exact bytes too; `audit check-proof` needs them.",
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How long to wait for a record on its way."),
    ] = 5.0,
    force: ForceOption = False,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Prove that a receipt's record is logged.

    Asks the audit log for the inclusion proof and writes it as a C2SP tlog-proof.

    A record is durable before its answer, and in the log a moment later.
    """
    from strongroom_server.cli.audit_receipts import parse_receipt
    from strongroom_server.cli.audit_remote import AuditLogClient
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import note
    from strongroom_server.cli.result_files import Destination

    del output  # errors only: it was noted when it was read
    parsed = parse_receipt(receipt)
    proof_to = Destination.of(out, "a proof", private=False, force=force, is_text=True)
    record_to = None
    if record_file is not None:
        record_to = Destination.of(record_file, "a record", private=True, force=force)
    with AuditLogClient(load_client_options(config)) as client:
        proof = _prove(client, parsed, until=time.monotonic() + wait)
        if record_to is not None:
            records, _ = client.records(proof.index, 1)
            if not records or records[0][0] != proof.index:
                raise CliError("RECORD_NOT_FOUND", f"the log does not show record {proof.index}")
            record_to.write(records[0][1])
    proof_to.write(str(proof).encode())
    note(f"record {proof.index} of the log")


@app.command("check-proof")
def check_proof(
    proof_file: Annotated[Path, typer.Argument(metavar="PROOF", help="What `prove` wrote.")],
    *,
    record_file: Annotated[
        Path, typer.Option("--record", metavar="FILE", help="The record's exact bytes.")
    ],
    vkey: VkeyOption,
    receipt: Annotated[
        str | None, typer.Option("--receipt", help="Receipt that the record must belong to.")
    ] = None,
    witness: WitnessOption = None,
    witnesses_required: WitnessesRequiredOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check a proof offline.

    The record must be in the log that the verifier key belongs to.
    """
    from strongroom.tlog.proof import TlogProof, verify_proof
    from strongroom_auditlog.keys import load_verifier_key
    from strongroom_auditlog.proofs import verify_receipt_proof
    from strongroom_server.cli.audit_receipts import parse_receipt
    from strongroom_server.cli.output import print_fields

    proof = TlogProof.parse(proof_file.read_text(encoding="utf-8"))
    record = record_file.read_bytes()
    key = load_verifier_key(vkey)
    policy = witness_policy(witness, witnesses_required)
    if receipt is None:
        checkpoint = verify_proof(proof, record=record, key=key, witnesses=policy)
    else:
        checkpoint = verify_receipt_proof(
            parse_receipt(receipt), proof, record=record, key=key, witnesses=policy
        )
    print_fields(
        {
            "verified": True,
            "origin": checkpoint.origin,
            "record": proof.index,
            "log_records": checkpoint.size,
            **cosigned_fields(checkpoint),
        },
        output,
    )


def _prove(client: AuditLogClient, receipt: Receipt, *, until: float) -> TlogProof:
    from strongroom_server.cli.failures import CliError

    while True:
        try:
            return client.prove(receipt)
        except CliError as exc:
            if exc.reason != "RECORD_NOT_FOUND" or time.monotonic() > until:
                raise
        time.sleep(FOLLOW_SECONDS)
