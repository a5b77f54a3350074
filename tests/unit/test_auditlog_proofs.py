"""Proofs from files, their text form, and receipts proved offline."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.audit_records import LogHome, batch, receipt_of, record

from strongroom.tlog import errors
from strongroom.tlog.merkle import range_hash, verify_consistency
from strongroom.tlog.proof import TlogProof, verify_proof
from strongroom_auditlog.proofs import (
    find_position,
    prove_consistency,
    prove_inclusion,
    prove_receipt,
    verify_receipt_proof,
)
from strongroom_auditlog.records import Position
from strongroom_auditlog.tiles import LogFiles
from strongroom_auditlog.verify import read_checkpoint

SIZE = 700


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> LogHome:
    """Give a log of 700 records."""
    home = LogHome.create(tmp_path_factory.mktemp("log"))
    home.fill(batch("eu-1", 5, range(1, 401)), batch("eu-1", 5, range(401, SIZE + 1)))
    return home


def test_every_leaf_is_proved_from_the_files(home: LogHome) -> None:
    """Each proof goes through its text form and verifies with record and key alone."""
    files = LogFiles(home.directory)
    checkpoint = read_checkpoint(files, home.key)
    for index in range(SIZE):
        proof = TlogProof.parse(str(prove_inclusion(files, checkpoint, index)))
        data = record("eu-1", 5, index + 1)
        assert verify_proof(proof, record=data, key=home.key) == checkpoint
    with pytest.raises(errors.ProofInvalidError):
        verify_proof(proof, record=record("eu-1", 5, 1), key=home.key)


@settings(max_examples=60)
@given(st.data())
def test_consistency_between_any_two_sizes(home: LogHome, data: st.DataObject) -> None:
    """Also between sizes that were never signed, as a witness may ask."""
    files = LogFiles(home.directory)
    checkpoint = read_checkpoint(files, home.key)
    second = data.draw(st.integers(1, SIZE))
    first = data.draw(st.integers(1, second))
    roots = [range_hash(0, size, partial(files.subtree_hash, SIZE)) for size in (first, second)]
    verify_consistency(
        first=first,
        second=second,
        first_root=roots[0],
        second_root=roots[1],
        proof=prove_consistency(files, checkpoint, first, second),
    )


def test_a_consistency_proof_beyond_the_log_is_refused(home: LogHome) -> None:
    """There is no tree larger than the checkpoint's."""
    files = LogFiles(home.directory)
    checkpoint = read_checkpoint(files, home.key)
    with pytest.raises(ValueError, match="larger than the log"):
        prove_consistency(files, checkpoint, 1, SIZE + 1)


def test_a_receipt_is_proved_from_the_files(home: LogHome) -> None:
    """Receipt in, proof and record out, and both verify offline."""
    data = record("eu-1", 5, 257)
    receipt = receipt_of(data)
    proof, found = prove_receipt(home.directory, home.key, receipt, extra=data)
    assert (found, proof.index, proof.extra) == (data, 256, data)
    again = TlogProof.parse(str(proof))
    assert again == proof
    verify_receipt_proof(receipt, again, record=data, key=home.key)


def test_receipts_of_other_records_are_refused(home: LogHome) -> None:
    """Neither an absent record nor a changed one has a proof, nor does a proof fit another."""
    absent, changed = record("eu-1", 5, 701), record("eu-1", 5, 7, outcome="DENIED")
    with pytest.raises(errors.ReceiptInvalidError, match="not in the log"):
        prove_receipt(home.directory, home.key, receipt_of(absent))
    with pytest.raises(errors.ReceiptInvalidError, match="another one"):
        prove_receipt(home.directory, home.key, receipt_of(changed))
    proof, data = prove_receipt(home.directory, home.key, receipt_of(record("eu-1", 5, 7)))
    with pytest.raises(errors.ReceiptInvalidError, match="another one"):
        verify_receipt_proof(receipt_of(data), proof, record=changed, key=home.key)
    with pytest.raises(errors.ProofInvalidError):
        verify_receipt_proof(receipt_of(changed), proof, record=changed, key=home.key)


