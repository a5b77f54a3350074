"""`client.audit` believes only what is proved, and notices another history."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.audit_records import receipt_of, record
from tests.support.lying_log import LyingLog

from strongroom.receipts import Receipt
from strongroom.tlog.checkpoint import open_checkpoint
from strongroom.tlog.note import CosignerKey
from strongroom.tlog.proof import TlogProof, verify_proof
from strongroom_auditlog.checkpoint import Signer
from strongroom_client import (
    ArgumentInvalidError,
    AuditUnverifiedError,
    CheckpointStore,
    ClientOptions,
    Endpoint,
    ForkDetectedError,
    KmsClient,
    NoEndpointError,
    TlsFiles,
)
from strongroom_client.errors import RecordNotFoundError

RECORDS = [record("eu-1", 1, n) for n in range(1, 301)]


@pytest.fixture
def log(tmp_path: Path) -> LyingLog:
    """A log of 300 records."""
    log = LyingLog(tmp_path / "log")
    log.append(RECORDS)
    return log


def test_a_receipt_is_verified(log: LyingLog) -> None:
    """The result has the record, its leaf, and a proof that others can verify offline."""
    receipt = receipt_of(RECORDS[70])
    verified = log.client().audit.verify(receipt, verifier_key=log.vkey)
    assert (verified.receipt, verified.index, verified.record) == (receipt, 70, RECORDS[70])
    assert verified.checkpoint.size == 300
    proof = TlogProof.parse(verified.proof)
    assert verify_proof(proof, record=verified.record, key=log.signer.verifier_key).size == 300


async def test_asyncio_does_the_same(log: LyingLog, tmp_path: Path) -> None:
    """The asyncio client verifies, keeps checkpoints and refuses like the other one."""
    audit = log.async_client().audit
    kept = CheckpointStore(tmp_path / "kept")
    receipt = receipt_of(RECORDS[3])
    verified = await audit.verify(receipt, verifier_key=log.vkey, checkpoints=kept)
    assert verified.index == 3
    assert str(TlogProof.parse(await audit.prove(receipt))) == verified.proof
    log.append([record("eu-1", 1, 301)])
    await audit.verify(receipt, verifier_key=log.vkey, checkpoints=kept)
    assert kept.load(log.signer.verifier_key) == open_checkpoint(
        log.checkpoint, log.signer.verifier_key
    )
    fork = LyingLog(tmp_path / "fork", log.private_key)
    fork.append([*RECORDS, record("eu-1", 1, 301, method="Sign")])
    with pytest.raises(ForkDetectedError):
        await fork.async_client().audit.verify(receipt, verifier_key=log.vkey, checkpoints=kept)


def test_a_proof_is_the_logs_word(log: LyingLog) -> None:
    """`prove` hands over a tlog-proof as it came."""
    proof = TlogProof.parse(log.client().audit.prove(receipt_of(RECORDS[9])))
    assert proof.index == 9
    assert proof.checkpoint == log.checkpoint


def test_a_record_that_is_not_logged_is_not_found(log: LyingLog) -> None:
    """A receipt that the log does not know is an error of its own."""
    with pytest.raises(RecordNotFoundError):
        log.client().audit.verify(receipt_of(record("eu-1", 1, 999)), verifier_key=log.vkey)


def flip(data: bytes) -> bytes:
    """Return `data` with a bit flipped."""
    return bytes([data[0] ^ 1]) + data[1:]


def lie_hash(answer: Any) -> None:
    """Change a hash of the proof."""
    answer.hashes[0] = flip(answer.hashes[0])


def lie_index(answer: Any) -> None:
    """Claim another leaf."""
    answer.index += 1


def lie_short(answer: Any) -> None:
    """Leave a hash out."""
    del answer.hashes[-1]


def lie_record(answer: Any) -> None:
    """Show another record."""
    answer.record = answer.record.replace(b"orders", b"others")


def lie_silent(answer: Any) -> None:
    """Show no record."""
    answer.record = b""


def lie_checkpoint(answer: Any) -> None:
    """Claim a larger tree."""
    answer.checkpoint = answer.checkpoint.replace("\n300\n", "\n301\n")


def lie_unsigned(answer: Any) -> None:
    """Leave the signature out."""
    answer.checkpoint = answer.checkpoint.partition("\n\n")[0]


@pytest.mark.parametrize(
    "lie",
    [lie_hash, lie_index, lie_short, lie_record, lie_silent, lie_checkpoint, lie_unsigned],
)
def test_a_lie_is_noticed(log: LyingLog, lie: Callable[[Any], None]) -> None:
    """Whatever part of the answer is changed, nothing verifies."""
    log.change = lie
    with pytest.raises(AuditUnverifiedError) as caught:
        log.client().audit.verify(receipt_of(RECORDS[70]), verifier_key=log.vkey)
    assert caught.value.reason == "UNVERIFIABLE"


def test_a_log_that_replaced_the_record_is_convicted(tmp_path: Path) -> None:
    """A log that is whole in itself, with another record in the place, does not verify."""
    log = LyingLog(tmp_path)
    log.append([*RECORDS[:70], record("eu-1", 1, 71, outcome="DENIED"), *RECORDS[71:]])
    with pytest.raises(AuditUnverifiedError, match="another record"):
        log.client().audit.verify(receipt_of(RECORDS[70]), verifier_key=log.vkey)


def test_a_shard_that_lied_about_the_place_is_convicted(log: LyingLog) -> None:
    """A receipt must stand where its record says."""
    receipt = receipt_of(RECORDS[4])
    moved = Receipt(receipt.region, receipt.epoch, receipt.sequence + 1, receipt.record_sha256)

    def show(answer: Any) -> None:
        answer.record = RECORDS[4]

    log.change = show
    with pytest.raises(AuditUnverifiedError, match="elsewhere"):
        log.client().audit.verify(moved, verifier_key=log.vkey)


def test_a_record_of_ones_own_is_enough(log: LyingLog) -> None:
    """With the record's bytes the log need not show them; other bytes are refused."""
    receipt = receipt_of(RECORDS[5])
    log.change = lie_silent
    audit = log.client().audit
    assert audit.verify(receipt, verifier_key=log.vkey, record=RECORDS[5]).index == 5
    with pytest.raises(AuditUnverifiedError, match="given"):
        audit.verify(receipt, verifier_key=log.vkey, record=RECORDS[6])


