"""Which algorithms there are, and which a key of a spec and usage takes.

One table; sizes and algorithms per spec are those that AWS KMS' users know. A pair of spec
and usage that is not in it does not exist.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from strongroom_server.domain.keys import KeySpec, KeyStorage, KeyUsage
from strongroom_server.errors import ArgumentInvalidError, KeySpecUnsupportedError

__all__ = [
    "DIGEST_BYTES",
    "Algorithm",
    "algorithms_of",
    "can_be_wrapped",
    "check_digest",
    "check_oaep_plaintext",
    "choose_algorithm",
    "choose_storage",
    "is_pair",
]


class Algorithm(enum.IntEnum):
    """What is done with a key. The numbers are those of the API and of the HSM's `wire`."""

    AES_256_GCM = 1
    HMAC_SHA_224 = 2
    HMAC_SHA_256 = 3
    HMAC_SHA_384 = 4
    HMAC_SHA_512 = 5
    RSASSA_PKCS1_V1_5_SHA_256 = 6
    RSASSA_PKCS1_V1_5_SHA_384 = 7
    RSASSA_PKCS1_V1_5_SHA_512 = 8
    RSASSA_PSS_SHA_256 = 9
    RSASSA_PSS_SHA_384 = 10
    RSASSA_PSS_SHA_512 = 11
    ECDSA_SHA_256 = 12
    ECDSA_SHA_384 = 13
    ECDSA_SHA_512 = 14
    ED25519 = 15
    RSAES_OAEP_SHA_1 = 16
    RSAES_OAEP_SHA_256 = 17
    ECDH = 18

    @property
    def hash_name(self) -> str:
        """The hash as hashlib names it; empty for an algorithm without one."""
        if self in {Algorithm.AES_256_GCM, Algorithm.ED25519, Algorithm.ECDH}:
            return ""
        return "sha" + self.name.rpartition("_")[2]  # HMAC_SHA_224 and so on


