"""What the fake does with MAC keys and key pairs, by `cryptography`; see testing.py.

Material of a pair is its PKCS#8, of every other key its bytes. Algorithms are those of the
API's enum; that a key takes one is checked by the caller.
"""

from __future__ import annotations

import hashlib
import hmac as constant_time
from collections.abc import Callable
from typing import Final, TypeAlias, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)

from strongroom.kms.v1 import resources_pb2 as pb
from strongroom_client.errors import (
    ArgumentInvalidError,
    CiphertextInvalidError,
    MacInvalidError,
    SignatureInvalidError,
)

__all__ = [
    "agree",
    "algorithms_of",
    "can_be_wrapped",
    "generate_mac",
    "is_pair",
    "make_material",
    "oaep_decrypt",
    "oaep_encrypt",
    "public_key",
    "sign",
    "verify",
    "verify_mac",
]

_Algorithm: TypeAlias = pb.Algorithm.ValueType
_PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "1": hashes.SHA1(),  # noqa: S303 - of OAEP, where it has to resist nothing (RFC 8017, B.1)
    "224": hashes.SHA224(),
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_CURVES: Final[dict[int, ec.EllipticCurve]] = {
    pb.KEY_SPEC_EC_P256: ec.SECP256R1(),
    pb.KEY_SPEC_EC_P384: ec.SECP384R1(),
    pb.KEY_SPEC_EC_P521: ec.SECP521R1(),
    pb.KEY_SPEC_EC_SECP256K1: ec.SECP256K1(),
}
_RSA: Final = (pb.KEY_SPEC_RSA_2048, pb.KEY_SPEC_RSA_3072, pb.KEY_SPEC_RSA_4096)
_HMACS: Final = {
    pb.KEY_SPEC_HMAC_224: pb.ALGORITHM_HMAC_SHA_224,
    pb.KEY_SPEC_HMAC_256: pb.ALGORITHM_HMAC_SHA_256,
    pb.KEY_SPEC_HMAC_384: pb.ALGORITHM_HMAC_SHA_384,
    pb.KEY_SPEC_HMAC_512: pb.ALGORITHM_HMAC_SHA_512,
}
_ECDSA: Final = {
    pb.KEY_SPEC_EC_P256: pb.ALGORITHM_ECDSA_SHA_256,
    pb.KEY_SPEC_EC_P384: pb.ALGORITHM_ECDSA_SHA_384,
    pb.KEY_SPEC_EC_P521: pb.ALGORITHM_ECDSA_SHA_512,
    pb.KEY_SPEC_EC_SECP256K1: pb.ALGORITHM_ECDSA_SHA_256,
}
_RSA_SIGN: Final = (
    pb.ALGORITHM_RSASSA_PSS_SHA_256,
    pb.ALGORITHM_RSASSA_PSS_SHA_384,
    pb.ALGORITHM_RSASSA_PSS_SHA_512,
    pb.ALGORITHM_RSASSA_PKCS1_V1_5_SHA_256,
    pb.ALGORITHM_RSASSA_PKCS1_V1_5_SHA_384,
    pb.ALGORITHM_RSASSA_PKCS1_V1_5_SHA_512,
)
_RSA_ENCRYPT: Final = (pb.ALGORITHM_RSAES_OAEP_SHA_256, pb.ALGORITHM_RSAES_OAEP_SHA_1)
_ALGORITHMS: Final[dict[tuple[int, int], tuple[_Algorithm, ...]]] = {
    (pb.KEY_SPEC_AES_256, pb.KEY_USAGE_ENCRYPT_DECRYPT): (pb.ALGORITHM_AES_256_GCM,),
    **{(spec, pb.KEY_USAGE_GENERATE_VERIFY_MAC): (mac,) for spec, mac in _HMACS.items()},
    **{(spec, pb.KEY_USAGE_SIGN_VERIFY): _RSA_SIGN for spec in _RSA},
    **{(spec, pb.KEY_USAGE_ENCRYPT_DECRYPT): _RSA_ENCRYPT for spec in _RSA},
    **{(spec, pb.KEY_USAGE_SIGN_VERIFY): (ecdsa,) for spec, ecdsa in _ECDSA.items()},
    **{
        (spec, pb.KEY_USAGE_KEY_AGREEMENT): (pb.ALGORITHM_ECDH,)
        for spec in (pb.KEY_SPEC_EC_P256, pb.KEY_SPEC_EC_P384, pb.KEY_SPEC_EC_P521)
    },
    (pb.KEY_SPEC_ED25519, pb.KEY_USAGE_SIGN_VERIFY): (pb.ALGORITHM_ED25519,),
}


def algorithms_of(spec: int, usage: int) -> tuple[_Algorithm, ...]:
    """Return what a key takes; nothing when there are no such keys."""
    return _ALGORITHMS.get((spec, usage), ())


def is_pair(spec: int) -> bool:
    """Say whether keys of a spec are pairs."""
    return spec in _RSA or spec in _CURVES or spec == pb.KEY_SPEC_ED25519


def can_be_wrapped(spec: int) -> bool:
    """Say whether keys of a spec may have wrapped storage."""
    return not is_pair(spec) and spec != pb.KEY_SPEC_HMAC_224


