"""Known answers: what any correct module returns, with the source of each.

Small and without imports beyond the domain's names: a worker reads them at every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from strongroom_server.domain.keys import KeySpec

__all__ = ["ECDSA", "ED25519", "GCM", "KEY_WRAP", "RSA_MODULUS", "SAMPLE"]


@dataclass(frozen=True, slots=True)
class GcmAnswer:
    """AES-256-GCM; `sealed` is ciphertext || tag."""

    key: bytes
    iv: bytes
    aad: bytes
    plaintext: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class KeyWrapAnswer:
    """AES key wrap."""

    key: bytes
    material: bytes
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class SignatureAnswer:
    """A public point and a signature by its private key: x || y (or as is) and r || s."""

    point: bytes
    message: bytes
    signature: bytes


# McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)", test case 16.
GCM: Final = GcmAnswer(
    key=bytes.fromhex("feffe9928665731c6d6a8f9467308308") * 2,
    iv=bytes.fromhex("cafebabefacedbaddecaf888"),
    aad=bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
    plaintext=bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    ),
    sealed=bytes.fromhex(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    ),
)

# RFC 3394, 4.6: 256 bits of key data with a 256-bit KEK.
KEY_WRAP: Final = KeyWrapAnswer(
    key=bytes(range(32)),
    material=bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f"),
    wrapped=bytes.fromhex(
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
    ),
)

SAMPLE: Final = b"sample"

ECDSA: Final[Mapping[KeySpec, SignatureAnswer]] = {
    # RFC 6979, A.2.5.
    KeySpec.EC_P256: SignatureAnswer(
        bytes.fromhex(
            "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe10"
            "08b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
        ),
        SAMPLE,
        bytes.fromhex(
            "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716f7cb1c94"
            "2d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
        ),
    ),
    # RFC 6979, A.2.6.
    KeySpec.EC_P384: SignatureAnswer(
        bytes.fromhex(
            "ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea"
            "9055866064a254515480bc138015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9"
            "f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720"
        ),
        SAMPLE,
        bytes.fromhex(
            "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a64815"
            "2e44acf96e36dd1e80fabe4699ef4aeb15f178cea1fe40db2603138f130e740a19624526"
            "203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8"
        ),
    ),
    # RFC 6979, A.2.7.
    KeySpec.EC_P521: SignatureAnswer(
        bytes.fromhex(
            "01894550d0785932e00eaa23b694f213f8c3121f86dc97a04e5a7167db4e5bcd371123d4"
            "6e45db6b5d5370a7f20fb633155d38ffa16d2bd761dcac474b9a2f5023a400493101c962"
            "cd4d2fddf782285e64584139c2f91b47f87ff82354d6630f746a28a0db25741b5b34a828"
            "008b22acc23f924faafbd4d33f81ea66956dfeaa2bfdfcf5"
        ),
        SAMPLE,
        bytes.fromhex(
            "00c328fafcbd79dd77850370c46325d987cb525569fb63c5d3bc53950e6d4c5f174e25a1"
            "ee9017b5d450606add152b534931d7d4e8455cc91f9b15bf05ec36e377fa00617cce7cf5"
            "064806c467f678d3b4080d6f1cc50af26ca209417308281b68af282623eaa63e5b5c0723"
            "d8b8c37ff0777b1a20f8ccb1dccc43997f1ee0e44da4a67a"
        ),
    ),
    # SEC 2, 2.4.1: the base point, whose private key is 1; signed by `cryptography`.
    KeySpec.EC_SECP256K1: SignatureAnswer(
        bytes.fromhex(
            "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798483ada77"
            "26a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
        ),
        SAMPLE,
        bytes.fromhex(
            "58db657bcd631038bea07b4941172f0167aca98f12b55e3176bd1c35435d65013a78e73d"
            "8ff8ab554e13c10f6390d81a882f91945d6275493882676170b53a57"
        ),
    ),
}
"""Of the message SAMPLE, hashed with the hash that goes with the curve (`key_kinds`)."""

# RFC 8032, 7.1, test 2.
ED25519: Final = SignatureAnswer(
    bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"),
    b"\x72",
    bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    ),
)

# A modulus of 2048 bits made for this; its factors were never kept. No answer, but a
# public key with which to see what a module takes.
RSA_MODULUS: Final = bytes.fromhex(
    "92fc99c474c6f51af8f02fe58d8c3a005358341dcb8f3c0685b249db8fe043fc9ce915da"
    "008d094f7906e6aad1e306bc386335ac45c3466ce6b5fcf851470163d5a68c15ab45eb73"
    "b5a2a358f633db310674187c92545065a4b68a0824615d9b7882552e6acffa8f0119cedb"
    "c482695a7b2ad8d2d09c70be309c72c32137eeb3af4646458545cf431d66d4e1c28d1896"
    "e63a23b9489623b8e09181a9ae4deeeabc60255d74b75c827cc6baa4d7672160492474b8"
    "f5542f5a6e071a4d9d74ebcf1321113934a96653a37003203d61bef5ef053900914684df"
    "0d503c7bbf8a14f656fc99ae336206ca6072f686c74b098d422ffb7e61998707c0417010"
    "2941aebb"
)