DIGEST_BYTES: Final[Mapping[str, int]] = MappingProxyType(
    {"sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64}
)
"""How long a digest is, by the hash as hashlib names it (FIPS 180-4)."""

_RSA_SIGN: Final = (
    Algorithm.RSASSA_PSS_SHA_256,
    Algorithm.RSASSA_PSS_SHA_384,
    Algorithm.RSASSA_PSS_SHA_512,
    Algorithm.RSASSA_PKCS1_V1_5_SHA_256,
    Algorithm.RSASSA_PKCS1_V1_5_SHA_384,
    Algorithm.RSASSA_PKCS1_V1_5_SHA_512,
)
# No PKCS#1 v1.5 decryption: its errors are an oracle (RFC 8017, 7.2).
_RSA_ENCRYPT: Final = (Algorithm.RSAES_OAEP_SHA_256, Algorithm.RSAES_OAEP_SHA_1)
_RSA: Final = (KeySpec.RSA_2048, KeySpec.RSA_3072, KeySpec.RSA_4096)
# The hash is as long as the curve's order (FIPS 186-5, 6.1.1).
_ECDSA: Final = {
    KeySpec.EC_P256: Algorithm.ECDSA_SHA_256,
    KeySpec.EC_P384: Algorithm.ECDSA_SHA_384,
    KeySpec.EC_P521: Algorithm.ECDSA_SHA_512,
    KeySpec.EC_SECP256K1: Algorithm.ECDSA_SHA_256,
}

_TABLE: Final[Mapping[tuple[KeySpec, KeyUsage], tuple[Algorithm, ...]]] = MappingProxyType(
    {
        (KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT): (Algorithm.AES_256_GCM,),
        **{
            (KeySpec[f"HMAC_{bits}"], KeyUsage.GENERATE_VERIFY_MAC): (
                Algorithm[f"HMAC_SHA_{bits}"],
            )
            for bits in (224, 256, 384, 512)
        },
        **{(spec, KeyUsage.SIGN_VERIFY): _RSA_SIGN for spec in _RSA},
        **{(spec, KeyUsage.ENCRYPT_DECRYPT): _RSA_ENCRYPT for spec in _RSA},
        **{(spec, KeyUsage.SIGN_VERIFY): (algorithm,) for spec, algorithm in _ECDSA.items()},
        **{
            (spec, KeyUsage.KEY_AGREEMENT): (Algorithm.ECDH,)
            for spec in (KeySpec.EC_P256, KeySpec.EC_P384, KeySpec.EC_P521)
        },
        (KeySpec.ED25519, KeyUsage.SIGN_VERIFY): (Algorithm.ED25519,),
    }
)


def algorithms_of(spec: KeySpec, usage: KeyUsage) -> tuple[Algorithm, ...]:
    """Return what a key takes, the one to prefer first; nothing when there are no such keys."""
    return _TABLE.get((spec, usage), ())


def is_pair(spec: KeySpec) -> bool:
    """Say whether the material is a key pair, so that there is a public key."""
    return spec is not KeySpec.AES_256 and not spec.startswith("HMAC")


def can_be_wrapped(spec: KeySpec) -> bool:
    """Say whether such a key may have wrapped storage (docs/formats/wrapped-material-v1.md).

    AES key wrap takes multiples of 8 bytes (RFC 3394, 2): HMAC_224 has 28 bytes, a private
    key any number.
    """
    return not is_pair(spec) and spec is not KeySpec.HMAC_224


def choose_storage(
    spec: KeySpec, asked: KeyStorage | None, *, default: KeyStorage, region: str
) -> KeyStorage:
    """Return where a new key is kept: as asked, or else by default where it can be.

    Raises:
        KeySpecUnsupportedError: Wrapped storage was asked for, and there is none for the spec.
    """
    if can_be_wrapped(spec):
        return asked or default
    if asked is KeyStorage.WRAPPED:
        raise KeySpecUnsupportedError(region, f"{spec} keys in wrapped storage")
    return KeyStorage.RESIDENT


def choose_algorithm(spec: KeySpec, usage: KeyUsage, asked: Algorithm | None) -> Algorithm:
    """Return what to do with a key: what was asked for, or else the only thing there is.

    Raises:
        ArgumentInvalidError: The key does not take it, or takes several and none was named.
    """
    takes = algorithms_of(spec, usage)
    if asked is None and len(takes) == 1:
        return takes[0]
    if asked is None or asked not in takes:
        raise ArgumentInvalidError.of(
            "algorithm",
            "algorithm.of_key",
            f"{spec} keys for {usage} take {', '.join(each.name for each in takes)}",
        )
    return asked


def check_digest(algorithm: Algorithm, digest: bytes) -> None:
    """Require that what is given as a digest can be one for `algorithm`.

    Raises:
        ArgumentInvalidError: The algorithm signs messages only, or its hash has another length.
    """
    hash_name = algorithm.hash_name
    if not hash_name:
        raise ArgumentInvalidError.of(
            "message_type",
            "message.digest",
            f"{algorithm.name} signs messages, not digests (RFC 8032, 5.1)",
        )
    if len(digest) != DIGEST_BYTES[hash_name]:
        raise ArgumentInvalidError.of(
            "message",
            "message.digest",
            f"{len(digest)} bytes, a digest for {algorithm.name} has {DIGEST_BYTES[hash_name]}",
        )


def check_oaep_plaintext(spec: KeySpec, algorithm: Algorithm, plaintext: bytes) -> None:
    """Require that a plaintext has room in the modulus (RFC 8017, 7.1.1, step 1b).

    Raises:
        ArgumentInvalidError: It is too long.
    """
    modulus_bytes = int(spec.removeprefix("RSA_")) // 8
    most = modulus_bytes - 2 * DIGEST_BYTES[algorithm.hash_name] - 2
    if len(plaintext) > most:
        raise ArgumentInvalidError.of(
            "plaintext",
            "plaintext.oaep",
            f"{len(plaintext)} bytes, {spec} with {algorithm.name} takes at most {most}",
        )
