"""Key pairs: sign, verify, agree, RSA encryption. Resident keys only.

Digests are made here, by hashlib, and go to the module as such: what a module hashes by
itself differs, a digest does not. A public key object is believed only after it has been
tried against its private key, once per process: whoever can put another in its place
would have forged signatures verified, or encryptions made for himself.
"""

from __future__ import annotations

import hashlib
import hmac as constant_time
from typing import Final

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import encodings
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.ck_mechanisms import Mechanism
from strongroom_server.hsm.handles import session_objects
from strongroom_server.hsm.key_kinds import KeyKind
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.return_codes import HsmFaultError, PolicyRefusedError, TamperedError
from strongroom_server.hsm.ring_errors import ArgumentRefusedError
from strongroom_server.hsm.token import KeyHandle
from strongroom_server.hsm.wire_operations import WireKey

__all__ = ["KeyPairs"]

_CANARY: Final = b"strongroom canary"


class KeyPairs:
    """What a worker does with its key pairs. Errors and threads as for `KeyRing`."""

    def __init__(self, ring: KeyRing):
        """Work on a ring."""
        self._ring = ring
        self._session = ring.session
        self._confirmed: dict[bytes, KeyHandle] = {}

    def public_key(self, key: WireKey) -> bytes:
        """Return the public key, DER SubjectPublicKeyInfo."""
        kind = self._ring.kind_of(key)
        self._confirm(key, kind)
        return self._public_key(key, kind)

    def sign(self, key: WireKey, number: int, message: bytes, *, is_digest: bool) -> bytes:
        """Sign a message or its digest.

        Returns:
            RSA: as long as the modulus. ECDSA: DER. Ed25519: 64 bytes (RFC 8032, 5.1.6).

        Raises:
            ArgumentRefusedError: The digest is not as long as the algorithm's.
        """
        kind = self._ring.kind_of(key, number)
        algorithm = Algorithm(number)
        data = _to_sign(algorithm, message, is_digest=is_digest)
        signature = self._ring.run(
            key,
            lambda: self._session.sign(self._ring.resident(key).handle, _signing(algorithm), data),
            what="sign",
        )
        if kind.curve_name:
            return encodings.ecdsa_to_der(signature, kind.field_bytes)
        return signature

    def verify(
        self, key: WireKey, number: int, message: bytes, signature: bytes, *, is_digest: bool
    ) -> None:
        """Verify what `sign` makes.

        Raises:
            TamperedError: It does not verify, whatever the reason.
            ArgumentRefusedError: The digest is not as long as the algorithm's.
        """
        kind = self._ring.kind_of(key, number)
        algorithm = Algorithm(number)
        data = _to_sign(algorithm, message, is_digest=is_digest)
        if kind.curve_name:
            signature = encodings.ecdsa_from_der(signature, kind.field_bytes)
        self._confirm(key, kind)
        self._ring.run(
            key,
            lambda: self._session.verify(self._public(key), _signing(algorithm), data, signature),
            what="verify",
            canary=lambda: self._check_pair(key, kind),
        )

    def agree(self, key: WireKey, public_key: bytes) -> bytes:
        """Return the shared secret with another's public key: the x coordinate, full length.

        SP 800-56A, 5.7.1.2; the caller derives keys from it.

        Raises:
            ArgumentRefusedError: The other key is no point of the same curve.
        """
        kind = self._ring.kind_of(key)
        point = encodings.parse_agreement_point(kind, public_key)
        return self._ring.run(key, lambda: self._derive(key, kind, point), what="agree")

    def encrypt(self, key: WireKey, number: int, plaintext: bytes) -> bytes:
        """Encrypt with RSAES-OAEP, empty label.

        Raises:
            ArgumentRefusedError: The plaintext is too long (RFC 8017, 7.1.1, step 1b).
        """
        kind = self._ring.kind_of(key, number)
        hash_name = Algorithm(number).hash_name
        limit = kind.modulus_bits // 8 - 2 * ck.HASH_BYTES[hash_name] - 2
        if len(plaintext) > limit:
            raise ArgumentRefusedError("plaintext", f"must have at most {limit} bytes")
        self._confirm(key, kind)
        return self._ring.run(
            key,
            lambda: self._session.encrypt(self._public(key), ck.rsa_oaep(hash_name), plaintext),
            what="encrypt",
        )

    def decrypt(self, key: WireKey, number: int, ciphertext: bytes) -> bytes:
        """Decrypt RSAES-OAEP, empty label.

        Raises:
            TamperedError: It does not decrypt; nobody is told why (RFC 8017, 7.1.2, note).
        """
        kind = self._ring.kind_of(key, number)
        if len(ciphertext) != kind.modulus_bits // 8:
            raise TamperedError
        modulus = (self._ring.resident(key).shown or {}).get("MODULUS")
        if isinstance(modulus, bytes) and int.from_bytes(ciphertext) >= int.from_bytes(modulus):
            raise TamperedError  # RFC 8017, 5.1.2, step 1; modules answer it in their own ways
        hash_name = Algorithm(number).hash_name
        return self._ring.run(
            key,
            lambda: self._session.decrypt(
                self._ring.resident(key).handle, ck.rsa_oaep(hash_name), ciphertext
            ),
            what="decrypt",
            canary=lambda: self._check_pair(key, kind),
        )

    def _public(self, key: WireKey) -> KeyHandle:
        public = self._ring.resident(key).public
        if public is None:
            raise PolicyRefusedError("the token does not show the public half of a key pair")
        return public

    def _public_key(self, key: WireKey, kind: KeyKind) -> bytes:
        self._public(key)
        return encodings.public_key_from_attributes(kind, self._ring.resident(key).shown or {})

    def _confirm(self, key: WireKey, kind: KeyKind) -> None:
        """Try the pair, once per process."""
        if self._confirmed.get(key.ref) != self._public(key):
            self._ring.run(key, lambda: self._check_pair(key, kind), what="check pair")
            self._confirmed[key.ref] = self._public(key)

    def _check_pair(self, key: WireKey, kind: KeyKind) -> None:
        """Use both halves on what is known.

        Raises:
            ReturnCodeError: That fails.
            PolicyRefusedError: They are not a pair.
            HsmFaultError: The module gets it wrong.
        """
        private, public = self._ring.resident(key).handle, self._public(key)
        algorithms = sorted(self._ring.capabilities.algorithms_of(kind))
        if "SIGN" in kind.uses:
            data = _to_sign(algorithms[0], _CANARY, is_digest=False)
            signature = self._session.sign(private, _signing(algorithms[0]), data)
            self._session.verify(public, _signing(algorithms[0]), data, signature)
        elif "DECRYPT" in kind.uses:
            hash_name = algorithms[0].hash_name
            sealed = self._session.encrypt(public, ck.rsa_oaep(hash_name), _CANARY)
            if self._session.decrypt(private, ck.rsa_oaep(hash_name), sealed) != _CANARY:
                raise HsmFaultError("a wrong canary")
        else:
            other, secret = encodings.ephemeral_agreement(kind, self._public_key(key, kind))
            point = encodings.parse_agreement_point(kind, other)
            if not constant_time.compare_digest(self._derive(key, kind, point), secret):
                raise PolicyRefusedError("the halves of a key pair do not fit each other")

    def _derive(self, key: WireKey, kind: KeyKind, point: bytes) -> bytes:
        template: dict[str, AttributeValue] = {
            "CLASS": ck.CKO_SECRET_KEY,
            "KEY_TYPE": ck.CKK_GENERIC_SECRET,
            "TOKEN": False,
            "PRIVATE": True,
            # The one secret that leaves the HSM in the clear: it is the operation's result.
            "SENSITIVE": False,
            "EXTRACTABLE": True,
            "VALUE_LEN": kind.field_bytes,
        }
        with session_objects(self._session) as objects:
            secret = objects.keep(
                self._session.derive(
                    self._ring.resident(key).handle, ck.ecdh1_derive(point), template
                )
            )
            value = self._session.attributes(secret, ("VALUE",)).get("VALUE")
        if not isinstance(value, bytes) or len(value) != kind.field_bytes:
            raise PolicyRefusedError("agree: the module does not show the shared secret")
        return value


def _to_sign(algorithm: Algorithm, message: bytes, *, is_digest: bool) -> bytes:
    """Return what the module signs."""
    if algorithm is Algorithm.ED25519:
        return message  # PureEdDSA hashes twice (RFC 8032, 5.1.6)
    name = algorithm.hash_name
    if is_digest and len(message) != ck.HASH_BYTES[name]:
        raise ArgumentRefusedError("digest", f"must have {ck.HASH_BYTES[name]} bytes")
    digest = message if is_digest else hashlib.new(name, message).digest()
    if algorithm.name.startswith("RSASSA_PKCS1"):
        return encodings.digest_info(name, digest)
    return digest


def _signing(algorithm: Algorithm) -> Mechanism:
    if algorithm is Algorithm.ED25519:
        return ck.eddsa()
    if algorithm.name.startswith("ECDSA"):
        return ck.ecdsa()
    if algorithm.name.startswith("RSASSA_PSS"):
        return ck.rsa_pss(algorithm.hash_name)
    return ck.rsa_pkcs1(None)
