"""MACs and key pairs: what is made here is verified by `cryptography`, and the reverse."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import encodings
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
from strongroom_server.hsm.key_template import CHECKED_PUBLIC
from strongroom_server.hsm.probes.probe import (
    Finding,
    Outcome,
    Probe,
    Scratch,
    missing,
    quirk,
    refusal_of,
    works,
)
from strongroom_server.hsm.return_codes import Action, PolicyRefusedError, ReturnCodeError
from strongroom_server.hsm.supported_kinds import digest_for
from strongroom_server.hsm.token import KeyHandle

__all__ = ["PROBES", "public_key_of"]

_TEXT: Final = b"strongroom doctor"
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - in OAEP, where it has no collisions to fear
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_UNSUPPORTED: Final = "such keys are refused"

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


def public_key_of(scratch: Scratch, public: KeyHandle, kind: KeyKind) -> PublicKey:
    """Read a public key as `cryptography` has it.

    Raises:
        ReturnCodeError: The module fails.
        PolicyRefusedError: The module shows no such public key.
    """
    shown = scratch.session.attributes(public, CHECKED_PUBLIC)
    loaded = serialization.load_der_public_key(encodings.public_key_from_attributes(kind, shown))
    if not isinstance(loaded, PublicKey):
        raise PolicyRefusedError(f"the token shows another key than one of {kind.name}")
    return loaded


def _mac(kind: KeyKind) -> Callable[[Scratch], Finding]:
    hash_name = "sha" + kind.spec.rpartition("_")[2]

    def run(scratch: Scratch) -> Finding:
        value = bytes(range(kind.key_bytes))
        mechanism = ck.hmac(hash_name)
        detail = "made, verified, compared with hashlib"
        try:
            known = scratch.session.sign(scratch.secret(kind, value=value), mechanism, _TEXT)
        except ReturnCodeError as exc:
            if exc.action is not Action.POLICY:
                raise
            detail = f"made and verified; not compared, since no key can be imported: {exc}"
        else:
            if known != hmac.new(value, _TEXT, hash_name).digest():
                return missing("another result than hashlib's", _UNSUPPORTED)
        key = scratch.secret(kind)
        made = scratch.session.sign(key, mechanism, _TEXT)
        scratch.session.verify(key, mechanism, _TEXT, made)
        refusal = refusal_of(lambda: scratch.session.verify(key, mechanism, _TEXT, _flipped(made)))
        if refusal is None:
            return missing("accepts a forgery", _UNSUPPORTED)
        detail = f"{detail}; forgery: {refusal}"
        if refusal.action is Action.CALLER:
            return works(detail, "made by the HSM, compared here")
        return quirk(detail, "made by the HSM, compared here")

    return run


def _pkcs1(scratch: Scratch, kind: KeyKind) -> Finding:
    public, private = scratch.pair(kind)
    theirs = public_key_of(scratch, public, kind)
    data = encodings.digest_info("sha256", hashlib.sha256(_TEXT).digest())
    made = scratch.session.sign(private, ck.rsa_pkcs1(None), data)
    if not isinstance(theirs, rsa.RSAPublicKey) or not _verifies(
        lambda: theirs.verify(made, _TEXT, padding.PKCS1v15(), hashes.SHA256())
    ):
        return missing("`cryptography` does not verify it", _UNSUPPORTED)
    scratch.session.verify(public, ck.rsa_pkcs1(None), data, made)
    return _judge_forgeries(
        scratch,
        "made, verified here and by `cryptography`",
        lambda: scratch.session.verify(public, ck.rsa_pkcs1(None), data, _flipped(made)),
        # Well-formed, of another message.
        lambda: scratch.session.verify(public, ck.rsa_pkcs1(None), _flipped(data), made),
    )


def _pss(scratch: Scratch, kind: KeyKind) -> Finding:
    public, private = scratch.pair(kind)
    theirs = public_key_of(scratch, public, kind)
    for hash_name in ("sha256", "sha384", "sha512"):
        algorithm = _HASHES[hash_name]
        digest = hashlib.new(hash_name, _TEXT).digest()
        made = scratch.session.sign(private, ck.rsa_pss(hash_name), digest)
        form = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        if not isinstance(theirs, rsa.RSAPublicKey) or not _verifies(
            lambda made=made, form=form, algorithm=algorithm: theirs.verify(  # type: ignore[misc]  # bound per round
                made, _TEXT, form, algorithm
            )
        ):
            return missing(f"{hash_name}: `cryptography` does not verify it", _UNSUPPORTED)
        scratch.session.verify(public, ck.rsa_pss(hash_name), digest, made)
    return _judge_forgeries(
        scratch,
        "SHA-256, -384, -512: made, verified here and by `cryptography`",
        lambda: scratch.session.verify(public, ck.rsa_pss("sha512"), digest, _flipped(made)),
        lambda: scratch.session.verify(public, ck.rsa_pss("sha512"), _flipped(digest), made),
    )


def _oaep(hash_name: str) -> Callable[[Scratch, KeyKind], Finding]:
    def run(scratch: Scratch, kind: KeyKind) -> Finding:
        public, private = scratch.pair(kind)
        theirs = public_key_of(scratch, public, kind)
        if not isinstance(theirs, rsa.RSAPublicKey):
            return missing("no RSA key", _UNSUPPORTED)
        algorithm = _HASHES[hash_name]
        sealed = theirs.encrypt(_TEXT, padding.OAEP(padding.MGF1(algorithm), algorithm, None))
        if scratch.session.decrypt(private, ck.rsa_oaep(hash_name), sealed) != _TEXT:
            return missing("decrypts to something else", "refused")
        again = scratch.session.encrypt(public, ck.rsa_oaep(hash_name), _TEXT)
        if scratch.session.decrypt(private, ck.rsa_oaep(hash_name), again) != _TEXT:
            return missing("does not decrypt what it encrypted", "refused")
        return _judge_forgeries(
            scratch,
            "encrypted here and by `cryptography`, decrypted here",
            lambda: scratch.session.decrypt(private, ck.rsa_oaep(hash_name), _flipped(sealed)),
        )

    return run


def _curve(scratch: Scratch, kind: KeyKind) -> Finding:
    public, private = scratch.pair(kind)
    theirs = public_key_of(scratch, public, kind)
    mechanism = ck.ecdsa() if kind.curve_name else ck.eddsa()
    data = digest_for(kind, _TEXT) if kind.curve_name else _TEXT
    made = scratch.session.sign(private, mechanism, data)
    if isinstance(theirs, ec.EllipticCurvePublicKey):
        (algorithm,) = kind.algorithms
        der = encodings.ecdsa_to_der(made, kind.field_bytes)
        form = ec.ECDSA(_HASHES[Algorithm(algorithm).hash_name.replace("_", "")])
        is_good = _verifies(lambda: theirs.verify(der, _TEXT, form))
    else:
        is_good = isinstance(theirs, ed25519.Ed25519PublicKey) and _verifies(
            lambda: theirs.verify(made, _TEXT)
        )
    if not is_good:
        return missing("`cryptography` does not verify it", _UNSUPPORTED)
    scratch.session.verify(public, mechanism, data, made)
    return _judge_forgeries(
        scratch,
        "made, verified here and by `cryptography`",
        lambda: scratch.session.verify(public, mechanism, data, _flipped(made)),
        lambda: scratch.session.verify(public, mechanism, _flipped(data), made),
    )


def _edwards_params(scratch: Scratch) -> Finding:
    kind = KINDS[(KeySpec.ED25519, KeyUsage.SIGN_VERIFY)]
    _, private = scratch.pair(kind)
    shown = scratch.session.attributes(private, ("EC_PARAMS",)).get("EC_PARAMS")
    if shown != kind.curve:
        text = shown.hex() if isinstance(shown, bytes) else "not shown"
        return quirk(f"CKA_EC_PARAMS {text}", "taken for the curve's name")
    return works("CKA_EC_PARAMS as asked for (RFC 8410, 3)")


def _judge_forgeries(scratch: Scratch, detail: str, *calls: Callable[[], object]) -> Finding:
    """Judge the answers to bad input: the worst of them counts."""
    findings = []
    for call in calls:
        refusal = refusal_of(call)
        if refusal is None:
            return missing("accepts a forgery", _UNSUPPORTED)
        findings.append(scratch.judge(refusal, f"{detail}; forgery: {refusal}", good="used"))
    return next((each for each in findings if each.outcome is not Outcome.WORKS), findings[0])


def _verifies(call: Callable[[], object]) -> bool:
    try:
        call()
    except InvalidSignature:
        return False
    return True


def _flipped(made: bytes) -> bytes:
    return made[:-1] + bytes([made[-1] ^ 1])


def _with_kind(
    ask: Callable[[Scratch, KeyKind], Finding], kind: KeyKind
) -> Callable[[Scratch], Finding]:
    def run(scratch: Scratch) -> Finding:
        try:
            return ask(scratch, kind)
        except PolicyRefusedError as exc:
            return missing(str(exc), _UNSUPPORTED)

    return run


def _rsa_probes() -> list[Probe]:
    probes = []
    for bits in (2048, 3072, 4096):
        signing = KINDS[(KeySpec(f"RSA_{bits}"), KeyUsage.SIGN_VERIFY)]
        decrypting = KINDS[(KeySpec(f"RSA_{bits}"), KeyUsage.ENCRYPT_DECRYPT)]
        asked = [
            ("sign-pkcs1", _pkcs1, signing),
            ("sign-pss", _pss, signing),
            ("oaep-sha1", _oaep("sha1"), decrypting),
            ("oaep-sha256", _oaep("sha256"), decrypting),
        ]
        probes += [
            Probe(
                f"{signing.spec}-{name}",
                "RSA",
                _with_kind(ask, kind),
                "refused" if name.startswith("oaep") else _UNSUPPORTED,
                is_slow=True,
            )
            # The larger ones differ in nothing but the time they take.
            for name, ask, kind in asked[: 4 if bits == 2048 else 1]  # noqa: PLR2004
        ]
    return probes


PROBES: Final = (
    *(
        Probe(f"{spec}-hmac", "HMAC", _mac(kind), _UNSUPPORTED)
        for (spec, usage), kind in KINDS.items()
        if usage is KeyUsage.GENERATE_VERIFY_MAC
    ),
    *_rsa_probes(),
    *(
        Probe(f"{spec}-sign", "curves", _with_kind(_curve, kind), _UNSUPPORTED)
        for (spec, usage), kind in KINDS.items()
        if usage is KeyUsage.SIGN_VERIFY and kind.curve
    ),
    Probe("ED25519-params", "curves", _edwards_params, _UNSUPPORTED),
)
