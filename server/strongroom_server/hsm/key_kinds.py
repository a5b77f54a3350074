"""The kinds of key: what a spec and a usage are in PKCS#11, and what may be done with them.

One table. A kind that is not in it does not exist; whether a module can do it is another
question, which `capabilities` answers. What is done with them: `domain/algorithms.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from strongroom_server.domain.algorithms import Algorithm, algorithms_of
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck

__all__ = [
    "KINDS",
    "SPECS",
    "USAGES",
    "KeyKind",
    "Operand",
    "kind_of",
]


class Operand(enum.Enum):
    """What kind of object holds the material."""

    SECRET = ck.CKO_SECRET_KEY
    PAIR = ck.CKO_PRIVATE_KEY


SPECS: Final[tuple[KeySpec, ...]] = tuple(KeySpec)
"""A spec's place here plus one is its number on the wire and in transfer blobs."""
USAGES: Final[tuple[KeyUsage, ...]] = tuple(KeyUsage)
"""A usage's place here plus one is its number on the wire and in transfer blobs."""


@dataclass(frozen=True, slots=True)
class KeyKind:
    """A spec with one of its usages.

    Attributes:
        operand: Secret key or key pair.
        key_type: CKA_KEY_TYPE.
        generate: The mechanism that makes it.
        uses: Attributes, without ``CKA_``, that are true on the secret or private key.
        public_uses: The same for the public key.
        algorithms: What may be done with it.
        mechanisms: CKA_ALLOWED_MECHANISMS, where a module takes that.
        key_bytes: Length of a secret key.
        modulus_bits: Of an RSA key.
        curve: CKA_EC_PARAMS, the DER object identifier of a named curve.
        field_bytes: Length of a coordinate, and of r and s.
        curve_name: As `cryptography` names it.
    """

    spec: KeySpec
    usage: KeyUsage
    operand: Operand
    key_type: int
    generate: int
    uses: frozenset[str]
    algorithms: frozenset[Algorithm]
    mechanisms: tuple[int, ...]
    public_uses: frozenset[str] = frozenset()
    key_bytes: int = 0
    modulus_bits: int = 0
    curve: bytes = b""
    field_bytes: int = 0
    curve_name: str = ""

    @property
    def is_wrappable(self) -> bool:
        """Whether AES key wrap takes it: multiples of 8 bytes from 16 (RFC 3394, 2).

        Private keys are PKCS#8 of any length, and HMAC_224 has 28 bytes: the padded form
        that would take these differs between modules (docs/hsm/).
        """
        return self.key_bytes >= 16 and self.key_bytes % 8 == 0  # noqa: PLR2004 - RFC 3394

    @property
    def wrapped_bytes(self) -> int:
        """Length of its AES key wrap (RFC 3394, 2.2.1: one block of 8 bytes more)."""
        return self.key_bytes + 8

    @property
    def name(self) -> str:
        """Return it in words, for errors."""
        return f"{self.spec} keys for {self.usage}"


def _algorithms(spec: KeySpec, usage: KeyUsage) -> frozenset[Algorithm]:
    return frozenset(algorithms_of(spec, usage))


_HMACS: Final = {
    224: ck.CKM_SHA224_HMAC,
    256: ck.CKM_SHA256_HMAC,
    384: ck.CKM_SHA384_HMAC,
    512: ck.CKM_SHA512_HMAC,
}


def _hmac(bits: int) -> KeyKind:
    return KeyKind(
        KeySpec[f"HMAC_{bits}"],
        KeyUsage.GENERATE_VERIFY_MAC,
        Operand.SECRET,
        # Not CKK_SHA256_HMAC and its like: every module takes a generic secret for HMAC,
        # and a key as long as the hash is what FIPS 198-1, 3 and RFC 2104, 3 recommend.
        ck.CKK_GENERIC_SECRET,
        ck.CKM_GENERIC_SECRET_KEY_GEN,
        frozenset({"SIGN", "VERIFY"}),
        _algorithms(KeySpec[f"HMAC_{bits}"], KeyUsage.GENERATE_VERIFY_MAC),
        (_HMACS[bits],),
        key_bytes=bits // 8,
    )


def _rsa_sign(bits: int) -> KeyKind:
    return KeyKind(
        KeySpec[f"RSA_{bits}"],
        KeyUsage.SIGN_VERIFY,
        Operand.PAIR,
        ck.CKK_RSA,
        ck.CKM_RSA_PKCS_KEY_PAIR_GEN,
        frozenset({"SIGN"}),
        _algorithms(KeySpec[f"RSA_{bits}"], KeyUsage.SIGN_VERIFY),
        (ck.CKM_RSA_PKCS, ck.CKM_RSA_PKCS_PSS),
        public_uses=frozenset({"VERIFY"}),
        modulus_bits=bits,
    )


