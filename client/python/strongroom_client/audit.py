"""`KmsClient.audit`: check receipts against the audit log, without trusting it.

    key = Path("log.vkey").read_text()                  from the log's operator, out of band
    kept = CheckpointStore("audit.checkpoint")
    for receipt in result.receipts:
        kms.audit.verify(receipt, verifier_key=key, checkpoints=kept)

The receipt came with the answer that it is about. The log must show a record with exactly
its hash, prove that the record is in its tree, and sign that tree's root; with a
`CheckpointStore`, also prove that the tree only grew since the last time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from strongroom.receipts import Receipt
from strongroom.tlog.checkpoint import Checkpoint
from strongroom.tlog.cosignature import WitnessPolicy
from strongroom.tlog.errors import VerificationError
from strongroom.tlog.note import VerifierKey
from strongroom_client import _audit_calls
from strongroom_client._audit_calls import Trust, VerifiedRecord
from strongroom_client._drivers import AsyncDriver, Driver
from strongroom_client.checkpoints import CheckpointStore
from strongroom_client.errors import ArgumentInvalidError

__all__ = ["AsyncAuditClient", "AuditClient", "VerifiedRecord"]


class AuditClient:
    """Asks the audit log. Get it as `KmsClient.audit`; the options must say where the log is.

    Every method raises RecordNotFoundError while a record is on its way, and
    RecordArchivedError when it left the log for the archive.

    Thread safety: any number of threads.
    """

    def __init__(self, driver: Driver):
        """Use a client's connections; internal to the SDK."""
        self._driver = driver

    def prove(self, receipt: Receipt) -> str:
        """Return the inclusion proof of a receipt's record, as a C2SP tlog-proof.

        It is the log's word, not verified here: whoever has the record's bytes and the log's
        verifier key verifies it, offline (`strongroom audit check-proof`).
        """
        return self._driver.run(_audit_calls.prove(receipt))

    def verify(
        self,
        receipt: Receipt,
        *,
        verifier_key: str,
        witnesses: Sequence[str] = (),
        witnesses_required: int | None = None,
        checkpoints: CheckpointStore | None = None,
        record: bytes | None = None,
    ) -> VerifiedRecord:
        """Verify that the record of `receipt` is in the log, and what it says.

        Args:
            receipt: From an answer, a refusal or a `ReceiptLog`.
            verifier_key: The log's, as C2SP signed-note writes it; got out of band.
            witnesses: Verifier keys of witnesses whose cosignatures count.
            witnesses_required: How many of them must have cosigned; all when None.
            checkpoints: Where the newest checkpoint is kept between programs and runs.
            record: The record's bytes, if you have them. Without, the log shows them to
                the principal of the record and to its readers.

        Raises:
            AuditUnverifiedError: Something does not verify.
            ForkDetectedError: The log shows another history than it did before.
            PolicyDeniedError: You are neither the principal of the record nor a reader.
            OSError: The file of `checkpoints` cannot be read or written.
        """
        trust = _trust(verifier_key, witnesses, witnesses_required)
        seen = None if checkpoints is None else checkpoints.load(trust.key)
        verified = self._driver.run(_audit_calls.verify(receipt, trust, seen=seen, record=record))
        while checkpoints is not None:
            current = checkpoints.advance(trust.key, before=seen, after=verified.checkpoint)
            if current is None:
                break
            # Another thread or program was faster; both must have seen the same log.
            older, newer = _in_order(current, verified.checkpoint)
            self._driver.run(_audit_calls.check_growth(older, newer))
            if newer is current:
                break
            seen = current
        return verified


class AsyncAuditClient:
    """As `AuditClient`, for asyncio. Files are read and written in threads.

    Thread safety: one event loop.
    """

    def __init__(self, driver: AsyncDriver):
        """Use a client's connections; internal to the SDK."""
        self._driver = driver

    async def prove(self, receipt: Receipt) -> str:
        """Return the inclusion proof of a receipt's record, as a C2SP tlog-proof.

        It is the log's word, not verified here: whoever has the record's bytes and the log's
        verifier key verifies it, offline (`strongroom audit check-proof`).
        """
        return await self._driver.run(_audit_calls.prove(receipt))

    async def verify(
        self,
        receipt: Receipt,
        *,
        verifier_key: str,
        witnesses: Sequence[str] = (),
        witnesses_required: int | None = None,
        checkpoints: CheckpointStore | None = None,
        record: bytes | None = None,
    ) -> VerifiedRecord:
        """Verify that the record of `receipt` is in the log. As `AuditClient.verify`."""
        trust = _trust(verifier_key, witnesses, witnesses_required)
        seen = None
        if checkpoints is not None:
            seen = await asyncio.to_thread(checkpoints.load, trust.key)
        verified = await self._driver.run(
            _audit_calls.verify(receipt, trust, seen=seen, record=record)
        )
        while checkpoints is not None:
            current = await asyncio.to_thread(
                checkpoints.advance, trust.key, before=seen, after=verified.checkpoint
            )
            if current is None:
                break
            older, newer = _in_order(current, verified.checkpoint)
            await self._driver.run(_audit_calls.check_growth(older, newer))
            if newer is current:
                break
            seen = current
        return verified


def _trust(verifier_key: str, witnesses: Sequence[str], required: int | None) -> Trust:
    try:
        key = VerifierKey.parse(verifier_key)
    except VerificationError as exc:
        raise ArgumentInvalidError.of("verifier_key", "signed_note", exc.what) from exc
    try:
        return Trust(key, WitnessPolicy.parse(witnesses, required))
    except (VerificationError, ValueError) as exc:
        raise ArgumentInvalidError.of("witnesses", "signed_note", str(exc)) from exc


def _in_order(kept: Checkpoint, new: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    return (kept, new) if kept.size < new.size else (new, kept)