def test_another_logs_key_verifies_nothing(log: LyingLog) -> None:
    """With a key that did not sign, the checkpoint is refused; a text that is none, at once."""
    other = Signer("audit.example.org/strongroom", Ed25519PrivateKey.generate())
    receipt = receipt_of(RECORDS[0])
    audit = log.client().audit
    with pytest.raises(AuditUnverifiedError, match="not signed by"):
        audit.verify(receipt, verifier_key=str(other.verifier_key))
    log.calls.clear()
    with pytest.raises(ArgumentInvalidError, match="verifier_key"):
        audit.verify(receipt, verifier_key="nonsense")
    assert log.calls == []


def test_witnesses_are_required_when_they_are_named(log: LyingLog) -> None:
    """A checkpoint without the cosignatures that are asked for is refused."""
    witness = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    key = str(CosignerKey("witness.example.org", witness))
    audit = log.client().audit
    receipt = receipt_of(RECORDS[0])
    with pytest.raises(AuditUnverifiedError, match="0 of the 1"):
        audit.verify(receipt, verifier_key=log.vkey, witnesses=[key])
    audit.verify(receipt, verifier_key=log.vkey, witnesses=[key], witnesses_required=0)
    with pytest.raises(ArgumentInvalidError, match="witnesses"):
        audit.verify(receipt, verifier_key=log.vkey, witnesses=[key], witnesses_required=2)


def test_growth_is_proved_from_what_was_seen(log: LyingLog, tmp_path: Path) -> None:
    """The kept checkpoint moves on with the log, and never back."""
    kept = CheckpointStore(tmp_path / "kept")
    audit = log.client().audit
    receipt = receipt_of(RECORDS[0])
    key = log.signer.verifier_key
    assert kept.load(key) is None
    for _ in range(3):
        audit.verify(receipt, verifier_key=log.vkey, checkpoints=kept)
        seen = kept.load(key)
        assert seen is not None
        assert seen.size == len(log.records)
        log.append([record("eu-1", 1, len(log.records) + 1)])
    assert log.calls.count("GetConsistencyProof") == 2
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600


