"""What calls on MAC keys and key pairs return: plain frozen dataclasses, no protobuf."""

from __future__ import annotations

import base64
import enum
import textwrap
from dataclasses import dataclass, field

from strongroom.receipts import Receipt
from strongroom_client.results import Algorithm, KeySpec, KeyUsage
from strongroom_client.secret_bytes import SecretBytes

__all__ = [
    "DataKeyPairSpec",
    "GeneratedDataKeyPair",
    "MacResult",
    "PublicKeyResult",
    "SharedSecretResult",
    "SignResult",
    "VerifyResult",
    "WrappedDataKeyPair",
    "to_pem",
]


class DataKeyPairSpec(enum.StrEnum):
    """Kinds of data key pairs."""

    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    EC_P256 = "EC_P256"
    EC_P384 = "EC_P384"
    EC_P521 = "EC_P521"
    EC_SECP256K1 = "EC_SECP256K1"
    ED25519 = "ED25519"


def to_pem(public_key: bytes) -> str:
    """Return a SubjectPublicKeyInfo as PEM (RFC 7468, 13)."""
    text = base64.b64encode(public_key).decode()
    lines = "\n".join(textwrap.wrap(text, 64))
    return f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignResult:
    """A signature. RSA: as long as the modulus; ECDSA: DER (RFC 3279, 2.2.3); Ed25519: 64 bytes."""

    key_version: str
    algorithm: Algorithm
    signature: bytes
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """A signature or MAC verified, and with what. One that does not verify is an exception."""

    key_version: str
    algorithm: Algorithm
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeyResult:
    """A public key, DER SubjectPublicKeyInfo, and what its key is for."""

    key_version: str
    public_key: bytes
    spec: KeySpec
    usage: KeyUsage
    algorithms: tuple[Algorithm, ...]
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)

    @property
    def pem(self) -> str:
        """The public key as PEM (RFC 7468, 13)."""
        return to_pem(self.public_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class MacResult:
    """An HMAC, full length."""

    key_version: str
    algorithm: Algorithm
    mac: bytes
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSecretResult:
    """The x coordinate of an ECDH exchange. No key yet: derive keys from it, and wipe it."""

    key_version: str
    algorithm: Algorithm
    shared_secret: SecretBytes
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedDataKeyPair:
    """A key pair: DER SubjectPublicKeyInfo, PKCS#8 in the clear, and that as a ciphertext blob.

    Use `plaintext_private_key`, wipe it; store `wrapped_private_key`.
    """

    key_version: str
    spec: DataKeyPairSpec
    public_key: bytes
    plaintext_private_key: SecretBytes
    wrapped_private_key: bytes
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedDataKeyPair:
    """A key pair whose private key (PKCS#8) nobody has seen yet: Decrypt it where it is needed."""

    key_version: str
    spec: DataKeyPairSpec
    public_key: bytes
    wrapped_private_key: bytes
    receipts: tuple[Receipt, ...] = field(default=(), compare=False)
