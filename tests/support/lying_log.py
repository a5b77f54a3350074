"""An audit log in memory that a client asks, which can be told to lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message
from tests.support.audit_tree import Tree

from strongroom.audit.v1 import audit_log_service_pb2 as pb
from strongroom.tlog.merkle import consistency_proof, inclusion_proof
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.records import parse_position
from strongroom_client import AsyncKmsClient, KmsClient
from strongroom_client._core import AUDIT_LOG, Call, Reply
from strongroom_client._drivers import AsyncDriver, Driver, Limits
from strongroom_client.errors import RecordNotFoundError

__all__ = ["LyingLog"]

LIMITS = Limits(5.0, 1)


class LyingLog:
    """Honest unless `change` alters its answers."""

    def __init__(self, directory: Path, private_key: Ed25519PrivateKey | None = None):
        self.tree = Tree(directory)
        self.private_key = private_key or Ed25519PrivateKey.generate()
        self.signer = Signer("audit.example.org/strongroom", self.private_key)
        self.records: list[bytes] = []
        self.change: Callable[[Message], None] | None = None
        self.calls: list[str] = []

    @property
    def vkey(self) -> str:
        """The verifier key."""
        return str(self.signer.verifier_key)

    @property
    def checkpoint(self) -> str:
        """The signed checkpoint."""
        return self.signer.sign(self.tree.size, self.tree.edge.root()).text

    def append(self, records: Sequence[bytes]) -> None:
        """Log records."""
        self.records += records
        self.tree.append(records)

    def client(self) -> KmsClient:
        """Return a client of this log."""
        return KmsClient.over(Driver(_Transport(self), LIMITS), ("eu-1",))

    def async_client(self) -> AsyncKmsClient:
        """Return an asyncio client of this log."""
        return AsyncKmsClient.over(AsyncDriver(_AsyncTransport(self), LIMITS), ("eu-1",))

    def answer(self, call: Call) -> Message:
        """Answer one call."""
        assert call.region == AUDIT_LOG
        self.calls.append(call.method)
        subtree = partial(self.tree.files.subtree_hash, self.tree.size)
        request = call.request
        answer: Message
        if isinstance(request, pb.GetInclusionProofRequest):
            at = request.position
            wanted = (at.region, at.epoch, at.sequence)
            found = [n for n, r in enumerate(self.records) if parse_position(r) == wanted]
            if not found:
                raise RecordNotFoundError("no such record")
            index = found[0]
            answer = pb.GetInclusionProofResponse(
                index=index,
                hashes=inclusion_proof(index, self.tree.size, subtree),
                checkpoint=self.checkpoint,
                record=self.records[index] if request.record_sha256 else b"",
            )
        else:
            assert isinstance(request, pb.GetConsistencyProofRequest)
            answer = pb.GetConsistencyProofResponse(
                hashes=consistency_proof(request.first_size, request.second_size, subtree),
                second_size=request.second_size,
            )
        if self.change is not None:
            self.change(answer)
        return answer


class _Transport:
    def __init__(self, log: LyingLog):
        self._log = log

    def call(self, call: Call, *, timeout_seconds: float) -> Reply:
        del timeout_seconds
        return Reply(self._log.answer(call), ())

    def close(self) -> None:
        """Nothing to close."""


class _AsyncTransport:
    def __init__(self, log: LyingLog):
        self._log = log

    async def call(self, call: Call, *, timeout_seconds: float) -> Reply:
        del timeout_seconds
        return Reply(self._log.answer(call), ())

    async def close(self) -> None:
        """Nothing to close."""
