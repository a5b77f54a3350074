"""Encrypt and Decrypt with an RSA key: RSAES-OAEP inside the HSM.

The ciphertext is bare, as at AWS KMS: whoever has the public key can make it without the
service. So it names no key and binds no encryption context; and because such keys have one
version for ever (`domain/key_uses.py`), the key's name is all that Decrypt needs.
"""

from __future__ import annotations

from strongroom_server.domain.algorithms import Algorithm, check_oaep_plaintext
from strongroom_server.domain.keys import Key
from strongroom_server.errors import ArgumentInvalidError
from strongroom_server.services.key_access import Use

__all__ = ["open_with_rsa", "seal_with_rsa"]


async def seal_with_rsa(use: Use, key: Key, algorithm: Algorithm, plaintext: bytes) -> bytes:
    """Return the ciphertext, as long as the modulus; nothing with `validate_only`.

    Raises:
        ArgumentInvalidError: The plaintext is too long, or there is an encryption context.
        StrongroomError: As the HSM's port says.
    """
    _check_no_context(use)
    check_oaep_plaintext(key.spec, algorithm, plaintext)
    use.trace.key_version = key.primary_version
    if use.trace.validate_only:
        return b""
    return await use.shard.token.rsa_encrypt(
        key.material(key.primary_version), algorithm, plaintext, deadline=use.caller.hsm_deadline
    )


async def open_with_rsa(use: Use, key: Key, algorithm: Algorithm, ciphertext: bytes) -> bytes:
    """Return the plaintext; nothing with `validate_only`.

    Raises:
        ArgumentInvalidError: There is an encryption context.
        CiphertextInvalidError: It does not decrypt.
        StrongroomError: As the HSM's port says.
    """
    _check_no_context(use)
    use.trace.key_version = key.primary_version
    if use.trace.validate_only:
        return b""
    return await use.shard.token.rsa_decrypt(
        key.material(key.primary_version), algorithm, ciphertext, deadline=use.caller.hsm_deadline
    )


def _check_no_context(use: Use) -> None:
    if use.context:
        raise ArgumentInvalidError.of(
            "encryption_context",
            "encryption_context.rsa",
            "an RSA key binds no encryption context to its ciphertext",
        )