def make_material(spec: int, random_bytes: Callable[[int], bytes]) -> bytes:
    """Return new material for a key of a spec."""
    key: _PrivateKey
    if spec == pb.KEY_SPEC_AES_256:
        return random_bytes(32)
    if spec in _HMACS:
        return random_bytes(int(pb.KeySpec.Name(spec).rpartition("_")[2]) // 8)  # type: ignore[arg-type]  # a number of the enum
    if spec in _RSA:
        bits = int(pb.KeySpec.Name(spec).rpartition("_")[2])  # type: ignore[arg-type]  # a number of the enum
        key = rsa.generate_private_key(65537, bits)
    elif spec in _CURVES:
        key = ec.generate_private_key(_CURVES[spec])
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_key(material: bytes) -> bytes:
    """Return the public key of a pair, DER SubjectPublicKeyInfo."""
    return (
        _private(material)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def sign(material: bytes, algorithm: int, message: bytes, *, is_digest: bool) -> bytes:
    """Sign a message or its digest."""
    key = _private(material)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    digest = Prehashed(_hash(algorithm))
    hashed = message if is_digest else _digest(algorithm, message)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(hashed, ec.ECDSA(digest))
    return key.sign(hashed, _padding(algorithm), digest)


def verify(
    material: bytes, algorithm: int, message: bytes, signature: bytes, *, is_digest: bool
) -> None:
    """Verify what `sign` returned.

    Raises:
        SignatureInvalidError: It does not verify.
    """
    key = _private(material).public_key()
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
            return
        digest = Prehashed(_hash(algorithm))
        hashed = message if is_digest else _digest(algorithm, message)
        if isinstance(key, ec.EllipticCurvePublicKey):
            _require(encode_dss_signature(*decode_dss_signature(signature)) == signature)
            key.verify(signature, hashed, ec.ECDSA(digest))
        else:
            key.verify(signature, hashed, _padding(algorithm), digest)
    except (InvalidSignature, ValueError):
        raise SignatureInvalidError("the signature does not verify with this key") from None


def generate_mac(material: bytes, algorithm: int, message: bytes) -> bytes:
    """Return the HMAC of a message."""
    mac = hmac.HMAC(material, _hash(algorithm))
    mac.update(message)
    return mac.finalize()


def verify_mac(material: bytes, algorithm: int, message: bytes, mac: bytes) -> None:
    """Verify what `generate_mac` returned.

    Raises:
        MacInvalidError: It does not verify.
    """
    if not constant_time.compare_digest(generate_mac(material, algorithm, message), mac):
        raise MacInvalidError("the MAC does not verify with this key")


def agree(material: bytes, other: bytes) -> bytes:
    """Return the ECDH shared secret with a SubjectPublicKeyInfo.

    Raises:
        ArgumentInvalidError: It is none on the same curve.
    """
    mine = cast("ec.EllipticCurvePrivateKey", _private(material))
    try:
        theirs = serialization.load_der_public_key(other)
        _require(isinstance(theirs, ec.EllipticCurvePublicKey))
        return mine.exchange(ec.ECDH(), cast("ec.EllipticCurvePublicKey", theirs))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ArgumentInvalidError.of(
            "public_key", "hsm.argument", "must be on the key's own curve"
        ) from None


def oaep_encrypt(material: bytes, algorithm: int, plaintext: bytes) -> bytes:
    """Encrypt with RSAES-OAEP.

    Raises:
        ArgumentInvalidError: The plaintext is too long.
    """
    key = cast("rsa.RSAPrivateKey", _private(material))
    try:
        return key.public_key().encrypt(plaintext, _oaep(algorithm))
    except ValueError:
        raise ArgumentInvalidError.of(
            "plaintext", "plaintext.oaep", "longer than the key has room for"
        ) from None


def oaep_decrypt(material: bytes, algorithm: int, ciphertext: bytes) -> bytes:
    """Decrypt RSAES-OAEP.

    Raises:
        CiphertextInvalidError: It does not decrypt.
    """
    key = cast("rsa.RSAPrivateKey", _private(material))
    try:
        return key.decrypt(ciphertext, _oaep(algorithm))
    except ValueError:
        raise CiphertextInvalidError(
            "the ciphertext is not valid for this key and encryption context"
        ) from None


def _require(holds: bool) -> None:  # noqa: FBT001 - a condition
    if not holds:
        raise ValueError("not what was expected")


def _private(material: bytes) -> _PrivateKey:
    key = serialization.load_der_private_key(material, password=None)
    if not isinstance(
        key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    ):
        raise TypeError("not a private key of a known kind")
    return key


def _hash(algorithm: int) -> hashes.HashAlgorithm:
    return _HASHES[pb.Algorithm.Name(algorithm).rpartition("_")[2]]  # type: ignore[arg-type]  # a number of the enum


def _digest(algorithm: int, message: bytes) -> bytes:
    return hashlib.new(_hash(algorithm).name, message).digest()


def _padding(algorithm: int) -> padding.PSS | padding.PKCS1v15:
    if "_PSS_" not in pb.Algorithm.Name(algorithm):  # type: ignore[arg-type]  # a number of the enum
        return padding.PKCS1v15()
    digest = _hash(algorithm)
    return padding.PSS(padding.MGF1(digest), digest.digest_size)


def _oaep(algorithm: int) -> padding.OAEP:
    digest = _hash(algorithm)
    return padding.OAEP(padding.MGF1(digest), digest, None)
