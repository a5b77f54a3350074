"""Envelope encryption of files and streams, for threads; constant memory.

Files appear whole or not at all. A stream gives out plaintext chunk by chunk, each after it was
authenticated; when the last one is missing the call raises, and what was given out
before is a part of the message only. Do not act on a stream before the call returns.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from strongroom import encryption_context as contexts
from strongroom_client import _format
from strongroom_client._bodies import (
    Progress,
    copy_body,
    decrypt_body,
    encrypt_body,
    read_exactly,
)
from strongroom_client._cobblestone import PREFIX_BYTES
from strongroom_client._files import OWNER_ONLY, open_source, replacing
from strongroom_client.envelope import EnvelopeClient, ExpectedContext, expected_aad

__all__ = [
    "StreamReport",
    "decrypt_file",
    "decrypt_stream",
    "encrypt_file",
    "encrypt_stream",
    "rekey_file",
    "rekey_stream",
]


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What was done: the authenticated encryption context, and the bytes of the body.

    `body_bytes` counts plaintext after encryption and decryption, body bytes after re-keying.
    """

    encryption_context: Mapping[str, str]
    body_bytes: int


def encrypt_stream(
    envelopes: EnvelopeClient,
    source: BinaryIO,
    sink: BinaryIO,
    *,
    encryption_context: Mapping[str, str],
    progress: Progress | None = None,
) -> StreamReport:
    """Encrypt `source` to its end into `sink`, under a data key of its own.

    Args:
        envelopes: Holds the keys.
        source: A blocking binary stream.
        sink: A binary stream; it is not flushed or closed.
        encryption_context: Bound to the envelope; ``{}`` for none.
        progress: Called with the number of bytes read since the last call.
    """
    return _encrypt(envelopes, source, sink, encryption_context, progress, message_bytes=None)


def decrypt_stream(
    envelopes: EnvelopeClient,
    source: BinaryIO,
    sink: BinaryIO,
    *,
    encryption_context: ExpectedContext,
    progress: Progress | None = None,
) -> StreamReport:
    """Decrypt `source` to its end into `sink`.

    Raises:
        EnvelopeInvalidError: The envelope is not valid for this context, or is cut. What is in
            `sink` by then is authentic and not the whole message: throw it away.
    """
    return _decrypt(envelopes, source, sink, encryption_context, progress, message_bytes=0)


def rekey_stream(
    envelopes: EnvelopeClient,
    source: BinaryIO,
    sink: BinaryIO,
    *,
    encryption_context: ExpectedContext,
    keys: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> StreamReport:
    """Copy an envelope with its data key wrapped anew; the body is copied as it is.

    Args:
        envelopes: Opens the envelope.
        source: The envelope.
        sink: Receives the new one.
        encryption_context: What it must have been made with, or ANY_CONTEXT.
        keys: Keys or aliases that will open it; the client's own when None.
        progress: Called with the number of body bytes copied since the last call.
    """
    header = _read_header(source, encryption_context)
    sink.write(envelopes.driver.run(envelopes.core.rekey(header, keys)))
    return StreamReport(contexts.decode(header.aad), copy_body(source, sink, progress))


def encrypt_file(
    envelopes: EnvelopeClient,
    source: Path | str,
    destination: Path | str,
    *,
    encryption_context: Mapping[str, str],
    progress: Progress | None = None,
) -> StreamReport:
    """Encrypt a file. The new file has the permission bits of the source.

    Raises:
        OSError: A file cannot be read or written.
        StrongroomError: A key cannot be used. There is then no new file.
    """
    with open_source(Path(source)) as file:
        status = os.fstat(file.fileno())
        # Only a regular file has a size that means something.
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        with replacing(Path(destination), mode=status.st_mode & 0o666) as sink:
            return _encrypt(envelopes, file, sink, encryption_context, progress, message_bytes=size)


def decrypt_file(
    envelopes: EnvelopeClient,
    source: Path | str,
    destination: Path | str,
    *,
    encryption_context: ExpectedContext,
    progress: Progress | None = None,
) -> StreamReport:
    """Decrypt a file. A new file is readable by its owner only.

    The ciphertext's permission bits say nothing about who may read the plaintext. A file
    that is replaced keeps its own.

    Raises:
        OSError: A file cannot be read or written.
        EnvelopeInvalidError: The envelope is not valid for this context, or is cut. There
            is then no new file, and an old one is as it was.
    """
    with open_source(Path(source)) as file:
        size = os.fstat(file.fileno()).st_size
        with replacing(Path(destination), mode=OWNER_ONLY) as sink:
            return _decrypt(envelopes, file, sink, encryption_context, progress, message_bytes=size)


def rekey_file(
    envelopes: EnvelopeClient,
    source: Path | str,
    destination: Path | str,
    *,
    encryption_context: ExpectedContext,
    keys: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> StreamReport:
    """Wrap the data key of a file anew; `source` and `destination` may be one file."""
    with open_source(Path(source)) as file:
        mode = os.fstat(file.fileno()).st_mode & 0o666
        with replacing(Path(destination), mode=mode) as sink:
            return rekey_stream(
                envelopes,
                file,
                sink,
                encryption_context=encryption_context,
                keys=keys,
                progress=progress,
            )


def _encrypt(
    envelopes: EnvelopeClient,
    source: BinaryIO,
    sink: BinaryIO,
    encryption_context: Mapping[str, str],
    progress: Progress | None,
    *,
    message_bytes: int | None,
) -> StreamReport:
    header, encryptor = envelopes.driver.run(
        envelopes.core.start_encrypting(encryption_context, message_bytes)
    )
    sink.write(header)
    size = encrypt_body(source, sink, encryptor, progress)
    return StreamReport(dict(encryption_context), size)


def _decrypt(
    envelopes: EnvelopeClient,
    source: BinaryIO,
    sink: BinaryIO,
    encryption_context: ExpectedContext,
    progress: Progress | None,
    *,
    message_bytes: int,
) -> StreamReport:
    header = _read_header(source, encryption_context)
    prefix = read_exactly(source, PREFIX_BYTES)
    decryptor = envelopes.driver.run(envelopes.core.start_decrypting(header, prefix, message_bytes))
    return StreamReport(
        contexts.decode(header.aad), decrypt_body(source, sink, decryptor, progress)
    )


def _read_header(source: BinaryIO, encryption_context: ExpectedContext) -> _format.Header:
    def read(size: int) -> bytes:
        return read_exactly(source, size)

    return _format.parse_header(read, expected_aad=expected_aad(encryption_context))
