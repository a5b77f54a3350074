"""``strongroom audit check-receipts``: every receipt that was kept, against the audit log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strongroom_server.cli.audit_witnesses import WitnessesRequiredOption, WitnessOption
from strongroom_server.cli.options import ConfigOption, Format, OutputOption

if TYPE_CHECKING:
    from strongroom.receipts import Receipt

__all__ = ["check_receipts"]

Wrong = tuple[str, str]
"""A receipt, and what is wrong with it."""


def check_receipts(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="What a ReceiptLog wrote, or receipts, one a line."),
    ],
    *,
    vkey: Annotated[
        Path,
        typer.Option(
            "--vkey", "--verifier-key", metavar="FILE", help="Verifier key, got out of band."
        ),
    ],
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="DIR",
            help="Check against a copy of the log's directory, all of which is verified, instead "
            "of asking the audit log for proofs.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint-store",
            metavar="FILE",
            help="Where the newest checkpoint is kept: the log must have grown from it.",
        ),
    ] = None,
    witness: WitnessOption = None,
    witnesses_required: WitnessesRequiredOption = None,
    config: ConfigOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check kept receipts.

    The record of each must be in the log, with exactly its bytes. Those that are missing or
    wrong are named, and the exit code is 6 then.

    Without --log you must be the principal of the records, or a reader of the log.
    """
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.output import note, print_rows

    # One receipt a call, several times: what was kept twice is checked once.
    receipts = list(dict.fromkeys(_read(files)))
    if log is None:
        wrong = _ask(
            receipts,
            config=config,
            vkey=vkey,
            checkpoint=checkpoint,
            witnesses=witness or [],
            required=witnesses_required,
        )
    else:
        if checkpoint is not None:
            raise CliError.usage(
                "--checkpoint-store is not for --log", "`audit verify --checkpoint` compares"
            )
        wrong = _look(receipts, log, vkey, witness, witnesses_required)
    rows = [{"receipt": receipt, "problem": problem} for receipt, problem in wrong]
    if rows or output is Format.JSON:
        print_rows(rows, ["receipt", "problem"], output)
    note(f"{len(receipts) - len(rows)} of {len(receipts)} receipts are in the log")
    if rows:
        raise CliError("UNVERIFIABLE", f"{len(rows)} receipts are missing or wrong")


def _read(files: Iterable[Path]) -> Iterator[Receipt]:
    from strongroom_client.receipt_log import read_receipt_log
    from strongroom_server.cli.audit_receipts import read_receipts
    from strongroom_server.cli.failures import CliError

    for path in files:
        with path.open("rb") as file:
            is_receipt_log = file.read(1) == b"{"
        if not is_receipt_log:
            yield from read_receipts(path)
            continue
        try:
            yield from (kept.receipt for kept in read_receipt_log(path))
        except ValueError as exc:
            raise CliError.usage(str(exc)) from exc


def _ask(
    receipts: list[Receipt],
    *,
    config: Path | None,
    vkey: Path,
    checkpoint: Path | None,
    witnesses: list[str],
    required: int | None,
) -> list[Wrong]:
    """Have the audit log prove each receipt."""
    from strongroom_client import (
        AuditUnverifiedError,
        CheckpointStore,
        ForkDetectedError,
        KmsClient,
        RecordArchivedError,
        RecordNotFoundError,
    )
    from strongroom_server.cli.audit_witnesses import witness_policy
    from strongroom_server.cli.connection import load_client_options
    from strongroom_server.cli.progress import counted

    wrong: list[Wrong] = []
    key = vkey.read_text(encoding="utf-8")
    policy = witness_policy(witnesses, required)
    store = None if checkpoint is None else CheckpointStore(checkpoint)
    with (
        KmsClient(load_client_options(config)) as client,
        counted("checking", "receipts") as progress,
    ):
        for number, receipt in enumerate(receipts, start=1):
            try:
                client.audit.verify(
                    receipt,
                    verifier_key=key,
                    witnesses=[str(witness) for witness in policy.keys],
                    witnesses_required=policy.required,
                    checkpoints=store,
                )
            except ForkDetectedError:
                raise  # not about this receipt: nothing that the log says counts any more
            except RecordNotFoundError:
                wrong.append((str(receipt), "not in the log"))
            except RecordArchivedError:
                wrong.append((str(receipt), "in the archive; `audit restore-archive` proves it"))
            except AuditUnverifiedError as exc:
                wrong.append((str(receipt), str(exc).removeprefix(f"receipt {receipt}: ")))
            if progress is not None:
                progress(number, len(receipts))
    return wrong


def _look(
    receipts: list[Receipt],
    log: Path,
    vkey: Path,
    witnesses: list[str] | None,
    required: int | None,
) -> list[Wrong]:
    """Verify a copy of the log in full, and look the receipts up in it."""
    from hashlib import sha256

    from strongroom_auditlog.record_filter import RecordFilter
    from strongroom_auditlog.records import Position, parse_position
    from strongroom_server.cli.audit_source import open_source
    from strongroom_server.cli.audit_witnesses import witness_policy

    positions = {Position(r.region, r.epoch, r.sequence) for r in receipts}
    digests: dict[Position, bytes] = {}
    policy = witness_policy(witnesses, required)
    with open_source(config=None, log=log, vkey=vkey, witnesses=policy) as source:
        for page in source.ascending(RecordFilter(), 0):
            for _, record in page:
                position = parse_position(record)
                if position in positions:
                    digests[position] = sha256(record).digest()
    wrong: list[Wrong] = []
    for receipt in receipts:
        digest = digests.get(Position(receipt.region, receipt.epoch, receipt.sequence))
        if digest is None:
            wrong.append((str(receipt), "not in the log"))
        elif digest != receipt.record_sha256:
            wrong.append((str(receipt), "the log holds another record at its place"))
    return wrong
