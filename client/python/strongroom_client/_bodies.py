"""The loops that move the body of an envelope between two streams, many chunks at a time.

Plaintext is written only after the chunks of its read were authenticated; a cut stream
ends in EnvelopeInvalidError. These run in one thread, whichever client drives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Final

from strongroom_client._cobblestone import (
    CHUNK_BYTES,
    SEALED_CHUNK_BYTES,
    Decryptor,
    Encryptor,
)

__all__ = ["Progress", "copy_body", "decrypt_body", "encrypt_body", "read_exactly"]

#: Chunks per read: 1 MiB stays in the second-level cache and needs few system calls.
CHUNKS_PER_READ: Final = 64

#: Called with the number of bytes of the source consumed since the last call.
Progress = Callable[[int], object]


def encrypt_body(
    source: BinaryIO, sink: BinaryIO, encryptor: Encryptor, progress: Progress | None
) -> int:
    """Encrypt `source` to its end; return the number of plaintext bytes."""
    plain = memoryview(bytearray(CHUNKS_PER_READ * CHUNK_BYTES))
    sealed = memoryview(bytearray(CHUNKS_PER_READ * SEALED_CHUNK_BYTES))
    total = 0
    _write(sink, memoryview(encryptor.prefix))
    while True:
        size = _fill(source, plain)
        whole = size - size % CHUNK_BYTES
        if whole:
            _write(sink, sealed[: encryptor.update_into(plain[:whole], sealed)])
        total += size
        if progress is not None and size:
            progress(size)
        if size < len(plain):
            _write(sink, memoryview(encryptor.finalize(plain[whole:size])))
            return total


def decrypt_body(
    source: BinaryIO, sink: BinaryIO, decryptor: Decryptor, progress: Progress | None
) -> int:
    """Decrypt `source`, which stands after the body's prefix; return the plaintext bytes.

    Raises:
        EnvelopeInvalidError: A chunk is not authentic, or the end is missing. What was
            written before is authentic, and is not the whole message.
    """
    sealed = memoryview(bytearray(CHUNKS_PER_READ * SEALED_CHUNK_BYTES))
    plain = memoryview(bytearray(CHUNKS_PER_READ * CHUNK_BYTES))
    total = 0
    while True:
        size = _fill(source, sealed)
        whole = size - size % SEALED_CHUNK_BYTES
        if whole:
            written = decryptor.update_into(sealed[:whole], plain)
            _write(sink, plain[:written])
            total += written
        if size < len(sealed):
            last = decryptor.finalize(sealed[whole:size])
            _write(sink, memoryview(last))
            if progress is not None and size:
                progress(size)
            return total + len(last)
        if progress is not None:
            progress(size)


def copy_body(source: BinaryIO, sink: BinaryIO, progress: Progress | None) -> int:
    """Copy `source` to its end as it is; return the number of bytes."""
    buffer = memoryview(bytearray(CHUNKS_PER_READ * SEALED_CHUNK_BYTES))
    total = 0
    while size := _fill(source, buffer):
        _write(sink, buffer[:size])
        total += size
        if progress is not None:
            progress(size)
    return total


def read_exactly(source: BinaryIO, size: int) -> bytes:
    """Return the next `size` bytes, fewer only at the end of input."""
    parts = []
    while size > 0:
        part = source.read(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _fill(source: BinaryIO, buffer: memoryview) -> int:
    """Fill `buffer`; a smaller result means the end of input. Pipes give less at a time."""
    readinto: Callable[[memoryview], int | None] | None = getattr(source, "readinto", None)
    done = 0
    while done < len(buffer):
        if readinto is not None:
            size = readinto(buffer[done:]) or 0
        else:
            part = source.read(len(buffer) - done)
            size = len(part)
            buffer[done : done + size] = part
        if size == 0:
            break
        done += size
    return done


def _write(sink: BinaryIO, data: memoryview) -> None:
    """Write all of `data`. An unbuffered file may take less at a time."""
    while data:
        # Some streams return None for "everything".
        taken: int | None = sink.write(data)
        data = data[len(data) if taken is None else taken :]
