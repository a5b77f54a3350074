"""Cobblestone-256, the body of an envelope (c2sp.org/chunked-encryption@v1).

    24  salt, random
    32  commitment
    …   chunks of 16 KiB + 16-byte tag; the last one is always shorter, perhaps only a tag

    key (32) || base nonce (12) || commitment (32) = HKDF-Expand(SHA-512, input key,
        "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM" || 0x00 || salt || context)
    nonce of chunk i = base nonce XOR i, big-endian

The short last chunk is the end mark: a cut body is never a shorter message. Every failure
is EnvelopeInvalidError, whatever it is that does not fit.
"""

from __future__ import annotations

import ctypes
import hmac
import io
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from strongroom_client.errors import EnvelopeInvalidError

__all__ = [
    "CHUNK_BYTES",
    "KEY_BYTES",
    "PREFIX_BYTES",
    "SALT_BYTES",
    "SEALED_CHUNK_BYTES",
    "TAG_BYTES",
    "Buffer",
    "Decryptor",
    "Encryptor",
    "decrypt",
    "encrypt",
    "sealed_bytes",
]

Buffer = bytes | bytearray | memoryview

KEY_BYTES: Final = 32
SALT_BYTES: Final = 24
COMMITMENT_BYTES: Final = 32
PREFIX_BYTES: Final = SALT_BYTES + COMMITMENT_BYTES
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
CHUNK_BYTES: Final = 16 * 1024
SEALED_CHUNK_BYTES: Final = CHUNK_BYTES + TAG_BYTES
MAX_CHUNKS: Final = 2**38

# PyBytes_FromStringAndSize(NULL, n): n bytes, "the contents ... are uninitialized". A
# prototype of our own: attributes of `pythonapi` are shared by the whole process.
_new_bytes: Final = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)

_SHA512: Final = SHA512()
_DERIVED_BYTES: Final = KEY_BYTES + NONCE_BYTES + COMMITMENT_BYTES
_INFO_PREFIX: Final = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"


def _derive(input_key: Buffer, salt: bytes, context: bytes) -> tuple[AESGCM, int, bytes]:
    """Derive the AEAD, the base nonce as a number, and the commitment (RFC 5869, 2.3)."""
    info = b"".join((_INFO_PREFIX, salt, context))
    derived = HKDFExpand(_SHA512, KEY_BYTES + NONCE_BYTES + COMMITMENT_BYTES, info).derive(
        input_key
    )
    # The AEAD gets a key that nobody else can write to: it may keep a reference instead of
    # a copy, and a buffer wiped behind its back would encrypt under zeros.
    return AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big"), derived[44:]


class Encryptor:
    """Encrypts one message, in one direction, once.

    Thread safety: one thread at a time.
    """

    __slots__ = ("_aead", "_base_nonce", "_counter", "prefix")

    def __init__(self, input_key: Buffer, *, salt: bytes, context: bytes):
        """Derive the message's keys.

        Args:
            input_key: 32 uniformly random bytes.
            salt: 24 random bytes that no other message under `input_key` has.
            context: What the message is bound to.

        Raises:
            ValueError: The key or the salt has another length.
        """
        _check_sizes(input_key, salt)
        self._aead, self._base_nonce, commitment = _derive(input_key, salt, context)
        self._counter = 0
        #: Salt and commitment: the first 56 bytes of the body.
        self.prefix = salt + commitment

    def update_into(self, chunks: memoryview, out: memoryview) -> int:
        """Encrypt whole chunks.

        Args:
            chunks: A multiple of 16 KiB.
            out: Room for 16 bytes more per chunk.

        Returns:
            How many bytes were written to `out`.
        """
        seal, base, counter = self._aead.encrypt_into, self._base_nonce, self._counter
        end = counter + len(chunks) // CHUNK_BYTES
        _check_counter(end)
        read = written = 0
        while counter < end:
            seal(
                (base ^ counter).to_bytes(NONCE_BYTES, "big"),
                chunks[read : read + CHUNK_BYTES],
                None,
                out[written : written + SEALED_CHUNK_BYTES],
            )
            read += CHUNK_BYTES
            written += SEALED_CHUNK_BYTES
            counter += 1
        self._counter = counter
        return written

    def finalize(self, rest: Buffer) -> bytes:
        """Encrypt the last chunk: 0 to 16,383 bytes."""
        if len(rest) >= CHUNK_BYTES:
            raise ValueError("the last chunk is shorter than 16 KiB")
        counter, self._counter = self._counter, MAX_CHUNKS
        _check_counter(counter + 1)
        return self._aead.encrypt(
            (self._base_nonce ^ counter).to_bytes(NONCE_BYTES, "big"), rest, None
        )


