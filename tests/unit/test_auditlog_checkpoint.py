"""Signed notes, verifier keys and checkpoints (C2SP signed-note, tlog-checkpoint)."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from strongroom.tlog.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from strongroom.tlog.errors import CheckpointInvalidError
from strongroom.tlog.merkle import EMPTY_ROOT
from strongroom_auditlog.checkpoint import Signer

# The example of C2SP signed-note, "Verifier keys".
SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_SIGNATURE = (
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
)

SIGNER = Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
ROOT = bytes(range(32))


def opened(text: str) -> Checkpoint:
    return open_checkpoint(text, SIGNER.verifier_key)


def resigned(body: str) -> str:
    """Sign any body with the log's key."""
    blob = SIGNER.verifier_key.key_id + SIGNER._private_key.sign(body.encode())
    return f"{body}\n\N{EM DASH} {SIGNER.origin} {base64.b64encode(blob).decode()}\n"


def test_the_verifier_key_of_the_specification_parses_and_formats() -> None:
    """The published example goes through unchanged."""
    assert str(VerifierKey.parse(SPEC_VKEY)) == SPEC_VKEY
    assert VerifierKey.parse(SPEC_VKEY + "\n").name == "example.com/foo"


def test_the_signature_of_the_specification_verifies() -> None:
    """The published note is signed by the published key; only its text is no checkpoint."""
    note = f"This is an example message.\n\n\N{EM DASH} example.com/foo {SPEC_SIGNATURE}\n"
    with pytest.raises(CheckpointInvalidError, match="expected origin"):
        open_checkpoint(note, VerifierKey.parse(SPEC_VKEY))
    with pytest.raises(CheckpointInvalidError, match="is wrong"):
        open_checkpoint(
            note.replace("example message", "exemple message"), VerifierKey.parse(SPEC_VKEY)
        )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/foo",
        "example.com/foo+530d903a",
        SPEC_VKEY.replace("530d903a", "530d903b"),
        SPEC_VKEY.replace("530d903a", "530D903A"),
        SPEC_VKEY.replace("example.com/foo", "example.com/fob"),
        SPEC_VKEY.replace("example.com/foo", "example com"),
        SPEC_VKEY[:-1],
        SPEC_VKEY + "=",
        SPEC_VKEY + "\n\n",
        SPEC_VKEY.replace("+Ae", "+Be"),
        SPEC_VKEY[:-4],
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    ],
)
def test_other_verifier_keys_are_refused(text: str) -> None:
    """Names, ids, types and lengths must fit, in one spelling."""
    with pytest.raises(CheckpointInvalidError):
        VerifierKey.parse(text)


@pytest.mark.parametrize(("size", "root"), [(0, EMPTY_ROOT), (1, ROOT), (2**63 - 1, ROOT)])
def test_what_is_signed_opens(size: int, root: bytes) -> None:
    """A signed checkpoint gives back origin, size and root."""
    checkpoint = SIGNER.sign(size, root)
    assert opened(checkpoint.text) == checkpoint
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (SIGNER.origin, size, root)


def test_every_flipped_bit_is_noticed() -> None:
    """No single bit of a checkpoint can change unnoticed."""
    data = SIGNER.sign(12345, ROOT).text.encode()
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            text = changed.decode()
        except UnicodeDecodeError:
            continue  # refused where files are read
        with pytest.raises(CheckpointInvalidError):
            opened(text)


def test_every_truncation_is_noticed() -> None:
    """No prefix of a checkpoint is one."""
    text = SIGNER.sign(12345, ROOT).text
    for length in range(len(text)):
        with pytest.raises(CheckpointInvalidError):
            opened(text[:length])


def test_cosignatures_and_extension_lines_are_carried() -> None:
    """Signatures of unknown keys are ignored, extension lines are signed text."""
    text = resigned(f"{SIGNER.origin}\n7\n{base64.b64encode(ROOT).decode()}\nextension\n")
    other = Signer("witness.example", Ed25519PrivateKey.generate()).sign(7, ROOT).text
    witnessed = text + other.rpartition("\n\n")[2]
    assert opened(witnessed).size == 7


def test_a_checkpoint_of_another_key_or_origin_is_refused() -> None:
    """Only the key that was given counts, also when the name is the same."""
    same_name = Signer(SIGNER.origin, Ed25519PrivateKey.generate())
    with pytest.raises(CheckpointInvalidError, match="not signed by"):
        opened(same_name.sign(7, ROOT).text)
    with pytest.raises(CheckpointInvalidError, match="another log"):
        opened(resigned(f"example.org/other\n7\n{base64.b64encode(ROOT).decode()}\n"))


@pytest.mark.parametrize(
    "body",
    [
        "example.org/log\n07\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "example.org/log\n-7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "example.org/log\n7 \nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "example.org/log\n\u0667\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "example.org/log\n9223372036854775808\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "example.org/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=\n",
        "example.org/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n",
        "example.org/log\n7\nAAEC\n",
        "example.org/log\n7\n\n",
        "example.org/log\n7\n",
        "example.org/log\n\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "example.org/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n\n",
        "example.org/log\t\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    ],
)
def test_signed_text_that_is_no_checkpoint_is_refused(body: str) -> None:
    """A right signature does not make a size or a root right: one spelling only."""
    with pytest.raises(CheckpointInvalidError):
        opened(resigned(body))


@pytest.mark.parametrize("origin", ["", " ", "a b", "a+b", " a", "a\n", "a\u2003b"])
def test_origins_that_cannot_name_a_key_are_refused(origin: str) -> None:
    """No spaces of any kind, no plus sign, not empty."""
    with pytest.raises(CheckpointInvalidError):
        Signer(origin, Ed25519PrivateKey.generate())


def test_too_many_signatures_are_refused() -> None:
    """A note cannot make a reader work through any number of signatures."""
    text = SIGNER.sign(7, ROOT).text
    line = (
        Signer("w.example", Ed25519PrivateKey.generate()).sign(7, ROOT).text.rpartition("\n\n")[2]
    )
    assert opened(text + line * 63).size == 7
    with pytest.raises(CheckpointInvalidError, match="64 signatures"):
        opened(text + line * 64)
