"""Cobblestone-256 against the vectors of C2SP/wycheproof, in memory and as a stream."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom_client import EnvelopeInvalidError
from strongroom_client import _cobblestone as cobblestone
from strongroom_client._bodies import decrypt_body, encrypt_body, read_exactly

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("STRONGROOM_VECTORS", ROOT.parent / "shared" / "vectors"))
FILE = VECTORS / "c2sp_chunked_encryption_aes_256_gcm_test.json"
KEY = bytes(range(32))
SALT = bytes(24)


def _cases() -> list[Any]:
    if not FILE.is_file():
        reason = f"no vectors at {FILE}; set STRONGROOM_VECTORS"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason))]
    document = json.loads(FILE.read_text())
    return [
        pytest.param(case, id=f"{case['tcId']}-{case['comment']}".replace(" ", "-"))
        for group in document["testGroups"]
        for case in group["tests"]
    ]


def _decrypt_stream(key: bytes, body: bytes, context: bytes, sink: io.BytesIO) -> None:
    source = io.BytesIO(body)
    prefix = read_exactly(source, cobblestone.PREFIX_BYTES)
    decryptor = cobblestone.Decryptor(key, prefix=prefix, context=context)
    decrypt_body(source, sink, decryptor, None)


@pytest.mark.parametrize("case", _cases())
def test_vectors_in_memory(case: dict[str, Any]) -> None:
    """A valid message decrypts to its plaintext and encrypts back to its bytes; others raise."""
    key, context = bytes.fromhex(case["key"]), bytes.fromhex(case["ctx"])
    body = zlib.decompress(bytes.fromhex(case["ct"]))
    if case["result"] != "valid":
        with pytest.raises(EnvelopeInvalidError):
            cobblestone.decrypt(key, body, context=context)
        return
    plaintext = cobblestone.decrypt(key, body, context=context)
    assert len(plaintext) == case["msgLength"]
    assert hashlib.sha512(plaintext).hexdigest() == case["msgSha512"]
    salt = body[: cobblestone.SALT_BYTES]
    assert cobblestone.encrypt(key, plaintext, salt=salt, context=context) == body
    assert len(body) == cobblestone.sealed_bytes(len(plaintext))


@pytest.mark.parametrize("case", _cases())
def test_vectors_as_a_stream(case: dict[str, Any]) -> None:
    """A stream gives the plaintext, or raises with no more than the authentic beginning."""
    key, context = bytes.fromhex(case["key"]), bytes.fromhex(case["ctx"])
    body = zlib.decompress(bytes.fromhex(case["ct"]))
    sink = io.BytesIO()
    if case["result"] == "valid":
        _decrypt_stream(key, body, context, sink)
        assert hashlib.sha512(sink.getvalue()).hexdigest() == case["msgSha512"]
        again = io.BytesIO()
        salt = body[: cobblestone.SALT_BYTES]
        encryptor = cobblestone.Encryptor(key, salt=salt, context=context)
        encrypt_body(io.BytesIO(sink.getvalue()), again, encryptor, None)
        assert again.getvalue() == body
        return
    with pytest.raises(EnvelopeInvalidError):
        _decrypt_stream(key, body, context, sink)
    released = sink.getvalue()
    assert len(released) <= case.get("msgLength", 0)
    if released and len(released) == case["msgLength"]:
        assert hashlib.sha512(released).hexdigest() == case["msgSha512"]


@given(st.binary(max_size=100), st.binary(max_size=60), st.integers(0, 3))
def test_memory_and_stream_agree(tail: bytes, context: bytes, chunks: int) -> None:
    """The same message and salt give the same bytes in memory and as a stream."""
    plaintext = bytes(chunks * cobblestone.CHUNK_BYTES) + tail
    body = cobblestone.encrypt(KEY, plaintext, salt=SALT, context=context)
    sink = io.BytesIO()
    encryptor = cobblestone.Encryptor(KEY, salt=SALT, context=context)
    assert encrypt_body(io.BytesIO(plaintext), sink, encryptor, None) == len(plaintext)
    assert sink.getvalue() == body
    assert cobblestone.decrypt(KEY, body, context=context) == plaintext


def test_a_header_is_put_in_front() -> None:
    """`encrypt` with a header returns the header and then the same body, short and long."""
    for size in (10, 40_000):
        body = cobblestone.encrypt(KEY, bytes(size), salt=SALT, context=b"")
        both = cobblestone.encrypt(KEY, bytes(size), salt=SALT, context=b"", header=b"head")
        assert both == b"head" + body


def test_a_decryptor_goes_on_failing() -> None:
    """After a forged chunk nothing decrypts any more, not even an authentic chunk."""
    plaintext = bytes(2 * cobblestone.CHUNK_BYTES)
    body = bytearray(cobblestone.encrypt(KEY, plaintext, salt=SALT, context=b""))
    prefix = bytes(body[: cobblestone.PREFIX_BYTES])
    decryptor = cobblestone.Decryptor(KEY, prefix=prefix, context=b"")
    chunk = memoryview(body)[cobblestone.PREFIX_BYTES :][: cobblestone.SEALED_CHUNK_BYTES]
    out = memoryview(bytearray(cobblestone.CHUNK_BYTES))
    chunk[0] ^= 1
    with pytest.raises(EnvelopeInvalidError):
        decryptor.update_into(chunk, out)
    chunk[0] ^= 1
    with pytest.raises(EnvelopeInvalidError):
        decryptor.update_into(chunk, out)
    with pytest.raises(EnvelopeInvalidError):
        decryptor.finalize(bytes(16))


def test_an_encryptor_ends_once() -> None:
    """After the last chunk an encryptor encrypts nothing more under the same nonce."""
    encryptor = cobblestone.Encryptor(KEY, salt=SALT, context=b"")
    encryptor.finalize(b"x")
    with pytest.raises(EnvelopeInvalidError):
        encryptor.finalize(b"y")
    chunk = memoryview(bytearray(cobblestone.CHUNK_BYTES))
    with pytest.raises(EnvelopeInvalidError):
        encryptor.update_into(chunk, memoryview(bytearray(cobblestone.SEALED_CHUNK_BYTES)))


def test_a_last_chunk_is_short() -> None:
    """A whole chunk is not taken as the last one, and keys and salts have one length."""
    encryptor = cobblestone.Encryptor(KEY, salt=SALT, context=b"")
    with pytest.raises(ValueError, match="shorter"):
        encryptor.finalize(bytes(cobblestone.CHUNK_BYTES))
    for key, salt in ((KEY[:-1], SALT), (KEY, SALT[:-1])):
        with pytest.raises(ValueError, match="32 bytes"):
            cobblestone.Encryptor(key, salt=salt, context=b"")
