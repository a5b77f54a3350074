"""The envelope header: exactly one encoding, everything else is EnvelopeInvalidError."""

from __future__ import annotations

import hmac
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom import encryption_context
from strongroom_client import EnvelopeInvalidError
from strongroom_client import _format as fmt

DATA_KEY = bytes(range(32))
MESSAGE_ID = b"0123456789abcdef"
AAD = encryption_context.encode({"order": "17"})
NAMES = (
    "regions/eu-1/keys/11111111-2222-4333-8444-555555555555",
    "regions/us-1/keys/66666666-7777-4888-8999-aaaaaaaaaaaa",
)
ENTRIES = tuple(fmt.WrappedKey(name, bytes((number,)) * 82) for number, name in enumerate(NAMES))


def _header(
    entries: bytes | None = None, *, immutable: bytes | None = None, mac_key: bytes = DATA_KEY
) -> bytes:
    immutable = fmt.encode_immutable(MESSAGE_ID, AAD) if immutable is None else immutable
    data = immutable + (fmt.encode_wrapped_keys(ENTRIES) if entries is None else entries)
    key = fmt.derive_mac_key(mac_key)
    return data + hmac.digest(key, data, "sha256")


def _entry(name: bytes, blob: bytes) -> bytes:
    return struct.pack(">H", len(name)) + name + struct.pack(">H", len(blob)) + blob


def _parse(data: bytes, expected_aad: bytes | None = None) -> fmt.Header:
    return fmt.parse_header(fmt.Cursor(data).read, expected_aad=expected_aad)


def test_a_header_comes_back() -> None:
    """What is encoded parses to the same parts, and is read to its last byte only."""
    data = _header()
    cursor = fmt.Cursor(data + b"body")
    header = fmt.parse_header(cursor.read, expected_aad=AAD)
    assert header.wrapped_keys == ENTRIES
    assert (header.aad, header.size) == (AAD, len(data))
    assert cursor.offset == len(data)
    assert header.immutable == data[: 26 + len(AAD)]
    assert header.wrapped_keys[1].region == "us-1"
    header.verify(fmt.derive_mac_key(DATA_KEY))


def test_the_layout_is_the_documented_one() -> None:
    """The bytes are those of docs/formats/envelope-v1.md, spelled out."""
    assert _header()[: 26 + len(AAD)] == (
        b"SRENV\x01\x01\x00" + MESSAGE_ID + len(AAD).to_bytes(2, "big") + AAD
    )
    first = NAMES[0].encode()
    assert _header()[26 + len(AAD) :].startswith(
        b"\x02" + bytes((0, len(first))) + first + bytes((0, 82)) + bytes(82)
    )
    assert fmt.MAX_HEADER_BYTES == 26 + 8192 + 1 + 16 * 6276 + 32


def test_entries_are_sorted_and_unique() -> None:
    """The order of the arguments does not matter; a key twice, none or 17 are refused."""
    assert fmt.encode_wrapped_keys(ENTRIES[::-1]) == fmt.encode_wrapped_keys(ENTRIES)
    for entries in ((), ENTRIES[:1] * 2, ENTRIES[:1] * 17):
        with pytest.raises(ValueError, match="an envelope has"):
            fmt.encode_wrapped_keys(entries)


def test_another_key_fails_the_mac() -> None:
    """A header made with another data key parses and does not verify."""
    header = _parse(_header(mac_key=bytes(32)))
    with pytest.raises(EnvelopeInvalidError):
        header.verify(fmt.derive_mac_key(DATA_KEY))


@pytest.mark.parametrize("offset", [0, 4, 5, 6, 7])
def test_the_fixed_bytes_are_fixed(offset: int) -> None:
    """Another magic, version, suite or reserved byte is refused."""
    for change in range(1, 256):
        data = bytearray(_header())
        data[offset] ^= change
        with pytest.raises(EnvelopeInvalidError):
            _parse(bytes(data))


