"""The key that signs checkpoints: an Ed25519 private key in PKCS8 PEM, mode 0600.

Beside it the public half as a verifier key in the form of C2SP signed-note (`log.vkey`),
which is what everyone who verifies the log must get out of band.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from strongroom.tlog.errors import CheckpointInvalidError
from strongroom.tlog.note import NoteKey, VerifierKey
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.errors import StartRefusedError

__all__ = [
    "create_signing_key",
    "load_private_key",
    "load_signer",
    "load_verifier_key",
    "save_private_key",
    "write_verifier_key",
]


def create_signing_key(*, origin: str, private_key_file: Path, verifier_key_file: Path) -> Signer:
    """Make a signing key and its verifier key.

    Raises:
        StartRefusedError: One of the files exists (a key is never overwritten), or the
            origin cannot name a key.
        OSError: A file cannot be written.
    """
    for path in (private_key_file, verifier_key_file):
        if path.exists():
            raise StartRefusedError(f"{path}: exists; a key of the log is never overwritten")
    private_key = Ed25519PrivateKey.generate()
    try:
        signer = Signer(origin, private_key)
    except CheckpointInvalidError as exc:
        raise StartRefusedError(str(exc)) from exc
    save_private_key(private_key_file, private_key)
    write_verifier_key(verifier_key_file, signer.verifier_key)
    return signer


def save_private_key(path: Path, private_key: Ed25519PrivateKey) -> None:
    """Write a private key, PKCS8 PEM, mode 0600.

    Raises:
        OSError: The file exists, or cannot be written.
    """
    pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _create(path, pem, mode=0o600)


def write_verifier_key(path: Path, key: NoteKey) -> None:
    """Write `key` to `path`, unless it is there already.

    Raises:
        StartRefusedError: Another key is there.
        OSError: The file cannot be written.
    """
    if not path.exists():
        _create(path, f"{key}\n".encode(), mode=0o644)
        return
    try:
        present = type(key).parse(_read_key(path))
    except CheckpointInvalidError as exc:
        raise StartRefusedError(str(exc)) from exc
    if present != key:
        raise StartRefusedError(f"{path}: is not the verifier key of the private key")


def load_signer(*, origin: str, private_key_file: Path) -> Signer:
    """Load the signing key.

    Raises:
        StartRefusedError: The file is missing, open to others, or no Ed25519 key.
    """
    private_key = load_private_key(
        private_key_file, cure="make the log with `strongroom audit-log --init`"
    )
    try:
        return Signer(origin, private_key)
    except CheckpointInvalidError as exc:
        raise StartRefusedError(str(exc)) from exc


def load_private_key(private_key_file: Path, *, cure: str) -> Ed25519PrivateKey:
    """Load an Ed25519 key; `cure` says what to do when there is none.

    Raises:
        StartRefusedError: The file is missing, open to others, or no Ed25519 key.
    """
    try:
        with private_key_file.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            pem = file.read()
    except OSError as exc:
        raise StartRefusedError(
            f"{private_key_file}: cannot be read ({exc.strerror}); {cure}"
        ) from exc
    if stat.S_IMODE(mode) & 0o077:
        raise StartRefusedError(f"{private_key_file}: open to others; chmod 600 it")
    try:
        private_key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as exc:
        # The cause could quote the file.
        raise StartRefusedError(f"{private_key_file}: not an unencrypted PEM key") from exc
    if not isinstance(private_key, Ed25519PrivateKey):
        raise StartRefusedError(f"{private_key_file}: not an Ed25519 key")
    return private_key


def load_verifier_key(path: Path) -> VerifierKey:
    """Load a verifier key.

    Raises:
        CheckpointInvalidError: The file cannot be read or holds no verifier key.
    """
    return VerifierKey.parse(_read_key(path))


def _read_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise CheckpointInvalidError(str(path), "cannot be read as a verifier key") from exc


def _create(path: Path, data: bytes, *, mode: int) -> None:
    # O_EXCL: of two processes that make the key at the same time, one fails.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
