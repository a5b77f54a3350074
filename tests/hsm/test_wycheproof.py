"""Wycheproof's vectors for signatures, MACs and key agreement, through the module.

Public keys have no private half here, so what is missing of the service's way is the check
that the halves are a pair; encodings, digests and mechanisms are the service's own.
"""

from __future__ import annotations

import collections
import hmac
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import asymmetric, encodings
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
from strongroom_server.hsm.return_codes import ReturnCodeError, TamperedError
from strongroom_server.hsm.ring_errors import ArgumentRefusedError
from strongroom_server.hsm.supported_kinds import point_to_der
from strongroom_server.hsm.token import KeyHandle, TokenSession

pytestmark = pytest.mark.hsm

SIGNATURES: Final = (
    ("ecdsa_secp256r1_sha256", KeySpec.EC_P256, Algorithm.ECDSA_SHA_256),
    ("ecdsa_secp384r1_sha384", KeySpec.EC_P384, Algorithm.ECDSA_SHA_384),
    ("ecdsa_secp521r1_sha512", KeySpec.EC_P521, Algorithm.ECDSA_SHA_512),
    ("rsa_signature_2048_sha256", KeySpec.RSA_2048, Algorithm.RSASSA_PKCS1_V1_5_SHA_256),
    ("rsa_pss_2048_sha256_mgf1_32", KeySpec.RSA_2048, Algorithm.RSASSA_PSS_SHA_256),
    ("ed25519", KeySpec.ED25519, Algorithm.ED25519),
)
AGREEMENTS: Final = (
    ("ecdh_secp256r1", KeySpec.EC_P256),
    ("ecdh_secp384r1", KeySpec.EC_P384),
    ("ecdh_secp521r1", KeySpec.EC_P521),
)


def _groups(name: str) -> list[dict[str, Any]]:
    configured = os.environ.get("STRONGROOM_VECTORS")
    shared = Path(__file__).parents[3] / "shared" / "vectors"
    path = (Path(configured) if configured else shared) / f"{name}_test.json"
    if not path.is_file():
        pytest.skip(f"{path}: no test vectors; set STRONGROOM_VECTORS")
    groups: list[dict[str, Any]] = json.loads(path.read_text())["testGroups"]
    return groups


def _import_public(session: TokenSession, kind: KeyKind, der: bytes) -> KeyHandle:
    key = serialization.load_der_public_key(der)
    template: dict[str, AttributeValue] = {
        "CLASS": ck.CKO_PUBLIC_KEY,
        "TOKEN": False,
        "PRIVATE": False,
        "KEY_TYPE": kind.key_type,
        "VERIFY": True,
    }
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        template["MODULUS"] = numbers.n.to_bytes(key.key_size // 8, "big")
        template["PUBLIC_EXPONENT"] = numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big")
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
        form = (
            (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            if isinstance(key, ed25519.Ed25519PublicKey)
            else (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        )
        template["EC_PARAMS"] = kind.curve
        template["EC_POINT"] = point_to_der(key.public_bytes(*form))
    return session.create_object(template)


def _verifies(
    session: TokenSession, key: KeyHandle, kind: KeyKind, algorithm: Algorithm, test: dict[str, Any]
) -> bool:
    signature = bytes.fromhex(test["sig"])
    data = asymmetric._to_sign(algorithm, bytes.fromhex(test["msg"]), is_digest=False)
    try:
        if kind.curve_name:
            signature = encodings.ecdsa_from_der(signature, kind.field_bytes)
        session.verify(key, asymmetric._signing(algorithm), data, signature)
    except (TamperedError, ReturnCodeError):
        return False
    return True


@pytest.mark.parametrize(("name", "spec", "algorithm"), SIGNATURES, ids=str)
def test_signatures(
    session: TokenSession,
    figures: Callable[..., None],
    *,
    name: str,
    spec: KeySpec,
    algorithm: Algorithm,
) -> None:
    """Every valid signature verifies and no invalid one does; "acceptable" may be either."""
    kind, seen = KINDS[spec, KeyUsage.SIGN_VERIFY], collections.Counter[str]()
    wrong = []
    for group in _groups(name):
        key = _import_public(session, kind, bytes.fromhex(group["publicKeyDer"]))
        for test in group["tests"]:
            verified = _verifies(session, key, kind, algorithm, test)
            seen[test["result"]] += 1
            if test["result"] != "acceptable" and verified != (test["result"] == "valid"):
                wrong.append((test["tcId"], test["result"], test["comment"]))
        session.destroy(key)
    assert wrong == []
    assert seen["valid"]
    assert seen["invalid"]
    figures(vectors=dict(seen))


@pytest.mark.parametrize("bits", [224, 256, 384, 512])
def test_macs(session: TokenSession, figures: Callable[..., None], bits: int) -> None:
    """The module's HMAC is the vector's when that is valid, and another one when not."""
    ran = 0
    for group in _groups(f"hmac_sha{bits}"):
        if (group["keySize"], group["tagSize"]) != (bits, bits):
            continue
        for test in group["tests"]:
            key = session.create_object(
                {
                    "CLASS": ck.CKO_SECRET_KEY,
                    "KEY_TYPE": ck.CKK_GENERIC_SECRET,
                    "TOKEN": False,
                    "SIGN": True,
                    "VALUE": bytes.fromhex(test["key"]),
                }
            )
            made = session.sign(key, ck.hmac(f"sha{bits}"), bytes.fromhex(test["msg"]))
            same = hmac.compare_digest(made, bytes.fromhex(test["tag"]))
            assert same == (test["result"] == "valid"), test["tcId"]
            session.destroy(key)
            ran += 1
    assert ran > 10
    figures(vectors=ran)


@pytest.mark.parametrize(("name", "spec"), AGREEMENTS, ids=str)
def test_agreements(
    session: TokenSession, figures: Callable[..., None], name: str, spec: KeySpec
) -> None:
    """A valid public key gives the vector's secret; an invalid one is refused before its use."""
    kind, seen = KINDS[spec, KeyUsage.KEY_AGREEMENT], collections.Counter[str]()
    for group in _groups(name):
        for test in group["tests"]:
            try:
                point = encodings.parse_agreement_point(kind, bytes.fromhex(test["public"]))
            except ArgumentRefusedError:
                # Compressed points and unnamed curves are "acceptable": not here.
                assert test["result"] != "valid", test["tcId"]
                seen["refused"] += 1
                continue
            private = int(test["private"], 16).to_bytes(kind.field_bytes, "big")
            key = session.create_object(
                {
                    "CLASS": ck.CKO_PRIVATE_KEY,
                    "KEY_TYPE": ck.CKK_EC,
                    "TOKEN": False,
                    "EC_PARAMS": kind.curve,
                    "VALUE": private,
                    "DERIVE": True,
                }
            )
            secret = session.derive(
                key,
                ck.ecdh1_derive(point),
                {
                    "CLASS": ck.CKO_SECRET_KEY,
                    "KEY_TYPE": ck.CKK_GENERIC_SECRET,
                    "TOKEN": False,
                    "SENSITIVE": False,
                    "EXTRACTABLE": True,
                    "VALUE_LEN": kind.field_bytes,
                },
            )
            derived = session.attributes(secret, ("VALUE",))["VALUE"]
            assert derived == bytes.fromhex(test["shared"]), test["tcId"]
            assert test["result"] != "invalid", test["tcId"]
            seen["agreed"] += 1
            for handle in (secret, key):
                session.destroy(handle)
    assert seen["agreed"] > 100
    assert seen["refused"]
    figures(vectors=dict(seen))