def test_every_cut_is_refused() -> None:
    """A header that ends early is refused, wherever it ends."""
    data = _header()
    for end in range(len(data)):
        with pytest.raises(EnvelopeInvalidError):
            _parse(data[:end])


@pytest.mark.parametrize(
    "aad",
    [b"\x01", b"\x01\x00\x00", b"\x02" + AAD[1:], AAD + b"\0", AAD[:-1], b"\x01" * 8193],
)
def test_a_context_that_is_not_canonical_is_refused(aad: bytes) -> None:
    """Bytes that are not the canonical form of a context are refused, also over-long ones."""
    with pytest.raises(EnvelopeInvalidError):
        _parse(_header(immutable=fmt.encode_immutable(MESSAGE_ID, aad)))


def test_the_expected_context_is_compared() -> None:
    """With an expected context any other one is refused, the empty one too."""
    assert _parse(_header(), AAD).aad == AAD
    for other in (b"", encryption_context.encode({"order": "18"})):
        with pytest.raises(EnvelopeInvalidError):
            _parse(_header(), other)


BLOB = bytes(82)


@pytest.mark.parametrize(
    "entries",
    [
        b"\x00",
        b"\x11" + _entry(NAMES[0].encode(), BLOB) * 17,
        b"\x02" + _entry(NAMES[0].encode(), BLOB) * 2,
        b"\x02" + _entry(NAMES[1].encode(), BLOB) + _entry(NAMES[0].encode(), BLOB),
        b"\x01" + _entry(b"", BLOB),
        b"\x01" + _entry(NAMES[0].encode() + b"a" * 80, BLOB),
        b"\x01" + _entry(NAMES[0].encode().upper(), BLOB),
        b"\x01" + _entry(NAMES[0].encode() + b"/versions/1", BLOB),
        b"\x01" + _entry(NAMES[0].encode() + b"\n", BLOB),
        b"\x01" + _entry(NAMES[0].replace("eu-1", "eü-1").encode(), BLOB),
        b"\x01" + _entry(b"regions/eu-1/aliases/cards", BLOB),
        b"\x01" + _entry(NAMES[0].encode(), bytes(50)),
        b"\x01" + _entry(NAMES[0].encode(), bytes(6145)),
        b"\x01" + _entry(NAMES[0].encode(), b""),
    ],
)
def test_a_bad_list_is_refused(entries: bytes) -> None:
    """Counts, lengths, names and orders that the format does not allow are refused."""
    with pytest.raises(EnvelopeInvalidError):
        _parse(_header(entries))


def test_limits_are_inclusive() -> None:
    """16 keys, blobs of 51 and 6,144 bytes and an empty context are accepted."""
    entries = [
        fmt.WrappedKey(f"{NAMES[0][:-2]}{number:02x}", bytes(51 if number % 2 else 6144))
        for number in range(16)
    ]
    immutable = fmt.encode_immutable(MESSAGE_ID, b"")
    data = _header(fmt.encode_wrapped_keys(entries), immutable=immutable)
    assert len(_parse(data).wrapped_keys) == 16


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    """Random bytes, also behind a good beginning, never parse and never raise anything else."""
    for data in (noise, _header()[:26] + noise, _header()[: 26 + len(AAD)] + noise):
        with pytest.raises(EnvelopeInvalidError):
            _parse(data)


@settings(max_examples=2000)
@given(st.integers(0, len(_header()) - 1), st.integers(1, 255))
def test_a_parsed_header_is_the_only_encoding(at: int, change: int) -> None:
    """A changed header is refused, or parses to parts that encode to the bytes that were read."""
    data = bytearray(_header())
    data[at] ^= change
    try:
        header = _parse(bytes(data))
    except EnvelopeInvalidError:
        return
    again = fmt.encode_immutable(bytes(data[8:24]), header.aad)
    again += fmt.encode_wrapped_keys(header.wrapped_keys) + header.mac
    assert again == bytes(data[: header.size])
    with pytest.raises(EnvelopeInvalidError):
        header.verify(fmt.derive_mac_key(DATA_KEY))
