"""Which witnesses must have cosigned, as options of `strongroom audit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from strongroom.tlog.checkpoint import Checkpoint
    from strongroom.tlog.cosignature import WitnessPolicy

__all__ = ["WitnessOption", "WitnessesRequiredOption", "cosigned_fields", "witness_policy"]

WitnessOption = Annotated[
    list[str] | None,
    typer.Option(
        "--witness",
        metavar="VKEY",
        help="Verifier key of a witness, or a file with it (witness.vkey); may be repeated.",
    ),
]
WitnessesRequiredOption = Annotated[
    int | None,
    typer.Option(
        "--witnesses-required",
        metavar="N",
        min=1,
        help="How many of the --witness must have cosigned; all by default.",
    ),
]


def witness_policy(keys: Sequence[str] | None, required: int | None) -> WitnessPolicy:
    """Make the policy that the options ask for.

    Raises:
        CliError: A key is malformed or given twice, or more are required than given.
    """
    from strongroom.tlog.cosignature import WitnessPolicy
    from strongroom.tlog.errors import CheckpointInvalidError
    from strongroom_server.cli.failures import CliError

    try:
        return WitnessPolicy.parse([_key_in(text) for text in keys or ()], required)
    except (ValueError, CheckpointInvalidError) as exc:
        raise CliError.usage(f"--witness: {exc}") from exc


def cosigned_fields(checkpoint: Checkpoint) -> dict[str, str | int | float | None]:
    """Return what to print of the cosignatures of known witnesses."""
    import datetime as dt

    return {
        f"cosigned by {cosignature.key.name}": dt.datetime.fromtimestamp(
            cosignature.timestamp, dt.UTC
        ).strftime("%Y-%m-%dT%H:%M:%SZ")
        for cosignature in checkpoint.cosignatures
        if cosignature.timestamp < 2**37  # what a calendar can show
    }


def _key_in(text: str) -> str:
    # A key is text with two plus signs; only what is none is looked for as a file.
    return text if text.count("+") > 1 else Path(text).read_text(encoding="utf-8")
