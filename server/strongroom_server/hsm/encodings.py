"""Public keys and signatures between PKCS#11's forms and everybody else's.

    public key   DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)   CKA_MODULUS..., CKA_EC_POINT
    ECDSA        DER Ecdsa-Sig-Value (RFC 3279, 2.2.3)          r || s, each as long as a coordinate

`cryptography` is imported when it is first needed: most workers never do, and every one
starts again after a fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from strongroom_server.hsm.key_kinds import KeyKind
from strongroom_server.hsm.return_codes import PolicyRefusedError, TamperedError
from strongroom_server.hsm.ring_errors import ArgumentRefusedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve, EllipticCurvePublicKey

__all__ = [
    "digest_info",
    "ecdsa_from_der",
    "ecdsa_to_der",
    "ephemeral_agreement",
    "parse_agreement_point",
    "parse_transfer_key",
    "public_key_from_attributes",
]

_OCTET_STRING: Final = 0x04
_SHORT_LENGTH: Final = 0x80  # X.690, 8.1.3.4
_PUBLIC_EXPONENT: Final = 65537

# DER of DigestInfo up to the digest: RFC 8017, 9.2, note 1.
_DIGEST_INFO: Final = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


def digest_info(hash_name: str, digest: bytes) -> bytes:
    """Return what RSASSA-PKCS1-v1_5 pads (EMSA-PKCS1-v1_5, RFC 8017, 9.2, step 2)."""
    return _DIGEST_INFO[hash_name] + digest


def ecdsa_to_der(raw: bytes, field_bytes: int) -> bytes:
    """Encode r || s.

    Raises:
        PolicyRefusedError: The module made something else.
    """
    from cryptography.hazmat.primitives.asymmetric.utils import (  # noqa: PLC0415 - see above
        encode_dss_signature,
    )

    if len(raw) != 2 * field_bytes:
        raise PolicyRefusedError(f"sign: {len(raw)} bytes instead of {2 * field_bytes}")
    r, s = raw[:field_bytes], raw[field_bytes:]
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def ecdsa_from_der(signature: bytes, field_bytes: int) -> bytes:
    """Return r || s.

    Raises:
        TamperedError: It is not exactly one DER encoding of two numbers of the field's size.
    """
    from cryptography.hazmat.primitives.asymmetric.utils import (  # noqa: PLC0415 - see above
        decode_dss_signature,
        encode_dss_signature,
    )

    try:
        r, s = decode_dss_signature(signature)
        raw = r.to_bytes(field_bytes, "big") + s.to_bytes(field_bytes, "big")
    except (ValueError, OverflowError) as exc:
        raise TamperedError from exc
    if encode_dss_signature(r, s) != signature:
        raise TamperedError
    return raw


def public_key_from_attributes(kind: KeyKind, shown: Mapping[str, object]) -> bytes:
    """Return the SubjectPublicKeyInfo of a public key object.

    Raises:
        PolicyRefusedError: What the token shows is no public key of its kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
    try:
        if kind.modulus_bits:
            modulus, exponent = _bytes(shown, "MODULUS"), _bytes(shown, "PUBLIC_EXPONENT")
            key = rsa.RSAPublicNumbers(
                int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
            ).public_key()
        elif kind.curve_name:
            point = _point(_bytes(shown, "EC_POINT"), 1 + 2 * kind.field_bytes)
            key = ec.EllipticCurvePublicKey.from_encoded_point(_curve(kind.curve_name), point)
        else:
            point = _point(_bytes(shown, "EC_POINT"), kind.field_bytes)
            key = ed25519.Ed25519PublicKey.from_public_bytes(point)
        return key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise PolicyRefusedError(f"the token shows no public key of {kind.name}: {exc}") from exc


def parse_agreement_point(kind: KeyKind, public_key: bytes) -> bytes:
    """Return the uncompressed point of the other side's SubjectPublicKeyInfo.

    Checked here and not left to the module: a point off the curve, or on another one,
    makes ECDH give away the private key piece by piece (invalid curve attack; SP 800-56A,
    5.6.2.3.3). P-256, P-384 and P-521 have no small subgroups.

    Raises:
        ArgumentRefusedError: It is no point of the key's curve.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = _parse(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != kind.curve_name:
        raise ArgumentRefusedError(
            "public_key", f"must be on the key's own curve, {kind.curve_name}"
        )
    return key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def parse_transfer_key(public_key: bytes) -> tuple[bytes, bytes]:
    """Return modulus and exponent of a target's SubjectPublicKeyInfo.

    Raises:
        ArgumentRefusedError: It is no RSA key of 3072 or 4096 bits with exponent 65537.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415 - see above

    key = _parse(public_key)
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in {3072, 4096}:
        raise ArgumentRefusedError("public_key", "must be RSA with 3072 or 4096 bits")
    numbers = key.public_numbers()
    if numbers.e != _PUBLIC_EXPONENT or numbers.n % 2 == 0:
        raise ArgumentRefusedError("public_key", "must have the exponent 65537")
    return numbers.n.to_bytes(key.key_size // 8, "big"), numbers.e.to_bytes(3, "big")


def ephemeral_agreement(kind: KeyKind, public_key: bytes) -> tuple[bytes, bytes]:
    """Agree with a public key by a key that is made here for it alone.

    Returns:
        Its SubjectPublicKeyInfo, and the shared secret.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    mine = ec.generate_private_key(_curve(kind.curve_name))
    theirs: EllipticCurvePublicKey = ec.EllipticCurvePublicKey.from_encoded_point(
        mine.curve, parse_agreement_point(kind, public_key)
    )
    spki = mine.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return spki, mine.exchange(ec.ECDH(), theirs)


def _parse(public_key: bytes) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    try:
        key = serialization.load_der_public_key(public_key)
        again = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ArgumentRefusedError(
            "public_key", "must be a public key, DER SubjectPublicKeyInfo"
        ) from exc
    if again != public_key:
        raise ArgumentRefusedError(
            "public_key",
            "must be DER SubjectPublicKeyInfo with a named curve and an uncompressed point",
        )
    return key


def _curve(name: str) -> EllipticCurve:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - see above

    curves: dict[str, EllipticCurve] = {
        "secp256r1": ec.SECP256R1(),
        "secp384r1": ec.SECP384R1(),
        "secp521r1": ec.SECP521R1(),
        "secp256k1": ec.SECP256K1(),
    }
    return curves[name]


def _bytes(shown: Mapping[str, object], name: str) -> bytes:
    value = shown.get(name)
    if not isinstance(value, bytes):
        raise ValueError(f"CKA_{name} is not shown")  # noqa: TRY004 - what the caller maps
    return value


def _point(shown: bytes, length: int) -> bytes:
    """Return a point from CKA_EC_POINT: a DER OCTET STRING (PKCS#11 3.1, 6.3.3), or bare.

    Which one shows by the length alone.
    """
    if len(shown) == length:
        return shown
    header = bytes([_OCTET_STRING])
    header += bytes([length]) if length < _SHORT_LENGTH else bytes([_SHORT_LENGTH + 1, length])
    if shown[: len(header)] != header or len(shown) != len(header) + length:
        raise ValueError("CKA_EC_POINT is malformed")
    return shown[len(header) :]
