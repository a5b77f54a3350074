"""Transfer blobs: one encoding, and one error for everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.hsm import transfer_format
from strongroom_server.hsm.key_kinds import KINDS
from strongroom_server.hsm.transfer_format import TransferFormatError, TransferHeader
from strongroom_server.hsm.wire_operations import KIND_BY_NUMBERS, SPEC_NUMBERS, USAGE_NUMBERS

_WRAPPABLE = [
    (SPEC_NUMBERS[kind.spec], USAGE_NUMBERS[kind.usage])
    for kind in KINDS.values()
    if kind.is_wrappable
]
headers = st.builds(
    lambda algorithm, kind, ref, target: TransferHeader(algorithm, kind[0], kind[1], ref, target),
    st.sampled_from([Algorithm.RSAES_OAEP_SHA_1, Algorithm.RSAES_OAEP_SHA_256]),
    st.sampled_from(_WRAPPABLE),
    st.binary(min_size=20, max_size=20).filter(lambda ref: ref[16:] != bytes(4)),
    st.binary(min_size=32, max_size=32),
)


def _blob(header: TransferHeader, modulus_bytes: int = 384) -> bytes:
    kind = KIND_BY_NUMBERS[header.spec, header.usage]
    parts = ((b"s", modulus_bytes), (b"m", 40), (b"k", kind.wrapped_bytes), (b"t", 32))
    return header.to_bytes() + b"".join(byte * length for byte, length in parts)


@given(headers, st.sampled_from([384, 512]))
def test_blobs_round_trip(header: TransferHeader, modulus_bytes: int) -> None:
    """Each part is where it was put, and the tag covers all before it."""
    blob = _blob(header, modulus_bytes)
    parsed = transfer_format.parse(blob)
    assert parsed.header == header
    assert parsed.session_key == b"s" * modulus_bytes
    assert parsed.mac_key == b"m" * 40
    assert set(parsed.material) == {ord("k")}
    assert parsed.authenticated + parsed.tag == blob
    assert parsed.tag == b"t" * 32


@given(headers)
def test_other_lengths_are_refused(header: TransferHeader) -> None:
    """A byte more or less anywhere, or another modulus, is no blob."""
    blob = _blob(header)
    for bad in (blob[:-1], blob + b"\0", blob[:55], blob[:56], b"", _blob(header, 256)):
        with pytest.raises(TransferFormatError):
            transfer_format.parse(bad)


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 0), (0, 2), (1, 0), (1, 3), (2, 0), (2, 2), (2, 6), (2, 14), (3, 0), (3, 2), (3, 5)],
)
def test_other_versions_and_kinds_are_refused(at: int, value: int) -> None:
    """A version, an algorithm, a spec or a usage that is none of this form's is refused."""
    header = TransferHeader(Algorithm.RSAES_OAEP_SHA_1, *_WRAPPABLE[0], b"k" * 20, bytes(32))
    blob = bytearray(_blob(header))
    transfer_format.parse(bytes(blob))
    blob[at] = value
    with pytest.raises(TransferFormatError):
        transfer_format.parse(bytes(blob))


def test_version_number_0_is_refused() -> None:
    """Key versions begin with 1."""
    header = TransferHeader(
        Algorithm.RSAES_OAEP_SHA_1, *_WRAPPABLE[0], b"k" * 16 + bytes(4), bytes(32)
    )
    with pytest.raises(TransferFormatError):
        transfer_format.parse(_blob(header))


@given(st.binary(max_size=800))
def test_noise_gives_one_error(noise: bytes) -> None:
    """Whatever bytes arrive, the parser returns or raises its one error."""
    try:
        transfer_format.parse(noise)
    except TransferFormatError:
        return
