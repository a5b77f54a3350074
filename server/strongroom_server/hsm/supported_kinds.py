"""Which kinds of key a module can make and use, without making any of the slow ones.

The list of mechanisms says what it has; known signatures, verified by an imported public
key, say which curves; the answer to a wrong signature says which parameters. Flags of
C_GetMechanismInfo are not asked: SoftHSM 2.6.1 leaves some of them uninitialised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template, known_answers
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
from strongroom_server.hsm.return_codes import Action, ReturnCodeError
from strongroom_server.hsm.token import KeyHandle, MechanismInfo, TokenSession

__all__ = ["digest_for", "find_kinds", "point_to_der"]

_EXPONENT: Final = b"\x01\x00\x01"
_ALWAYS: Final = frozenset(
    {
        Algorithm.AES_256_GCM,
        Algorithm.ECDH,
        Algorithm.ECDSA_SHA_256,
        Algorithm.ECDSA_SHA_384,
        Algorithm.ECDSA_SHA_512,
        Algorithm.ED25519,
        Algorithm.HMAC_SHA_224,
        Algorithm.HMAC_SHA_256,
        Algorithm.HMAC_SHA_384,
        Algorithm.HMAC_SHA_512,
        # CKM_RSA_PKCS over a DigestInfo made here: no hash for the module to lack.
        Algorithm.RSASSA_PKCS1_V1_5_SHA_256,
        Algorithm.RSASSA_PKCS1_V1_5_SHA_384,
        Algorithm.RSASSA_PKCS1_V1_5_SHA_512,
    }
)
"""What has no parameters of its own: there when the kind is."""
_HASH_OF_FIELD: Final = {32: "sha256", 48: "sha384", 66: "sha512"}


def find_kinds(
    session: TokenSession, mechanisms: Mapping[int, MechanismInfo]
) -> tuple[frozenset[tuple[KeySpec, KeyUsage]], frozenset[Algorithm]]:
    """Return the kinds of key, and what can be done with them.

    Args:
        session: Logged in.
        mechanisms: Those of its token.

    Raises:
        ReturnCodeError: Session, token or module failed.
    """
    curves: dict[KeySpec, bool] = {}
    kinds = set()
    for name, kind in KINDS.items():
        if not _is_listed(kind, mechanisms):
            continue
        if kind.curve:
            if kind.spec not in curves:
                curves[kind.spec] = _knows_curve(session, kind)
            if not curves[kind.spec]:
                continue
        kinds.add(name)
    has_rsa = any(spec.startswith("RSA") for spec, _ in kinds)
    return frozenset(kinds), _ALWAYS | (_find_rsa(session) if has_rsa else frozenset())


def digest_for(kind: KeyKind, message: bytes) -> bytes:
    """Return what an ECDSA mechanism without a hash takes of `message`."""
    return hashlib.new(_HASH_OF_FIELD[kind.field_bytes], message).digest()


def point_to_der(point: bytes) -> bytes:
    """Return a point as CKA_EC_POINT has it: a DER OCTET STRING (PKCS#11 3.1, 6.3.3)."""
    length = bytes([len(point)]) if len(point) < 0x80 else bytes([0x81, len(point)])  # noqa: PLR2004 - X.690, 8.1.3
    return b"\x04" + length + point


def _is_listed(kind: KeyKind, mechanisms: Mapping[int, MechanismInfo]) -> bool:
    if kind.generate not in mechanisms or not set(kind.mechanisms) <= mechanisms.keys():
        return False
    if not kind.modulus_bits:
        return True
    size = mechanisms[kind.generate]
    # CK_ULONG or nothing in the upper bound: some say 0 where they know none.
    return size.min_key_size <= kind.modulus_bits and (
        not size.max_key_size or kind.modulus_bits <= size.max_key_size
    )


def _knows_curve(session: TokenSession, kind: KeyKind) -> bool:
    if kind.spec is KeySpec.ED25519:
        answer, mechanism = known_answers.ED25519, ck.eddsa()
        point, message = answer.point, answer.message
    else:
        answer, mechanism = known_answers.ECDSA[kind.spec], ck.ecdsa()
        point, message = b"\x04" + answer.point, digest_for(kind, answer.message)
    key = _import_public(
        session,
        {
            "KEY_TYPE": kind.key_type,
            "VERIFY": True,
            "EC_PARAMS": kind.curve,
            "EC_POINT": point_to_der(point),
        },
    )
    if key is None:
        return _makes(session, kind)
    try:
        session.verify(key, mechanism, message, answer.signature)
    except ReturnCodeError as exc:
        # Wrong about a right signature, or no such curve: of no use either way.
        if exc.action in {Action.CALLER, Action.POLICY, Action.AMBIGUOUS}:
            return False
        raise
    finally:
        session.destroy(key)
    return True


def _makes(session: TokenSession, kind: KeyKind) -> bool:
    """Say whether a pair can be made: for modules that import no public keys, or not this."""
    public = key_template.public_half(kind, token=False)
    private = key_template.private_half(kind, token=False)
    try:
        pair = session.generate_key_pair(
            ck.plain(kind.generate),
            {**public.fixed, **public.asked},
            {**private.fixed, **private.asked},
        )
    except ReturnCodeError as exc:
        if exc.action in {Action.CALLER, Action.POLICY, Action.AMBIGUOUS}:
            return False
        raise
    for key in pair:
        session.destroy(key)
    return True


def _find_rsa(session: TokenSession) -> frozenset[Algorithm]:
    """Find which hashes OAEP and PSS take; public operations only."""
    key = _import_public(
        session,
        {
            "KEY_TYPE": ck.CKK_RSA,
            "ENCRYPT": True,
            "VERIFY": True,
            "MODULUS": known_answers.RSA_MODULUS,
            "PUBLIC_EXPONENT": _EXPONENT,
        },
    )
    if key is None:  # SHA-1 is what every module has had since PKCS#11 2.11
        return frozenset({Algorithm.RSAES_OAEP_SHA_1})
    try:
        return frozenset(
            algorithm
            for algorithm in Algorithm
            if algorithm.name.startswith(("RSAES_OAEP", "RSASSA_PSS"))
            and _takes_parameters(session, key, algorithm)
        )
    finally:
        session.destroy(key)


def _takes_parameters(session: TokenSession, key: KeyHandle, algorithm: Algorithm) -> bool:
    hash_name = algorithm.hash_name.replace("_", "")
    try:
        if algorithm.name.startswith("RSAES_OAEP"):
            session.encrypt(key, ck.rsa_oaep(hash_name), b"strongroom")
        else:
            digest = hashlib.new(hash_name, b"strongroom").digest()
            wrong = b"\x01" + bytes(len(known_answers.RSA_MODULUS) - 1)
            session.verify(key, ck.rsa_pss(hash_name), digest, wrong)
    except ReturnCodeError as exc:
        if exc.action is Action.CALLER:  # a wrong signature was recognised as one
            return True
        if exc.action in {Action.POLICY, Action.AMBIGUOUS}:
            return False
        raise
    return True


def _import_public(
    session: TokenSession, template: Mapping[str, AttributeValue]
) -> KeyHandle | None:
    try:
        return session.create_object(
            {"CLASS": ck.CKO_PUBLIC_KEY, "TOKEN": False, "PRIVATE": False, **template}
        )
    except ReturnCodeError as exc:
        if exc.action in {Action.POLICY, Action.CALLER, Action.AMBIGUOUS}:
            return None
        raise
