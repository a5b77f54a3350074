"""Cosignatures and the policy about them (C2SP tlog-cosignature, signed-note)."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.witness import TestCosigner

from strongroom.tlog.checkpoint import open_checkpoint
from strongroom.tlog.cosignature import Cosignature, WitnessPolicy, cosigned_message
from strongroom.tlog.errors import CheckpointInvalidError, WitnessesMissingError
from strongroom.tlog.note import CosignerKey, VerifierKey, note_line, split_note
from strongroom_auditlog.checkpoint import Signer

SIGNER = Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
NOTE = SIGNER.sign(12345, bytes(range(32))).text
W1, W2, W3 = (TestCosigner(f"witness.example.org/w{n}") for n in (1, 2, 3))


def opened(text: str, required: int, *witnesses: TestCosigner) -> tuple[Cosignature, ...]:
    policy = WitnessPolicy(tuple(witness.key for witness in witnesses), required)
    return open_checkpoint(text, SIGNER.verifier_key, policy).cosignatures


def test_what_is_signed_is_header_time_and_the_whole_text() -> None:
    """The message of the specification, byte for byte."""
    body = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    assert cosigned_message(body, 1679315147) == (
        b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )


def test_keys_of_witnesses_and_of_logs_are_not_interchangeable() -> None:
    """Type 0x04 and type 0x01 have other ids, and neither parses as the other."""
    same = VerifierKey(W1.key.name, W1.key.public_key)
    assert same.key_id != W1.key.key_id
    assert CosignerKey.parse(str(W1.key)) == W1.key
    with pytest.raises(CheckpointInvalidError, match="type 0x04"):
        CosignerKey.parse(str(same))
    with pytest.raises(CheckpointInvalidError, match="type 0x01"):
        VerifierKey.parse(str(W1.key))


def test_known_witnesses_are_verified_and_others_ignored() -> None:
    """Order and number of lines do not matter; what is found is told with its time."""
    text = NOTE + W3.line(NOTE) + W2.line(NOTE, 5) + W1.line(NOTE, 7)
    found = opened(text, 2, W1, W2)
    assert [(item.key, item.timestamp) for item in found] == [(W1.key, 7), (W2.key, 5)]
    assert found[0].line in text
    assert opened(NOTE, 0) == ()
    assert opened(text, 0) == ()


@pytest.mark.parametrize(("have", "required"), [((), 1), ((W1,), 2), ((W3,), 1), ((W1, W1), 2)])
def test_too_few_are_refused(have: tuple[TestCosigner, ...], required: int) -> None:
    """Nobody, one of two, an unknown one, and one twice are too few."""
    text = NOTE + "".join(witness.line(NOTE, 10 + n) for n, witness in enumerate(have))
    with pytest.raises(WitnessesMissingError, match=f"{required} are required"):
        opened(text, required, W1, W2)


def test_the_newest_of_two_cosignatures_counts() -> None:
    """A witness that signed twice is told with its later time."""
    text = NOTE + W1.line(NOTE, 9) + W1.line(NOTE, 8)
    assert [item.timestamp for item in opened(text, 1, W1)] == [9]


def test_a_wrong_cosignature_of_a_known_witness_refuses_the_note() -> None:
    """Also when enough others are right: somebody forged, or a file is damaged."""
    other = SIGNER.sign(12346, bytes(range(32))).text
    body, _ = split_note(NOTE)
    plain = W1.private_key.sign(body.encode())  # of the text alone, without time
    time = (7).to_bytes(8, "big")
    good = W1.private_key.sign(cosigned_message(body, 7))
    zero = W1.private_key.sign(cosigned_message(body, 0))
    for line in (
        W1.line(other),
        note_line(W1.key.name, W1.key.key_id + plain),
        note_line(W1.key.name, W1.key.key_id + time + plain),
        note_line(W1.key.name, W1.key.key_id + (8).to_bytes(8, "big") + good),
        note_line(W1.key.name, W1.key.key_id + time + good + b"\0"),
        note_line(W1.key.name, W1.key.key_id + time + good[:-1]),
        note_line(W1.key.name, W1.key.key_id + bytes(8) + zero),
        note_line(W1.key.name, W1.key.key_id + b"\xff" * 8 + good),
        note_line(W1.key.name, W1.key.key_id + b"\0"),
    ):
        with pytest.raises(CheckpointInvalidError, match="is wrong"):
            opened(NOTE + W2.line(NOTE) + line, 1, W1, W2)
        assert opened(NOTE + W2.line(NOTE) + line, 1, W2)
    assert opened(NOTE + note_line(W1.key.name, W1.key.key_id + time + good), 1, W1)


def test_a_policy_that_counts_somebody_twice_cannot_be_made() -> None:
    """One key under two names, and more required than known, are mistakes."""
    alias = CosignerKey("witness.example.org/other", W1.key.public_key)
    with pytest.raises(ValueError, match="given twice"):
        WitnessPolicy((W1.key, alias), 1)
    for required in (-1, 2):
        with pytest.raises(ValueError, match="witnesses required"):
            WitnessPolicy((W1.key,), required)
    assert WitnessPolicy.parse([str(W1.key), str(W2.key)]).required == 2
    with pytest.raises(CheckpointInvalidError):
        WitnessPolicy.parse(["nonsense"])
