"""PKCS#11 mechanisms with their parameters, and the numbers of classes and key types.

Numbers and structures: PKCS#11 3.1, appendix B (pkcs11t.h) and section 6. A mechanism
value owns the memory that its parameter points into and may be used for one call at a
time.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = [
    "CKA_NAMES_OF_USES",
    "Mechanism",
    "aes_gcm",
    "aes_key_wrap",
    "aes_key_wrap_pad",
    "ecdh1_derive",
    "ecdsa",
    "eddsa",
    "hmac",
    "plain",
    "rsa_oaep",
    "rsa_pkcs1",
    "rsa_pss",
]

CKO_PUBLIC_KEY: Final = 0x2
CKO_PRIVATE_KEY: Final = 0x3
CKO_SECRET_KEY: Final = 0x4

CKK_RSA: Final = 0x00
CKK_EC: Final = 0x03
CKK_GENERIC_SECRET: Final = 0x10
CKK_AES: Final = 0x1F
CKK_SHA256_HMAC: Final = 0x2B
CKK_SHA384_HMAC: Final = 0x2C
CKK_SHA512_HMAC: Final = 0x2D
CKK_SHA224_HMAC: Final = 0x2E
CKK_EC_EDWARDS: Final = 0x40

CKM_RSA_PKCS_KEY_PAIR_GEN: Final = 0x0000
CKM_RSA_PKCS: Final = 0x0001
CKM_RSA_PKCS_OAEP: Final = 0x0009
CKM_RSA_PKCS_PSS: Final = 0x000D
CKM_SHA256_RSA_PKCS: Final = 0x0040
CKM_SHA384_RSA_PKCS: Final = 0x0041
CKM_SHA512_RSA_PKCS: Final = 0x0042
CKM_SHA256_RSA_PKCS_PSS: Final = 0x0043
CKM_SHA384_RSA_PKCS_PSS: Final = 0x0044
CKM_SHA512_RSA_PKCS_PSS: Final = 0x0045
CKM_SHA_1: Final = 0x0220
CKM_SHA224: Final = 0x0255
CKM_SHA224_HMAC: Final = 0x0256
CKM_SHA256: Final = 0x0250
CKM_SHA256_HMAC: Final = 0x0251
CKM_SHA384: Final = 0x0260
CKM_SHA384_HMAC: Final = 0x0261
CKM_SHA512: Final = 0x0270
CKM_SHA512_HMAC: Final = 0x0271
CKM_GENERIC_SECRET_KEY_GEN: Final = 0x0350
CKM_EC_KEY_PAIR_GEN: Final = 0x1040
CKM_ECDSA: Final = 0x1041
CKM_ECDH1_DERIVE: Final = 0x1050
CKM_EC_EDWARDS_KEY_PAIR_GEN: Final = 0x1055
CKM_EDDSA: Final = 0x1057
CKM_AES_KEY_GEN: Final = 0x1080
CKM_AES_ECB: Final = 0x1081
CKM_AES_CBC: Final = 0x1082
CKM_AES_CBC_PAD: Final = 0x1085
CKM_AES_GCM: Final = 0x1087
CKM_AES_CMAC: Final = 0x108A
CKM_AES_KEY_WRAP: Final = 0x2109
CKM_AES_KEY_WRAP_PAD: Final = 0x210A
CKM_AES_KEY_WRAP_KWP: Final = 0x210B

CKG_MGF1: Final = {"sha1": 1, "sha256": 2, "sha384": 3, "sha512": 4, "sha224": 5}
CKM_HASH: Final = {
    "sha1": CKM_SHA_1,
    "sha224": CKM_SHA224,
    "sha256": CKM_SHA256,
    "sha384": CKM_SHA384,
    "sha512": CKM_SHA512,
}
HASH_BYTES: Final = {"sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64}
_HMACS: Final = {
    "sha224": CKM_SHA224_HMAC,
    "sha256": CKM_SHA256_HMAC,
    "sha384": CKM_SHA384_HMAC,
    "sha512": CKM_SHA512_HMAC,
}
_RSA_PKCS1: Final = {
    None: CKM_RSA_PKCS,
    "sha256": CKM_SHA256_RSA_PKCS,
    "sha384": CKM_SHA384_RSA_PKCS,
    "sha512": CKM_SHA512_RSA_PKCS,
}
_CKZ_DATA_SPECIFIED: Final = 1
_CKD_NULL: Final = 1

CKA_NAMES_OF_USES: Final = (
    "ENCRYPT",
    "DECRYPT",
    "SIGN",
    "VERIFY",
    "WRAP",
    "UNWRAP",
    "DERIVE",
)
"""What a key can be allowed to do (PKCS#11 3.1, 4.8 to 4.10)."""


class CkMechanism(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_ = (
        ("mechanism", ctypes.c_ulong),
        ("parameter", ctypes.c_void_p),
        ("length", ctypes.c_ulong),
    )


class _GcmParams(ctypes.Structure):
    """CK_GCM_PARAMS."""

    _fields_ = (
        ("iv", ctypes.c_void_p),
        ("iv_length", ctypes.c_ulong),
        ("iv_bits", ctypes.c_ulong),
        ("aad", ctypes.c_char_p),
        ("aad_length", ctypes.c_ulong),
        ("tag_bits", ctypes.c_ulong),
    )


class _OaepParams(ctypes.Structure):
    """CK_RSA_PKCS_OAEP_PARAMS."""

    _fields_ = (
        ("hash", ctypes.c_ulong),
        ("mgf", ctypes.c_ulong),
        ("source", ctypes.c_ulong),
        ("data", ctypes.c_void_p),
        ("data_length", ctypes.c_ulong),
    )


class _PssParams(ctypes.Structure):
    """CK_RSA_PKCS_PSS_PARAMS."""

    _fields_ = (("hash", ctypes.c_ulong), ("mgf", ctypes.c_ulong), ("salt", ctypes.c_ulong))


class _Ecdh1Params(ctypes.Structure):
    """CK_ECDH1_DERIVE_PARAMS."""

    _fields_ = (
        ("kdf", ctypes.c_ulong),
        ("shared_length", ctypes.c_ulong),
        ("shared", ctypes.c_void_p),
        ("public_length", ctypes.c_ulong),
        ("public", ctypes.c_void_p),
    )


class Mechanism:
    """A CK_MECHANISM and everything that it points to."""

    __slots__ = ("_kept", "address")

    def __init__(
        self,
        number: int,
        parameter: ctypes.Structure | None = None,
        *kept: object,
    ):
        """Build it.

        Args:
            number: CKM_...
            parameter: Its parameter structure.
            kept: Buffers that `parameter` points into.
        """
        size = ctypes.sizeof(parameter) if parameter is not None else 0
        at = ctypes.addressof(parameter) if parameter is not None else None
        structure = CkMechanism(number, at, size)
        self._kept = (structure, parameter, kept)
        self.address = ctypes.addressof(structure)


def plain(number: int) -> Mechanism:
    """Return a mechanism without a parameter."""
    return Mechanism(number)


def with_iv(number: int, iv: bytes) -> Mechanism:
    """Return a mechanism whose parameter is an IV, such as CKM_AES_CBC_PAD."""
    buffer = (ctypes.c_ubyte * len(iv)).from_buffer_copy(iv)
    mechanism = Mechanism(number, None, buffer)
    structure = mechanism._kept[0]  # noqa: SLF001 - built here
    structure.parameter = ctypes.addressof(buffer)
    structure.length = len(iv)
    return mechanism


def aes_gcm(iv: bytes, aad: bytes, *, tag_bits: int = 128) -> Mechanism:
    """Return CKM_AES_GCM (PKCS#11 3.1, 6.13.2).

    The IV is copied into memory of its own: HSMs that choose the IV write into it.

    Args:
        iv: 12 bytes; other lengths are for probing.
        aad: Additional authenticated data, any length.
        tag_bits: 128; shorter ones are for probing.
    """
    iv_buffer = ctypes.create_string_buffer(iv, max(len(iv), 1))
    parameter = _GcmParams(
        ctypes.addressof(iv_buffer), len(iv), 8 * len(iv), aad, len(aad), tag_bits
    )
    return Mechanism(CKM_AES_GCM, parameter, iv_buffer, aad)


def aes_key_wrap() -> Mechanism:
    """Return CKM_AES_KEY_WRAP (RFC 3394) with its default IV; SoftHSM allows no other."""
    return Mechanism(CKM_AES_KEY_WRAP)


def aes_key_wrap_pad() -> Mechanism:
    """Return CKM_AES_KEY_WRAP_PAD: modules disagree on its padding (docs/hsm/)."""
    return Mechanism(CKM_AES_KEY_WRAP_PAD)


def hmac(hash_name: str) -> Mechanism:
    """Return CKM_SHAxxx_HMAC (RFC 2104), full length."""
    return Mechanism(_HMACS[hash_name])


def rsa_pkcs1(hash_name: str | None) -> Mechanism:
    """Return RSASSA-PKCS1-v1_5 (RFC 8017, 8.2), hashing in the module unless None."""
    return Mechanism(_RSA_PKCS1[hash_name])


def rsa_pss(hash_name: str) -> Mechanism:
    """Return RSASSA-PSS (RFC 8017, 8.1) over a digest, salt as long as the digest."""
    parameter = _PssParams(CKM_HASH[hash_name], CKG_MGF1[hash_name], HASH_BYTES[hash_name])
    return Mechanism(CKM_RSA_PKCS_PSS, parameter)


def rsa_oaep(hash_name: str, *, mgf_hash_name: str | None = None) -> Mechanism:
    """Return RSAES-OAEP (RFC 8017, 7.1) with an empty label."""
    parameter = _OaepParams(
        CKM_HASH[hash_name], CKG_MGF1[mgf_hash_name or hash_name], _CKZ_DATA_SPECIFIED, None, 0
    )
    return Mechanism(CKM_RSA_PKCS_OAEP, parameter)


def ecdsa() -> Mechanism:
    """Return CKM_ECDSA over a digest; signatures are r || s (PKCS#11 3.1, 6.3.1)."""
    return Mechanism(CKM_ECDSA)


def eddsa() -> Mechanism:
    """Return CKM_EDDSA without parameters: PureEdDSA, Ed25519 (RFC 8032)."""
    return Mechanism(CKM_EDDSA)


def ecdh1_derive(public_point: bytes) -> Mechanism:
    """Return CKM_ECDH1_DERIVE without a KDF: the x coordinate (SP 800-56A, 5.7.1.2).

    Args:
        public_point: The other side's point, uncompressed (0x04 || x || y) or, for
            modules that want it, inside a DER OCTET STRING.
    """
    buffer = ctypes.create_string_buffer(public_point, len(public_point))
    parameter = _Ecdh1Params(_CKD_NULL, 0, None, len(public_point), ctypes.addressof(buffer))
    return Mechanism(CKM_ECDH1_DERIVE, parameter, buffer)