def test_a_log_that_was_cut_is_noticed(log: LyingLog, tmp_path: Path) -> None:
    """An older tree than the one seen before is a fork, though it is signed and whole."""
    kept = CheckpointStore(tmp_path / "kept")
    log.client().audit.verify(receipt_of(RECORDS[0]), verifier_key=log.vkey, checkpoints=kept)
    cut = LyingLog(tmp_path / "cut", log.private_key)
    cut.append(RECORDS[:299])
    with pytest.raises(ForkDetectedError, match="showed 300 before") as caught:
        cut.client().audit.verify(receipt_of(RECORDS[0]), verifier_key=log.vkey, checkpoints=kept)
    assert caught.value.reason == "FORK_DETECTED"


@pytest.mark.parametrize("size", [300, 301, 700])
def test_a_log_that_was_rewritten_is_noticed(log: LyingLog, tmp_path: Path, size: int) -> None:
    """A history that differs in one record that is not asked for is a fork, at any size."""
    kept = CheckpointStore(tmp_path / "kept")
    log.client().audit.verify(receipt_of(RECORDS[0]), verifier_key=log.vkey, checkpoints=kept)
    before = (tmp_path / "kept").read_bytes()
    fork = LyingLog(tmp_path / "fork", log.private_key)
    changed = [*RECORDS[:100], record("eu-1", 1, 101, outcome="DENIED"), *RECORDS[101:]]
    fork.append([*changed, *(record("eu-1", 1, n) for n in range(301, size + 1))])
    with pytest.raises(ForkDetectedError, match="rewritten or forked"):
        fork.client().audit.verify(receipt_of(RECORDS[0]), verifier_key=log.vkey, checkpoints=kept)
    assert (tmp_path / "kept").read_bytes() == before


def test_a_kept_file_that_is_no_checkpoint_is_refused(log: LyingLog, tmp_path: Path) -> None:
    """A damaged or foreign file is told, never overwritten."""
    path = tmp_path / "kept"
    other = Signer("audit.example.org/strongroom", Ed25519PrivateKey.generate())
    for content in (b"", b"\xff", b"nonsense", other.sign(0, bytes(32)).text.encode()):
        path.write_bytes(content)
        with pytest.raises(AuditUnverifiedError, match="kept"):
            log.client().audit.verify(
                receipt_of(RECORDS[0]), verifier_key=log.vkey, checkpoints=CheckpointStore(path)
            )
        assert path.read_bytes() == content


def test_many_threads_share_what_was_seen(log: LyingLog, tmp_path: Path) -> None:
    """Threads that race for the file while the log grows all verify, and the largest stays."""
    kept = CheckpointStore(tmp_path / "kept")
    failures: list[BaseException] = []
    lock = threading.Lock()
    answer = log.answer

    def serialised(call: Any) -> Any:
        with lock:
            if call.method == "GetInclusionProof":
                log.append([record("eu-1", 1, len(log.records) + 1)])
            return answer(call)

    log.answer = serialised  # type: ignore[method-assign]

    def verify() -> None:
        try:
            for n in range(5):
                log.client().audit.verify(
                    receipt_of(RECORDS[n]), verifier_key=log.vkey, checkpoints=kept
                )
        except BaseException as exc:  # noqa: BLE001 - told by the main thread
            failures.append(exc)

    threads = [threading.Thread(target=verify) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A thread may lose so clearly that its answer is older than what it had read before:
    # it reads before it asks, so that never happens.
    assert failures == []
    seen = kept.load(log.signer.verifier_key)
    assert seen is not None
    assert seen.size == 330


def test_without_an_endpoint_there_is_no_audit_log(tmp_path: Path) -> None:
    """Options that do not name the audit log are told so on first use."""
    options = ClientOptions(
        tls=TlsFiles(tmp_path / "a", tmp_path / "b", tmp_path / "c"),
        endpoints=(Endpoint("eu-1", "127.0.0.1:1"),),
    )
    with KmsClient(options) as kms, pytest.raises(NoEndpointError, match=r"\[audit_log\]"):
        kms.audit.prove(receipt_of(RECORDS[0]))