def test_a_receipt_whose_record_says_another_position_is_refused(home: LogHome) -> None:
    """A receipt of position 8 with the record of position 7 proves nothing about 8."""
    proof, data = prove_receipt(home.directory, home.key, receipt_of(record("eu-1", 5, 7)))
    good = receipt_of(data)
    forged = type(good)(good.region, good.epoch, 8, good.record_sha256)
    with pytest.raises(errors.ReceiptInvalidError, match="says that it is"):
        verify_receipt_proof(forged, proof, record=data, key=home.key)


def test_positions_are_found_without_an_index(home: LogHome) -> None:
    """The entries themselves are searched, the newest first."""
    files = LogFiles(home.directory)
    for sequence in (1, 256, 257, 700):
        found = find_position(files, SIZE, Position("eu-1", 5, sequence))
        assert found == (sequence - 1, record("eu-1", 5, sequence))
    assert find_position(files, SIZE, Position("eu-1", 6, 1)) is None
    assert find_position(files, 0, Position("eu-1", 5, 1)) is None


def test_every_line_of_a_proof_counts(home: LogHome) -> None:
    """Without a line or with one twice a proof does not parse or verify.

    But for the signature: a note may carry one twice (C2SP signed-note).
    """
    data = record("eu-1", 5, 257)
    proof, _ = prove_receipt(home.directory, home.key, receipt_of(data))
    lines = str(proof).split("\n")
    for at in range(len(lines) - 1):
        without, twice = lines[:at] + lines[at + 1 :], lines[: at + 1] + lines[at:]
        for changed in (without,) if at == len(lines) - 2 else (without, twice):
            with pytest.raises(errors.VerificationError):
                verify_proof(TlogProof.parse("\n".join(changed)), record=data, key=home.key)


def test_every_bit_of_a_proof_counts(home: LogHome) -> None:
    """No flipped bit leaves a proof that verifies (V3)."""
    data = record("eu-1", 5, 3)
    proof, _ = prove_receipt(home.directory, home.key, receipt_of(data))
    good = str(proof).encode()
    for bit in range(len(good) * 8):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            text = changed.decode()
        except UnicodeDecodeError:
            continue
        with pytest.raises(errors.VerificationError):
            verify_proof(TlogProof.parse(text), record=data, key=home.key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v1",
        "c2sp.org/tlog-proof@v1\n\n",
        "c2sp.org/tlog-proof@v2\nindex 0\n\nx",
        "c2sp.org/tlog-proof@v1\nindex 00\n\nx",
        "c2sp.org/tlog-proof@v1\nindex -1\n\nx",
        "c2sp.org/tlog-proof@v1\nindex 99999999999999999999\n\nx",
        "c2sp.org/tlog-proof@v1\nindex 0\nextra AAAA\n\nx",
        "c2sp.org/tlog-proof@v1\nextra AAA\nindex 0\n\nx",
        "c2sp.org/tlog-proof@v1\nextra \N{SNOWMAN}\nindex 0\n\nx",
        "c2sp.org/tlog-proof@v1\nindex 0\nAAAA\n\nx",
        "c2sp.org/tlog-proof@v1\nindex 0\n"
        + "A" * 43
        + "=\n" * 1
        + ("A" * 43 + "=\n") * 64
        + "\nx",
        "c2sp.org/tlog-proof@v1\nindex 0\n\n" + "x" * 2**18,
    ],
)
def test_other_texts_are_no_proofs(text: str) -> None:
    """One header, one spelling of numbers and hashes, bounded in all."""
    with pytest.raises(errors.ProofInvalidError):
        TlogProof.parse(text)


def test_the_specification_s_form_parses() -> None:
    """Header, extra, index, hashes, checkpoint: as C2SP tlog-proof shows them."""
    text = (
        "c2sp.org/tlog-proof@v1\nextra YWdl\nindex 73894\n"
        "gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n"
        "B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=\n\nexample.com/fancylog\n"
    )
    proof = TlogProof.parse(text)
    assert (proof.index, proof.extra, len(proof.hashes)) == (73894, b"age", 2)
    assert str(proof) == text


def test_a_proof_under_another_key_is_refused(home: LogHome, tmp_path: Path) -> None:
    """The checkpoint in a proof is opened with the key that the verifier brought."""
    other = LogHome.create(tmp_path / "other")
    proof, data = prove_receipt(home.directory, home.key, receipt_of(record("eu-1", 5, 7)))
    assert verify_proof(proof, record=data, key=home.key).size == SIZE
    with pytest.raises(errors.CheckpointInvalidError):
        verify_proof(proof, record=data, key=other.key)
