"""Receipts as arguments and as files."""

from __future__ import annotations

from pathlib import Path

from strongroom.receipts import Receipt, ReceiptError
from strongroom_server.cli.failures import CliError

__all__ = ["parse_receipt", "read_receipts"]


def parse_receipt(text: str) -> Receipt:
    """Parse one receipt.

    Raises:
        CliError: It is none.
    """
    try:
        return Receipt.parse(text)
    except ReceiptError as exc:
        raise CliError.usage(f"{text!r} is not a receipt: {exc}") from exc


def read_receipts(path: Path) -> list[Receipt]:
    """Read a file of receipts, one a line; empty lines are skipped.

    Raises:
        CliError: A line is no receipt; the message has its number.
    """
    found = []
    with path.open(encoding="ascii", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            text = line.rstrip("\n")
            if not text:
                continue
            try:
                found.append(Receipt.parse(text))
            except ReceiptError as exc:
                raise CliError.usage(f"{path}: line {number}: not a receipt: {exc}") from exc
    return found