def _rsa_encrypt(bits: int) -> KeyKind:
    return KeyKind(
        KeySpec[f"RSA_{bits}"],
        KeyUsage.ENCRYPT_DECRYPT,
        Operand.PAIR,
        ck.CKK_RSA,
        ck.CKM_RSA_PKCS_KEY_PAIR_GEN,
        frozenset({"DECRYPT"}),
        _algorithms(KeySpec[f"RSA_{bits}"], KeyUsage.ENCRYPT_DECRYPT),
        (ck.CKM_RSA_PKCS_OAEP,),
        public_uses=frozenset({"ENCRYPT"}),
        modulus_bits=bits,
    )


@dataclass(frozen=True, slots=True)
class _Curve:
    spec: KeySpec
    oid: bytes
    field_bytes: int
    name: str


# Object identifiers: RFC 5480, 2.1.1.1; secp256k1: SEC 2, A.2.
_CURVES: Final = (
    _Curve(
        KeySpec.EC_P256,
        bytes.fromhex("06082a8648ce3d030107"),
        32,
        "secp256r1",
    ),
    _Curve(KeySpec.EC_P384, bytes.fromhex("06052b81040022"), 48, "secp384r1"),
    _Curve(KeySpec.EC_P521, bytes.fromhex("06052b81040023"), 66, "secp521r1"),
    _Curve(
        KeySpec.EC_SECP256K1,
        bytes.fromhex("06052b8104000a"),
        32,
        "secp256k1",
    ),
)
_ED25519_OID: Final = bytes.fromhex("06032b6570")  # RFC 8410, 3


def _ecdsa(curve: _Curve) -> KeyKind:
    return KeyKind(
        curve.spec,
        KeyUsage.SIGN_VERIFY,
        Operand.PAIR,
        ck.CKK_EC,
        ck.CKM_EC_KEY_PAIR_GEN,
        frozenset({"SIGN"}),
        _algorithms(curve.spec, KeyUsage.SIGN_VERIFY),
        (ck.CKM_ECDSA,),
        public_uses=frozenset({"VERIFY"}),
        curve=curve.oid,
        field_bytes=curve.field_bytes,
        curve_name=curve.name,
    )


def _ecdh(curve: _Curve) -> KeyKind:
    return KeyKind(
        curve.spec,
        KeyUsage.KEY_AGREEMENT,
        Operand.PAIR,
        ck.CKK_EC,
        ck.CKM_EC_KEY_PAIR_GEN,
        frozenset({"DERIVE"}),
        _algorithms(curve.spec, KeyUsage.KEY_AGREEMENT),
        (ck.CKM_ECDH1_DERIVE,),
        curve=curve.oid,
        field_bytes=curve.field_bytes,
        curve_name=curve.name,
    )


_AES: Final = KeyKind(
    KeySpec.AES_256,
    KeyUsage.ENCRYPT_DECRYPT,
    Operand.SECRET,
    ck.CKK_AES,
    ck.CKM_AES_KEY_GEN,
    frozenset({"ENCRYPT", "DECRYPT"}),
    _algorithms(KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT),
    # GCM alone: the key cannot serve as an AES-ECB oracle, from which a GCM keystream
    # could be computed for any IV.
    (ck.CKM_AES_GCM,),
    key_bytes=32,
)
_ED25519: Final = KeyKind(
    KeySpec.ED25519,
    KeyUsage.SIGN_VERIFY,
    Operand.PAIR,
    ck.CKK_EC_EDWARDS,
    ck.CKM_EC_EDWARDS_KEY_PAIR_GEN,
    frozenset({"SIGN"}),
    _algorithms(KeySpec.ED25519, KeyUsage.SIGN_VERIFY),
    (ck.CKM_EDDSA,),
    public_uses=frozenset({"VERIFY"}),
    curve=_ED25519_OID,
    field_bytes=32,
)

KINDS: Final[Mapping[tuple[KeySpec, KeyUsage], KeyKind]] = {
    (kind.spec, kind.usage): kind
    for kind in (
        _AES,
        *(_hmac(bits) for bits in (224, 256, 384, 512)),
        *(_rsa_sign(bits) for bits in (2048, 3072, 4096)),
        *(_rsa_encrypt(bits) for bits in (2048, 3072, 4096)),
        *(_ecdsa(curve) for curve in _CURVES),
        *(_ecdh(curve) for curve in _CURVES if curve.spec is not KeySpec.EC_SECP256K1),
        _ED25519,
    )
}
"""Every kind there is."""


def kind_of(spec: KeySpec, usage: KeyUsage) -> KeyKind | None:
    """Return a kind, None when there is none."""
    return KINDS.get((spec, usage))
