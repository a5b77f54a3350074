"""Receipts: where the record of an answered call stands (docs/formats/receipt-v1.md).

A receipt is one ASCII text, sent in the trailing metadata `strongroom-receipt`:

    v1:{region}:{epoch}:{sequence}:{SHA-256 of the record's bytes, 64 hex digits}

with ``:buffered`` behind it when the answer did not wait for the disk.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

__all__ = ["METADATA_KEY", "Receipt", "ReceiptError"]

METADATA_KEY: Final = "strongroom-receipt"
MAX_U64: Final = 2**64 - 1

_RECEIPT: Final = re.compile(
    r"v1:(?P<region>[a-z][a-z0-9-]{0,31})"
    r":(?P<epoch>[1-9][0-9]{0,19}):(?P<sequence>[1-9][0-9]{0,19})"
    r":(?P<digest>[0-9a-f]{64})(?P<buffered>:buffered)?",
    re.ASCII,
)


class ReceiptError(ValueError):
    """The text is not a receipt."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Position of a record in its shard, and the SHA-256 of its bytes (32 bytes).

    `is_buffered` says that the record was not on disk yet when the answer was given: a
    crash may have lost it. It is no part of what a receipt is compared by.
    """

    region: str
    epoch: int
    sequence: int
    record_sha256: bytes
    is_buffered: bool = field(default=False, compare=False)

    @classmethod
    def for_record(cls, *, region: str, epoch: int, sequence: int, record: bytes) -> Receipt:
        """Make the receipt of `record`."""
        return cls(region, epoch, sequence, hashlib.sha256(record).digest())

    @classmethod
    def parse(cls, text: str) -> Receipt:
        """Parse `text`.

        Raises:
            ReceiptError: It is not a receipt.
        """
        match = _RECEIPT.fullmatch(text)
        if match is None:
            raise ReceiptError(
                "expected v1:{region}:{epoch}:{sequence}:{sha256}, perhaps :buffered"
            )
        epoch, sequence = int(match["epoch"]), int(match["sequence"])
        if epoch > MAX_U64 or sequence > MAX_U64:
            raise ReceiptError("epoch and sequence have 64 bits")
        digest = bytes.fromhex(match["digest"])
        return cls(match["region"], epoch, sequence, digest, match["buffered"] is not None)

    def __str__(self) -> str:
        ending = ":buffered" if self.is_buffered else ""
        return f"v1:{self.region}:{self.epoch}:{self.sequence}:{self.record_sha256.hex()}{ending}"
