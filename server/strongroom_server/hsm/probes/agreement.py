"""ECDH: the secret that is derived here is the one that `cryptography` derives."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import encodings, key_template
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
from strongroom_server.hsm.key_template import CHECKED_PUBLIC
from strongroom_server.hsm.mechanisms import IV_BYTES
from strongroom_server.hsm.probes.probe import AES, Finding, Probe, Scratch, missing, works
from strongroom_server.hsm.return_codes import PolicyRefusedError

__all__ = ["PROBES"]

_GROUP: Final = "key agreement"
_UNSUPPORTED: Final = "such keys are refused"
_TEXT: Final = b"strongroom doctor"
_MAC: Final[KeyKind] = KINDS[(KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC)]
_P256: Final[KeyKind] = KINDS[(KeySpec.EC_P256, KeyUsage.KEY_AGREEMENT)]


def _agree(kind: KeyKind) -> Callable[[Scratch], Finding]:
    """Compare secrets by a MAC under them: modules may not show a derived key's value."""

    def run(scratch: Scratch) -> Finding:
        public, private = scratch.pair(kind)
        shown = scratch.session.attributes(public, CHECKED_PUBLIC)
        try:
            spki = encodings.public_key_from_attributes(kind, shown)
        except PolicyRefusedError as exc:
            return missing(str(exc), _UNSUPPORTED)
        theirs, secret = encodings.ephemeral_agreement(kind, spki)
        point = encodings.parse_agreement_point(kind, theirs)
        template = {
            **key_template.resident_secret(_MAC).fixed,
            "TOKEN": False,
            "VALUE_LEN": kind.field_bytes,
        }
        derived = scratch.keep(scratch.session.derive(private, ck.ecdh1_derive(point), template))
        made = scratch.session.sign(derived, ck.hmac("sha256"), _TEXT)
        if made != hmac.new(secret, _TEXT, "sha256").digest():
            return missing("another secret than `cryptography` derives", _UNSUPPORTED)
        return works("the secret that `cryptography` derives")

    return run


def _derive_and_wrap(scratch: Scratch) -> Finding:
    """Wrap under a key agreed between two pairs of the token, unwrap on the other side."""
    mine, theirs = scratch.pair(_P256), scratch.pair(_P256)
    template = {**key_template.root().fixed, "TOKEN": False, "VALUE_LEN": AES.key_bytes}
    points = []
    for public, _ in (mine, theirs):
        shown = scratch.session.attributes(public, CHECKED_PUBLIC)
        try:
            spki = encodings.public_key_from_attributes(_P256, shown)
        except PolicyRefusedError as exc:
            return missing(str(exc), "not used")
        points.append(encodings.parse_agreement_point(_P256, spki))
    here, there = (
        scratch.keep(scratch.session.derive(private, ck.ecdh1_derive(point), template))
        for (_, private), point in ((mine, points[1]), (theirs, points[0]))
    )
    material = scratch.material()
    wrapped = scratch.session.wrap(here, ck.aes_key_wrap(), material)
    first = scratch.unwrap(there, ck.aes_key_wrap(), wrapped)
    second = scratch.unwrap(here, ck.aes_key_wrap(), wrapped)
    sealed = scratch.session.encrypt(first, ck.aes_gcm(bytes(IV_BYTES), b"x"), _TEXT)
    if scratch.session.decrypt(second, ck.aes_gcm(bytes(IV_BYTES), b"x"), sealed) != _TEXT:
        return missing("gives back another key", "not used")
    return works("wrapped under the one side's key, unwrapped under the other's", "not used yet")


PROBES: Final = (
    *(
        Probe(f"{spec}-agree", _GROUP, _agree(kind), _UNSUPPORTED)
        for (spec, usage), kind in KINDS.items()
        if usage is KeyUsage.KEY_AGREEMENT
    ),
    Probe("wrap-ecdh-aes-kw", _GROUP, _derive_and_wrap, "not used"),
)
