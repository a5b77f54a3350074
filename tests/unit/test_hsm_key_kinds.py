"""The table of kinds: complete, consistent, and numbered for ever."""

from __future__ import annotations

import hashlib

import pytest

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm.key_kinds import KINDS, SPECS, USAGES, Operand, kind_of
from strongroom_server.hsm.wire_operations import SPEC_NUMBERS, USAGE_NUMBERS


def test_every_spec_has_a_kind() -> None:
    """No spec is without a usage, no usage without a spec, and each kind is its own entry."""
    assert {spec for spec, _ in KINDS} == set(KeySpec)
    assert {usage for _, usage in KINDS} == set(KeyUsage)
    for (spec, usage), kind in KINDS.items():
        assert (kind.spec, kind.usage) == (spec, usage)
        assert kind_of(spec, usage) is kind
    assert kind_of(KeySpec.ED25519, KeyUsage.KEY_AGREEMENT) is None
    assert kind_of(KeySpec.AES_256, KeyUsage.SIGN_VERIFY) is None


def test_numbers_do_not_change() -> None:
    """Transfer blobs hold these numbers: an entry is added at the end, never between."""
    assert [spec.value for spec in SPECS] == [
        "AES_256",
        "HMAC_224",
        "HMAC_256",
        "HMAC_384",
        "HMAC_512",
        "RSA_2048",
        "RSA_3072",
        "RSA_4096",
        "EC_P256",
        "EC_P384",
        "EC_P521",
        "EC_SECP256K1",
        "ED25519",
    ]
    assert [usage.value for usage in USAGES] == [
        "ENCRYPT_DECRYPT",
        "SIGN_VERIFY",
        "GENERATE_VERIFY_MAC",
        "KEY_AGREEMENT",
    ]
    assert SPEC_NUMBERS[KeySpec.AES_256] == 1
    assert USAGE_NUMBERS[KeyUsage.ENCRYPT_DECRYPT] == 1


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: f"{kind.spec}-{kind.usage}")
def test_kinds_do_one_thing(kind: object) -> None:
    """A secret key has a length; a private key has one use; nothing wraps or unwraps."""
    from strongroom_server.hsm.key_kinds import KeyKind  # noqa: PLC0415 - narrows the parameter

    assert isinstance(kind, KeyKind)
    assert kind.algorithms
    assert kind.mechanisms
    assert not (kind.uses | kind.public_uses) & {"WRAP", "UNWRAP"}
    if kind.operand is Operand.SECRET:
        assert kind.key_bytes
        assert not kind.public_uses
        assert not kind.modulus_bits + kind.field_bytes
    else:
        assert len(kind.uses) == 1
        assert not kind.key_bytes
        assert bool(kind.modulus_bits) != bool(kind.curve)
    assert kind.is_wrappable == (kind.key_bytes in {32, 48, 64})
    assert "SIGN" not in kind.uses or not {"DECRYPT", "DERIVE"} & kind.uses


def test_hash_names_are_those_of_hashlib() -> None:
    """Every algorithm with a hash names one that there is, of the size that it says."""
    without = {Algorithm.AES_256_GCM, Algorithm.ED25519, Algorithm.ECDH}
    for algorithm in Algorithm:
        assert (algorithm.hash_name == "") == (algorithm in without)
        if algorithm.hash_name:
            size = hashlib.new(algorithm.hash_name).digest_size
            assert str(8 * size) in algorithm.name or (size, algorithm.hash_name) == (20, "sha1")