class Decryptor:
    """Decrypts one message. Plaintext appears only after its chunk is authenticated.

    Thread safety: one thread at a time.
    """

    __slots__ = ("_aead", "_base_nonce", "_counter")

    def __init__(self, input_key: Buffer, *, prefix: bytes, context: bytes):
        """Derive the message's keys and check the commitment.

        Args:
            input_key: 32 bytes.
            prefix: The first 56 bytes of the body.
            context: What the message is bound to.

        Raises:
            EnvelopeInvalidError: The key has another length, the prefix is cut, or the
                commitment does not match.
        """
        if len(input_key) != KEY_BYTES or len(prefix) != PREFIX_BYTES:
            raise EnvelopeInvalidError
        aead, base_nonce, commitment = _derive(input_key, prefix[:SALT_BYTES], context)
        # Before any chunk: AES-GCM alone does not commit to its key, so a body could be
        # made to open under two keys (chunked-encryption, "Key derivation").
        if not hmac.compare_digest(commitment, prefix[SALT_BYTES:]):
            raise EnvelopeInvalidError
        self._aead, self._base_nonce, self._counter = aead, base_nonce, 0

    def update_into(self, sealed: memoryview, out: memoryview) -> int:
        """Decrypt whole chunks.

        Args:
            sealed: A multiple of 16,400 bytes.
            out: Room for 16 KiB per chunk. Its content is worthless after an error.

        Returns:
            How many bytes were written to `out`.

        Raises:
            EnvelopeInvalidError: A chunk is not authentic.
        """
        unseal, base, counter = self._aead.decrypt_into, self._base_nonce, self._counter
        end = counter + len(sealed) // SEALED_CHUNK_BYTES
        _check_counter(end)
        # After an error the object goes on failing: no chunk after a forged one.
        self._counter = MAX_CHUNKS
        read = written = 0
        try:
            while counter < end:
                unseal(
                    (base ^ counter).to_bytes(NONCE_BYTES, "big"),
                    sealed[read : read + SEALED_CHUNK_BYTES],
                    None,
                    out[written : written + CHUNK_BYTES],
                )
                read += SEALED_CHUNK_BYTES
                written += CHUNK_BYTES
                counter += 1
        except InvalidTag:
            raise EnvelopeInvalidError from None
        self._counter = counter
        return written

    def finalize(self, sealed: Buffer) -> bytes:
        """Decrypt the last chunk, 16 to 16,399 bytes.

        Raises:
            EnvelopeInvalidError: The chunk is not authentic, or its length says that the
                message was cut.
        """
        counter, self._counter = self._counter, MAX_CHUNKS
        if not TAG_BYTES <= len(sealed) < SEALED_CHUNK_BYTES or counter >= MAX_CHUNKS:
            raise EnvelopeInvalidError
        try:
            return self._aead.decrypt(
                (self._base_nonce ^ counter).to_bytes(NONCE_BYTES, "big"), sealed, None
            )
        except InvalidTag:
            raise EnvelopeInvalidError from None


def _check_sizes(input_key: Buffer, salt: bytes) -> None:
    if len(input_key) != KEY_BYTES or len(salt) != SALT_BYTES:
        raise ValueError("the input key has 32 bytes, the salt 24")


def _check_counter(end: int) -> None:
    # chunked-encryption, "Message chunking": abort at 2^38 chunks. A finished or failed
    # object stands there too.
    if end > MAX_CHUNKS:
        raise EnvelopeInvalidError


def sealed_bytes(plaintext_bytes: int) -> int:
    """Return the length of the body for a plaintext of `plaintext_bytes`."""
    return PREFIX_BYTES + plaintext_bytes + (plaintext_bytes // CHUNK_BYTES + 1) * TAG_BYTES


def encrypt(
    input_key: Buffer, plaintext: Buffer, *, salt: bytes, context: bytes, header: bytes = b""
) -> bytes:
    """Encrypt a message in memory; return `header` followed by the body."""
    if len(plaintext) < CHUNK_BYTES:
        return _encrypt_short(input_key, plaintext, salt, context, header)
    encryptor = Encryptor(input_key, salt=salt, context=context)
    start = len(header) + PREFIX_BYTES

    def fill(out: memoryview) -> int:
        out[: len(header)] = header
        out[len(header) : start] = encryptor.prefix
        view = memoryview(plaintext).cast("B")
        whole = len(view) - len(view) % CHUNK_BYTES
        written = start + encryptor.update_into(view[:whole], out[start:])
        last = encryptor.finalize(view[whole:])
        out[written:] = last
        return written + len(last)

    return _filled(len(header) + sealed_bytes(len(plaintext)), fill)


def _encrypt_short(
    input_key: Buffer, plaintext: Buffer, salt: bytes, context: bytes, header: bytes
) -> bytes:
    """Encrypt the one chunk of a short message, without an Encryptor: half of the calls."""
    _check_sizes(input_key, salt)
    aead, base_nonce, commitment = _derive(input_key, salt, context)
    # Chunk 0: its nonce is the base nonce itself.
    sealed = aead.encrypt(base_nonce.to_bytes(NONCE_BYTES, "big"), plaintext, None)
    return b"".join((header, salt, commitment, sealed))


def decrypt(input_key: Buffer, body: Buffer, *, context: bytes) -> bytes:
    """Decrypt a message in memory.

    Raises:
        EnvelopeInvalidError: The body is not authentic, or is cut.
    """
    view = memoryview(body).cast("B")
    decryptor = Decryptor(input_key, prefix=bytes(view[:PREFIX_BYTES]), context=context)
    sealed = view[PREFIX_BYTES:]
    rest = len(sealed) % SEALED_CHUNK_BYTES
    if rest < TAG_BYTES:
        raise EnvelopeInvalidError
    if len(sealed) < SEALED_CHUNK_BYTES:
        return decryptor.finalize(sealed)
    whole = len(sealed) - rest

    def fill(out: memoryview) -> int:
        written = decryptor.update_into(sealed[:whole], out)
        last = decryptor.finalize(sealed[whole:])
        out[written:] = last
        return written + len(last)

    return _filled(whole // SEALED_CHUNK_BYTES * CHUNK_BYTES + rest - TAG_BYTES, fill)


def _filled(size: int, fill: Callable[[memoryview], int]) -> bytes:
    """Make a bytes object of `size` that `fill` writes completely."""
    # One buffer, neither zeroed first nor copied afterwards: that is a third of the time
    # of a large message. BytesIO holds the only reference, lets the new object be
    # written through getbuffer, and getvalue hands over that very object.
    stream = io.BytesIO(_new_bytes(None, size))
    with stream.getbuffer() as out:
        written = fill(out)
    # What was not written is old heap memory and must never be handed out.
    if written != size:
        raise RuntimeError("the body has another length than it must have")
    return stream.getvalue()
