"""Records as a shard writes them, and logs made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from strongroom.receipts import Receipt
from strongroom.tlog.checkpoint import VerifierKey
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.log import AuditLog, ShardBatch, create_log
from strongroom_auditlog.records import Position
from strongroom_auditlog.retention.store import ArchiveFiles

__all__ = ["LogHome", "batch", "receipt_of", "record"]

ORIGIN = "audit.example.org/strongroom"


def record(region: str, epoch: int, sequence: int, /, **changes: object) -> bytes:
    """Return a record at a position, with some members changed."""
    members: dict[str, object] = {
        "encryption_context": {"tenant": "acme"},
        "epoch": epoch,
        "id": f"01900000-0000-7000-8000-{sequence:012d}",
        "key": f"regions/{region}/keys/3f0c2a52-5d0d-4f5e-9a75-1a2b3c4d5e6f",
        "key_version": 1,
        "method": "Decrypt",
        "outcome": "OK",
        "peer": "ipv4:192.0.2.7:40000",
        "policy": "owner",
        "principal": "spiffe://example.org/orders",
        "region": region,
        "schema": "strongroom.audit.v1",
        "sequence": sequence,
        "time": "2026-01-02T03:04:05.678901Z",
        "validate_only": False,
    }
    members.update(changes)
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def batch(region: str, epoch: int, sequences: Iterable[int]) -> ShardBatch:
    """Return consecutive records of a shard."""
    numbers = list(sequences)
    return ShardBatch(
        Position(region, epoch, numbers[0]), tuple(record(region, epoch, n) for n in numbers)
    )


def receipt_of(data: bytes) -> Receipt:
    """Return the receipt that the shard gave for a record."""
    members = json.loads(data)
    return Receipt.for_record(
        region=members["region"],
        epoch=members["epoch"],
        sequence=members["sequence"],
        record=data,
    )


@dataclass(frozen=True)
class LogHome:
    """A directory with a log, its state and its key."""

    root: Path
    signer: Signer

    @classmethod
    def create(cls, root: Path) -> LogHome:
        """Create an empty log below `root`."""
        home = cls(root, Signer(ORIGIN, Ed25519PrivateKey.generate()))
        root.mkdir(parents=True, exist_ok=True)
        create_log(home.directory, home.state_file, home.last_checkpoint_file, home.signer)
        return home

    @property
    def directory(self) -> Path:
        """What is served."""
        return self.root / "log"

    @property
    def state_file(self) -> Path:
        """The state."""
        return self.root / "state.sqlite3"

    @property
    def last_checkpoint_file(self) -> Path:
        """The store of the last checkpoint."""
        return self.root / "last-checkpoint.sqlite3"

    @property
    def key(self) -> VerifierKey:
        """The verifier key."""
        return self.signer.verifier_key

    def open(self, archive: ArchiveFiles | None = None) -> AuditLog:
        """Open the log, and publish what an earlier process left."""
        log = AuditLog.open(
            self.directory,
            self.state_file,
            self.last_checkpoint_file,
            self.signer,
            archive=archive,
        )
        log.append([])
        return log

    def fill(self, *batches: ShardBatch) -> str:
        """Append each batch under a checkpoint of its own; return the last checkpoint."""
        log = self.open()
        try:
            for item in batches:
                log.append([item])
            return log.checkpoint.text
        finally:
            log.close()
